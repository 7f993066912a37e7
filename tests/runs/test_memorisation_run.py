"""A trained generator beside its checkpoints: copies are recognised, and so is what is none."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from weightgen.evaluation.memorisation import between_checkpoints
from weightgen.features.standardizer import Standardizer
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Calibration, Features
from weightgen.runs.memorisation_run import Checkpoints, memorisation
from weightgen.training.folds import Fold
from weightgen.zoo.members import Shard, Zoo
from weightgen.zoo_targets.ideal_prototypes import ideal_prototypes

pytestmark = pytest.mark.usefixtures("unchecked")  # a training is stood in for by what is asked of it


@pytest.fixture
def generator(make_generator: Callable[..., WeightGenerationPipeline]) -> WeightGenerationPipeline:
    return make_generator()


@pytest.fixture
def fold(base_features: Features, base_standardizer: Standardizer) -> Fold:
    prototypes = ideal_prototypes(base_features, base_standardizer)
    return Fold(base_features, prototypes, base_standardizer, Calibration())


def measured(fold: Fold, generator: WeightGenerationPipeline, *, unseen: Features | None = None) -> dict[str, Any]:
    training: Any = SimpleNamespace(
        folds=[fold],
        zoo_plan=SimpleNamespace(sources=[SimpleNamespace(inputs=fold.features)]),
        recipe=SimpleNamespace(evaluation=SimpleNamespace(ways=3)),
    )
    others = fold.features.of_classes(fold.features.class_names[:2])
    said = memorisation(training, generator, unseen=others if unseen is None else unseen, shots=2, seed=4)
    assert said is not None
    return said


def writing(rows: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let generators write the rows that a function of an episode and of its noise gives."""
    monkeypatch.setattr(
        WeightGenerationPipeline, "tokens", lambda self, episode, rngs, samples: rows(episode, rngs)[:, None]
    )


def test_a_generator_that_copies_is_at_distance_0(
    fold: Fold, generator: WeightGenerationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing(lambda episode, _: fold.prototypes[episode.classes], monkeypatch)
    said = measured(fold, generator)
    assert said["generated"] == {**said["generated"], "distance": 0, "overlap": 100}
    assert said["generated"]["accuracy"] == said["checkpoints"]["accuracy"]
    assert said["noise"]["accuracy"] == said["generated"]["accuracy"]  # noise of length 0
    assert said["diversity"] == {"noise": 0, "tasks": pytest.approx(1)}
    assert said["noise_levels"][1]["distance"] > said["noise_levels"][0]["distance"] > 0
    assert (said["images"], said["average"], said["best"]) == ("training", None, None)
    assert said["checkpoints"]["distance"] == pytest.approx(1, abs=0.4)  # some of all checkpoints


def test_a_generator_that_does_not_copy_is_away_from_checkpoints(
    fold: Fold, generator: WeightGenerationPipeline
) -> None:
    said = measured(fold, generator)
    assert said["generated"]["distance"] > 0.05
    assert said["generated"]["overlap"] < 100
    assert 0 < said["noise"]["distance"] <= said["generated"]["distance"] + 1e-6
    assert said == measured(fold, generator)  # from seeds alone


def test_new_images_of_the_classes_are_judged_on_where_there_are_some(
    fold: Fold, generator: WeightGenerationPipeline, make_features: Callable[..., Features]
) -> None:
    assert measured(fold, generator, unseen=make_features(images=9))["images"] == "new"


def test_checkpoints_for_one_task_have_a_best_and_an_average(
    fold: Fold, generator: WeightGenerationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = torch.tensor([[5, 2, 9]]).expand(6, -1)
    noise = torch.randn(6, 1, 3, 8, generator=torch.Generator().manual_seed(1))
    shard = Shard(0, classes, fold.prototypes[classes][:, None] + noise, torch.full((6,), 90.0))
    zoo = Zoo(fold.features.class_names, (shard,))
    writing(lambda episode, rngs: torch.stack([torch.randn(3, 8, generator=rng) for rng in rngs]), monkeypatch)
    said = measured(Fold(fold.features, fold.prototypes, fold.standardizer, fold.scale, zoo), generator)
    assert said["tasks"] == 6
    assert said["best"] >= said["checkpoints"]["accuracy"]
    assert said["average"]["accuracy"] >= said["checkpoints"]["accuracy"]  # noise averages out
    assert said["diversity"]["noise"] > 0


def test_a_feature_space_of_its_own_has_no_place_for_checkpoints(
    fold: Fold, generator: WeightGenerationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(generator.conditioner), "adapts", True)
    assert memorisation(SimpleNamespace(), generator, unseen=fold.features, shots=1) is None


def test_tokens_without_places_are_compared_one_by_one() -> None:
    rows = torch.tensor([[0.0, 0], [4, 0], [0, 9], [7, 7]])
    classes = torch.tensor([[0, 1], [2, 3], [1, 2]])
    known = Checkpoints(rows[classes], classes, ordered=False)
    assert len(known.units[0]) == 4
    asked = torch.tensor([[[0.0, 8], [3, 0]]])
    distance, closest = known.nearest(asked)
    assert closest.tolist() == [[[0, 9], [4, 0]]]
    assert distance.tolist() == [1]
    _, other = known.nearest(rows[classes][:1], not_at=known.places(torch.tensor([0])))
    assert other.tolist() == [[[4, 0], [0, 0]]]
    assert sorted(known.groups.tolist()) == [0, 1, 2, 3]
    assert between_checkpoints(known.units[0]) == pytest.approx((4 + 53**0.5) / 2)


def test_tokens_with_places_are_compared_as_a_whole() -> None:
    tokens = torch.arange(12.0).reshape(3, 2, 2)
    known = Checkpoints(tokens, torch.zeros(3, 2, dtype=torch.int64), ordered=True)
    distance, closest = known.nearest(tokens[[2, 0]] + 0.5)
    assert torch.equal(closest, tokens[[2, 0]])
    assert distance.tolist() == pytest.approx([1, 1])
    assert known.one_task
    assert known.groups.tolist() == [0, 0, 0]
