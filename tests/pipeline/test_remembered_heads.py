"""A head that was written for a folder remembers its images, and which generator may go on from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_up_folders import paint

from weightgen import WeightGenerationPipeline
from weightgen.conditioners.dataset_statistics import DatasetStatistics
from weightgen.heads.head_folder import load_head

MakeGenerator = Callable[..., WeightGenerationPipeline]
SIZES = {"dark": 2, "half": 3, "stripes": 5}


@pytest.fixture(scope="module")
def support(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("support"), SIZES)


@pytest.mark.parametrize("adapting", [False, True])
def test_a_head_remembers_what_it_was_written_from(
    make_generator: MakeGenerator, support: Path, tmp_path: Path, adapting: bool
) -> None:
    generator = make_generator()
    if adapting:
        generator.conditioner = DatasetStatistics()
    made = generator(support)
    made.save_pretrained(tmp_path / "head")
    memory = load_head(tmp_path / "head").memory
    assert memory is not None and made.memory is not None
    assert memory.generator == generator.generator_hash()
    assert memory.statistics.counts.tolist() == [2, 3, 5]
    assert memory.sample_mask.sum(1).tolist() == [2, 3, 5]
    means = memory.sample.sum(1) / memory.statistics.counts[:, None]
    torch.testing.assert_close(memory.statistics.means, means, rtol=2e-3, atol=2e-3)  # half precision
    away = made.memory.sample[made.memory.sample_mask] - means.repeat_interleave(torch.tensor([2, 3, 5]), 0)
    torch.testing.assert_close(memory.scatter, away.T @ away, rtol=1e-2, atol=1e-2)
    assert memory.origin.founding.all() and memory.origin.shots == pytest.approx(10 / 3)
    assert set(memory.origin.space) == ({"centre", "rounding", "images", "temper"} if adapting else set())


def test_unlabelled_images_are_not_remembered(make_generator: MakeGenerator, support: Path, tmp_path: Path) -> None:
    generator = make_generator()
    plain = generator(support)
    helped = generator(support, unlabelled=paint(tmp_path / "mixed", {"anything": 4}, seed=3))
    assert helped.memory is not None and plain.memory is not None
    assert not torch.equal(helped.head.weight, plain.head.weight)
    told = zip(helped.memory.tensors().values(), plain.memory.tensors().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in told)


def test_a_space_that_was_made_is_recalled(make_generator: MakeGenerator, support: Path) -> None:
    generator = make_generator()
    generator.conditioner = DatasetStatistics()
    memory = generator(support).memory
    assert memory is not None
    episode, standardizer = memory.episode(), generator.standardizer
    own, made = generator.conditioner.adapted(episode, standardizer)
    again, recalled = generator.conditioner.recalled(
        episode, standardizer, space=memory.origin.space, founding=memory.origin.founding
    )
    torch.testing.assert_close(own.support, again.support)
    torch.testing.assert_close(made.prior_variance, recalled.prior_variance)
    for name in ("centre", "rounding"):
        assert torch.equal(made.tensors()[name], recalled.tensors()[name])
    assert recalled.temper == pytest.approx(made.temper)


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
