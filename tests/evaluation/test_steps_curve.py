"""The curve has a point for every scheduler and number of steps, on the episodes asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.evaluation import steps_curve as module
from weightgen.evaluation.steps_curve import steps_curve
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, Features, LinearHeads


def test_points_and_what_the_generator_sees(
    make_generator: Callable[..., WeightGenerationPipeline],
    make_features: Callable[..., Features],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STEPS", (1, 3, 1001))  # the chain has 1000
    monkeypatch.setattr(module, "SCHEDULERS", ("MeanDDPMScheduler", "DDIMScheduler"))
    seen: list[tuple[int, int]] = []
    heads = WeightGenerationPipeline.heads

    def watched(self: WeightGenerationPipeline, episode: Episode, *arguments: Any, **options: Any) -> LinearHeads:
        seen.append((len(episode), episode.unlabelled.shape[1]))
        return heads(self, episode, *arguments, **options)

    monkeypatch.setattr(WeightGenerationPipeline, "heads", watched)
    sizes: dict[str, Any] = {"ways": 3, "shots": 2, "queries": 4, "episodes": 5, "seed": 0}
    points = steps_curve(make_generator(), make_features(), unlabelled=UnlabelledDraw(7), **sizes)
    assert [(point["scheduler"], point["steps"]) for point in points] == [
        (scheduler, steps) for scheduler in ("MeanDDPMScheduler", "DDIMScheduler") for steps in (1, 3)
    ]
    assert all(point["shots"] == 2 and 0 <= point["accuracy"] <= 100 for point in points)
    assert seen == [(5, 7)] * 4
