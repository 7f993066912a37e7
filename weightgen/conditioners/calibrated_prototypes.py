"""Support means as the condition, and a logit scale that the episode itself tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn

from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.errors import InputError
from weightgen.features.ridge_rows import common_factor, likeness
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import Conditioner, FeatureSpace
from weightgen.records import Condition, Episode

_BASE = 12.0  # logit scale of a cosine head before training
_CROPPED_OF_CLASS, _CROPPED = 25, 1000  # of more images features of crops take their time and add next to nothing


class CalibratedPrototypes(Conditioner):
    """`task_prototypes` without a prior, in the generator's space with a logit scale of the episode's own.

    The logarithm of the scale is linear in those of the numbers of classes, of images per class and of unlabelled
    images, and in how alike images of different classes are to the backbone, the more the more images a class has;
    where they are more alike than any that it was fitted to, it grows as their cosines differ less. It sees no feature,
    so that one fit serves every backbone and data set. More facts, and a network of them, fitted the data sets learnt
    from better and others worse.
    """

    uses_crops = True

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        self.prototypes = TaskPrototypes(shrink=False)
        self.log_scale = nn.Linear(4, 1)
        nn.init.zeros_(self.log_scale.weight)
        nn.init.zeros_(self.log_scale.bias)

    def in_spaces(self, episode: Episode, standardizer: Standardizer) -> Iterator[tuple[slice, Episode, FeatureSpace]]:
        """A standardised batch all at once, in the space with the logit scale of each."""
        yield slice(None), episode, standardizer.with_logit_scale(self.scales(episode, standardizer))

    def recalled(
        self,
        episode: Episode,
        standardizer: Standardizer,
        space: Mapping[str, Tensor],
        space_classes: Bool[Tensor, " ways"],
    ) -> tuple[Episode, FeatureSpace]:
        """A standardised data set with the logit scale that a head of some of its classes was written with."""
        if {name: tuple(tensor.shape) for name, tensor in space.items()} != {"logit_scale": ()}:
            raise InputError(f"a space of {sorted(space)} where logit_scale belongs; generate the head again")
        return episode, standardizer.with_logit_scale(space["logit_scale"].to(standardizer.mean))

    def looks_at_crops(self, images: float, classes: float) -> bool:
        """Up to 25 images of an average class, and 1,000 in all."""
        return images <= min(_CROPPED_OF_CLASS * classes, _CROPPED)

    def forward(self, episode: Episode, standardizer: FeatureSpace) -> Condition:
        return self.prototypes(self._looked_at(episode), standardizer)

    def _looked_at(self, episode: Episode) -> Episode:
        """Without the crops of supports too large for them: an image as its own crop changes nothing."""
        if episode.crops is None:
            return episode
        sizes = zip(episode.counts.sum(-1).tolist(), (episode.counts > 0).sum(-1).tolist(), strict=True)
        looked = [self.looks_at_crops(images, classes) for images, classes in sizes]
        if not any(looked):
            return replace(episode, crops=None)
        which = torch.tensor(looked, device=episode.crops.device)[:, None, None, None, None]
        return replace(episode, crops=torch.where(which, episode.crops, episode.support[..., None, :]))

    def scales(self, episode: Episode, standardizer: FeatureSpace) -> Float[Tensor, " batch"]:
        """The factor on the cosines of each episode; with the length of its images where the space knows another."""
        there, condition = episode.support_mask, self(episode, standardizer)
        ways = condition.mask.sum(-1)
        shots = (there.sum((1, 2)) / ways).log()
        beside = episode.unlabelled_mask.sum(-1)
        facts = torch.stack([ways.log(), shots, beside.log1p(), likeness(condition) * shots], -1)
        lengths = (episode.support - standardizer.standardized_origin).norm(dim=-1) * there
        length = lengths.sum((1, 2)) / there.sum((1, 2))
        scale = _BASE * self.log_scale(facts)[:, 0].exp() / common_factor(condition)  # cosines differ by less there
        return scale * standardizer.radius / length.clamp(min=1e-12)
