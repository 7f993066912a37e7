"""Offsets of many tasks are fitted as torch.optim.Adam and autograd fit them, one task at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_chunks import made_up_chunks
from made_up_pixels import WIDTH, made_up_pixels, pixel_episode, small_backbone
from torch.nn.functional import cross_entropy, normalize

from weightgen.features.standardizer import Standardizer
from weightgen.records import Calibration, Episode, Features
from weightgen.seeds import generator
from weightgen.spaces.chunks import Chunks, OffsetFit
from weightgen.zoo.build import Source, ZooPlan, build_zoo, fit_support, fit_tasks
from weightgen.zoo.fit import fit
from weightgen.zoo.options import FitOptions
from weightgen.zoo.store import ZooFolder
from weightgen.zoo.summary import zoo_summary
from weightgen.zoo_targets.trajectories import Trajectories

OPTIONS = FitOptions(epochs=4, local_targets=2, learning_rate=0.05, weight_decay=0.01)
SCALE = 30.0
"""On cosines, in a fit."""


@pytest.fixture(scope="module")
def space() -> Chunks:
    return made_up_chunks()


def source_of(space: Chunks, pixels: Features | None = None) -> Source:
    pixels = pixels or made_up_pixels()
    return Source(space, pixels, Standardizer(feature_width=WIDTH), torch.zeros(6, WIDTH), Calibration())


def start_of(space: Chunks) -> torch.Tensor:
    return space.start(generator(5, "zoo start"), feature_width=WIDTH)


def halves(support: Episode, seed: int) -> OffsetFit:
    return OffsetFit(made_up_chunks().adaptable, support, generator=generator(seed, "draw"))


def by_hand(space: Chunks, problem: OffsetFit, task: int) -> list[torch.Tensor]:
    """The offsets of one task after every epoch, through an ordinary model."""
    adaptable, offset = space.adaptable, start_of(space).requires_grad_()
    adam = torch.optim.Adam([offset], lr=OPTIONS.learning_rate, weight_decay=OPTIONS.weight_decay)
    passed = []
    for _ in range(OPTIONS.epochs):
        problem.start_epoch()
        support = adaptable.features(offset, problem._labelled.support[task])
        queries = adaptable.features(offset, problem._queries[task])
        logits = SCALE * queries @ normalize(support.mean(1), dim=-1).T / support.norm(dim=-1).mean()
        labels = torch.arange(len(support)).repeat_interleave(len(queries) // len(support))
        adam.zero_grad()
        cross_entropy(logits, labels).backward()
        adam.step()
        passed.append(offset.detach().clone())
    return passed


def test_the_fit_is_that_of_adam_and_autograd_one_task_at_a_time(space: Chunks) -> None:
    support = pixel_episode(batch=3, ways=4, shots=5, queries=1).support_only()
    fitted = fit(halves(support, 1), start_of(space), OPTIONS)
    assert fitted.targets.shape == (3, 2, space.adaptable.layout.size)
    for task in range(3):
        passed = by_hand(space, halves(support, 1), task)
        torch.testing.assert_close(fitted.targets[task], torch.stack([passed[1], passed[3]]), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("shots", "half"), [(2, 1), (3, 1), (4, 2), (5, 2)])
def test_halves_are_as_large_as_each_other_and_share_no_image(shots: int, half: int) -> None:
    support = pixel_episode(shots=shots, queries=1).support_only()
    problem, drawn = halves(support, 0), set()
    for _ in range(12):
        problem.start_epoch()
        labelled, queries = problem._labelled.support, problem._queries.unflatten(1, (3, half))
        assert labelled.shape == queries.shape == (2, 3, half, support.support.shape[-1])
        both = torch.cat([labelled, queries], 2)
        numbers = (both[:, :, :, None] == support.support[:, :, None]).all(-1).long()
        assert (numbers.sum(-1) == 1).all()  # of the own class
        assert (numbers.sum(2) <= 1).all()  # none twice
        drawn.add(tuple(numbers.flatten().tolist()))
    assert len(drawn) > 6


def test_a_single_image_is_in_both_halves() -> None:
    support = pixel_episode(shots=1, queries=1).support_only()
    problem = halves(support, 0)
    problem.start_epoch()
    assert torch.equal(problem._labelled.support, support.support)
    assert torch.equal(problem._queries, support.support.flatten(1, 2))


def test_padding_is_in_no_half() -> None:
    support = pixel_episode(shots=5, queries=1).support_only()
    mask = torch.arange(5) < torch.tensor([[5, 4, 4], [4, 5, 5]])[..., None]
    other = support.support.masked_fill(~mask[..., None], 7)
    problems = [halves(replace(support, support_mask=mask, support=images), 0) for images in (support.support, other)]
    for _ in range(6):
        for problem in problems:
            problem.start_epoch()
        assert torch.equal(problems[0]._labelled.support, problems[1]._labelled.support)
        assert torch.equal(problems[0]._queries, problems[1]._queries)
        assert problems[0]._labelled.support_mask.all()


def test_accuracy_and_loss_are_those_of_halves_of_their_own(space: Chunks) -> None:
    support = pixel_episode(batch=3, ways=4, shots=4, queries=1).support_only()
    values = 0.2 * torch.randn(3, space.adaptable.layout.size, generator=generator(1))
    problem, same = halves(support, 3), halves(support, 3)
    accuracy, loss = problem.judged(values)
    same.start_epoch()
    logits = same._logits(values, slice(None))
    labels = torch.arange(4).repeat_interleave(2)
    assert accuracy.tolist() == pytest.approx(
        [100 * float((one.argmax(-1) == labels).float().mean()) for one in logits]
    )
    assert loss.tolist() == pytest.approx([float(cross_entropy(one, labels)) for one in logits])


def test_a_fit_lowers_the_loss(space: Chunks) -> None:
    classes = torch.tensor([[0, 3, 5], [1, 2, 4]])
    losses = [
        fit_tasks(
            source_of(space),
            classes,
            seed=0,
            options=FitOptions(epochs=epochs, local_targets=1, learning_rate=0.03),
            draw=generator(0, "draw"),
        ).loss.mean()
        for epochs in (1, 25)
    ]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("shots", [1, 2, 5])
def test_a_support_alone_can_be_fitted_to(space: Chunks, shots: int) -> None:
    episode = pixel_episode(shots=shots, queries=1).support_only()
    fitted = fit_support(source_of(space), episode, seed=0, options=OPTIONS, draw=generator(0, "draw"))
    assert fitted.targets.shape == (2, 2, space.adaptable.layout.size)
    assert torch.isfinite(fitted.targets).all()


def plan_of(
    space: Chunks, *, pixels: Features | None = None, tasks: int = 33, fit: FitOptions = OPTIONS, **changes: Any
) -> ZooPlan:
    common = {"targets": Trajectories(tasks=tasks, fit=fit), "ways": (2, 4), "seed": 7, "backbone": "a hash"}
    return ZooPlan(**{"sources": (source_of(space, pixels),), **common, **changes})


def test_shards_are_a_function_of_plan_and_number_and_a_zoo_of_them_can_be_read(space: Chunks, tmp_path: Path) -> None:
    plan = plan_of(space, fit=FitOptions(epochs=3))
    folder = ZooFolder(tmp_path)
    folder.write_shard(1, plan.fit_shard(1), key=plan.key())
    before = folder.shard_path(1).read_bytes()
    build_zoo(folder, plan)
    folder.finish(plan.shards, key=plan.key(), class_names=plan.class_names)
    zoo = folder.read()
    assert (plan.shards, len(zoo)) == (2, 64)
    assert folder.shard_path(1).read_bytes() == before
    assert {2, 3, 4} >= set(zoo.ways())
    assert zoo.shards[0].targets.shape == (32, 3, space.adaptable.layout.size)
    assert zoo_summary(zoo)["members"] == 64


def test_the_key_changes_with_whatever_changes_the_zoo(space: Chunks) -> None:
    plans = [
        plan_of(space),
        plan_of(space, pixels=made_up_pixels(seed=1)),
        plan_of(space, tasks=32),
        plan_of(space, ways=(2, 3)),
        plan_of(space, fit=FitOptions()),
        plan_of(space, seed=8),
        plan_of(space, backbone=small_backbone().weights_hash()),
        plan_of(made_up_chunks("bias")),
    ]
    keys = [plan.key() for plan in plans]
    assert len(set(keys)) == len(keys)
    assert plan_of(space).key() == keys[0]
