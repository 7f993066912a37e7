"""A data set's own statistics as the condition: a space whitened for it, and class means there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor

from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.episodes.dataset_episode import squared
from weightgen.features.adapted_space import AdaptedSpace
from weightgen.features.leave_one_out import loo_change, loo_logits, loo_mask
from weightgen.features.standardizer import Standardizer
from weightgen.features.temperature import fit_scale
from weightgen.interfaces import Conditioner, FeatureSpace
from weightgen.records import Condition, Episode, Statistics

_BASE_IMAGES = 10.0  # leave-one-out images that the base classes' own scale counts for


class DatasetStatistics(Conditioner):
    """Counts, class means and the pooled scatter of one pass, whatever the number of images behind them.

    Tokens are E[w | means] of the linear-Gaussian model in a space that is whitened by the data set's scatter
    (`AdaptedSpace`): from few images that of the base classes, from many shrunk discriminant analysis, and the way
    between follows from the numbers of images. What leaving an image out changes in its logits follows in closed form
    (Sherman and Morrison 1950), so that a denoiser may judge the data set's own images as if they were new.

    Options:
        prior_images: how many images the base classes' covariance counts for.
    """

    adapts = True
    sees_coordinates = False
    gives_variance = True

    @register_to_config
    def __init__(self, *, prior_images: float = 512.0) -> None:
        super().__init__()
        if not prior_images > 0:
            raise ValueError(f"prior_images is {prior_images}; it must be above 0")
        self.prototypes = TaskPrototypes()

    @torch.no_grad()
    def adapted(self, episode: Episode, standardizer: Standardizer) -> tuple[Episode, AdaptedSpace]:
        """One standardised episode in a space of its own."""
        statistics, residual = _statistics(episode)
        prior_images = self.config.prior_images
        space = AdaptedSpace.of(standardizer, statistics, prior_images=prior_images, residual=residual)
        inside = space.episode(episode)
        condition = self(inside, space)
        return inside, replace(space, logit_scale=self._logit_scale(condition, space), known=(inside, condition))

    @torch.no_grad()
    def recalled(
        self,
        episode: Episode,
        standardizer: Standardizer,
        space: Mapping[str, Tensor],
        space_classes: Bool[Tensor, " ways"],
    ) -> tuple[Episode, AdaptedSpace]:
        """A standardised data set in the space of some of its classes; others have no part in its scatter."""
        recalled = AdaptedSpace.recalled(standardizer, space)
        unmoved = torch.full_like(recalled.images, torch.inf)  # by an image that is no part of the covariance
        images = torch.where(space_classes.to(recalled.images.device), recalled.images, unmoved)
        return recalled.episode(episode), replace(recalled, images=images[:, None])

    def forward(self, episode: Episode, standardizer: FeatureSpace) -> Condition:
        if not isinstance(standardizer, AdaptedSpace):
            return self.prototypes(episode, standardizer)
        if standardizer.known is not None and standardizer.known[0] is episode:
            return replace(standardizer.known[1], space=standardizer.space)
        condition = self.prototypes(episode, standardizer)
        return replace(condition, loo_change=loo_change(condition, standardizer.images))

    def _logit_scale(self, condition: Condition, space: AdaptedSpace) -> float:
        """The scale that calibrates leave-one-out logits; with few images that of the base classes joins in."""
        base = float(space.standardizer.likelihood_scale)
        judged = loo_mask(condition)
        number = int(judged.sum())
        if not number:
            return base
        real = condition.mask[0]  # logits of padding are no numbers to measure a spread by
        labels = (real.cumsum(0) - 1)[judged.nonzero()[:, 1]]
        logits = loo_logits(condition, condition.space.along_axes(condition.tokens))
        own = fit_scale(logits[judged][:, real][None], labels[None])
        share = number / (number + _BASE_IMAGES)
        return own**share * base ** (1 - share)


def _statistics(episode: Episode) -> tuple[Statistics, Float[Tensor, "images feature"] | None]:
    """Of one episode; and what is left of its images after their class's mean, unless they are but a sample."""
    counts, means, there = episode.counts[0], episode.support_means()[0], episode.support_mask[0]
    if episode.statistics is not None and bool(counts.sum() > there.sum()):
        return episode.statistics, None
    residual = (episode.support[0] - means[:, None])[there]
    return episode.statistics or Statistics(counts, means, squared(residual)), residual
