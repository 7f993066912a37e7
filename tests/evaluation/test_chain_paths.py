"""A denoiser that knows the paths of the fits meets every local target; others are measured there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_runs import SHOTS, files_below

from weightgen.evaluation import chain_paths as module
from weightgen.evaluation.chain_paths import SHOWN, ChainPaths, TruePaths, chain_paths, true_paths, walk
from weightgen.evaluation.scoring import EpisodeSizes
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features
from weightgen.runs.evaluation_run import evaluate_run
from weightgen.runs.folder import RunFolder
from weightgen.schedulers.schedulers import build_scheduler, chain_of
from weightgen.zoo.build import Source, fit_tasks
from weightgen.zoo.options import FitOptions
from weightgen.zoo_targets.ideal_prototypes import ideal_prototypes

CHAIN, SEGMENTS, EPISODES, WAYS = 11, 3, 7, 4
HIT = 1e-4
WHO = ("generator", "no_denoiser", "mean_path")
FIT = FitOptions(epochs=13, local_targets=SEGMENTS, learning_rate=0.1)
SIZES: EpisodeSizes = {"ways": WAYS, "shots": 2, "queries": 5, "unlabelled": None}
MakeGenerator = Callable[..., WeightGenerationPipeline]


@pytest.fixture
def unseen(make_features: Callable[..., Features]) -> Features:
    return make_features(images=[9, 14, 10, 12, 9, 11, 13, 10, 9], seed=5)


@pytest.fixture
def pipeline(make_generator: MakeGenerator) -> WeightGenerationPipeline:
    """A generator whose chain has three segments."""
    built = make_generator(chain=CHAIN, steps=CHAIN)
    scheduler = build_scheduler(
        "LocalDDPMScheduler", {"segments": SEGMENTS, "num_train_timesteps": CHAIN, "prediction_type": "sample"}
    )
    built.register_to_config(chain=chain_of(scheduler))
    built.scheduler = scheduler
    built.denoiser.set_noise_levels(built.scheduler)
    return built


@pytest.fixture
def paths(pipeline: WeightGenerationPipeline, unseen: Features) -> TruePaths:
    return true_paths(pipeline, unseen, ways=WAYS, fit=FIT, zoo_seed=3, episodes=EPISODES, seed=0)


def source_of(pipeline: WeightGenerationPipeline, features: Features) -> Source:
    standardizer = pipeline.standardizer
    prototypes = ideal_prototypes(features, standardizer)
    return Source(pipeline.space, features, standardizer, prototypes, pipeline.scale(1))


def knowing(pipeline: WeightGenerationPipeline, paths: TruePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The denoiser answers with the local target of the segment at hand; chunks differ in their sizes."""
    first = EPISODES // 2
    monkeypatch.setattr(module, "_EPISODES_AT_ONCE", first + 1)
    chunks = {first + 1: paths.targets[: first + 1], first: paths.targets[first + 1 :]}

    def oracle(noisy: torch.Tensor, time: torch.Tensor, condition: object) -> torch.Tensor:
        targets, scheduler = chunks[len(noisy)], pipeline.scheduler
        if scheduler.config.get("segments", 1) == 1:
            return targets[:, -1]
        return targets[torch.arange(len(noisy)), scheduler.segment_of(time)]

    monkeypatch.setattr(pipeline.denoiser, "prepared", lambda condition, times: oracle)


def test_an_oracle_is_at_every_local_target_when_its_segment_ends(
    pipeline: WeightGenerationPipeline, unseen: Features, paths: TruePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowing(pipeline, paths, monkeypatch)
    walked = walk(pipeline, unseen, paths, SIZES, seed=0)
    assert [each.target for each in walked.distances] == [1, 2, 3]
    assert [each.epoch for each in walked.distances] == [4, 9, 13]
    for each in walked.distances:
        assert each.generator.mean < HIT
        assert each.no_denoiser.mean > 0.1
        assert each.mean_path.mean > 0.1
        assert 0 < each.no_denoiser.ci95 < 1
    assert walked.states.shape == (SHOWN, CHAIN + 1, WAYS, 8)
    assert walked.ends == (4, 7, 11)
    torch.testing.assert_close(walked.states[:, list(walked.ends)], paths.targets[:SHOWN], rtol=HIT, atol=HIT)


def test_a_chain_without_segments_is_judged_by_where_it_ends(
    make_generator: MakeGenerator, unseen: Features, paths: TruePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_generator(chain=CHAIN, steps=5)
    knowing(plain, paths, monkeypatch)
    walked = walk(plain, unseen, paths, SIZES, seed=0)
    (last,) = walked.distances
    assert (last.target, last.epoch, walked.ends) == (3, 13, (5,))
    assert last.generator.mean < HIT


def test_the_paths_are_fits_in_the_generators_space_from_the_zoos_start(
    pipeline: WeightGenerationPipeline, unseen: Features, paths: TruePaths
) -> None:
    fitted = fit_tasks(source_of(pipeline, unseen), paths.classes, seed=3, options=FIT, draw=torch.Generator())
    torch.testing.assert_close(paths.targets, fitted.targets)
    assert paths.targets.shape == (EPISODES, SEGMENTS, WAYS, 8)
    assert paths.epochs == FIT.kept_epochs
    assert all(len(classes.unique()) == WAYS for classes in paths.classes)


def test_a_whole_way_starts_at_the_start_and_passes_its_local_targets(
    pipeline: WeightGenerationPipeline, unseen: Features, paths: TruePaths
) -> None:
    assert paths.shown.shape == (SHOWN, 1 + 4 * SEGMENTS, WAYS, 8)  # 12 of 13 epochs
    assert torch.equal(paths.shown[:, 0], source_of(pipeline, unseen).start(seed=3).expand(SHOWN, WAYS, -1))
    assert torch.equal(paths.shown[:, 4::4], paths.targets[:SHOWN])


@pytest.mark.parametrize(("epochs", "points"), [(3, 3), (100, 99), (5000, 99)])
def test_a_way_of_many_epochs_is_kept_in_few_points(
    pipeline: WeightGenerationPipeline, unseen: Features, epochs: int, points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    fits = module.fit_tasks

    def watched(*arguments: Any, options: FitOptions, **others: Any) -> Any:
        kept.append((options.local_targets, options.kept_epochs))
        return fits(*arguments, options=FitOptions(epochs=points, local_targets=options.local_targets), **others)

    monkeypatch.setattr(module, "fit_tasks", watched)
    fit = FitOptions(epochs=epochs, local_targets=SEGMENTS)
    true_paths(pipeline, unseen, ways=WAYS, fit=fit, zoo_seed=3, episodes=2, seed=0)
    ((number, closely),) = kept
    assert number == points
    assert closely[points // SEGMENTS - 1 :: points // SEGMENTS] == fit.kept_epochs


def test_the_mean_path_knows_the_other_episodes_alone(
    pipeline: WeightGenerationPipeline, unseen: Features, paths: TruePaths
) -> None:
    def mean_path(targets: torch.Tensor) -> list[float]:
        some = replace(paths, classes=paths.classes[:2], targets=targets, shown=paths.shown[:2])
        return [each.mean_path.mean for each in walk(pipeline, unseen, some, SIZES, seed=0).distances]

    rows = paths.targets[:1, :, :1].expand(2, -1, WAYS, -1)
    assert mean_path(rows) == pytest.approx([0, 0, 0], abs=1e-6)
    assert mean_path(rows * torch.tensor([1.0, -1.0])[:, None, None, None]) == pytest.approx([2, 2, 2])


def test_the_episodes_of_all_shots_have_the_same_classes_and_the_numbers_one_seed(
    pipeline: WeightGenerationPipeline, unseen: Features
) -> None:
    def drawn(seed: int) -> ChainPaths:
        sizes: list[EpisodeSizes] = [SIZES, {**SIZES, "shots": 1}]
        return chain_paths(pipeline, unseen, sizes, fit=FIT, zoo_seed=3, episodes=3, seed=seed)

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert [each.shots for each in first.walks] == [2, 1]
    means = [[each.mean_path for each in one.distances] for one in first.walks]
    assert means[0] == means[1]
    own = [one.distances[0].generator.mean for one in first.walks]
    assert own[0] != own[1]
    assert [one.distances for one in again.walks] == [one.distances for one in first.walks]
    assert not torch.equal(other.paths.classes, first.paths.classes)


def test_the_report_of_a_run_on_trajectories_has_the_picture_and_the_table(walked: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    results = evaluate_run(RunFolder(walked), methods=["generator"], report=folder)
    assert (
        files_below(walked / "report")
        == files_below(folder)
        == {"report.html", "report.md", "results.json", "chain.png"}
    )
    with Image.open(folder / "chain.png") as picture:
        assert min(picture.size) > 300
    written = json.loads((folder / "results.json").read_text())
    text = (folder / "report.md").read_text()
    assert "![the chain beside the fits](chain.png)" in text
    for shots, one, printed in zip(SHOTS, written, results, strict=True):
        kept = one.pop("chain_paths")
        assert one == printed
        assert one["shots"] == shots
        assert kept["episodes"] == one["episodes"]
        assert [each["epoch"] for each in kept["targets"]] == [2, 4, 6]
        for each in kept["targets"]:
            cells = [f"{each[who]['mean']:.3f} ± {each[who]['ci95']:.3f}" for who in WHO]
            assert f"| {shots} | {each['target']} | {each['epoch']} | {' | '.join(cells)} |" in text
