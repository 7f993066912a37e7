"""Learning from many feature spaces at once, and going on from the shipped generator."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from weightgen.config.loading import load_recipe
from weightgen.errors import InputError
from weightgen.files import read_tensors, write_tensors
from weightgen.records import Features
from weightgen.runs.folder import RunFolder
from weightgen.runs.training_run import check_run, train_run
from weightgen.universal.generator import universal_parts

MakeFeatures = Callable[..., Features]
TINY = [
    *("data.classes=null", "data.validation=0", "data.novel=0", "evaluation.ways=3", "training.ways=[2, 3]"),
    *("training.shots=[1, 2]", "training.queries=2", "training.episodes_per_step=2", "training.unlabelled=[3, 4]"),
    *("generation.steps=2", "scheduler.num_train_timesteps=9"),
]


@pytest.fixture
def spec(make_features: MakeFeatures, tmp_path: Path) -> Callable[..., str]:
    """Writes features of a width, and names them."""

    def written(width: int, *, classifier: bool = True, crops: bool = False, seed: int = 0) -> str:
        features = make_features(width=width, images=12, seed=width + seed)
        path = tmp_path / f"{width}{'-crops' * crops}.safetensors"
        draw = torch.Generator().manual_seed(width)
        head = {"classifier.weight": torch.randn(5, width, generator=draw), "classifier.bias": torch.zeros(5)}
        tensors = {"features": features.values, "labels": features.labels, **(head if classifier else {})}
        if crops:
            tensors["crops"] = features.values[:, None] + torch.randn(len(features.values), 2, width, generator=draw)
        write_tensors(path, tensors, {"format": "pt"})
        return f"features:{path}"

    return written


def trained(name: str, source: str, run: Path, *changes: str) -> dict[str, torch.Tensor]:
    """Denoiser and conditioner of a finished tiny run."""
    recipe = load_recipe(name, [*TINY, f"data={source}", f"backbone={source}", *changes])
    train_run(recipe, RunFolder(run))
    parts = zip(("denoiser", "conditioner"), universal_parts(run / "generator"), strict=True)
    return {f"{name}.{key}": value for name, part in parts for key, value in part.state_dict().items()}


def test_a_generator_learns_from_spaces_of_other_widths_and_the_same_again(spec: Any, tmp_path: Path) -> None:
    source, changes = spec(9), (f"data.spaces=[{spec(14)}, {spec(6, classifier=False)}]", "training.steps=4")
    first, again = (trained("universal", source, tmp_path / name, *changes) for name in ("a", "b"))
    alone = trained("universal", source, tmp_path / "c", "training.steps=4")
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, alone[name]) for name, value in first.items())


@pytest.mark.parametrize("finished", [True, False])
def test_other_images_of_a_space_are_refused(spec: Any, tmp_path: Path, finished: bool) -> None:
    source, changes = spec(9), (f"data.spaces=[{spec(14)}]", "training.steps=1")
    trained("universal", source, tmp_path / "a", *changes)
    if not finished:
        shutil.rmtree(tmp_path / "a" / "generator")
    trained("universal", source, tmp_path / "a", *changes)
    spec(14, seed=1)
    with pytest.raises(InputError, match=r"images of data\.spaces are not those .* --fresh"):
        trained("universal", source, tmp_path / "a", *changes)


@pytest.mark.parametrize("of", ["source", "space"])
def test_crops_of_the_images_learnt_from_make_a_difference(spec: Any, tmp_path: Path, of: str) -> None:
    def learnt(own: str, run: str) -> dict[str, torch.Tensor]:
        source, spaces = (own, "[]") if of == "source" else (spec(7), f"[{own}]")
        return trained("universal", source, tmp_path / run, f"data.spaces={spaces}", "training.steps=2")

    with_crops, without = learnt(spec(9, crops=True), "a"), learnt(spec(9), "b")
    assert any(not torch.equal(value, without[name]) for name, value in with_crops.items())


def test_an_interrupted_training_on_many_spaces_ends_with_the_same_bits(spec: Any, tmp_path: Path) -> None:
    changes = (f"data.spaces=[{spec(14)}]", "training.steps=4", "training.checkpoint_every=2")
    whole = trained("universal", spec(9), tmp_path / "a", *changes)
    run = RunFolder(tmp_path / "b")
    recipe = load_recipe("universal", [*TINY, f"data={spec(9)}", f"backbone={spec(9)}", *changes])

    class KilledError(Exception):
        pass

    def kill(what: str, done: int, total: int) -> None:
        if what == "training the generator" and done == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train_run(recipe, run, progress=kill)
    train_run(recipe, run)
    resumed = read_tensors(run.path / "generator" / "denoiser" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, whole[f"denoiser.{name}"]) for name, value in resumed.items())


def test_specialising_starts_from_the_shipped_weights(spec: Any, tmp_path: Path) -> None:
    changes = (
        "training.steps=1",
        "training.learning_rate=1e-9",
        "training.held_out_classes=0",
        "training.warmup_steps=0",
    )
    near = trained("specialise", spec(9), tmp_path / "a", *changes, "scheduler.num_train_timesteps=1000")
    shipped = universal_parts()[0].state_dict()
    for name, value in shipped.items():
        torch.testing.assert_close(near[f"denoiser.{name}"], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "change", "words"),
    [
        ("metadiff", "data.spaces=[features:x.safetensors]", "one feature width"),
        ("universal", "data.spaces=[glyphs]", "names no backbone"),
        ("universal", "data.spaces=[glyphs@]", "names no backbone"),
        ("universal", "data.spaces=[glyphs@resnet51]", "timm has no model 'resnet51'"),
        ("universal", "standardizer.map=whiten", "standardizer.map: classifier"),
        ("metadiff", "training.start=universal", "take the recipe specialise"),
    ],
)
def test_what_cannot_learn_from_other_spaces_is_refused(recipe: str, change: str, words: str, spec: Any) -> None:
    source = spec(9)
    changes = [*("data.novel=0", "data.classes=null"), f"data={source}", f"backbone={source}", change]
    if recipe == "universal" and "spaces" not in change:
        changes.append(f"data.spaces=[{source}]")
    with pytest.raises(InputError, match=words):
        check_run(load_recipe(recipe, changes))


def test_validation_accepts_what_training_does(spec: Any) -> None:
    changes = (*TINY, f"data={spec(9)}", f"backbone={spec(9)}", f"data.spaces=[{spec(14)}]")
    check_run(load_recipe("universal", changes))


@pytest.mark.parametrize("change", ["backbone=resnet51", "data.spaces=[glyphs@resnet51]"])
def test_a_backbone_that_timm_does_not_know_is_refused_before_images_are_opened(
    change: str, spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("images were opened")

    monkeypatch.setattr("weightgen.runs.training_run.open_parts", opened)
    recipe = load_recipe("universal", [*TINY, f"data={spec(9)}", f"backbone={spec(9)}", change])
    for refuse in (check_run, lambda recipe: train_run(recipe, RunFolder(tmp_path / "run"))):
        with pytest.raises(InputError, match="timm has no model 'resnet51'"):
            refuse(recipe)


def test_a_space_without_a_backbone_is_refused_before_features_are_computed(spec: Any, tmp_path: Path) -> None:
    recipe = load_recipe("universal", [f"data={spec(9)}", f"backbone={spec(9)}", "data.spaces=[glyphs]"])
    with pytest.raises(InputError, match="names no backbone"):
        train_run(recipe, RunFolder(tmp_path / "run"), progress=lambda what, done, total: pytest.fail(what))
    assert not (tmp_path / "run").exists()
