"""No condition at all."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import register_to_config

from weightgen.interfaces import Conditioner, FeatureSpace
from weightgen.records import Condition, Episode


class None_(Conditioner):  # noqa: N801 - the word itself is one of Python's
    """What is known of parameters before any image is seen: unconditional generation (p-diff, arXiv 2402.13144).

    Tokens are the mean of the prior of class prototypes, with its variance; every class counts one image, however many
    the episode has.
    """

    sees_images = False
    gives_variance = True

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        # Nothing is learnt here; diffusers tells a component's device by its first tensor.
        self.register_buffer("place", torch.zeros(1))

    def forward(self, episode: Episode, standardizer: FeatureSpace) -> Condition:
        space, means = standardizer.space, torch.zeros_like(episode.support[:, :, 0])
        return Condition(
            tokens=means,
            means=means,
            variance=space.prior_variance.expand_as(means),
            counts=(episode.counts > 0).to(means),
            support=episode.support[:, :, :0],
            support_mask=episode.support_mask[:, :, :0],
            unlabelled=episode.unlabelled[:, :0],
            unlabelled_mask=episode.unlabelled_mask[:, :0],
            space=space,
        )
