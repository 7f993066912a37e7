"""A head keeps statistics of the folder it was written for, and the hash of the generator that can extend it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_up_folders import paint

from weightgen import WeightGenerationPipeline, load_head
from weightgen.conditioners.dataset_statistics import DatasetStatistics

MakeGenerator = Callable[..., WeightGenerationPipeline]
SIZES = {"dark": 2, "half": 3, "stripes": 5}


@pytest.fixture(scope="module")
def support(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("support"), SIZES)


@pytest.mark.parametrize("adapting", [False, True])
def test_a_head_keeps_statistics_of_its_support(
    make_generator: MakeGenerator, support: Path, tmp_path: Path, adapting: bool
) -> None:
    generator = make_generator()
    if adapting:
        generator.conditioner = DatasetStatistics()
    head = generator(support)
    head.save_pretrained(tmp_path / "head")
    kept = load_head(tmp_path / "head").support
    assert kept is not None and head.support is not None
    assert kept.generator == generator.generator_hash()
    assert kept.statistics.counts.tolist() == [2, 3, 5]
    assert kept.sample_mask.sum(1).tolist() == [2, 3, 5]
    means = kept.sample.sum(1) / kept.statistics.counts[:, None]
    torch.testing.assert_close(kept.statistics.means, means, rtol=2e-3, atol=2e-3)  # half precision
    away = head.support.sample[head.support.sample_mask] - means.repeat_interleave(torch.tensor([2, 3, 5]), 0)
    torch.testing.assert_close(kept.scatter, away.T @ away, rtol=1e-2, atol=1e-2)
    assert kept.space_classes.all() and kept.shots == pytest.approx(10 / 3)
    assert set(kept.space) == ({"centre", "whitening", "images", "logit_scale"} if adapting else set())


def test_unlabelled_images_are_not_kept(make_generator: MakeGenerator, support: Path, tmp_path: Path) -> None:
    generator = make_generator()
    plain = generator(support)
    helped = generator(support, unlabelled=paint(tmp_path / "mixed", {"anything": 4}, seed=3))
    assert helped.support is not None and plain.support is not None
    assert not torch.equal(helped.draws.weight, plain.draws.weight)
    pairs = zip(helped.support.tensors().values(), plain.support.tensors().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_space_that_was_made_is_recalled(make_generator: MakeGenerator, support: Path) -> None:
    generator = make_generator()
    generator.conditioner = DatasetStatistics()
    kept = generator(support).support
    assert kept is not None
    episode, standardizer = kept.episode(), generator.standardizer
    own, head = generator.conditioner.adapted(episode, standardizer)
    again, recalled = generator.conditioner.recalled(
        episode, standardizer, space=kept.space, space_classes=kept.space_classes
    )
    torch.testing.assert_close(own.support, again.support)
    torch.testing.assert_close(head.prior_variance, recalled.prior_variance)
    for name in ("centre", "whitening"):
        assert torch.equal(head.tensors()[name], recalled.tensors()[name])
    assert recalled.logit_scale == pytest.approx(head.logit_scale, rel=2e-2)  # of a sample in half precision


def test_the_hash_survives_a_folder_and_tells_generators_apart(make_generator: MakeGenerator, tmp_path: Path) -> None:
    generator = make_generator(calibration=((1, 2.5), (5.0, 2)))
    own = generator.generator_hash()
    generator.save_pretrained(tmp_path / "generator")
    loaded = WeightGenerationPipeline.from_pretrained(tmp_path / "generator")
    assert loaded.generator_hash() == own
    loaded.scheduler = type(generator.scheduler).from_config(generator.scheduler.config)
    assert loaded.generator_hash() == own
    others = {make_generator(readout="cosine").generator_hash(), make_generator().generator_hash()}
    loaded.standardizer.mean += 1e-3
    others.add(loaded.generator_hash())
    loaded.conditioner = DatasetStatistics()
    others.add(loaded.generator_hash())
    assert len(others | {own}) == 5
