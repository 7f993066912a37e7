"""Learning where every episode has a space of its own, and sizes as data sets come."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from weightgen.checkpoint import CheckpointFolder
from weightgen.conditioners.dataset_statistics import DatasetStatistics
from weightgen.denoisers.learnt_descent import LearntDescent
from weightgen.features.adapted_space import AdaptedSpace
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import Denoiser, TrainingBatch
from weightgen.objectives.noise_prediction import NoisePrediction
from weightgen.objectives.query_loss import QueryLoss
from weightgen.records import Episode, Features
from weightgen.schedulers.schedulers import build_scheduler
from weightgen.spaces.class_rows import ClassRows
from weightgen.training import folds as training_folds
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.folds import Fold, cross_fitted
from weightgen.training.loop import train
from weightgen.training.options import TrainingOptions

DrawEpisode = Callable[..., Episode]


def loss_of(objective: Any, *, fitted: bool = False) -> EpisodeLoss:
    torch.manual_seed(3)
    scheduler = build_scheduler("DDPMScheduler", {"prediction_type": "sample"})
    denoiser: Denoiser = LearntDescent(width=7, rounds=2)
    denoiser.set_noise_levels(scheduler)
    return EpisodeLoss(
        denoiser=denoiser,
        conditioner=DatasetStatistics(),
        space=ClassRows(),
        scheduler=scheduler,
        objective=objective,
        fitted=fitted,
    )


@pytest.fixture(scope="module")
def folds(base_features: Features) -> tuple[Fold, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_folds, "_EPISODES", 10)
        return cross_fitted(
            base_features,
            folds=2,
            standardizer=Standardizer(feature_width=8),
            conditioner=DatasetStatistics(),
            space=ClassRows(),
            shots=(1, 6),
            seed=1,
        )


def path_of(fold: Fold, episode: Episode) -> torch.Tensor:
    return fold.prototypes[episode.classes % len(fold.prototypes)][:, None]


@pytest.mark.parametrize(
    "objective", [QueryLoss(weight=0.7), NoisePrediction()], ids=["query_loss", "noise_prediction"]
)
def test_the_loss_is_the_mean_over_episodes_on_their_own(
    folds: tuple[Fold, ...], draw_episode: DrawEpisode, objective: Any
) -> None:
    """One after the other, with the noise that each would have drawn."""
    module, fold = loss_of(objective), folds[0]
    episode = draw_episode(batch=3, ways=4)
    path = path_of(fold, episode)
    together = module(episode, path, fold.standardizer, fold.scale, torch.Generator().manual_seed(5))
    draw = torch.Generator().manual_seed(5)
    alone = [module(episode[i : i + 1], path[i : i + 1], fold.standardizer, fold.scale, draw) for i in range(3)]
    assert together.keys() == alone[0].keys()
    for name in together:
        torch.testing.assert_close(together[name], torch.stack([one[name] for one in alone]).mean())
    assert len({float(one["loss"].detach()) for one in alone}) == 3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fitted", [False, True])
def test_the_objective_sees_each_episode_in_its_space(
    folds: tuple[Fold, ...], draw_episode: DrawEpisode, fitted: bool
) -> None:
    """Images and prototypes as points, fitted targets as rows that read the same weights, and the fold's scale."""
    seen: list[TrainingBatch] = []

    def objective(batch: TrainingBatch) -> dict[str, torch.Tensor]:
        seen.append(batch)
        return {"loss": batch.path.sum()}

    module, fold, episode = loss_of(objective, fitted=fitted), folds[1], draw_episode(batch=2, ways=4)
    path = path_of(fold, episode)
    module(episode, path, fold.standardizer, fold.scale, torch.Generator())
    standardised = fold.standardizer.standardize(episode)
    assert len(seen) == 2
    for i, batch in enumerate(seen):
        space = batch.features
        assert isinstance(space, AdaptedSpace)
        assert batch.scale == fold.scale
        assert space.standardizer is fold.standardizer
        torch.testing.assert_close(batch.episode.query, space.points(standardised.query[i : i + 1]))
        wanted = space.rows if fitted else space.points
        torch.testing.assert_close(batch.path, wanted(path[i : i + 1]))
    assert not torch.equal(seen[0].features.whitening.matrix(), seen[1].features.whitening.matrix())


def test_every_weight_learns(folds: tuple[Fold, ...], draw_episode: DrawEpisode) -> None:
    """Through rounds and readout, though making the space is not followed."""
    module, episode = loss_of(QueryLoss()), draw_episode(batch=2, ways=4, shots=(2, 5))
    torch.nn.init.normal_(module.denoiser.answer.weight, std=0.1)
    fold = folds[0]
    module(episode, path_of(fold, episode), fold.standardizer, fold.scale, torch.Generator())["loss"].backward()
    idle = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_a_folds_scale_is_found_in_the_spaces_of_episodes(folds: tuple[Fold, ...]) -> None:
    """They scale their logits themselves, so that little is left to do."""
    for fold in folds:
        assert 0.5 < float(fold.scale.at(torch.ones(1))) < 2


@pytest.fixture
def records(tmp_path: Path, folds: tuple[Fold, ...]) -> Callable[..., Iterator[dict[str, Any]]]:
    runs = itertools.count()

    def run(module: EpisodeLoss, **options: Any) -> Iterator[dict[str, Any]]:
        common = {"steps": 6, "episodes_per_step": 2, "ways": (2, 5), "queries": 2, "warmup_steps": 1}
        return train(
            module,
            folds,
            TrainingOptions(**{**common, **options}),
            score=None,
            seed=5,
            checkpoints=CheckpointFolder(tmp_path / str(next(runs))),
            accelerator=Accelerator(cpu=True),
        )

    return run


def test_it_trains(records: Callable[..., Iterator[dict[str, Any]]]) -> None:
    module = loss_of(QueryLoss())
    before = module.denoiser.answer.bias.detach().clone()
    losses = [record["loss"] for record in records(module, sizes="logarithmic", shots=(1, 20))]
    assert all(0 < loss < 100 for loss in losses)
    assert not torch.equal(module.denoiser.answer.bias, before)


def sizes(
    records: Callable[..., Iterator[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[torch.Tensor]:
    """Counts [batch ways] of the episodes of many steps, at no cost."""
    counts: list[torch.Tensor] = []

    def forward(module: EpisodeLoss, episode: Episode, *_: Any) -> dict[str, torch.Tensor]:
        counts.append(episode.counts)
        return {"loss": module.denoiser.answer.bias.sum()}

    monkeypatch.setattr(EpisodeLoss, "forward", forward)
    list(records(loss_of(QueryLoss()), steps=200, checkpoint_every=1000, **options))
    return counts


def test_logarithmic_sizes_are_as_often_small_as_large(
    records: Callable[..., Iterator[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = sizes(records, monkeypatch, sizes="logarithmic", ways=(2, 11), shots=(1, 1))
    ways = Counter(given.shape[1] for given in counts)
    assert set(ways) == set(range(2, 12))
    few, many = sum(ways[number] for number in (2, 3)), sum(ways[number] for number in (4, 5, 6, 7))
    assert 0.75 < few / many < 1.33  # a factor of two each; evenly drawn it would be a half


def test_even_sizes_are_even(records: Callable[..., Iterator[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Counter(given.shape[1] for given in sizes(records, monkeypatch, ways=(2, 11), shots=(1, 1)))
    few, many = sum(ways[number] for number in (2, 3)), sum(ways[number] for number in (4, 5, 6, 7))
    assert few / many < 0.75


def test_data_sets_are_ragged_every_other_step_and_give_what_they_hold(
    records: Callable[..., Iterator[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base classes hold 15 images, of which 2 are queries; the smallest class has a quarter of the shots or more."""
    counts = sizes(records, monkeypatch, sizes="logarithmic", ways=(3, 6), shots=(8, 30))
    ragged = [given for given in counts if len(given.unique()) > 1]
    assert 0.4 < len(ragged) / len(counts) < 0.6
    assert min(float(given.min()) for given in ragged) == 8 // 4
    same = [float(given.max()) for given in counts if len(given.unique()) == 1]
    assert {8.0, 9.0, 13.0} <= set(same) <= {8.0, 9.0, 10.0, 11.0, 12.0, 13.0}


def test_shots_give_way_to_the_most_images(
    records: Callable[..., Iterator[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("even", "logarithmic"):
        counts = sizes(records, monkeypatch, sizes=kind, ways=(2, 11), shots=(1, 13), most_images=18)
        assert max(float(given.sum(-1).max()) for given in counts) <= 18
        assert {given.shape[1] for given in counts} >= {2, 11}
        assert max(float(given.max()) for given in counts) == 9
    counts = sizes(records, monkeypatch, ways=(4, 5), shots=(2, 3), most_images=1)
    assert all((given == 1).all() for given in counts)  # a class without an image is none


def test_unknown_sizes_are_refused() -> None:
    for wrong in ({"sizes": "log"}, {"most_images": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TrainingOptions(**wrong)  # type: ignore[arg-type]
