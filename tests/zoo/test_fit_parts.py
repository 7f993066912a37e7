"""Fits of many tasks are those of torch.optim.Adam and autograd, one task at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_up_pixels import made_up_pixels, pixel_episode, small_backbone
from torch.nn.functional import cross_entropy, normalize

from weightgen.records import Episode
from weightgen.seeds import generator
from weightgen.selectors._part import Part
from weightgen.selectors.norm_affine import NormAffine
from weightgen.zoo.build import build_zoo
from weightgen.zoo.build_parts import PartPlan, fit_to_classes, fit_to_support, part_start
from weightgen.zoo.fit import FitOptions
from weightgen.zoo.fit_parts import SCALE, fit_parts
from weightgen.zoo.store import ZooFolder
from weightgen.zoo.summary import zoo_summary

OPTIONS = FitOptions(epochs=4, local_targets=2, learning_rate=0.05, weight_decay=0.01)


@pytest.fixture(scope="module")
def part() -> Part:
    return Part(small_backbone(), NormAffine())


def split(task: slice = slice(None)) -> Callable[[int], Episode]:
    return lambda epoch: pixel_episode(batch=3, ways=4, shots=2, queries=3, seed=epoch)[task]


def by_hand(part: Part, task: int) -> list[torch.Tensor]:
    """The offsets of one task after every epoch, through an ordinary model."""
    offset = part_start(part.layout.size, seed=5).requires_grad_()
    adam = torch.optim.Adam([offset], lr=OPTIONS.learning_rate, weight_decay=OPTIONS.weight_decay)
    passed = []
    for epoch in range(OPTIONS.epochs):
        episode = split()(epoch)
        means = part.features(offset, episode.support[task]).mean(1)
        radius = part.features(offset, episode.support[task]).norm(dim=-1).mean()
        logits = SCALE * part.features(offset, episode.query[task]) @ normalize(means, dim=-1).T / radius
        adam.zero_grad()
        cross_entropy(logits, episode.query_labels[task]).backward()
        adam.step()
        passed.append(offset.detach().clone())
    return passed


def test_a_batch_is_fitted_as_each_task_alone(part: Part) -> None:
    start = part_start(part.layout.size, seed=5)
    fitted = fit_parts(part, split(), start=start, options=OPTIONS)
    assert fitted.targets.shape == (3, 2, part.layout.size)
    for task in range(3):
        alone = fit_parts(part, split(slice(task, task + 1)), start=start, options=OPTIONS)
        assert torch.equal(alone.targets[0], fitted.targets[task])
        passed = by_hand(part, task)
        torch.testing.assert_close(fitted.targets[task], torch.stack([passed[1], passed[3]]), rtol=1e-3, atol=1e-5)


def test_accuracy_and_loss_are_those_of_one_more_split(part: Part) -> None:
    fitted = fit_parts(part, split(), start=part_start(part.layout.size, seed=5), options=OPTIONS)
    last = split()(OPTIONS.epochs)
    logits = part.query_logits(fitted.targets[:, -1], last, scale=SCALE)
    right = (logits.argmax(-1) == last.query_labels).float().mean(-1)
    torch.testing.assert_close(fitted.accuracy, 100 * right)
    torch.testing.assert_close(fitted.loss[1], cross_entropy(logits[1], last.query_labels[1]))


def test_a_fit_lowers_the_loss(part: Part) -> None:
    classes, pixels = torch.tensor([[0, 3, 5], [1, 2, 4]]), made_up_pixels()
    losses = [
        fit_to_classes(
            part,
            pixels,
            classes,
            options=FitOptions(epochs=epochs, local_targets=1, learning_rate=0.03),
            seed=0,
            draw=generator(0, "draw"),
        ).loss.mean()
        for epochs in (1, 25)
    ]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("shots", [1, 2, 5])
def test_a_support_alone_can_be_fitted_to(part: Part, shots: int) -> None:
    episode = pixel_episode(shots=shots, queries=1).support_only()
    fitted = fit_to_support(part, episode, options=OPTIONS, seed=0, draw=generator(0, "draw"))
    assert fitted.targets.shape == (2, 2, part.layout.size)
    assert torch.isfinite(fitted.targets).all()


def test_shards_are_a_function_of_plan_and_number_and_a_zoo_of_them_can_be_read(part: Part, tmp_path: Path) -> None:
    plan = PartPlan(part=part, pixels=made_up_pixels(), tasks=33, ways=(2, 4), fit=FitOptions(epochs=3), seed=7)
    folder = ZooFolder(tmp_path)
    folder.write_shard(1, plan.fit_shard(1), key=plan.key())
    before = folder.shard_path(1).read_bytes()
    build_zoo(folder, plan)
    folder.finish(plan.shards, key=plan.key(), class_names=plan.class_names)
    zoo = folder.read()
    assert (plan.shards, len(zoo)) == (2, 64)
    assert folder.shard_path(1).read_bytes() == before
    assert {2, 3, 4} >= set(zoo.ways())
    assert zoo.shards[0].targets.shape == (32, 3, part.layout.size)
    assert zoo_summary(zoo)["members"] == 64


def test_the_key_changes_with_whatever_changes_the_zoo(part: Part) -> None:
    usual = {"part": part, "pixels": made_up_pixels(), "tasks": 33, "ways": (2, 4), "fit": OPTIONS, "seed": 7}
    other = Part(small_backbone(), NormAffine())
    other.backbone.trunk.state_dict()["blocks.0.conv.weight"].mul_(2)
    changes = [
        {"pixels": made_up_pixels(seed=1)},
        {"tasks": 32},
        {"ways": (2, 3)},
        {"fit": FitOptions()},
        {"seed": 8},
        {"part": other},
    ]
    keys = [PartPlan(**{**usual, **change}).key() for change in [{}, *changes]]
    assert len(set(keys)) == len(keys)
    assert PartPlan(**usual).key() == keys[0]
