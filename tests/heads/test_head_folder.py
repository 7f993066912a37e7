"""A head folder is whole, loads the same everywhere, and is refused when anything in it is wrong."""

import errno
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from weightgen import files, load_head
from weightgen.errors import InputError
from weightgen.records import LinearHeads

MODELS = [
    ("test_vit", None),
    ("test_resnet", None),
    ("test_efficientnet", {"in_chans": 1}),
    ("test_convnext", None),
    ("test_vit", {"img_size": 96, "crop_pct": 0.7, "interpolation": "bilinear", "mean": [0.1, 0.2, 0.3]}),
    ("conv4", {"width": 6}),
    ("conv4", {"width": 6, "in_chans": 3, "input_size": [3, 32, 32]}),
]
OURS = {"README.md", "config.json", "head.safetensors", "model.safetensors"}


def expected_logits(case) -> torch.Tensor:
    return case.draws.mean().logits(case.backbone(case.images)[None])[0]


def attached(case) -> torch.nn.Module:
    """The timm model in the memory format of a freshly built one; another format rounds differently."""
    mean = case.draws.mean()
    return case.backbone.with_head(mean.weight[0, 0], mean.bias[0, 0]).to(memory_format=torch.contiguous_format)


@torch.no_grad()
@pytest.mark.parametrize(("model", "options"), MODELS, ids=str)
def test_timm_loads_identical_logits_preprocessing_and_labels(make, tmp_path: Path, model: str, options) -> None:
    case = make(model, options=options)
    case.save(tmp_path / "head")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'head'}", pretrained=True).eval()
    assert torch.equal(loaded(case.images), attached(case)(case.images))
    torch.testing.assert_close(loaded(case.images), expected_logits(case), rtol=1e-5, atol=1e-5)
    assert tuple(loaded.pretrained_cfg["label_names"]) == case.class_names
    config = timm.data.resolve_model_data_config(loaded)
    assert json.dumps(config) == json.dumps(case.backbone.preprocess.config)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize(("model", "options"), MODELS, ids=str)
def test_transformers_loads_the_same_logits(make, tmp_path: Path, model: str, options) -> None:
    transformers = pytest.importorskip("transformers")
    case = make(model, options=options)
    case.save(tmp_path / "head")
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "head").eval()
    torch.testing.assert_close(loaded(case.images).logits, attached(case)(case.images), rtol=0, atol=1e-5)
    assert tuple(loaded.config.id2label[i] for i in range(3)) == case.class_names


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 4])
def test_what_is_saved_is_loaded(make, tmp_path: Path, samples: int) -> None:
    case = make(samples=samples)
    case.save(tmp_path / "head")
    saved = load_head(tmp_path / "head")
    assert torch.equal(saved.draws.weight, case.draws.weight) and torch.equal(saved.draws.bias, case.draws.bias)
    assert saved.class_names == case.class_names
    assert case.provenance.items() <= saved.provenance.items()
    assert saved.provenance["torch_version"] == torch.__version__
    assert saved.provenance["backbone_weights"] == case.backbone.weights_hash() == saved.backbone.weights_hash()
    assert saved.backbone.preprocessing_key() == case.backbone.preprocessing_key()
    torch.testing.assert_close(saved.attach()(case.images), expected_logits(case), rtol=1e-5, atol=1e-5)
    assert not saved.attach().training


def test_files_hold_what_their_names_say(make, tmp_path: Path) -> None:
    case = make("test_vit", samples=4)
    case.save(tmp_path / "head")
    assert {path.name for path in (tmp_path / "head").iterdir()} == OURS | {"samples.safetensors"}
    mean, draws = load_file(tmp_path / "head/head.safetensors"), load_file(tmp_path / "head/samples.safetensors")
    assert torch.equal(mean["head.weight"], case.draws.weight[0].mean(0)) and set(mean) == {"head.weight", "head.bias"}
    assert torch.equal(draws["weight"], case.draws.weight[0]) and torch.equal(draws["bias"], case.draws.bias[0])
    with safe_open(tmp_path / "head/head.safetensors", "pt") as opened:
        metadata = opened.metadata()
    assert tuple(json.loads(metadata["class_names"])) == case.class_names
    assert metadata["backbone"] == "test_vit" and metadata["recipe"] == "0123abcd"
    config = json.loads((tmp_path / "head/config.json").read_text())
    assert "num_classes" not in config.get("model_args", {})  # transformers would refuse the folder


def test_saving_a_loaded_head_changes_nothing(make, tmp_path: Path) -> None:
    case = make(samples=4)
    case.save(tmp_path / "one")
    saved = load_head(tmp_path / "one")
    saved.save_pretrained(tmp_path / "two")
    twice = load_head(tmp_path / "two")
    assert torch.equal(twice.draws.weight, saved.draws.weight) and torch.equal(twice.draws.bias, saved.draws.bias)
    assert (twice.class_names, twice.provenance) == (saved.class_names, saved.provenance)
    for name in ("README.md", "config.json", "samples.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_head_folder_is_replaced_and_old_files_go(make, tmp_path: Path) -> None:
    make(samples=4).save(tmp_path / "head")
    case = make(seed=1)
    case.save(tmp_path / "head")
    assert {path.name for path in (tmp_path / "head").iterdir()} == OURS
    assert torch.equal(load_head(tmp_path / "head").draws.weight, case.draws.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


def test_an_empty_folder_and_a_link_to_a_head_folder_are_filled(make, tmp_path: Path) -> None:
    case = make()
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    case.save(tmp_path / "link")
    case.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real/head.safetensors").exists()


@pytest.mark.parametrize("held", ["notes.txt", "config.json"])
def test_a_folder_with_other_files_is_left_alone(make, tmp_path: Path, held: str) -> None:
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / held).write_text("mine")
    with pytest.raises(InputError, match=held):
        make().save(tmp_path / "head")
    assert (tmp_path / "head" / held).read_text() == "mine"


def test_a_head_folder_with_a_users_file_is_left_alone(make, tmp_path: Path) -> None:
    case = make()
    case.save(tmp_path / "head")
    (tmp_path / "head/notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        case.save(tmp_path / "head")
    assert (tmp_path / "head/notes.txt").read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_refused(make, tmp_path: Path) -> None:
    (tmp_path / "head").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        make().save(tmp_path / "head")
    with pytest.raises(InputError, match="is not a directory"):
        load_head(tmp_path / "head")


@pytest.mark.parametrize("write", [1, 3, 6])
@pytest.mark.parametrize("old", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_an_interrupted_write_leaves_nothing_or_the_old_head(
    make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int, old: bool, error: BaseException
) -> None:
    case, before = make(samples=4, support=True), make(seed=1)
    if old:
        before.save(tmp_path / "head")
    calls, whole = [], files.os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == write:
            raise error
        whole(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(type(error)):
        case.save(tmp_path / "head")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == (["head"] if old else [])
    if old:
        assert torch.equal(load_head(tmp_path / "head").draws.weight, before.draws.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ("a", "b")}, "2 classes"),
        ({"class_names": ("a", "b", "a")}, "named twice"),
        ({"class_names": ("a", "b", "")}, "not a class name"),
        ({"class_names": ("a", "b", "\udc80")}, "not valid Unicode"),
        ({"class_names": ()}, "no class"),
        ({"draws": LinearHeads(torch.zeros(2, 1, 3, 6), torch.zeros(2, 1, 3))}, "batch of 1"),
        ({"draws": LinearHeads(torch.zeros(1, 1, 3, 7), torch.zeros(1, 1, 3))}, "7"),
        ({"draws": LinearHeads(torch.zeros(1, 0, 3, 6), torch.zeros(1, 0, 3))}, "not one head"),
        ({"draws": LinearHeads(torch.full((1, 1, 3, 6), torch.nan), torch.zeros(1, 1, 3))}, "NaN"),
        ({"draws": LinearHeads(torch.zeros(1, 1, 3, 6), torch.full((1, 1, 3), torch.inf))}, "infinite"),
    ],
)
def test_parts_that_do_not_fit_are_refused_and_nothing_is_written(make, tmp_path: Path, change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make().save(tmp_path / "head", **change)
    assert not list(tmp_path.iterdir())


def test_push_to_hub_uploads_the_folder(make, hub_calls: list, tmp_path: Path) -> None:
    case = make()
    assert case.head().push_to_hub("birds") == "https://hub/me/birds"
    assert hub_calls == [("token", None), ("birds", {"private": False, "exist_ok": True}), ("upload", "me/birds")]
    assert load_head(tmp_path / "uploaded").class_names == case.class_names


def edit_json(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_tensors(folder: Path, name: str, change) -> None:
    with safe_open(folder / name, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name, metadata)


def edit_metadata(folder: Path, name: str, **values: str | None) -> None:
    with safe_open(folder / name, "pt") as opened:
        metadata = {**opened.metadata(), **values}
    save_file(load_file(folder / name), folder / name, {key: one for key, one in metadata.items() if one is not None})


DAMAGE = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: cannot be read"),
    "no model": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: cannot be read"),
    "no head": (lambda f: (f / "head.safetensors").unlink(), "head.safetensors is missing"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "'architecture' is missing"),
    "no labels": (lambda f: edit_json(f, label_names=None), "'label_names' is missing"),
    "label count": (lambda f: edit_json(f, label_names=["a", "b"]), "num_classes is 3, but label_names holds 2"),
    "class count": (lambda f: edit_json(f, label_names=["a", "b"], num_classes=2), "head.safetensors: holds"),
    "other labels": (lambda f: edit_json(f, label_names=["a", "b", "c"]), "class names differ"),
    "number as label": (lambda f: edit_json(f, label_names=["a", "b", 3]), "not a class name"),
    "unknown model": (lambda f: edit_json(f, architecture="conv5"), "conv4"),
    "other model": (lambda f: edit_json(f, architecture="test_resnet", model_args={}), "is missing"),
    "other width": (lambda f: edit_json(f, model_args={"width": 7}), "has shape"),
    "unknown option": (lambda f: edit_json(f, model_args={"widht": 6}), "widht"),
    "pickle by option": (lambda f: edit_json(f, model_args={"checkpoint_path": "x.pt"}), "checkpoint_path"),
    "no arguments": (lambda f: edit_json(f, model_args=[6]), "'model_args' is not of type dict"),
    "an impossible crop": (
        lambda f: edit_json(f, pretrained_cfg={"input_size": [3, 32, 32], "crop_pct": -1}),
        "config.json: backbone: crop_pct is -1; it must be above 0",
    ),
    "no backbone named": (
        lambda f: edit_metadata(f, "head.safetensors", backbone_weights=None),
        "do not say which backbone it is for (backbone_weights); generate the head again",
    ),
    "no input size": (lambda f: edit_json(f, pretrained_cfg={"input_size": [1]}), "config.json: "),
    "cut model": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        "whole",
    ),
    "cut head": (lambda f: (f / "head.safetensors").write_bytes((f / "head.safetensors").read_bytes()[:99]), "whole"),
    "empty head": (lambda f: (f / "head.safetensors").write_bytes(b""), "whole"),
    "NaN": (lambda f: edit_tensors(f, "model.safetensors", lambda t: t["fc.bias"].fill_(torch.nan)), "NaN"),
    "NaN head": (lambda f: edit_tensors(f, "head.safetensors", lambda t: t["fc.bias"].fill_(torch.nan)), "NaN"),
    "other head": (lambda f: edit_tensors(f, "head.safetensors", lambda t: t["fc.bias"].add_(1)), "is not that of"),
    "extra in model": (
        lambda f: edit_tensors(f, "model.safetensors", lambda t: t.update({"fc.scale": torch.ones(3)})),
        "is not that of",
    ),
    "missing in model": (lambda f: edit_tensors(f, "model.safetensors", lambda t: t.pop("fc.bias")), "is not that of"),
    "extra in head": (
        lambda f: edit_tensors(f, "head.safetensors", lambda t: t.update(other=torch.ones(3))),
        "head.safetensors: holds",
    ),
    "other trunk": (
        lambda f: edit_tensors(f, "model.safetensors", lambda t: t["blocks.0.conv.weight"].mul_(1.01)),
        "and the head was written for",
    ),
    "missing in trunk": (
        lambda f: edit_tensors(f, "model.safetensors", lambda t: t.pop("blocks.0.conv.weight")),
        "is missing",
    ),
    "other draws": (lambda f: edit_tensors(f, "samples.safetensors", lambda t: t["bias"].add_(1)), "mean of its draws"),
    "draws of another shape": (
        lambda f: edit_tensors(f, "samples.safetensors", lambda t: t.update(bias=torch.zeros(4, 2))),
        "samples.safetensors: holds",
    ),
    "no draws": (
        lambda f: save_file({"weight": torch.zeros(0, 3, 6), "bias": torch.zeros(0, 3)}, f / "samples.safetensors"),
        "mean of its draws",
    ),
    "scalar draws": (lambda f: save_file({"weight": torch.zeros(())}, f / "samples.safetensors"), "holds"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line(make, tmp_path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    folder = tmp_path / "head"
    make(samples=4).save(folder)
    load_head(folder)
    damage(folder)
    with pytest.raises(InputError) as caught:
        load_head(folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_folder_and_a_generator_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a directory"):
        load_head(tmp_path / "absent")
    with pytest.raises(InputError, match="is not a head folder"):
        load_head(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(InputError, match="is a generator, not a head"):
        load_head(tmp_path)
