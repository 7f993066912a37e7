"""A directory of checkpoints as a zoo, and the directories that are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_up_chunks import made_up_plan
from made_up_pixels import made_up_pixels

from weightgen.config.loading import load_recipe, with_absolute_paths
from weightgen.errors import InputError
from weightgen.files import write_tensors
from weightgen.spaces.class_rows import ClassRows
from weightgen.zoo_targets.folder import Folder

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three networks away from the backbone, one as a wrapper saves it, and what a desktop left."""
    adaptable = made_up_plan(Folder(path=".")).space.adaptable
    for number, prefix in enumerate(("", "module.", "")):
        offset = 0.1 * torch.randn(adaptable.layout.size, generator=torch.Generator().manual_seed(number))
        state = adaptable.written(offset).state_dict()
        tensors = {f"{prefix}{name}": tensor.contiguous() for name, tensor in state.items()}
        write_tensors(tmp_path / "networks" / f"{number}.safetensors", tensors)
    (tmp_path / "networks" / ".DS_Store").touch()
    (tmp_path / "networks" / "notes.txt").touch()
    return tmp_path / "networks"


def without_prefix(folder: Path) -> None:
    """All in the names of the first, for tests that compare them."""
    change(folder / "1.safetensors", lambda tensors: {k.removeprefix("module."): v for k, v in tensors.items()})


def change(path: Path, what: Callable[[Tensors], Tensors]) -> None:
    from safetensors.torch import load_file

    write_tensors(path, what(load_file(path)))


def test_every_file_is_a_member_and_decodes_to_its_network(folder: Path) -> None:
    without_prefix(folder)
    plan = made_up_plan(Folder(path=str(folder)))
    shard, adaptable = plan.fit_shard(0), plan.space.adaptable
    assert shard.targets.shape == (3, 1, adaptable.layout.size)
    for number, target in enumerate(shard.targets[:, 0]):
        offset = 0.1 * torch.randn(adaptable.layout.size, generator=torch.Generator().manual_seed(number))
        selector = adaptable.selector
        torch.testing.assert_close(selector.read(adaptable.written(target)), selector.read(adaptable.written(offset)))
    model, images = adaptable.written(shard.targets[0, 0]), made_up_pixels()
    logits = torch.cat([model(batch) for batch in adaptable.batches(images.values)])
    right = 100 * float((logits.argmax(-1) == images.labels).float().mean())
    assert right == pytest.approx(float(shard.accuracy[0]), abs=3)  # accuracy is with statistics of the images


def test_the_key_changes_with_any_number(folder: Path) -> None:
    without_prefix(folder)
    before = made_up_plan(Folder(path=str(folder))).key()
    assert made_up_plan(Folder(path=str(folder))).key() == before
    change(folder / "2.safetensors", lambda tensors: {k: v + (k == "fc.bias") * 1e-3 for k, v in tensors.items()})
    assert made_up_plan(Folder(path=str(folder))).key() != before


def test_a_path_of_a_recipe_is_written_in_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = with_absolute_paths(load_recipe("pdiff", ["zoo={targets: folder, path: nets}"]))
    assert recipe.zoo.options == {"path": str(tmp_path / "nets")}


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        Folder(path=str(folder)).check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_directory_or_holds_one_checkpoint_is_refused(folder: Path) -> None:
    assert "is not a directory" in refused(folder / "nowhere")
    for number in (1, 2):
        (folder / f"{number}.safetensors").unlink()
    assert "holds 1 .safetensors checkpoints" in refused(folder)


@pytest.mark.parametrize("name", ["old.pth", "model.bin", "last.CKPT"])
def test_a_pickle_is_refused_by_name_and_not_read(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"cos\nsystem\n")
    assert refused(folder).startswith(f"{folder / name}: may be a pickle")


def test_numbers_that_are_none_are_refused_by_file_and_tensor(folder: Path) -> None:
    without_prefix(folder)
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "2.safetensors")
    tensors["blocks.1.conv.weight"][0, 0, 0, 0] = float("nan")
    save_file(tensors, folder / "2.safetensors")
    assert refused(folder).startswith(f"{folder / '2.safetensors'}: tensor 'blocks.1.conv.weight' holds NaN")


def test_another_architecture_is_refused_by_file_and_tensor(folder: Path) -> None:
    without_prefix(folder)
    change(folder / "2.safetensors", lambda tensors: {k: v for k, v in tensors.items() if k != "blocks.0.norm.bias"})
    assert refused(folder).startswith(f"{folder / '2.safetensors'}: has no tensor 'blocks.0.norm.bias', which 0.safe")
    change(folder / "1.safetensors", lambda tensors: {k: v[:2] if "conv" in k else v for k, v in tensors.items()})
    assert re.search(
        r"1.safetensors: tensor 'blocks.*.conv.weight' has shape \[2, .* one architecture", refused(folder)
    )


def test_checkpoints_of_other_networks_than_the_backbone_are_refused(folder: Path) -> None:
    without_prefix(folder)
    plan = made_up_plan(Folder(path=str(folder)))
    for path in folder.glob("*.safetensors"):
        change(path, lambda tensors: {k: v[:4] if k.startswith("fc.") else v for k, v in tensors.items()})
    with pytest.raises(InputError, match=r"tensor '.*' has shape \[4.*\], and the backbone's has \[6"):
        plan.fit_shard(0)
    with pytest.raises(InputError, match="ClassRows takes none"):
        ClassRows().read({}, source="somewhere")
