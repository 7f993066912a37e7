"""A generator trained, evaluated and compared on features without any network."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import refuse, succeed

from weightgen.runs import evaluation_run

WIDTH, CLASSES, IMAGES = 6, 14, 9
TINY = (
    *("data.novel=5", "data.validation=2", "training.steps=4", "training.evaluate_every=2", "generation.steps=2"),
    *("training.episodes_per_step=2", "training.ways=[2,3]", "training.shots=[1,2]", "training.queries=2"),
    *("training.held_out_classes=0.3", "training.folds=2", "denoiser.width=16", "denoiser.depth=1"),
    *("evaluation.ways=3", "evaluation.shots=[2]", "evaluation.queries=3", "evaluation.episodes=4"),
)


@pytest.fixture
def spec(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path / "cache"))
    draw, labels = torch.Generator().manual_seed(0), torch.arange(CLASSES).repeat(IMAGES)
    values = 2 * torch.randn(CLASSES, WIDTH, generator=draw)[labels] + torch.randn(len(labels), WIDTH, generator=draw)
    save_file({"features": values, "labels": labels}, "x.safetensors")
    return "features:x.safetensors"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers with numpy 2
def test_train_evaluate_transfer_and_generate_take_features(spec, tmp_path, monkeypatch):
    succeed("train", "metadiff", f"data={spec}", f"backbone={spec}", *TINY)
    (run,) = (tmp_path / "runs").iterdir()
    assert str(tmp_path) not in (run / "recipe.yaml").read_text().replace(f"features:{tmp_path}", "")
    for arguments in (
        ("evaluate", run, "--data", spec, "--methods", "generator,raw_centroid"),
        ("transfer", run, "--data", spec, "--test", "0.5", "--images", "2", "--methods", "generator,raw_centroid"),
    ):
        (table,) = json.loads(succeed(*arguments, "--format", "json").stdout)
        assert table["backbone"] == "features" and {"generator", "raw_centroid"} <= {
            method["name"] for method in table["methods"]
        }
    looked = []
    of = evaluation_run.crops_of
    monkeypatch.setattr(evaluation_run, "crops_of", lambda *given, **more: looked.append(of(*given, **more)))
    tensors = load_file("x.safetensors")
    for far, left in ((0.0, 0), (50.0, 1)):  # supports that are left to the universal generator need crops
        save_file({**tensors, "features": tensors["features"] + far}, "far.safetensors")
        succeed("evaluate", run, "--data", "features:far.safetensors", "--methods", "generator,raw_centroid")
        assert len(looked) == left
    written = json.loads(
        succeed("generate", "--support", spec, "--generator", run, "--out", "head", "--format", "json").stdout
    )
    assert len(written["classes"]) == CLASSES and written["generator"] == str(run)


def test_what_needs_images_says_so(spec):
    assert "data.turned: features cannot be turned" in refuse(
        "train", "metadiff", f"data={spec}", f"backbone={spec}", *TINY, "data.turned=true"
    )
    assert "holds features, not images" in refuse(
        "train", "metadiff", f"data={spec}", *TINY, "data.novel=3", "data.backbone_classes=4", "training.folds=1"
    )
    succeed("recipes", "validate", "metadiff", f"data={spec}", f"backbone={spec}", *TINY)
    assert "x.safetensors" in succeed("data", "info", spec).stdout
