"""Heads with nothing trained: for photographs on any backbone, and for features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import save_file
from tiny_runs import invoke, refuse, succeed

from weightgen.backbones import construction
from weightgen.backbones.backbone import Backbone
from weightgen.errors import InputError
from weightgen.heads.head import load_head
from weightgen.runs.generator_training import LEAVES_ALL
from weightgen.universal.generator import universal_generator

WIDTH = 7


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current directory, without any run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def features(name: str = "features", *, counts: tuple[int, ...] = (4, 3, 5), seed: int = 0, **tensors) -> str:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    values = (
        torch.randn(len(labels), WIDTH, generator=torch.Generator().manual_seed(seed)) + 4 * torch.eye(WIDTH)[labels]
    )
    names = json.dumps(["ant", "bee", "cat", "dog"][: len(counts)])
    save_file({"features": values, "labels": labels, **tensors}, f"{name}.safetensors", {"class_names": names})
    return f"features:{name}.safetensors"


def network(classes: int, name: str = "backbone.safetensors") -> str:
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=classes)
    save_file(model.state_dict(), name, {"architecture": "test_efficientnet"})
    return name


def photographs(folder: Path, *, images: int = 3, same: bool = False) -> Path:
    draw = torch.Generator().manual_seed(3)
    for i, name in enumerate(("heron", "wren")):
        (folder / name).mkdir(parents=True)
        for j in range(images):
            pixels = torch.randint(0, 256, (31, 29, 3), generator=draw, dtype=torch.uint8)
            pixels = torch.full_like(pixels, 9) if same else pixels // 2 + 100 * i
            Image.fromarray(pixels.numpy()).save(folder / name / f"{j}.png")
    return folder


def test_a_features_file_gives_head_safetensors_alone(folder):
    spec = features(**{"classifier.weight": torch.randn(6, WIDTH), "classifier.bias": torch.zeros(6)})
    printed = succeed("generate", "--support", spec, "--out", "head", "--format", "json")
    written = json.loads(printed.stdout)
    assert [path.name for path in (folder / "head").iterdir()] == ["head.safetensors"]
    assert written["generator"] == "universal" and written["backbone"] == "features"
    assert written["leave_one_out"]["images"] == 12 and 0 <= written["leave_one_out"]["accuracy"] <= 100
    head = load_head("head")
    assert head.class_names == ("ant", "bee", "cat") and head.weight.shape == (3, WIDTH)
    assert head.provenance["leave_one_out"] == written["leave_one_out"]["sentence"]
    assert head.provenance["generator"] == "universal"
    means = 4 * torch.eye(WIDTH)[:3]
    assert head.probabilities(means).argmax(1).tolist() == [0, 1, 2]


def test_unlabelled_features_count(folder):
    more = features("more", seed=1)
    written = json.loads(succeed("generate", "--support", features(), "--unlabelled", more, "--format", "json").stdout)
    assert written["unlabelled_images"] == 12


def test_a_head_as_a_backbone_brings_no_classifier_that_knows_the_support(folder):
    support = photographs(folder / "photos")
    succeed("generate", "--support", str(support), "--backbone", network(9), "--out", "head")
    assert Backbone.create(model="local-dir:head", pretrained=True).classifier is None
    printed = succeed("generate", "--support", str(support), "--backbone", "local-dir:head", "--out", "again")
    assert "comes without a pretrained linear classifier" in printed.stderr


def test_a_head_of_features_reads_no_images(folder):
    succeed("generate", "--support", features(), "--out", "head")
    line = refuse("predict", "--head", "head", str(photographs(folder / "photos")))
    assert "the head is for features" in line and "could not be read" not in line


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (("--out", "photos/head"), "--out: photos/head lies in the support"),
        (("--out", "head", "--report", "photos/report"), "--report: photos/report lies in the support"),
        (("--out", "head", "--report", "head/report"), "--report is head/report"),
    ],
)
def test_what_would_stop_the_next_run_is_refused_before_anything_is_written(folder, places, message):
    support = photographs(folder / "photos")
    before = {path for path in folder.rglob("*")}
    assert message in refuse("generate", "--support", str(support), "--backbone", network(9), *places)
    assert {path for path in folder.rglob("*")} - before == {folder / "backbone.safetensors"}


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("head", "'head' is not a name of timm's, but a directory; write local-dir:head"),
        ("./notes", "'./notes' is not a name of timm's, but a file; give one in safetensors"),
        ("plain.safetensors", "names no architecture; save it again with the metadata"),
        ("conv4", "pretrain this one in a run: weightgen train metadiff backbone.model=conv4"),
    ],
)
def test_what_is_no_backbone_is_refused_with_what_would_be(folder, named, message):
    (folder / "head").mkdir()
    (folder / "notes").write_text("x")
    save_file({"weight": torch.ones(2, 2)}, "plain.safetensors")
    assert message in refuse("generate", "--support", str(photographs(folder / "photos")), "--backbone", named)


def test_a_directory_named_as_a_model_of_timm_does_not_hide_it(folder, monkeypatch):
    monkeypatch.setattr(construction, "hf_hub_download", offline)
    (folder / "test_efficientnet").mkdir()
    with pytest.raises(InputError, match="cannot download 'test_efficientnet'"):
        Backbone.named("test_efficientnet")


def test_features_of_another_width_are_named_by_their_file(folder):
    save_file({"features": torch.randn(4, 5)}, "narrow.safetensors")
    arguments = ("--support", features(), "--unlabelled", "features:narrow.safetensors")
    assert "narrow.safetensors: features are 5 wide, and those of the backbone 'features' 7" in refuse(
        "generate", *arguments
    )


def test_a_head_of_features_is_exported_next(folder):
    printed = succeed("generate", "--support", features(), "--out", "head")
    assert "next: weightgen export head --onnx FILE" in printed.stderr


def test_a_split_of_other_data_is_refused(folder):
    arguments = ("evaluate", "universal", "--data", features(), "--split", "validation")
    assert "--split validation is of the run's own classes" in refuse(*arguments)


def test_a_backbone_of_choice_and_its_classifier(folder):
    support = photographs(folder / "photos")
    printed = succeed("generate", "--support", str(support), "--backbone", network(9), "--out", "head")
    assert "generator: universal, on test_efficientnet" in printed.stderr
    assert "leave-one-out:" in printed.stdout and "of 6 images right" in printed.stdout
    assert (folder / "head" / "model.safetensors").exists()
    assert succeed("predict", "--head", "head", str(support))


def test_a_backbone_without_classifier_says_so(folder):
    name = network(9)
    from safetensors.torch import load_file

    tensors = {key: one for key, one in load_file(name).items() if not key.startswith("classifier.")}
    save_file(tensors, name, {"architecture": "test_efficientnet"})
    printed = succeed("generate", "--support", str(photographs(folder / "photos")), "--backbone", name)
    assert "comes without a pretrained linear classifier" in printed.stderr


def test_a_newest_run_that_cannot_be_read_is_said_to_have_been_taken(folder):
    for name in ("recipe.yaml", "generator/model_index.json"):
        (folder / "runs/old" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "runs/old" / name).write_text("training: {spaces: 3}")
    given = ("generate", "--support", str(photographs(folder / "photos")), "--backbone", network(9))
    line = refuse(*given[:3])
    assert line.startswith("runs/old/recipe.yaml: key 'backbone' is missing")
    assert line.endswith("; or name another than this newest run: --generator RUN, or universal")
    assert "newest" not in refuse(*given[:3], "--generator", "runs/old")
    succeed(*given)


@pytest.mark.parametrize("rewrite", [(), ("--rewrite",)])
def test_a_head_is_extended_with_the_backbone_that_it_names(folder, monkeypatch, rewrite):
    own = Backbone.named(network(9))
    monkeypatch.setattr(Backbone, "named", {"resnet18.a1_in1k": own, "file.safetensors": own}.__getitem__)
    (folder / "file.safetensors").touch()
    head = ("generate", "--support", str(photographs(folder / "photos")), "--out", "head", "--backbone")
    Image.new("RGB", (9, 9), "green").save(folder / "photos" / "wren" / "other.png")
    (folder / "more" / "robin").mkdir(parents=True)
    Image.new("RGB", (9, 9), "red").save(folder / "more" / "robin" / "0.png")
    succeed(*head, "resnet18.a1_in1k")
    for name in ("once", "twice"):
        (folder / "more" / "robin").rename(folder / "more" / name)
        succeed("generate", "--support", "more", "--extend", "head", *rewrite)
        (folder / "more" / name).rename(folder / "more" / "robin")
    assert load_head("head").class_names == ("heron", "wren", "once", "twice")
    succeed("generate", "--support", "photos", "--out", "head", "--backbone", "file.safetensors")
    assert "backbone_name" not in load_head("head").provenance


def test_a_folder_whose_name_begins_like_a_features_file_is_a_folder(folder):
    photographs(folder / "features_of_birds")
    arguments = ("generate", "--support", "features_of_birds", "--backbone", network(9), "--format", "json")
    assert json.loads(succeed(*arguments).stdout)["classes"] == ["heron", "wren"]


def test_one_image_of_each_class_has_no_estimate(folder):
    printed = succeed("generate", "--support", features(counts=(1, 1, 1)), "--format", "json")
    judged = json.loads(printed.stdout)["leave_one_out"]
    assert "every class has one image" in judged["sentence"] and "accuracy" not in judged
    assert len(judged["similar"]) == 3


def test_a_mislabelled_photograph_is_named_by_its_file(folder):
    support = photographs(folder / "photos", images=6)
    (support / "heron" / "0.png").write_bytes((support / "wren" / "1.png").read_bytes())
    written = json.loads(
        succeed("generate", "--support", str(support), "--backbone", network(9), "--format", "json").stdout
    )
    images = {Path(one["image"]).relative_to(support).as_posix() for one in written["leave_one_out"]["suspects"]}
    confused = written["leave_one_out"]["confused"]
    assert images == {"heron/0.png"} and confused == [{"classes": ["heron", "wren"], "images": 1}]


def offline(*_: object, **__: object) -> None:
    raise LocalEntryNotFoundError("no network")


REFUSED = {
    "one class": (lambda f: [features(counts=(5,))], "has one class only"),
    "the same images": (lambda f: [str(photographs(f / "photos", same=True))], "all 6 images are the same"),
    "nothing but zeros": (
        lambda f: [features(**{"features": torch.zeros(12, WIDTH)})],
        "is all zero",
    ),
    "no such backbone": (lambda f: [features(), "--backbone", "resnet5x"], "timm has no model 'resnet5x'"),
    "no such file": (lambda f: [features(), "--backbone", "x.safetensors"], "x.safetensors: cannot be read"),
    "several heads": (
        lambda f: [features(), "--backbone", "deit_base_distilled_patch16_224.fb_in1k"],
        "has 2 heads",
    ),
    "offline": (
        lambda f: [str(photographs(f / "photos")), "--backbone", "resnet18.a1_in1k"],
        "cannot download 'resnet18.a1_in1k' (no network); is there a network?",
    ),
    "no unlabelled rows of its own": (
        lambda f: [features(), "--unlabelled", features()],
        "holds no row that is not in the support too",
    ),
    "images beside features": (lambda f: [features(), "--unlabelled", str(f)], "do not go together"),
    "features of another width": (
        lambda f: [features(), "--backbone", network(9)],
        "features are 7 wide, and those of the backbone 'test_efficientnet' 256",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line_and_nothing_is_written(folder, monkeypatch, kind):
    monkeypatch.setattr(construction, "hf_hub_download", offline)
    arguments, message = REFUSED[kind]
    assert message in refuse("generate", "--support", *arguments(folder), "--out", "head")
    assert not (folder / "head").exists()


def test_a_backbone_belongs_to_the_universal_generator(folder):
    (folder / "runs").mkdir()
    line = refuse("generate", "--support", features(), "--generator", "runs", "--backbone", "resnet18")
    assert "add --generator universal" in line
    assert invoke("generate", "--help").exit_code == 0


@pytest.mark.parametrize(
    ("limits", "remark"),
    [
        (None, None),
        ([[1.0, LEAVES_ALL]], "on held-out classes it was more accurate than"),
        ([[1.0, 1e-6]], "these images are of another kind than"),
    ],
)
def test_a_generator_in_a_folder_says_why_the_universal_one_wrote_its_head(
    folder: Path, limits: list[list[float]] | None, remark: str | None
) -> None:
    generator = universal_generator(Backbone.named(network(5)))
    generator.register_to_config(kind_limits=limits)
    generator.save_pretrained(folder / "saved")
    photographs(folder / "photos")
    seen = succeed("generate", "--generator", folder / "saved", "--support", folder / "photos").stderr
    assert (remark is None) == ("the universal generator wrote this head" not in seen)
    assert remark is None or remark in " ".join(seen.split())
