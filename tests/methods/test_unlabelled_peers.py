"""The baselines that use unlabelled images against easyfsl's, which take the unlabelled images for queries."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.features.class_statistics import ClassStatistics
from weightgen.methods._unlabelled import Clouds, clouds_of
from weightgen.methods.bd_cspn import rectified
from weightgen.methods.laplacian_shot import LaplacianShot
from weightgen.methods.tim import Tim
from weightgen.records import Episode

methods = pytest.importorskip("easyfsl.methods", reason="needs the extra 'peers'")


@pytest.fixture
def clouds(draw: Callable[..., Episode], statistics: ClassStatistics) -> Clouds:
    """Whitened images of unit length of 6 episodes of 3 classes, 2 shots and 12 unlabelled images."""
    return clouds_of(draw(batch=6, shots=2, unlabelled=UnlabelledDraw(12, None, 0.0)), statistics, 0.3)


def labels() -> Tensor:
    return torch.arange(3).repeat_interleave(2)


def test_bd_cspn_is_easyfsls(clouds: Clouds) -> None:
    ours = rectified(clouds, temperature=1.0, shift=True)
    for i in range(6):
        theirs = methods.BDCSPN()
        theirs.process_support_set(clouds.support[i].flatten(0, 1), labels())
        theirs.rectify_prototypes(clouds.unlabelled[i])
        torch.testing.assert_close(ours[i], theirs.prototypes, atol=1e-5, rtol=1e-4)


def test_laplacian_shot_is_easyfsls(clouds: Clouds, statistics: ClassStatistics) -> None:
    """Handed the same prototypes and a symmetric affinity; their `knn` counts the image itself as a neighbour."""
    prototypes = normalize(clouds.prototypes(), dim=-1)
    baseline = LaplacianShot(statistics=statistics, neighbours=4, strength=0.8, logit_scale=1.0)
    ours = baseline.assigned(clouds, prototypes)
    theirs = methods.LaplacianShot(knn=5, lambda_regularization=0.8)
    for i in range(6):
        affinities = theirs.compute_pairwise_affinities(clouds.unlabelled[i])
        distances = torch.cdist(clouds.unlabelled[i], prototypes[i]).square()
        expected = theirs.bound_updates(initial_scores=distances, kernel=(affinities + affinities.mT) / 2)
        torch.testing.assert_close(ours[i], expected, atol=2e-3, rtol=0)


def test_tim_labels_as_easyfsls_gradient_descent_does(clouds: Clouds, statistics: ClassStatistics) -> None:
    """Theirs goes down the gradient of a cosine softmax, so the two agree on most labels, not on numbers."""
    options = {"temperature": 10.0, "confidence": 0.1}
    ours = clouds.unlabelled @ normalize(Tim(statistics=statistics, support_weight=1.0, **options).refined(clouds)).mT
    agree = 0
    for i in range(6):
        theirs = methods.TIM(fine_tuning_steps=100, fine_tuning_lr=0.01, temperature=10.0)
        theirs.process_support_set(clouds.support[i].flatten(0, 1), labels())
        agree += int((theirs(clouds.unlabelled[i]).argmax(-1) == ours[i].argmax(-1)).sum())
    assert agree >= 0.85 * 6 * 12
