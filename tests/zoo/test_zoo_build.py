"""A zoo is what its plan says, whoever fits it, in whatever order, and however often they are stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_plans import FIT, IMAGES, WIDTH, plan_of

from weightgen.files import read_tensors
from weightgen.records import Episode
from weightgen.seeds import generator
from weightgen.zoo import build
from weightgen.zoo.build import Source, ZooPlan, build_zoo, fit_support, fit_tasks, of_source
from weightgen.zoo.fit import Fitted
from weightgen.zoo.members import Shard, Zoo
from weightgen.zoo.options import FitOptions
from weightgen.zoo.store import ZooFolder

KILLED = Path(__file__).with_name("killed_zoo.py")
PLAIN = FitOptions(epochs=6, local_targets=2, learning_rate=0.1)
TENSORS = ("classes", "targets", "accuracy")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the processes that are started here: the last bit of a sum depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def built(folder: Path, plan: ZooPlan) -> ZooFolder:
    zoo_folder = ZooFolder(folder)
    build_zoo(zoo_folder, plan)
    zoo_folder.finish(plan.shards, key=plan.key(), class_names=plan.class_names)
    return zoo_folder


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    plan = plan_of()
    return Zoo(plan.class_names, tuple(plan.fit_shard(number) for number in range(plan.shards)))


def support_of(source: Source, names: list[str]) -> Episode:
    """All standardised images of some classes of a source."""
    values, labels = source.standardizer.base(source.inputs.values), source.inputs.labels
    numbers = [source.inputs.class_names.index(name) for name in names]
    images = [values[labels == number] for number in numbers]
    support = torch.nn.utils.rnn.pad_sequence(images, batch_first=True)[None]
    counts, none = torch.tensor([len(one) for one in images]), support.new_zeros(1, 0, WIDTH)
    return Episode(
        support=support,
        support_mask=(torch.arange(support.shape[2]) < counts[:, None])[None],
        query=none,
        query_labels=torch.zeros(1, 0, dtype=torch.int64),
        classes=torch.tensor([numbers]),
        unlabelled=none,
        unlabelled_mask=torch.zeros(1, 0, dtype=torch.bool),
    )


def bytes_of(folder: ZooFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.path.iterdir()}


def equal(left: Shard, right: Shard) -> bool:
    return left.fold == right.fold and all(torch.equal(getattr(left, name), getattr(right, name)) for name in TENSORS)


def test_members_are_of_distinct_classes_of_their_fold(zoo: Zoo) -> None:
    assert zoo.class_names == plan_of().class_names
    for shard in zoo.shards:
        ordered = shard.classes.sort(-1).values
        assert (ordered.diff(dim=-1) > 0).all()
        assert all(f"of fold {shard.fold}" in zoo.class_names[i] for i in shard.classes.unique().tolist())


def test_every_fold_has_as_many_members_and_all_its_classes(zoo: Zoo) -> None:
    assert len(zoo) >= 800
    assert len({len(zoo.of_fold(fold)) for fold in range(3)}) == 1
    assert [len(torch.cat([s.classes.flatten() for s in zoo.of_fold(fold).shards]).unique()) for fold in range(3)] == [
        len(counts) for counts in IMAGES
    ]


def test_ways_are_drawn_between_the_two_and_never_above_what_a_fold_has() -> None:
    shards = [
        plan_of(tasks=9000, ways=(3, 5), fit=FitOptions(epochs=1, local_targets=1)).fit_shard(n) for n in range(18)
    ]
    assert {shard.ways for shard in shards if shard.fold != 1} == {3, 4, 5}
    assert {shard.ways for shard in shards if shard.fold == 1} == {3}


@pytest.mark.parametrize("tasks", [1, 2, 4, 59, 60, 61, 64, 125, 240, 765, 766, 768, 769])
def test_there_are_at_least_as_many_tasks_as_asked_for(tasks: int) -> None:
    plan = plan_of(tasks=tasks)
    assert plan.shards % 3 == 0
    assert tasks <= plan.targets.tasks_in_shard(plan) * plan.shards < tasks + plan.targets.tasks_in_shard(plan) * 3


@pytest.mark.parametrize("in_fold", [1, 7, 19, 20, 21, 39, 41, 80, 255])
def test_few_tasks_are_spread_over_20_shards_or_more(in_fold: int) -> None:
    """All of a shard have equally many classes: one shard would know one number of them."""
    plan = plan_of(tasks=3 * in_fold)
    assert plan.shards / 3 >= min(in_fold, 20)
    assert plan.targets.tasks_in_shard(plan) * plan.shards / 3 < in_fold + plan.targets.tasks_in_shard(plan)


def test_few_tasks_have_different_numbers_of_classes() -> None:
    plan = plan_of(tasks=90, ways=(2, 5), fit=FitOptions(epochs=1, local_targets=1))
    shards = [plan.fit_shard(number) for number in range(2, plan.shards, 3)]
    assert {len(shard.classes) for shard in shards} == {plan.targets.tasks_in_shard(plan)}
    assert {shard.ways for shard in shards} == {2, 3, 4, 5}


def test_a_fit_to_some_images_is_to_no_more_than_there_are() -> None:
    """`most_images` above what classes hold changes no member, only the order of their images."""
    whole, capped = (plan_of(fit=PLAIN.model_copy(update={"most_images": most})).fit_shard(2) for most in (None, 99))
    torch.testing.assert_close(whole.targets, capped.targets, rtol=1e-4, atol=1e-4)


def test_a_fit_to_some_images_sees_others_in_every_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of their own class, none twice, and as many as asked for where a class holds them."""
    seen: list[Episode] = []

    def spy(source: Source, support: Episode, **options: Any) -> Fitted:
        seen.append(support)
        return fit_support(source, support, **options)

    monkeypatch.setattr(build, "fit_support", spy)
    plan = plan_of(fit=PLAIN.model_copy(update={"most_images": 6}))
    shard, source = plan.fit_shard(2), plan.sources[2]
    own = shard.classes - len(IMAGES[0]) - len(IMAGES[1])
    there, places = seen[0].support_mask, source.standardizer.base(source.inputs.values)
    which = (seen[0].support[:40, :, :, None] - places).abs().sum(-1).argmin(-1)  # images by number
    for task in range(40):
        shown = which[task][there[task]]
        assert len(shown.unique()) == len(shown)
        assert torch.equal(source.inputs.labels[shown], own[task].repeat_interleave(there[task].sum(-1)))
        assert torch.equal(there[task].sum(-1), torch.tensor(IMAGES[2])[own[task]].clamp(max=6))
    assert len({frozenset(which[task][there[task]].tolist()) for task in range(40)}) > 30


def test_a_shard_is_a_function_of_plan_and_number(zoo: Zoo) -> None:
    torch.manual_seed(3)
    for number in (4, 1):
        assert equal(plan_of().fit_shard(number), zoo.shards[number])
    assert not torch.equal(zoo.shards[0].classes[:, :2], zoo.shards[3].classes[:, :2])


@pytest.mark.parametrize("readout", ["gaussian", "cosine"])
def test_rows_are_fitted_to_all_images_of_their_classes(readout: str) -> None:
    plan = plan_of(fit=PLAIN, readout=readout)
    for number in (0, 1, 2):
        shard, source = plan.fit_shard(number), plan.sources[number]
        for task in (0, 100, 255):
            names = [plan.class_names[i] for i in shard.classes[task].tolist()]
            support = support_of(source, names)
            alone = fit_support(source, support, seed=plan.seed, options=PLAIN, draw=generator(0))
            torch.testing.assert_close(shard.targets[task], alone.targets[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(shard.accuracy[task], alone.accuracy[0])


def test_the_labels_of_a_source_point_to_the_right_features() -> None:
    plan = plan_of(fit=PLAIN)
    zoo = Zoo(plan.class_names, tuple(plan.fit_shard(number) for number in range(3)))
    for fold, source in enumerate(plan.sources):
        own = of_source(zoo, plan, fold)
        assert own.class_names == source.inputs.class_names
        (ways,) = own.ways()
        members = own.members(ways)
        logits = source.space.fit_logits(source.standardizer, source.scale)
        for task in (3, 77):
            images = source.inputs.of_classes([own.class_names[i] for i in members.classes[task].tolist()])
            values = source.standardizer.base(images.values)
            said = logits.logits(members.path[task : task + 1, -1], values[None])[0].argmax(0)
            accuracy = 100 * (said == images.labels).float().mean()
            torch.testing.assert_close(members.accuracy[task], accuracy)
            assert accuracy > 100 / ways


def test_without_noise_parts_that_fit_in_memory_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    source, classes = plan_of().sources[2], torch.tensor([[0, 5], [3, 1], [6, 2], [4, 0], [1, 2]])
    arguments = {"seed": 1, "options": PLAIN, "draw": generator(0)}
    whole = fit_tasks(source, classes, **arguments)
    monkeypatch.setattr(build, "_MOST_NUMBERS", 2 * 2 * 9 * WIDTH)
    parts = fit_tasks(source, classes, **arguments)
    for name in ("targets", "accuracy", "loss"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-5)


CHANGES = {
    "tasks": plan_of(tasks=801),
    "ways": plan_of(ways=(2, 3)),
    "seed": plan_of(seed=10),
    "backbone": plan_of(backbone="another"),
    "features": plan_of(shift=1e-6),
    "readout": plan_of(readout="cosine"),
    "order of folds": plan_of(sources=plan_of().sources[::-1]),
    "names": plan_of(
        sources=(
            replace(
                plan_of().sources[0],
                inputs=replace(plan_of().sources[0].inputs, class_names=("a", "b", "c", "d", "e")),
            ),
            *plan_of().sources[1:],
        )
    ),
    **{
        option: plan_of(fit=FIT.model_copy(update={option: value}))
        for option, value in {
            "epochs": 6,
            "learning_rate": 0.2,
            "local_targets": 2,
            "weight_decay": 0.1,
            "sharpness_aware_radius": 0.1,
            "feature_noise": 0.6,
        }.items()
    },
}


@pytest.mark.parametrize("other", CHANGES.values(), ids=CHANGES)
def test_any_change_is_another_zoo(other: ZooPlan) -> None:
    assert plan_of().key() == plan_of().key()
    assert other.key() != plan_of().key()


def test_what_is_there_is_not_fitted_again_unless_the_plan_changes(
    tmp_path: Path, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, other, fitted = plan_of(), plan_of(seed=10), []
    monkeypatch.setattr(ZooPlan, "fit_shard", lambda _, number: fitted.append(number) or zoo.shards[number])
    folder = built(tmp_path, plan)
    assert fitted == list(range(6))
    built(tmp_path, plan)
    assert fitted == list(range(6))
    folder.shard_path(3).unlink()
    built(tmp_path, plan)
    assert fitted == [*range(6), 3]
    built(tmp_path, other)
    assert fitted == [*range(6), 3, *range(6)]


def test_progress_counts_what_was_there_and_ends_with_all(
    tmp_path: Path, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, reports = plan_of(), []
    monkeypatch.setattr(ZooPlan, "fit_shard", lambda _, number: zoo.shards[number])
    folder = built(tmp_path, plan)
    for number in (0, 1, 4):
        folder.shard_path(number).unlink()
    build_zoo(folder, plan, process=0, processes=2, progress=lambda *all: reports.append(all))
    assert reports == [("fitting the zoo", 4, 6), ("fitting the zoo", 6, 6)]


@pytest.mark.parametrize("late", [0, 1, 2])
def test_processes_that_look_at_different_moments_leave_nothing_out(
    tmp_path: Path, zoo: Zoo, late: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late one finds shards of the others already there."""
    plan = plan_of()
    monkeypatch.setattr(ZooPlan, "fit_shard", lambda _, number: zoo.shards[number])
    folder = ZooFolder(tmp_path)
    for process in (*(one for one in range(3) if one != late), late):
        build_zoo(folder, plan, process=process, processes=3)
    folder.finish(plan.shards, key=plan.key(), class_names=plan.class_names)
    assert all(equal(left, right) for left, right in zip(folder.read().shards, zoo.shards, strict=True))


def test_killed_at_any_moment_it_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, str(KILLED), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    deaths = json.loads(done.stdout)
    assert {kind for kind, _ in deaths} == {"in a fit", "before a rename", "after a rename"}
    shards = [shards for _, shards in deaths]
    assert shards == sorted(shards)  # what is whole stays
    assert len(set(shards)) > 3
    calm, killed = built(tmp_path / "calm", plan_of()), ZooFolder(tmp_path / "zoo")
    whole = {name: content for name, content in bytes_of(killed).items() if not name.startswith(".")}
    assert whole == bytes_of(calm)
    assert set(read_tensors(killed.shard_path(0))) == set(TENSORS)
