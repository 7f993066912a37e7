"""MetaDiff's condition: support means, and the gradient of the support loss at the noisy head."""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from weightgen.features.gaussian_posterior import GaussianPosterior
from weightgen.interfaces import Conditioner, FeatureSpace
from weightgen.records import Condition, Episode


class TaskPrototypes(Conditioner):
    """Support means, and the support loss's gradient at the noisy rows (MetaDiff, arXiv 2307.16424, eq. 10).

    The loss L = Σ_i ‖w_{y_i} − f_i‖² has the gradient 2K (w_c − f̄_c), so no autograd is needed.

    Options:
        normalise: divide the gradient by 2K. Raw, it grows with the number of shots, and ties a network to the
            shots it was trained on; the paper's code feeds it raw.
        shrink: tokens are E[w | support] of the linear-Gaussian model of base classes, with its variance, instead of
            the plain support means; the gradient is still that of the support loss.
    """

    sees_coordinates = False

    @register_to_config
    def __init__(self, *, normalise: bool = True, shrink: bool = True) -> None:
        super().__init__()
        self.gives_variance = shrink
        # Nothing is learnt here; diffusers tells a component's device by its first tensor.
        self.register_buffer("place", torch.zeros(1))

    def forward(self, episode: Episode, standardizer: FeatureSpace) -> Condition:
        means, counts, space = episode.support_means(), episode.counts, standardizer.space
        tokens, variance = means, None
        if self.config.shrink:
            posterior = GaussianPosterior.of_means(space, means, counts)
            tokens, variance = space.from_axes(posterior.mean), posterior.variance
        return Condition(
            tokens=tokens,
            means=means,
            variance=variance,
            counts=counts,
            support=space.along_axes(episode.support),
            support_mask=episode.support_mask,
            crops=None if episode.crops is None else space.along_axes(episode.crops),
            unlabelled=space.along_axes(episode.unlabelled),
            unlabelled_mask=episode.unlabelled_mask,
            space=space,
        )

    def at(self, condition: Condition, noisy: Float[Tensor, "batch ways width"]) -> Condition:
        gradient = (noisy - condition.means) * condition.mask[..., None]
        if not self.config.normalise:
            gradient = 2 * condition.counts[..., None] * gradient
        return replace(condition, gradient=gradient)
