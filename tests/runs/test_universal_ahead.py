"""A generator that the universal one beats on held-out base classes leaves its work to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import TINY

from weightgen.backbones.backbone import Backbone
from weightgen.checkpoint import CheckpointFolder
from weightgen.config.loading import load_recipe
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features
from weightgen.runs import generator_training
from weightgen.runs.generator_training import LEAVES_ALL, GeneratorTraining
from weightgen.training.calibration import kind_limits
from weightgen.training.learner import new_accelerator
from weightgen.training.selection import HeldOut


def features(width: int) -> Features:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(20).repeat_interleave(8)
    values = 1.5 * torch.randn(20, width, generator=draw)[labels] + torch.randn(160, width, generator=draw)
    return Features(values, labels, tuple(map(str, range(20))))


@pytest.mark.parametrize(("lead", "left", "beyond"), [(1.5, True, 0.1), (0.5, False, 0.1), (-4.0, False, 0.025)])
def test_supports_are_left_to_the_universal_generator_only_where_it_is_a_point_ahead(
    lead: float, left: bool, beyond: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of classes like the base classes few are, the fewer the farther it is behind."""
    backbone = Backbone.create(model="conv4", options={"width": 5, "img_size": 16}, seed=0)
    base = features(backbone.feature_width)
    recipe = load_recipe("metadiff", [*TINY, "training.held_out_classes=0.3"])
    training = GeneratorTraining(recipe, backbone, base, new_accelerator(cpu=True), inputs=base)
    judged = []

    def accuracy(_: HeldOut, pipeline: WeightGenerationPipeline) -> float:
        judged.append(bool(pipeline.config.provenance))  # of one in training nothing is known
        return 80.0 + lead * judged[-1]

    def limits(*views: object, beyond: float, **sizes: int) -> list[tuple[float, float]]:
        shares.append(beyond)
        return kind_limits(*views, beyond=beyond, **sizes)

    shares: list[float] = []
    monkeypatch.setattr(HeldOut, "accuracy", accuracy)
    monkeypatch.setattr(generator_training, "kind_limits", limits)
    list(training.records(CheckpointFolder(tmp_path)))
    assert judged == [False] * len(judged) != []
    judged.clear()
    pipeline = training.finished(provenance={})
    assert judged == [True]  # the trained one has its score from its training
    assert shares == [pytest.approx(beyond)]
    assert [limit == LEAVES_ALL for _, limit in pipeline.config.kind_limits] == 3 * [left]
