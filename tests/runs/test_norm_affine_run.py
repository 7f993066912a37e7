"""A recipe for parameters inside the backbone: what it may not ask for, and a zoo that training goes on from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import SHARED, TINY_ZOO, refuse, succeed

from weightgen.config.build import check_components
from weightgen.config.loading import load_recipe
from weightgen.errors import InputError
from weightgen.runs.folder import RunFolder
from weightgen.runs.methods import chosen_methods, known_methods
from weightgen.zoo.store import ZooFolder

TINY_INSIDE = (
    *(*SHARED, *TINY_ZOO, "training.folds=1", "backbone.options.width=5", "conditioner.width=7"),
    *("denoiser.width=12", "denoiser.depth=1", "space.token_width=9"),
)


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; look, do not touch."""
    out = tmp_path_factory.mktemp("inside")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHTGEN_CACHE", str(out / "cache"))
        output = ("--out", out, "--format", "json", "--quiet")
        succeed("zoo", "build", "mcdi_norm_affine", f"data={images}", *TINY_INSIDE, *output)
        before = {path: path.read_bytes() for path in out.rglob("zoo/*")}
        trained_run = json.loads(succeed("train", "mcdi_norm_affine", f"data={images}", *TINY_INSIDE, *output).stdout)
        assert before == {path: path.read_bytes() for path in out.rglob("zoo/*")}
    return Path(trained_run["run"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("zoo={targets: ideal_prototypes}", "are heads; use head, or set zoo.targets to trajectories"),
        (
            "denoiser=class_transformer",
            "denoiser 'class_transformer' does not fit space 'chunks'; use chunk_transformer",
        ),
        ("selector=head", "space 'chunks' does not hold 'head'; set space.name to class_rows"),
        ("space=class_rows", "space 'class_rows' does not hold 'norm_affine'; set space.name to chunks"),
        ("conditioner=task_prototypes", "conditioner 'task_prototypes' follows noisy class rows"),
        ("objective={name: query_loss}", "objective 'query_loss' classifies queries by class rows"),
        ("objective={name: local_consistency, query_weight: 0.5}", "objective 'local_consistency' classifies queries"),
        ("training.folds=3", "training.folds is 3"),
        ("training.unlabelled=[0,5]", r"training.unlabelled is \[0, 5\]"),
        ("zoo.fit.feature_noise=0.1", "zoo.fit.feature_noise is 0.1"),
        ("generation.samples=2", "generation.samples is 2"),
        ("generation.readout=gaussian", "generation.readout is gaussian"),
        ("selector={name: lora}", "target_modules"),
        ("space.token_width=0", "token_width is 0"),
        ("denoiser.sizes=[3]", "sizes"),
        ("denoiser.token_width=9", "token_width"),
        ("space.sizes=[3]", "sizes"),
    ],
)
def test_what_makes_no_sense_inside_the_backbone_is_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_components(load_recipe("mcdi_norm_affine", [override]))
    assert "\n" not in str(caught.value)


def test_a_backbone_without_such_parameters_is_refused(images: Path, tmp_path: Path) -> None:
    wrong = ("selector={name: pattern, target_modules: [nowhere]}", *TINY_INSIDE)
    assert "nowhere" in refuse("zoo", "build", "mcdi_norm_affine", f"data={images}", *wrong, "--out", tmp_path)


def test_what_is_learnt_from_has_unit_scale(run: Path) -> None:
    space, zoo = RunFolder(run).generator().space, ZooFolder(run / "zoo").read()
    targets = torch.cat([shard.targets for shard in zoo.shards])
    entries = space.encode(targets).flatten(-2)[..., : targets.shape[-1]]
    assert float(entries.square().mean()) == pytest.approx(1, abs=0.2)
    torch.testing.assert_close(space.end, targets[:, -1].mean(0))


def test_every_method_is_compared_and_an_oracle_is_no_baseline(run: Path) -> None:
    known = known_methods()
    names = chosen_methods(None, protocol="episodes", pipeline=RunFolder(run).generator())
    kinds = {name: known[name][0].kind for name in names}
    assert {name for name, kind in kinds.items() if kind == "oracle"} == {"oracle"}
    assert {"zoo_mean", "fitted_on_support", "no_denoiser", "ridge", "shrunk_lda"} <= set(kinds)
    for evaluation in json.loads((run / "report" / "results.json").read_text()):
        assert {one["name"]: one["kind"] for one in evaluation["methods"]} == kinds
        best = max((one for one in evaluation["methods"] if one["kind"] == "baseline"), key=lambda one: one["accuracy"])
        assert best["delta"] == 0
        assert best["name"] in evaluation["verdict"]


def test_a_method_alone_has_the_same_accuracy(run: Path) -> None:
    asked = ("--shots", 1, "--methods", "generator,raw_centroid", "--format", "json", "--quiet")
    (alone,) = json.loads(succeed("evaluate", run, *asked).stdout)
    together = json.loads((run / "report" / "results.json").read_text())[0]
    before = {one["name"]: one["accuracy"] for one in together["methods"]}
    assert {one["name"]: one["accuracy"] for one in alone["methods"]} == {
        name: before[name] for name in ("generator", "raw_centroid")
    }


def test_a_method_that_it_has_not_is_refused(run: Path) -> None:
    assert "did you mean 'raw_centroid'" in refuse("evaluate", run, "--methods", "raw_centroids")


def test_baselines_beside_it_see_unlabelled_images(run: Path) -> None:
    asked = ("--shots", 1, "--episodes", 3, "--methods", "generator,inductive,tim", "--format", "json", "--quiet")
    without, with_them = (
        {
            one["name"]: one["accuracy"]
            for one in json.loads(succeed("evaluate", run, *asked, *given).stdout)[0]["methods"]
        }
        for given in (("--unlabelled", 2, "--distractors", 0), ("--unlabelled", 3, "--distractors", 0))
    )
    assert set(without) == set(with_them) == {"generator", "inductive", "tim", "raw_centroid"}
    assert with_them["generator"] == with_them["inductive"]
