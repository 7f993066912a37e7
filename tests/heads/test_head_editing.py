"""Removing takes rows out and leaves the others as they are; renaming changes names and nothing else."""

import errno
import json
import unicodedata
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from weightgen import files
from weightgen.errors import InputError
from weightgen.heads.head_editing import read_renaming, remove_classes, rename_classes
from weightgen.heads.head_folder import load_head, save_head
from weightgen.heads.predictor import Predictor
from weightgen.records import LinearHeads

CAT, QUOTED, BREAK = "Ä ö 猫 🐈", 'it\'s "quoted" `back`', "a/b\\c ${x} {y}\n#"  # as `make` names them


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as opened:
        return opened.metadata()


def logits(head: LinearHeads, features: torch.Tensor) -> torch.Tensor:
    """[samples images ways], each by a sum of its own: a matrix product may add in another order for fewer rows."""
    return (head.weight[0, :, None] * features[:, None]).sum(-1) + head.bias[0, :, None]


@pytest.fixture
def folder(make, tmp_path: Path) -> Path:
    """A head of four draws that remembers its images."""
    save_head(tmp_path / "head", **make(samples=4, remembers=True).arguments)
    return tmp_path / "head"


@torch.no_grad()
@pytest.mark.parametrize(("gone", "kept"), [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])])
def test_the_classes_that_stay_are_untouched_to_the_last_bit(make, folder: Path, gone: int, kept: list[int]) -> None:
    made, before = make(samples=4), load_head(folder)
    remove_classes(folder, [before.class_names[gone]])
    after = load_head(folder)
    assert after.class_names == tuple(before.class_names[i] for i in kept)
    for name in ("head", "mean"):
        assert torch.equal(getattr(after, name).weight, getattr(before, name).weight[:, :, kept])
        assert torch.equal(getattr(after, name).bias, getattr(before, name).bias[:, :, kept])
        features = made.backbone(made.images)
        assert torch.equal(logits(getattr(after, name), features), logits(getattr(before, name), features)[..., kept])
    torch.testing.assert_close(after.model(made.images), before.model(made.images)[:, kept], rtol=1e-6, atol=1e-6)
    assert torch.equal(after.memory.statistics.counts, before.memory.statistics.counts[kept])
    assert torch.equal(after.memory.sample, before.memory.sample[kept])
    assert after.provenance == {**before.provenance, "edited": f"removed {before.class_names[gone]!r}"}


@torch.no_grad()
def test_a_mean_that_the_draws_round_otherwise_is_kept(make, tmp_path: Path) -> None:
    made = make(samples=4)
    mean = made.head.mean()
    mean.weight.mul_(1 + 1e-6)
    save_head(tmp_path / "head", **made.arguments, mean=mean)
    remove_classes(tmp_path / "head", [CAT])
    after = load_head(tmp_path / "head")
    assert torch.equal(after.mean.weight, mean.weight[:, :, 1:])
    assert not torch.equal(after.mean.weight, after.head.mean().weight)


@torch.no_grad()
def test_timm_and_weightgen_read_what_is_left(make, folder: Path, pictures: Path) -> None:
    made, before = make(samples=4), load_head(folder)
    probabilities = Predictor.from_head(folder).predict(pictures)
    remove_classes(folder, [QUOTED])
    rename_classes(folder, {CAT: "cat"})
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    torch.testing.assert_close(loaded(made.images), before.model(made.images)[:, [0, 2]], rtol=1e-5, atol=1e-5)
    assert loaded.pretrained_cfg["label_names"] == ["cat", BREAK]
    for old, new in zip(probabilities, Predictor.from_head(folder).predict(pictures), strict=True):
        assert tuple(new.probabilities) == ("cat", BREAK)
        assert old.path == new.path and new.probabilities["cat"] >= old.probabilities[CAT]


@torch.no_grad()
@pytest.mark.slow
def test_transformers_reads_what_is_left(make, folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made, before = make(samples=4), load_head(folder)
    remove_classes(folder, [QUOTED])
    rename_classes(folder, {CAT: "cat"})
    loaded = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    torch.testing.assert_close(loaded(made.images).logits, before.model(made.images)[:, [0, 2]], rtol=0, atol=1e-5)
    assert loaded.config.id2label == {0: "cat", 1: BREAK}


@pytest.mark.parametrize("model", ["conv4", "test_resnet"])
def test_renaming_changes_names_alone(make, tmp_path: Path, model: str) -> None:
    folder, out = tmp_path / "head", tmp_path / "new"
    save_head(folder, **make(model, samples=4, remembers=True).arguments)
    before = contents(folder)
    rename_classes(folder, {QUOTED: "b = c"}, out)
    assert contents(folder) == before
    after = contents(out)
    assert after.keys() == before.keys()
    for name in ("model.safetensors", "samples.safetensors"):
        assert after[name] == before[name]
    names = [CAT, "b = c", BREAK]
    config = json.loads(before["config.json"])
    assert json.loads(after["config.json"]) == {**config, "label_names": names}
    for name, note in (
        ("head.safetensors", {"edited": f"renamed {QUOTED!r} to 'b = c'"}),
        ("statistics.safetensors", {}),
    ):
        old, new = load_file(folder / name), load_file(out / name)
        assert old.keys() == new.keys() and all(torch.equal(old[key], new[key]) for key in old)
        told = json.dumps(names, ensure_ascii=False)
        assert metadata_of(out / name) == {**metadata_of(folder / name), **note, "class_names": told}
    card = after["README.md"].decode()
    classes = card.split("```json\n")[1]
    assert "b = c" in classes and "quoted" not in classes.partition("```")[0]


def test_two_classes_may_swap_their_names_and_back(folder: Path, tmp_path: Path) -> None:
    rename_classes(folder, {CAT: BREAK, BREAK: CAT}, tmp_path / "swapped")
    assert load_head(tmp_path / "swapped").class_names == (BREAK, QUOTED, CAT)
    rename_classes(tmp_path / "swapped", {CAT: BREAK, BREAK: CAT})
    before, after = load_head(folder), load_head(tmp_path / "swapped")
    assert after.class_names == before.class_names
    swap = f"renamed {CAT!r} to {BREAK!r}, {BREAK!r} to {CAT!r}"
    assert after.provenance == {**before.provenance, "edited": f"{swap}; {swap}"}
    for name in ("config.json", "model.safetensors", "samples.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "swapped" / name).read_bytes(), name


def test_a_head_of_an_older_version_can_be_edited(make, tmp_path: Path) -> None:
    save_head(tmp_path / "head", **make().arguments)
    remove_classes(tmp_path / "head", [QUOTED])
    rename_classes(tmp_path / "head", {CAT: "cat"})
    assert load_head(tmp_path / "head").memory is None
    assert set(contents(tmp_path / "head")) == {"README.md", "config.json", "head.safetensors", "model.safetensors"}


def test_parts_inside_the_backbone_stay(make, tmp_path: Path) -> None:
    made = make()
    parts = tuple(name for name in made.backbone.trunk.state_dict() if name.endswith("weight"))[:2]
    save_head(tmp_path / "head", **made.arguments, parts=parts)
    remove_classes(tmp_path / "head", [CAT])
    rename_classes(tmp_path / "head", {QUOTED: "quoted"})
    assert set(load_head(tmp_path / "head").parts) == set(parts)
    tensors = load_file(tmp_path / "head/head.safetensors")
    assert all(torch.equal(tensors[name], made.backbone.trunk.state_dict()[name]) for name in parts)
    assert "2 tensors of this model's backbone" in (tmp_path / "head/README.md").read_text()


def test_names_that_look_alike_are_found(make, tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", CAT)
    save_head(tmp_path / "head", **make().arguments)
    rename_classes(tmp_path / "head", {QUOTED: unicodedata.normalize("NFD", "café")}, tmp_path / "new")
    assert load_head(tmp_path / "new").class_names == (CAT, "café", BREAK)
    remove_classes(tmp_path / "head", [decomposed])
    assert load_head(tmp_path / "head").class_names == (QUOTED, BREAK)


@pytest.mark.parametrize("write", range(1, 7))
@pytest.mark.parametrize("edit", ["remove", "rename"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_an_interrupted_edit_leaves_the_old_head(
    folder: Path, monkeypatch: pytest.MonkeyPatch, write: int, edit: str, error: BaseException
) -> None:
    before, calls, whole = contents(folder), [], files.os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == write:
            raise error
        whole(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(type(error)):
        remove_classes(folder, [CAT]) if edit == "remove" else rename_classes(folder, {CAT: "cat"})
    monkeypatch.undo()
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["head"]


REMOVE = {
    "unknown": (["it's quoted"], 'has no class "it\'s quoted"; did you mean'),
    "nothing like it": (["zebra"], "has no class 'zebra'; it is one of: "),
    "twice": ([CAT, CAT], "is named twice; name it once"),
    "twice, once decomposed": ([CAT, unicodedata.normalize("NFD", CAT)], "is named twice; name it once"),
    "nothing": ([], "no class is named; name one or more"),
    "all but one": ([CAT, QUOTED], "1 of 3 classes would stay; keep 2 or more"),
    "all": ([CAT, QUOTED, BREAK], "0 of 3 classes would stay; keep 2 or more"),
}
RENAME = {
    "unknown": ({"it's quoted": "a"}, 'has no class "it\'s quoted"; did you mean'),
    "twice": ({CAT: "a", unicodedata.normalize("NFD", CAT): "b"}, "is named twice; name it once"),
    "nothing": ({}, "no class is named; name one or more"),
    "no name": ({CAT: ""}, "would have an empty name; give it another"),
    "a blank name": ({CAT: " \t"}, "would have an empty name; give it another"),
    "another's name": ({CAT: QUOTED}, "two classes would be called"),
    "the same new name": ({CAT: "a", QUOTED: "a"}, "two classes would be called 'a'; give them different names"),
    "new names that look alike": ({CAT: "caf\u00e9", QUOTED: "cafe\u0301"}, "two classes would be called 'café'"),
    "its own name": ({CAT: CAT}, "is called so already; leave it out"),
    "its own name, decomposed": ({CAT: unicodedata.normalize("NFD", CAT)}, "is called so already; leave it out"),
    "no text": ({CAT: "\udc80"}, "not valid Unicode"),
}


@pytest.mark.parametrize(
    ("edit", "given", "message"),
    [(remove_classes, *case) for case in REMOVE.values()] + [(rename_classes, *case) for case in RENAME.values()],
    ids=[f"remove {name}" for name in REMOVE] + [f"rename {name}" for name in RENAME],
)
def test_what_cannot_be_edited_is_refused_and_nothing_is_written(folder: Path, edit, given, message: str) -> None:
    before = contents(folder)
    with pytest.raises(InputError) as caught:
        edit(folder, given)
    assert message in str(caught.value)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["head"]


def test_a_folder_with_other_files_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    for out in (tmp_path / "taken", None):
        with pytest.raises(InputError, match=r"holds 'notes\.txt'"):
            remove_classes(folder, [CAT], out)
    assert contents(folder) == before
    remove_classes(folder, [CAT], tmp_path / "new")
    assert contents(folder) == before


@pytest.fixture
def equal_signs(make, tmp_path: Path) -> Path:
    made = make()
    save_head(tmp_path / "equal", **{**made.arguments, "class_names": ("a", "a=b", "=c")})
    return tmp_path / "equal"


@pytest.mark.parametrize(
    ("pair", "meant"),
    [("a=x", ("a", "x")), ("=c=x=", ("=c", "x=")), ("a==x", ("a", "=x")), ("=c=", ("=c", ""))],
)
def test_a_renaming_is_split_after_a_class(equal_signs: Path, pair: str, meant: tuple[str, str]) -> None:
    assert read_renaming(equal_signs, [pair]) == dict([meant])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["a=b=x"], "'a=b=x' may rename 'a' or 'a=b'; give one of them a name without '=' first"),
        (["a"], "'a' is no renaming; give OLD=NEW"),
        (["x=a"], "has no class 'x'; it is one of: =c, a, a=b"),
        (["a=x", "a=y"], "class 'a' is named twice; name it once"),
    ],
)
def test_a_renaming_that_is_none_or_more_than_one(equal_signs: Path, pairs: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_renaming(equal_signs, pairs)
    assert message in str(caught.value)
