"""The last steps of training runs as a zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_chunks import made_up_plan
from made_up_pixels import WIDTH, made_up_pixels

from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.records import Calibration, Features
from weightgen.registry import create
from weightgen.spaces.class_rows import ClassRows
from weightgen.zoo.build import Source, ZooPlan, build_zoo
from weightgen.zoo.store import ZooFolder
from weightgen.zoo.summary import zoo_summary
from weightgen.zoo_targets.checkpoints import Checkpoints

CLASSES = 6


def plan_of(selector: str = "all", *, seed: int = 0, options: dict[str, Any] | None = None, **changes: Any) -> ZooPlan:
    targets = Checkpoints(**{"runs": 2, "steps": 3, "count": 4, "learning_rate": 0.01, "batch": 12, **changes})
    return made_up_plan(targets, selector, seed=seed, options=options)


def test_a_run_is_a_shard_and_each_of_its_last_steps_a_member_for_all_classes(tmp_path: Path) -> None:
    plan, folder = plan_of(), ZooFolder(tmp_path)
    build_zoo(folder, plan)
    folder.finish(plan.shards, key=plan.key(), class_names=plan.class_names)
    zoo = folder.read()
    assert (len(zoo.shards), len(zoo), zoo.ways()) == (2, 8, (CLASSES,))
    members = zoo.members(CLASSES)
    assert members.path.shape == (8, 1, plan.space.adaptable.layout.size)
    assert torch.equal(members.classes, torch.arange(CLASSES).expand(8, -1))
    assert zoo_summary(zoo)["members"] == 8


def test_checkpoints_of_a_run_are_one_step_apart_and_runs_are_far_from_each_other() -> None:
    first, second = (plan_of(options={"renew_statistics": True}).fit_shard(number).targets[:, 0] for number in (0, 1))
    steps = first.diff(dim=0).norm(dim=-1)
    assert (steps > 0).all()
    assert float(torch.cdist(first, second).min()) > 5 * float(steps.max())


def test_a_shard_is_a_function_of_its_plan_and_number() -> None:
    one, again, other = plan_of().fit_shard(1), plan_of().fit_shard(1), plan_of(seed=1).fit_shard(1)
    assert torch.equal(one.targets, again.targets)
    assert not torch.equal(one.targets, other.targets)
    keys = [plan.key() for plan in (plan_of(), plan_of(seed=1), plan_of(count=5), plan_of(batch=6), plan_of("head"))]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("selector", "options"), [("all", {}), ("all", {"renew_statistics": True}), ("head", {})])
def test_training_learns_and_the_accuracy_is_that_of_the_written_network(
    selector: str, options: dict[str, Any]
) -> None:
    plan = plan_of(selector, options=options, runs=1, steps=60, count=2, learning_rate=0.02, batch=42)
    shard, before = plan.fit_shard(0), plan_of(selector, options=options, runs=1, steps=0, count=2).fit_shard(0)
    assert float(shard.accuracy.min()) > max(40.0, float(before.accuracy.max()))
    adaptable, images = plan.space.adaptable, made_up_pixels()
    renewed = images.values if options else None
    model = adaptable.written(shard.targets[-1, 0], renewed)
    logits = torch.cat([model(batch) for batch in adaptable.batches(images.values)])
    right = 100 * float((logits.argmax(-1) == images.labels).float().mean())
    assert right == pytest.approx(float(shard.accuracy[-1]), abs=0.1)


def test_statistics_among_the_parameters_are_those_of_the_images() -> None:
    plan = plan_of(runs=1)
    target = plan.fit_shard(0).targets[-1, 0]
    renewed = plan.space.adaptable.written(target, made_up_pixels().values)
    again = plan.space.adaptable.selector.read(renewed) - plan.space.adaptable.own
    torch.testing.assert_close(again, target, rtol=1e-4, atol=1e-5)


def test_rows_of_a_head_on_frozen_features_are_checkpoints_as_well() -> None:
    labels = torch.arange(4).repeat_interleave(5)
    draw = torch.Generator().manual_seed(0)
    values = 3 * torch.randn(4, WIDTH, generator=draw)[labels] + torch.randn(20, WIDTH, generator=draw)
    features, standardizer = Features(values, labels, tuple("abcd")), Standardizer(feature_width=WIDTH)
    standardizer.fit(features)
    source = Source(ClassRows(), features, standardizer, torch.ones(4, WIDTH), Calibration())
    plan = ZooPlan(Checkpoints(steps=20, count=3, learning_rate=0.1), (source,), (2, 4), seed=0, backbone="none")
    shard = plan.fit_shard(0)
    assert shard.targets.shape == (3, 1, 4, WIDTH)
    assert float(shard.accuracy.min()) > 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "zoo.count is 0; it must be 1 or more"),
        ({"runs": 0}, "zoo.runs is 0"),
        ({"batch": 0}, "zoo.batch is 0"),
        ({"steps": -1}, "zoo.steps is -1"),
        ({"learning_rate": 0.0}, "zoo.learning_rate is 0.0; it must be above 0"),
        ({"count": 1}, "1 run of 1 checkpoint"),
        ({"counts": 3}, "has no option 'counts'; did you mean 'count'"),
    ],
)
def test_options_that_make_no_zoo_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create("zoo_targets", "checkpoints", options)
    assert "\n" not in str(caught.value)


def test_training_that_diverges_is_refused_by_the_option_to_change() -> None:
    with pytest.raises(InputError, match="training left finite numbers; lower it"):
        plan_of("head", learning_rate=1e38).fit_shard(0)
