"""Tuning picks what helps, on classes whose statistics it has not seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from weightgen import registry
from weightgen.episodes.dataset_episode import episode_of
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.errors import InputError
from weightgen.evaluation.comparison import expected_calibration_error
from weightgen.evaluation.scoring import score
from weightgen.evaluation.tuning import BaseClassFolds, CrossValidation
from weightgen.features.class_statistics import ClassStatistics
from weightgen.methods.shrunk_lda import ShrunkLDA
from weightgen.records import Episode, Features


@pytest.mark.parametrize(
    "name", ["cosine_centroid", "fine_tuned_head", "logistic_regression", "ridge", "shrunk_centroid", "shrunk_lda"]
)
def test_every_baseline_tunes(name: str, features: Features) -> None:
    baseline = BaseClassFolds(features, ways=3, shots=1, queries=4, episodes=3, seed=0)(registry.get("methods", name))
    assert 0 < baseline.scale < float("inf")
    assert baseline.statistics.classes == 12


def test_seed_decides_the_tuning(features: Features) -> None:
    first, again, other = (
        BaseClassFolds(features, ways=3, shots=1, queries=4, episodes=6, seed=seed)(ShrunkLDA).scale
        for seed in (0, 0, 1)
    )
    assert first == again != other


class Watched(ShrunkLDA):
    """Notes the class means it is given statistics of, and the episodes it sees."""

    built: list[ClassStatistics] = []  # noqa: RUF012
    episodes: list[Episode] = []  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        assert self.statistics is not None
        self.built.append(self.statistics)

    def rows(self, episode: Episode, frame: Any) -> Any:
        self.episodes.append(episode)
        return super().rows(episode, frame)


def test_tuning_needs_classes_it_was_not_fitted_on(features: Features) -> None:
    Watched.built.clear()
    Watched.episodes.clear()
    BaseClassFolds(features, ways=9, shots=3, queries=40, episodes=5, seed=1)(Watched)
    means = features.means()
    for statistics, episode in zip(Watched.built, Watched.episodes, strict=False):  # the last is the result
        assert statistics.classes == 6
        assert episode.ways == 6  # as many as a half has
        assert episode.query.shape[1] == 6 * 22  # as many as 25 images leave
        images = torch.cat([episode.support.flatten(0, 2), episode.query.flatten(0, 1)])
        origin = torch.cdist(images, features.values).argmin(-1)
        unseen = features.labels[origin].unique()
        seen = torch.tensor([i for i in range(12) if i not in unseen.tolist()])
        torch.testing.assert_close(means[seen].mean(0), statistics.mean, atol=1e-5, rtol=1e-5)
    assert Watched.built[-1].classes == 12


@pytest.mark.parametrize("name", ["bd_cspn", "laplacian_shot", "soft_kmeans", "tim"])
def test_tunes_on_unlabelled_images_too(name: str, features: Features) -> None:
    method = registry.get("methods", name)
    setting: dict[str, Any] = {"ways": 3, "shots": 1, "queries": 4, "episodes": 3, "seed": 0}
    alone = BaseClassFolds(features, **setting)(method)
    helped = BaseClassFolds(features, unlabelled=UnlabelledDraw(11, None, 0.0), **setting)(method)
    assert 0 < helped.scale < float("inf")
    assert helped.scale != alone.scale


def watched(features: Features, **setting: Any) -> Episode:
    """The first episodes that tuning draws."""
    Watched.episodes.clear()
    BaseClassFolds(features, episodes=5, seed=1, **setting)(Watched)
    return Watched.episodes[0]


def test_tuning_draws_the_unlabelled_images_it_is_told(features: Features) -> None:
    episode = watched(features, ways=3, shots=2, queries=4, unlabelled=UnlabelledDraw(10, None, 0.2))
    assert episode.unlabelled.shape[:2] == (5, 10)
    origin = features.labels[torch.cdist(episode.unlabelled, features.values).argmin(-1)]
    own = features.labels[torch.cdist(episode.support[:, :, 0], features.values).argmin(-1)]
    assert ((origin[..., None] == own[:, None]).any(-1).sum(1) == 8).all()  # the other two are distractors


def test_tuning_goes_without_distractors_where_classes_are_few(features: Features) -> None:
    episode = watched(features, ways=5, shots=2, queries=4, unlabelled=UnlabelledDraw(11, None, 0.2))
    assert episode.ways == 5  # of a half's 6 classes, where distractors would need 3 more
    origin = features.labels[torch.cdist(episode.unlabelled, features.values).argmin(-1)]
    own = features.labels[torch.cdist(episode.support[:, :, 0], features.values).argmin(-1)]
    assert (origin[..., None] == own[:, None]).any(-1).all()


def test_queries_leave_images_to_be_unlabelled(features: Features) -> None:
    setting: dict[str, Any] = {"ways": 3, "shots": 2, "queries": 40}
    episode = watched(features, unlabelled=UnlabelledDraw(13, None, 0.0), **setting)
    assert episode.query.shape[1] == 3 * 11  # half of the 23 that 25 images leave
    assert episode.unlabelled_mask.shape == (5, 13)
    assert episode.unlabelled_mask.all()
    assert watched(features, **setting).query.shape[1] == 3 * 23
    transductive = UnlabelledDraw(13, transductive=True)
    assert watched(features, unlabelled=transductive, **setting).query.shape[1] == 3 * 23


def test_tuned_lda_is_better_and_honest(features: Features) -> None:
    tuned = BaseClassFolds(features, ways=3, shots=2, queries=8, episodes=80, seed=0)(ShrunkLDA)
    isotropic = ShrunkLDA(statistics=tuned.statistics, scale=30.0, shrinkage=1.0)
    setting: dict[str, Any] = {"ways": 3, "shots": 2, "queries": 8, "episodes": 100, "seed": 3}
    ours = score(tuned, EpisodeSampler(features), **setting)
    theirs = score(isotropic, EpisodeSampler(features), **setting)
    assert ours.accuracies.mean() > theirs.accuracies.mean() + 0.03
    assert expected_calibration_error(ours) < 6
    assert expected_calibration_error(theirs) > 20


def test_too_little_data_is_said(features: Features) -> None:
    few = features.of_classes(["class0", "class4", "class2"])
    with pytest.raises(InputError, match="at least 4"):
        BaseClassFolds(few, ways=2, shots=1, queries=3, seed=0)(ShrunkLDA)
    with pytest.raises(InputError, match="no image beside 25 shots"):
        BaseClassFolds(features, ways=2, shots=25, queries=3, seed=0)(ShrunkLDA)


def test_cross_validation_shows_a_fit_nothing_that_is_left_out(features: Features) -> None:
    train = features.of_classes(["class3", "class7", "class1"])
    seen: list[Episode] = []

    class Watching(ShrunkLDA):
        @classmethod
        def fit_each(cls, episode: Episode, grid: Any) -> Any:
            seen.append(episode)
            return super().fit_each(episode, grid)

    CrossValidation(Watching).fit(episode_of(train), [torch.Generator().manual_seed(0)])
    assert len(seen) == 5
    shown = [(train.values[:, None] == kept.support[kept.support_mask]).all(-1) for kept in seen]
    assert all(each.shape == (75, 60) and each.any(0).all() for each in shown)
    assert (torch.stack([~each.any(1) for each in shown]).sum(0) == 1).all()  # every image is left out once


def test_cross_validation_chooses_for_each_episode_alone(features: Features) -> None:
    batch = EpisodeSampler(features).sample(
        batch=2, ways=3, shots=6, queries=4, generator=torch.Generator().manual_seed(1)
    )
    rngs = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    together = CrossValidation(ShrunkLDA).fit(batch, rngs).logits(batch.query)
    for i in range(2):
        alone = CrossValidation(ShrunkLDA).fit(batch[i : i + 1], rngs[i : i + 1]).logits(batch.query[i : i + 1])
        assert torch.equal(together[i], alone[0])
