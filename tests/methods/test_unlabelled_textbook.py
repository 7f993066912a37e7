"""The baselines that use unlabelled images against loops over images that spell out their papers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from weightgen.features.class_statistics import ClassStatistics
from weightgen.methods._unlabelled import Clouds, clouds_of
from weightgen.methods.bd_cspn import BdCspn
from weightgen.methods.laplacian_shot import LaplacianShot
from weightgen.methods.soft_kmeans import SoftKmeans
from weightgen.methods.tim import Tim
from weightgen.records import Episode

Draw = Callable[..., Episode]


def unit_images(episode: Episode, i: int, origin: Tensor) -> tuple[list[Tensor], Tensor]:
    """Support images of every class and the unlabelled images of one episode: centred, of unit length, none absent."""
    support = normalize(episode.support[i] - origin, dim=-1)
    unlabelled = normalize(episode.unlabelled[i] - origin, dim=-1)
    return [support[c][episode.support_mask[i, c]] for c in range(episode.ways)], unlabelled[episode.unlabelled_mask[i]]


def ragged(draw: Draw) -> Episode:
    """Classes with different numbers of shots, and one of the unlabelled images away."""
    episode = draw(shots=(2, 6))
    mask = episode.unlabelled_mask.clone()
    mask[1, 4] = False
    return replace(episode, unlabelled_mask=mask)


# With within_shrinkage 1 whitening is a rotation and a factor: unit length and cosines are those of features.


def test_one_round_of_soft_k_means(draw: Draw, statistics: ClassStatistics) -> None:
    episode = ragged(draw)
    baseline = SoftKmeans(statistics=statistics, within_shrinkage=1.0, temperature=6.0, weight=0.4, iterations=1)
    head = baseline.fit(episode, [])
    for i in range(2):
        support, unlabelled = unit_images(episode, i, statistics.mean)
        means = [images.mean(0) for images in support]
        total, mass = [images.sum(0) for images in support], [float(len(images)) for images in support]
        for image in unlabelled:
            shares = torch.stack([6.0 * image @ mean / mean.norm() for mean in means]).softmax(0)
            for c in range(3):
                total[c] = total[c] + 0.4 * shares[c] * image
                mass[c] += 0.4 * float(shares[c])
        for c in range(3):
            direction = normalize(head.weight[i, 0, c], dim=0)
            torch.testing.assert_close(direction, normalize(total[c] / mass[c], dim=0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shift", [True, False])
def test_rectification_of_bd_cspn(draw: Draw, statistics: ClassStatistics, shift: bool) -> None:
    episode = ragged(draw)
    head = BdCspn(statistics=statistics, within_shrinkage=1.0, temperature=7.0, shift=shift).fit(episode, [])
    for i in range(2):
        support, unlabelled = unit_images(episode, i, statistics.mean)
        basic = [normalize(images.mean(0), dim=0) for images in support]
        moved = unlabelled + torch.cat(support).mean(0) - unlabelled.mean(0) if shift else unlabelled
        members = [list(images) for images in support]
        for image in moved:
            members[max(range(3), key=lambda c: float(image @ basic[c]))].append(image)
        for c in range(3):
            cosines = torch.stack([normalize(image, dim=0) @ basic[c] for image in members[c]])
            rectified = (7.0 * cosines).softmax(0) @ torch.stack(members[c])
            direction = normalize(head.weight[i, 0, c], dim=0)
            torch.testing.assert_close(direction, normalize(rectified, dim=0), atol=1e-5, rtol=1e-4)


def test_laplacian_updates_lower_their_objective(draw: Draw, statistics: ClassStatistics) -> None:
    """E(y) = Σ y·log y + y·sharpness·d² − λ/2 Σ w y_q·y_p, whose minimum neighbours that disagree move away from."""
    clouds = clouds_of(draw(batch=4), statistics, 0.5)
    prototypes = normalize(clouds.prototypes(), dim=-1)
    strong, none = (
        LaplacianShot(statistics=statistics, neighbours=3, strength=strength, logit_scale=4.0)
        for strength in (0.9, 0.0)
    )
    affinity = strong._affinity(clouds)
    assert torch.equal(affinity, affinity.mT)
    assert (affinity.diagonal(dim1=1, dim2=2) == 0).all()
    assert (affinity.sum((1, 2)) == 3 * clouds.unlabelled.shape[1]).all()
    distances = torch.cdist(clouds.unlabelled, prototypes).square()

    def energy(shares: Tensor) -> Tensor:
        together = (shares * (affinity @ shares)).sum((1, 2))
        return (torch.xlogy(shares, shares) + 4.0 * shares * distances).sum((1, 2)) - 0.9 / 2 * together

    apart, joined = none.assigned(clouds, prototypes), strong.assigned(clouds, prototypes)
    torch.testing.assert_close(apart, (-4.0 * distances).softmax(-1))
    assert (energy(joined) < energy(apart)).all()
    settled = (-4.0 * distances + 0.9 * affinity @ joined).softmax(-1)
    torch.testing.assert_close(joined, settled, atol=1e-3, rtol=0)


def tim_loss(clouds: Clouds, weights: Tensor, *, temperature: float, confidence: float, support: float) -> Tensor:
    """λ·CE − H(Y) + α·H(Y|X), the paper's equation 3."""

    def probabilities(images: Tensor) -> Tensor:
        squared = (images[:, :, None] - weights[:, None]).square().sum(-1)
        return (-temperature / 2 * squared).softmax(-1)

    shots = clouds.support.shape[2]
    truth = torch.arange(weights.shape[1]).repeat_interleave(shots)
    likelihood = probabilities(clouds.support.flatten(1, 2))[:, torch.arange(len(truth)), truth].log().mean(1)
    given = probabilities(clouds.unlabelled)
    marginal = given.mean(1)
    conditional = -torch.xlogy(given, given).sum(-1).mean(1)
    return -support * likelihood + torch.xlogy(marginal, marginal).sum(-1) + confidence * conditional


@pytest.mark.parametrize("confidence", [0.1, 1.0])
@pytest.mark.parametrize("support_weight", [0.1, 1.0])
def test_tim_lowers_its_loss(draw: Draw, statistics: ClassStatistics, confidence: float, support_weight: float) -> None:
    clouds = clouds_of(draw(batch=6, shots=2), statistics, 0.5)
    options = {"temperature": 15.0, "confidence": confidence}
    ours = Tim(statistics=statistics, support_weight=support_weight, **options).refined(clouds)
    before, after = (tim_loss(clouds, w, support=support_weight, **options) for w in (clouds.prototypes(), ours))
    assert (after < before).all()


def test_distances_of_tim_are_a_linear_layer(draw: Draw, statistics: ClassStatistics) -> None:
    """For images at the mean length the head says −½‖z − w‖² up to what all classes share."""
    episode, baseline = draw(), Tim(statistics=statistics, scale=1.6, within_shrinkage=0.5, by_distance=True)
    prototypes = baseline.refined(clouds_of(episode, statistics, 0.5))
    length = float((baseline.basis.between.sum() + 7).sqrt())
    unit = normalize((episode.query - statistics.mean) @ baseline.basis.into, dim=-1)
    images = length * unit @ baseline.basis.back + statistics.mean
    expected = (-1.6 / 2 * torch.cdist(unit, prototypes).square()).softmax(-1)
    torch.testing.assert_close(baseline.fit(episode, []).probabilities(images), expected, atol=1e-4, rtol=1e-3)
