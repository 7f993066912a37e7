"""Removing takes rows out and leaves the others as they are; renaming changes names and nothing else."""

import json
import unicodedata
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from weightgen.cli.head import read_renaming

from weightgen import Head, load_head
from weightgen.errors import InputError
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


@pytest.fixture(params=["fresh", "loaded"])
def head(make, tmp_path: Path, request: pytest.FixtureRequest) -> Head:
    """A head of four draws with its support summary, as it was made or from its folder."""
    fresh = make(samples=4, support=True).head()
    if request.param == "fresh":
        return fresh
    fresh.save_pretrained(tmp_path / "head")
    return load_head(tmp_path / "head")


@torch.no_grad()
@pytest.mark.parametrize(("gone", "kept"), [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])])
def test_the_classes_that_stay_are_untouched_to_the_last_bit(make, head: Head, gone: int, kept: list[int]) -> None:
    case, after = make(samples=4), head.remove([head.class_names[gone]])
    assert after.class_names == tuple(head.class_names[i] for i in kept)
    features = case.backbone(case.images)
    for one, other in ((after.draws, head.draws), (after.mean, head.mean)):
        assert torch.equal(one.weight, other.weight[:, :, kept])
        assert torch.equal(one.bias, other.bias[:, :, kept])
        assert torch.equal(logits(one, features), logits(other, features)[..., kept])
    state = torch.get_rng_state()
    new, old = after.attach()(case.images), head.attach()(case.images)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(new, old[:, kept], rtol=1e-6, atol=1e-6)
    assert torch.equal(after.support.statistics.counts, head.support.statistics.counts[kept])
    assert torch.equal(after.support.sample, head.support.sample[kept])
    images = str(int(head.support.statistics.counts[kept].sum()))
    note = {"support_images": images, "edited": f"removed {head.class_names[gone]!r}"}
    assert after.provenance == {**head.provenance, **note}


@torch.no_grad()
def test_a_mean_that_the_draws_round_otherwise_is_kept(make, tmp_path: Path) -> None:
    case = make(samples=4)
    mean = case.draws.mean()
    mean.weight.mul_(1 + 1e-6)
    case.save(tmp_path / "head", mean=mean)
    after = load_head(tmp_path / "head").remove([CAT])
    assert torch.equal(after.mean.weight, mean.weight[:, :, 1:])
    assert not torch.equal(after.mean.weight, after.draws.mean().weight)


@torch.no_grad()
def test_timm_and_weightgen_read_what_is_left(make, head: Head, pictures: Path, tmp_path: Path) -> None:
    images, before = make().images, head.predict(pictures)
    head.remove([QUOTED]).rename({CAT: "cat"}).save_pretrained(tmp_path / "few")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'few'}", pretrained=True).eval()
    torch.testing.assert_close(loaded(images), head.attach()(images)[:, [0, 2]], rtol=1e-5, atol=1e-5)
    assert loaded.pretrained_cfg["label_names"] == ["cat", BREAK]
    for old, new in zip(before, load_head(tmp_path / "few").predict(pictures), strict=True):
        assert tuple(new.probabilities) == ("cat", BREAK)
        assert old.path == new.path and new.probabilities["cat"] >= old.probabilities[CAT]


@torch.no_grad()
@pytest.mark.slow
def test_transformers_reads_what_is_left(make, head: Head, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    head.remove([QUOTED]).rename({CAT: "cat"}).save_pretrained(tmp_path / "few")
    loaded, images = (
        transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "few").eval(),
        make().images,
    )
    torch.testing.assert_close(loaded(images).logits, head.attach()(images)[:, [0, 2]], rtol=0, atol=1e-5)
    assert loaded.config.id2label == {0: "cat", 1: BREAK}


@pytest.mark.parametrize("model", ["conv4", "test_resnet"])
def test_renaming_changes_names_alone(make, tmp_path: Path, model: str) -> None:
    folder, out = tmp_path / "head", tmp_path / "new"
    make(model, samples=4, support=True).save(folder)
    before = contents(folder)
    load_head(folder).rename({QUOTED: "b = c"}).save_pretrained(out)
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
        labels = json.dumps(names, ensure_ascii=False)
        assert metadata_of(out / name) == {**metadata_of(folder / name), **note, "class_names": labels}
    card = after["README.md"].decode()
    classes = card.split("```json\n")[1]
    assert "b = c" in classes and "quoted" not in classes.partition("```")[0]


def test_two_classes_may_swap_their_names_and_back(head: Head, tmp_path: Path) -> None:
    swapped = head.rename({CAT: BREAK, BREAK: CAT})
    assert swapped.class_names == (BREAK, QUOTED, CAT)
    again = swapped.rename({CAT: BREAK, BREAK: CAT})
    assert again.class_names == head.class_names
    swap = f"renamed {CAT!r} to {BREAK!r}, {BREAK!r} to {CAT!r}"
    assert again.provenance == {**head.provenance, "edited": f"{swap}; {swap}"}
    for one, name in ((head, "one"), (again, "two")):
        one.save_pretrained(tmp_path / name)
    for name in ("config.json", "model.safetensors", "samples.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_head_without_support_summary_can_be_edited(make, tmp_path: Path) -> None:
    head = make().head().with_provenance(support_images="9")
    edited = head.remove([QUOTED]).rename({CAT: "cat"})
    assert edited.support is None and "support_images" not in edited.provenance
    edited.save_pretrained(tmp_path / "head")
    assert set(contents(tmp_path / "head")) == {"README.md", "config.json", "head.safetensors", "model.safetensors"}


def test_parts_inside_the_backbone_stay(make, tmp_path: Path) -> None:
    case = make()
    parts = tuple(name for name in case.backbone.trunk.state_dict() if name.endswith("weight"))[:2]
    case.save(tmp_path / "head", parts=parts)
    load_head(tmp_path / "head").remove([CAT]).rename({QUOTED: "quoted"}).save_pretrained(tmp_path / "head")
    assert set(load_head(tmp_path / "head").parts) == set(parts)
    tensors = load_file(tmp_path / "head/head.safetensors")
    assert all(torch.equal(tensors[name], case.backbone.trunk.state_dict()[name]) for name in parts)
    assert "2 tensors of this model's backbone" in (tmp_path / "head/README.md").read_text()


def test_names_that_look_alike_are_found(make) -> None:
    head = make().head()
    assert head.rename({QUOTED: unicodedata.normalize("NFD", "café")}).class_names == (CAT, "café", BREAK)
    assert head.remove([unicodedata.normalize("NFD", CAT)]).class_names == (QUOTED, BREAK)


REMOVE = {
    "unknown": (["it's quoted"], 'the head has no class "it\'s quoted"; did you mean'),
    "nothing like it": (["zebra"], "the head has no class 'zebra'; it is one of: "),
    "twice": ([CAT, CAT], "is named twice; name it once"),
    "twice, once decomposed": ([CAT, unicodedata.normalize("NFD", CAT)], "is named twice; name it once"),
    "nothing": ([], "no class is named; name one or more"),
    "all but one": ([CAT, QUOTED], "1 of 3 classes would stay; keep 2 or more"),
    "all": ([CAT, QUOTED, BREAK], "0 of 3 classes would stay; keep 2 or more"),
}
RENAME = {
    "unknown": ({"it's quoted": "a"}, 'the head has no class "it\'s quoted"; did you mean'),
    "twice": ({CAT: "a", unicodedata.normalize("NFD", CAT): "b"}, "is named twice; name it once"),
    "nothing": ({}, "no class is named; name one or more"),
    "no name": ({CAT: ""}, "would have an empty name; give it another"),
    "a blank name": ({CAT: " \t"}, "would have an empty name; give it another"),
    "another's name": ({CAT: QUOTED}, "two classes would be called"),
    "the same new name": ({CAT: "a", QUOTED: "a"}, "two classes would be called 'a'; give them different names"),
    "new names that look alike": ({CAT: "caf\u00e9", QUOTED: "cafe\u0301"}, "two classes would be called 'café'"),
    "its own name": ({CAT: CAT}, "already has this name; leave it out"),
    "its own name, decomposed": ({CAT: unicodedata.normalize("NFD", CAT)}, "already has this name; leave it out"),
    "no text": ({CAT: "\udc80"}, "not valid Unicode"),
}


@pytest.mark.parametrize(
    ("edit", "given", "message"),
    [(Head.remove, *case) for case in REMOVE.values()] + [(Head.rename, *case) for case in RENAME.values()],
    ids=[f"remove {name}" for name in REMOVE] + [f"rename {name}" for name in RENAME],
)
def test_what_cannot_be_edited_is_refused(make, edit, given, message: str) -> None:
    head = make(samples=4, support=True).head()
    with pytest.raises(InputError) as caught:
        edit(head, given)
    assert message in str(caught.value)
    assert head.class_names == (CAT, QUOTED, BREAK) and "edited" not in head.provenance


EQUAL_SIGNS = ("a", "a=b", "=c")


@pytest.mark.parametrize(
    ("pair", "meant"),
    [("a=x", ("a", "x")), ("=c=x=", ("=c", "x=")), ("a==x", ("a", "=x")), ("=c=", ("=c", ""))],
)
def test_a_renaming_is_split_after_a_class(pair: str, meant: tuple[str, str]) -> None:
    assert read_renaming([pair], EQUAL_SIGNS) == dict([meant])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["a=b=x"], "'a=b=x' may rename 'a' or 'a=b'; give one of them a name without '=' first"),
        (["a"], "'a' is not a renaming; give OLD=NEW"),
        (["x=a"], "the head has no class 'x'; it is one of: =c, a, a=b"),
        (["a=x", "a=y"], "class 'a' is named twice; name it once"),
    ],
)
def test_a_renaming_that_is_none_or_more_than_one(pairs: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_renaming(pairs, EQUAL_SIGNS)
    assert message in str(caught.value)
