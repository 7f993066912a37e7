"""Suggested images are those that change most answers, each for another reason than those before."""

from __future__ import annotations

import pytest
import torch

from weightgen.backbones.backbone import FeatureBackbone
from weightgen.episodes.dataset_episode import episode_of
from weightgen.evaluation import suggestion as module
from weightgen.evaluation.suggestion import covering, expected_change, suggested
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features
from weightgen.seeds import generator
from weightgen.universal.generator import universal_generator

WIDTH = 7


@pytest.fixture(scope="module")
def pipeline() -> WeightGenerationPipeline:
    return universal_generator(FeatureBackbone(WIDTH))


def support(*counts: int) -> Features:
    """Classes of so many images around random means."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    values = 2 * torch.randn(len(counts), WIDTH, generator=draw)[labels] + torch.randn(
        len(labels), WIDTH, generator=draw
    )
    return Features(values, labels, tuple("abcdefgh"[: len(counts)]))


def pool(images: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(images, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("counts", [(1, 1), (3, 1, 2)])
@pytest.mark.parametrize("entries", [1, 2**24])
@torch.no_grad()
def test_change_is_that_of_heads_written_with_the_image(pipeline, monkeypatch, counts, entries):
    monkeypatch.setattr(module, "_ENTRIES_AT_ONCE", entries)
    features, images = support(*counts), pool(5)

    def answers(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        order = labels.argsort(stable=True)
        one = Features(values[order], labels[order], features.class_names)
        heads = pipeline.heads(episode_of(one), [generator(0, "generate")], steps=1)
        return heads.logits(images[None])[0].softmax(-1)

    now, change = expected_change(pipeline, features, images)
    assert torch.allclose(now, answers(features.values, features.labels), atol=1e-5)
    for i in range(5):
        likely = now[i].topk(2)
        expected = torch.zeros(5)
        for share, label in zip(likely.values / likely.values.sum(), likely.indices, strict=True):
            labels = torch.cat([features.labels, label[None]])
            moved = (answers(torch.cat([features.values, images[[i]]]), labels) - now).abs().sum(1) / 2
            expected += share * moved
        assert torch.allclose(change[i], expected, atol=1e-5)


def test_no_two_images_are_taken_for_the_same_reason():
    change = torch.tensor([[0.9, 0.8, 0.0], [0.9, 0.7, 0.1], [0.0, 0.0, 0.5]])
    assert [row for row, _ in covering(change, 3)] == [0, 2, 1]
    assert [gain for _, gain in covering(change, 9)] == pytest.approx([1.7, 0.5, 0.0])


def test_a_few_are_the_first_of_many_and_copies_come_last(pipeline):
    images = pool(6)
    images = torch.cat([images, images[:3]])
    whole = suggested(pipeline, support(2, 3, 1), images, number=20)
    assert sorted(one["row"] for one in whole) == list(range(9))
    assert suggested(pipeline, support(2, 3, 1), images, number=4) == whole[:4]
    assert len({one["row"] % 6 for one in whole[:6]}) == 6
    assert [one["change"] for one in whole[6:]] == pytest.approx([0.0] * 3, abs=1e-4)
    gains = [one["change"] for one in whole]
    assert gains == sorted(gains, reverse=True) and gains[0] > 0
    assert {one["looks_like"] for one in whole} <= set("abc") and all(1 / 3 <= one["probability"] <= 1 for one in whole)


def test_many_images_and_large_classes_are_looked_at_by_a_sample(pipeline, monkeypatch):
    monkeypatch.setattr(module, "_MOST_CANDIDATES", 8)
    images, calls = pool(30), []
    first = suggested(pipeline, support(30, 2), images, number=3, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("suggesting", 16, 16)
    assert first == suggested(pipeline, support(30, 2), images, number=3)
    assert first != suggested(pipeline, support(30, 2), images, number=3, seed=1)
    assert len({one["row"] for one in suggested(pipeline, support(2, 2), images, number=12)}) == 12
