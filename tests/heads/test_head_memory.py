"""What a head remembers is read as it was written, and refused when anything in it is wrong."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from weightgen.errors import InputError
from weightgen.heads import head_memory
from weightgen.heads.generated_head import GeneratedHead
from weightgen.heads.head_folder import load_head, save_head
from weightgen.heads.head_memory import HeadMemory
from weightgen.records import Statistics

FILE = "statistics.safetensors"


def same(one: HeadMemory, other: HeadMemory) -> bool:
    tensors = zip(one.tensors().values(), other.tensors().values(), strict=True)
    return one.generator == other.generator and all(torch.equal(a, b) for a, b in tensors)


def test_what_is_saved_is_remembered(make, tmp_path: Path) -> None:
    made = make(remembers=True)
    save_head(tmp_path / "head", **made.arguments)
    assert same(load_head(tmp_path / "head").memory, made.memory)
    with safe_open(tmp_path / "head" / FILE, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["generator"] == made.memory.generator
    assert tuple(json.loads(metadata["class_names"])) == made.class_names
    kinds = {name: tensor.dtype for name, tensor in load_file(tmp_path / "head" / FILE).items()}
    assert kinds.pop("sample") == torch.float16
    assert kinds.pop("sample_mask") == kinds.pop("founding") == torch.bool
    assert set(kinds.values()) == {torch.float32}


def test_a_generated_head_hands_its_memory_on(make, tmp_path: Path) -> None:
    made = make(remembers=True)
    GeneratedHead(**made.arguments).save_pretrained(tmp_path / "head")
    assert same(load_head(tmp_path / "head").memory, made.memory)
    with pytest.raises(InputError, match="memory: is of 2 classes of 6 features, and the head has 3 classes of 6"):
        GeneratedHead(**{**made.arguments, "memory": made.memory.without([1])})


def test_a_folder_without_it_is_a_head_all_the_same(make, tmp_path: Path) -> None:
    save_head(tmp_path / "head", **make(remembers=True).arguments)
    assert "statistics.safetensors" in (tmp_path / "head/README.md").read_text()
    (tmp_path / "head" / FILE).unlink()
    assert load_head(tmp_path / "head").memory is None
    save_head(tmp_path / "head", **make().arguments)
    assert load_head(tmp_path / "head").memory is None
    assert "statistics.safetensors" not in (tmp_path / "head/README.md").read_text()


def test_a_memory_without_classes_keeps_the_covariance(make) -> None:
    memory = make(remembers=True).memory
    fewer = memory.without([0])
    assert torch.equal(fewer.statistics.counts, torch.tensor([2.0, 9.0]))
    assert torch.equal(fewer.statistics.means, memory.statistics.means[1:])
    assert torch.equal(fewer.sample, memory.sample[1:]) and torch.equal(fewer.sample_mask, memory.sample_mask[1:])
    torch.testing.assert_close(fewer.scatter / (1 + 8), memory.scatter / (6 + 1 + 8))
    assert fewer.generator == memory.generator
    assert fewer.origin.founding.tolist() == [True, False]
    assert (fewer.origin.space, fewer.origin.shots) == (memory.origin.space, memory.origin.shots)
    assert same(memory.without([]), memory)


def test_joined_memories_hold_all_classes_and_keep_what_rows_are_written_in(make) -> None:
    memory, other = make(remembers=True).memory, make(remembers=True, seed=1).memory.without([0])
    both = memory.joined(other.episode())
    for name in ("counts", "means"):
        parts = [getattr(one.statistics, name) for one in (memory, other)]
        assert torch.equal(getattr(both.statistics, name), torch.cat(parts))
    assert torch.equal(both.scatter, memory.scatter + other.scatter)
    assert torch.equal(both.sample, torch.cat([memory.sample, other.sample]))
    assert torch.equal(both.sample_mask, torch.cat([memory.sample_mask, other.sample_mask]))
    assert both.origin.founding.tolist() == [True, True, False, False, False]
    assert (both.origin.space, both.origin.shots) == (memory.origin.space, memory.origin.shots)
    assert both.generator == memory.generator


def test_a_joined_sample_has_as_little_room_as_any(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_memory, "MOST_SAMPLED", 17)
    memory = make(remembers=True).memory
    short = replace(memory, sample=memory.sample[:, :1], sample_mask=memory.sample_mask[:, :1])
    both = memory.joined(short.episode())
    assert both.sample_mask.tolist() == [[True] * 2] * 3 + [[True, False]] * 3
    assert torch.equal(both.sample[:3], memory.sample[:, :2])
    assert torch.equal(both.sample[3:], torch.stack([memory.sample[:, 0], torch.zeros_like(memory.sample[:, 0])], 1))


def test_single_images_have_no_scatter_to_keep(make) -> None:
    memory = make(remembers=True).memory
    ones, zero = torch.ones(3), torch.zeros_like(memory.scatter)
    statistics = Statistics(ones, memory.statistics.means, zero)
    single = HeadMemory(statistics, memory.sample[:, :1], ones[:, None] > 0, memory.origin, "g")
    assert not single.without([2]).scatter.any()


def test_a_sample_beyond_half_precision_is_refused_and_nothing_is_written(make, tmp_path: Path) -> None:
    made = make(remembers=True)
    large = replace(made.memory, sample=made.memory.sample * 1e6)
    with pytest.raises(InputError, match="beyond 65504"):
        save_head(tmp_path / "head", **{**made.arguments, "memory": large})
    assert not list(tmp_path.iterdir())


WRONG = {
    "other width": (lambda m: replace(m, sample=m.sample[..., 1:]), "not of the same classes, images and features"),
    "other images": (lambda m: replace(m, sample=m.sample[:, 1:]), "not of the same classes, images and features"),
    "other classes": (lambda m: replace(m, sample_mask=m.sample_mask[1:]), "not of the same classes, images"),
    "no class": (lambda m: m.without([0, 1, 2]), "not of the same classes, images and features"),
    "numbers for a mask": (lambda m: replace(m, sample_mask=m.sample_mask.float()), "sample_mask holds torch.float32"),
    "NaN": (
        lambda m: replace(m, sample=m.sample * torch.nan),
        "sample holds torch.float32 where others belong, or NaN",
    ),
    "no generator": (lambda m: replace(m, generator=""), "no generator is named"),
    "NaN in the space": (
        lambda m: replace(m, origin=replace(m.origin, space={"centre": torch.tensor([1.0, torch.nan])})),
        "space.centre holds torch.float32 where others belong, or NaN",
    ),
    "no shots": (lambda m: replace(m, origin=replace(m.origin, shots=torch.tensor(0.5))), "shots are below 1"),
    "no image": (
        lambda m: replace(m, statistics=replace(m.statistics, counts=torch.tensor([7.0, 0.0, 9.0]))),
        "counts are below 1",
    ),
    "fewer than the sample": (
        lambda m: replace(m, statistics=replace(m.statistics, counts=torch.tensor([4.0, 2.0, 9.0]))),
        "below the number of images in the sample",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_memory_is_refused(make, name: str) -> None:
    change, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        change(make(remembers=True).memory)


def edit(folder: Path, change, **metadata: str) -> None:
    with safe_open(folder / FILE, "pt") as opened:
        told = opened.metadata()
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE, {**told, **metadata})


def cut(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-9])


def narrow(tensors: dict[str, torch.Tensor]) -> None:
    for name in ("means", "sample"):
        tensors[name] = tensors[name][..., 1:].contiguous()
    tensors["scatter"] = tensors["scatter"][1:, 1:].contiguous()


DAMAGE = {
    "cut short": (cut, "is not a whole safetensors file"),
    "a pickle": (lambda f: (f / FILE).write_bytes(b"\x80\x04\x95\x0b\x00\x00\x00."), "is not a whole safetensors file"),
    "NaN": (lambda f: edit(f, lambda t: t["scatter"].fill_(torch.nan)), "holds NaN or infinite values"),
    "infinite sample": (lambda f: edit(f, lambda t: t["sample"].fill_(torch.inf)), "holds NaN or infinite values"),
    "no means": (
        lambda f: edit(f, lambda t: t.pop("means")),
        "memory: holds counts, founding, sample, sample_mask, scatter",
    ),
    "another tensor": (
        lambda f: edit(f, lambda t: t.update(other=torch.ones(3))),
        "memory: holds counts, founding, means, other",
    ),
    "another shape": (lambda f: edit(f, lambda t: t.update(scatter=torch.ones(6))), "not of the same classes"),
    "scalar means": (lambda f: edit(f, lambda t: t.update(means=torch.ones(()))), "not of the same classes"),
    "counts of 0": (lambda f: edit(f, lambda t: t["counts"].zero_()), "counts are below 1"),
    "other names": (lambda f: edit(f, lambda t: None, class_names='["a", "b", "c"]'), "class names differ"),
    "no generator": (lambda f: edit(f, lambda t: None, generator=""), "no generator is named"),
    "no metadata": (lambda f: save_file(load_file(f / FILE), f / FILE), "class names differ"),
    "another width": (
        lambda f: edit(f, narrow),
        "is of 3 classes of 5 features, and the head has 3 classes of 6",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_memory_is_refused_in_one_line(make, tmp_path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    save_head(tmp_path / "head", **make(remembers=True).arguments)
    damage(tmp_path / "head")
    with pytest.raises(InputError) as caught:
        load_head(tmp_path / "head")
    assert str(caught.value).startswith(f"{tmp_path / 'head' / FILE}: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)
