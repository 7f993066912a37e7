"""Components that do not fit together: one line, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import files_below, refuse

from weightgen.config.build import check_components
from weightgen.config.loading import load_recipe

RECIPE = "transfer/metadiff"
INSIDE = (
    *(
        "selector=bias",
        "space=chunks",
        "denoiser=chunk_transformer",
        "objective=local_consistency",
        "scheduler=LocalDDPMScheduler",
    ),
)
TRAJECTORIES = ("zoo={targets: trajectories}", "zoo.fit.local_targets=1")
WRONG = {
    "tasks all at once": (["training.reptile.inner_steps=2"], "training.reptile is given; ", "null"),
    "cosines": (["generation.readout=cosine"], "generation.readout is cosine; ", "gaussian"),
    "raw features": (["standardizer={map: identity, unit_length: false}"], "standardizer.map is identity; ", "whiten"),
    "a part of the backbone": (
        [*INSIDE, "training.folds=1", "generation={steps: 1000}", *TRAJECTORIES],
        "selector.name is bias; ",
        "head",
    ),
}


@pytest.mark.parametrize(("overrides", "said", "mend"), WRONG.values(), ids=WRONG)
def test_what_needs_one_space_is_refused(overrides: list[str], said: str, mend: str, tmp_path: Path) -> None:
    complaint = refuse("train", RECIPE, *overrides, "--out", tmp_path / "runs")
    assert complaint.startswith(said)
    assert complaint.endswith(f"with conditioner 'dataset_statistics', set it to {mend}")
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize(
    ("wrong", "mend"),
    [
        ("training.reptile.inner_steps=2", "training.reptile=null"),
        ("generation.readout=cosine", "generation.readout=gaussian"),
        ("standardizer={map: identity, unit_length: false}", "standardizer.map=whiten"),
    ],
)
def test_the_mend_mends(wrong: str, mend: str) -> None:
    check_components(load_recipe(RECIPE, [wrong, mend]))


@pytest.mark.parametrize(
    "override", ["standardizer.map=scale", "generation.readout=null", "denoiser=class_transformer"]
)
def test_what_makes_sense_is_let_through(override: str) -> None:
    check_components(load_recipe(RECIPE, [override]))


def test_a_denoiser_that_needs_leave_one_out_logits_needs_their_conditioner(tmp_path: Path) -> None:
    complaint = refuse("train", RECIPE, "conditioner=task_prototypes", "--out", tmp_path / "runs")
    assert complaint == "denoiser 'learnt_descent' needs leave-one-out logits; use conditioner dataset_statistics"
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("conditioner.prior_images=0", "conditioners.dataset_statistics: prior_images is 0; it must be above 0"),
        ("denoiser.rounds=0", "denoisers.learnt_descent: rounds is 0; it must be 1 or more"),
        ("training.unlabelled=[0, 9]", "training.unlabelled: denoiser 'learnt_descent' learns nothing from unlabelled"),
        ("training.sizes=log", "training.sizes: input should be 'even' or 'logarithmic'"),
        ("training.most_images=0", "training.most_images: input should be greater than 0"),
        ("data.further=birds", "data.further: input should be a valid list"),
    ],
)
def test_values_that_cannot_be_are_refused(override: str, said: str, tmp_path: Path) -> None:
    assert said in refuse("train", RECIPE, override, "--out", tmp_path / "runs")
    assert files_below(tmp_path) == set()


def test_a_denoiser_that_follows_a_gradient_needs_one(tmp_path: Path) -> None:
    plain = ("denoiser={name: gradient_mlp}", "training.unlabelled=[0, 0]")
    for conditioner in ("local_targets", "dataset_statistics"):
        complaint = refuse("train", "metadiff", *plain, f"conditioner={conditioner}", "--out", tmp_path / "runs")
        assert (
            complaint == "denoiser 'gradient_mlp' needs the gradient at the noisy rows; use conditioner task_prototypes"
        )
    check_components(load_recipe("metadiff", [*plain, "conditioner=task_prototypes"]))
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize(
    ("recipe", "override", "said"),
    [
        (
            "metadiff",
            "objective=regression",
            "and the objective regression needs OneStepScheduler; set that, or another",
        ),
        ("metadiff", "objective=velocity", "and the objective velocity needs FlowMatchScheduler; set that, or another"),
        ("hypernetwork", "generation.steps=2", "generation.steps is 2 and scheduler.num_train_timesteps 1; take fewer"),
        ("hypernetwork", "generation.samples=2", "a chain of one step has no noise to draw with, set it to 1"),
        (
            "hypernetwork",
            "denoiser=gradient_mlp",
            "has no noise, and the denoiser predicts 'epsilon'; use a denoiser that",
        ),
        ("hypernetwork", "objective.query_weight=-1.0", "query_weight is -1.0; it must be 0 or more"),
        ("flow", "generation.read=mean", "a flow has no noise-free chain to the mean; set generation.read: draws"),
        ("flow", "generation.scheduler=DDIMScheduler", "scheduler 'DDIMScheduler' cannot run the chain that this"),
        ("flow", "denoiser=gradient_mlp", "FlowMatchScheduler takes no denoiser that predicts 'epsilon'"),
        ("flow", "scheduler.beta_start=0.1", "scheduler.FlowMatchScheduler has no option 'beta_start'"),
    ],
)
def test_chains_and_objectives_that_do_not_fit_are_refused(
    recipe: str, override: str, said: str, tmp_path: Path
) -> None:
    assert said in refuse("train", recipe, override, "--out", tmp_path / "runs")
    assert files_below(tmp_path) == set()
