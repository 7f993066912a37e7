"""Images of other classes are really others, and the scores that should tell them apart are counted right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchmetrics.functional.classification import binary_auroc

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.evaluation.scoring import auroc, familiarity, ood_aurocs, other_images
from weightgen.records import Episode, Features, LinearHeads


@pytest.fixture
def numbered() -> Features:
    """Classes of 9, 20, 11, 14, 10, 9, 16 and 8 images; a feature is its image's number and class."""
    labels = torch.arange(8).repeat_interleave(torch.tensor([9, 20, 11, 14, 10, 9, 16, 8]))
    values = torch.stack([torch.arange(len(labels)), labels], 1).float()
    return Features(values, labels, tuple("abcdefgh"))


def draw(features: Features, *, ways: int = 2, queries: int = 6, unlabelled: UnlabelledDraw | None = None) -> Episode:
    generator = torch.Generator().manual_seed(0)
    return EpisodeSampler(features).sample(
        batch=40, ways=ways, shots=1, queries=queries, unlabelled=unlabelled, generator=generator
    )


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_others_are_of_up_to_five_other_classes(numbered: Features) -> None:
    episode = draw(numbered)
    others = other_images(numbered, episode, generator=seeded())
    assert others is not None
    assert others.values.shape == (40, 12, 2)
    assert others.mask.all()
    numbers, classes = others.values[..., 0].long(), others.values[..., 1].long()
    assert torch.equal(numbered.labels[numbers], classes)
    assert not (classes[:, :, None] == episode.classes[:, None]).any()
    assert all(len(row.unique()) == 12 for row in numbers)
    assert max(len(row.unique()) for row in classes) == 5
    assert torch.equal(classes.unique(), torch.arange(8))


def test_the_seed_decides_the_others(numbered: Features) -> None:
    episode = draw(numbered)
    first, again, other = (other_images(numbered, episode, generator=seeded(seed)) for seed in (1, 1, 2))
    assert first is not None and again is not None and other is not None
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)


def test_fewer_where_the_other_classes_hold_fewer(numbered: Features) -> None:
    episode = draw(numbered, ways=7)  # one class is left, of 8 to 20 images, and 42 are wanted
    others = other_images(numbered, episode, generator=seeded())
    assert others is not None
    left = 28 - episode.classes.sum(-1)
    assert torch.equal(others.mask.sum(-1), numbered.counts[left])
    assert (others.values[..., 1] == left[:, None])[others.mask].all()


def test_none_where_no_class_is_left(numbered: Features) -> None:
    assert other_images(numbered, draw(numbered, ways=8), generator=seeded()) is None


def test_unlabelled_images_are_not_asked_about(numbered: Features) -> None:
    episode = draw(numbered, ways=3, unlabelled=UnlabelledDraw(20, distractors=0.7))
    others = other_images(numbered, episode, generator=seeded())
    assert others is not None
    same = others.values[:, :, None, 0] == episode.unlabelled[:, None, :, 0]
    assert same.any()  # drawn, and then left out
    assert torch.equal(others.mask, ~(same & episode.unlabelled_mask[:, None]).any(-1))
    hidden = replace(episode, unlabelled_mask=torch.zeros_like(episode.unlabelled_mask))
    all_of_them = other_images(numbered, hidden, generator=seeded())
    assert all_of_them is not None and all_of_them.mask.all()


def test_auroc_is_that_of_torchmetrics_with_ties_and_a_mask() -> None:
    inside = torch.randint(6, (2, 3, 7), generator=seeded(0)).double() + 2
    outside = torch.randint(6, (2, 3, 5), generator=seeded(1)).double()
    mask = torch.rand(2, 1, 5, generator=seeded(2)) < 0.6
    ours = auroc(inside, outside, mask)
    assert ours.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            kept = outside[i, j][mask[i, 0]]
            scores, target = torch.cat([inside[i, j], kept]) / 10, torch.tensor([1] * 7 + [0] * len(kept))
            torch.testing.assert_close(ours[i, j].item(), binary_auroc(scores, target).item(), atol=1e-6, rtol=0)


def test_auroc_by_hand() -> None:
    inside, outside = torch.tensor([[3.0, 1.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    everything = torch.ones(1, 3, dtype=torch.bool)
    assert auroc(inside, outside, everything).item() == pytest.approx((3 + 1.5) / 6)
    assert auroc(inside, outside, torch.tensor([[True, False, False]])).item() == 0.5
    assert auroc(inside, outside, ~everything).isnan().all()


def test_scores_of_one_draw_by_hand() -> None:
    head = LinearHeads(torch.eye(2).expand(1, 1, 2, 2), torch.tensor([[[0.0, 1.0]]]))
    image = torch.tensor([[[0.2, 0.3]]])  # logits 0.2 and 1.3
    largest, energy = familiarity(head, image)[0, :, 0].tolist()
    exponentials = torch.tensor([0.2, 1.3]).double().exp()
    assert largest == pytest.approx((exponentials[1] / exponentials.sum()).item())
    assert energy == pytest.approx(exponentials.sum().log().item())


def test_scores_of_several_draws_are_the_mixtures() -> None:
    bias = torch.tensor([[[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]]])
    scores = familiarity(LinearHeads(torch.zeros(1, 2, 3, 5), bias), torch.ones(1, 4, 5))
    mixture = bias[0].double().softmax(-1).mean(0)
    expected = torch.stack([mixture.max(), bias.double().exp().sum().log(), (mixture * mixture.log()).sum()])
    torch.testing.assert_close(scores, expected[None, :, None].expand(1, 3, 4))


def test_a_head_that_knows_and_one_that_is_fooled(numbered: Features) -> None:
    """Queries at 4, others at 0: one head is surer the farther from 0, the other the nearer."""
    episode = draw(numbered, ways=2, queries=5)
    episode = replace(episode, query=torch.full_like(episode.query, 4.0))
    others = other_images(numbered, episode, generator=seeded())
    assert others is not None
    others = replace(others, values=torch.zeros_like(others.values))
    weight = torch.tensor([[0.0, 1.0], [0.0, -2.0]]).expand(40, 1, 2, 2)
    knows, fooled = (
        LinearHeads(weight, torch.zeros(40, 1, 2)),
        LinearHeads(-weight, torch.tensor([30.0, 0.0]).expand(40, 1, 2)),
    )
    assert (ood_aurocs(knows, episode, others) == 1).all()
    assert (ood_aurocs(fooled, episode, others) == 0).all()


def test_an_offset_of_its_own_costs_an_episode_nothing(numbered: Features) -> None:
    episode = draw(numbered)
    others = other_images(numbered, episode, generator=seeded())
    assert others is not None
    means = episode.support_means()[:, None] / 50
    head = LinearHeads(means, torch.zeros(40, 1, 2))
    offset = 10 * torch.randn(40, 1, 1, generator=seeded(3))
    torch.testing.assert_close(
        ood_aurocs(replace(head, bias=head.bias + offset), episode, others),
        ood_aurocs(head, episode, others),
        atol=0.02,
        rtol=0,
    )
