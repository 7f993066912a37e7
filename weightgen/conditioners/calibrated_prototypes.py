"""Support means as the condition, and a logit scale that the episode itself tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn

from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.errors import InputError
from weightgen.features.ridge_rows import common_factor, held_out_cosines, likeness
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import Conditioner, FeatureSpace
from weightgen.records import Condition, Episode

_BASE = 12.0  # logit scale of a cosine head before training
_SPREAD = 0.25  # deviation, over data sets, of the logarithm of the best scale from what numbers say
_ROUNDS, _STEP = 6, 0.5
_NEVER = -1e4  # logit of a class that is padding
_CROPPED_OF_CLASS, _CROPPED = 25, 1000  # of more images features of crops take their time and add next to nothing


class CalibratedPrototypes(Conditioner):
    """`task_prototypes` without a prior, in the generator's space with a logit scale of the episode's own.

    The logarithm of the scale is linear in those of the numbers of classes, of images per class and of unlabelled
    images, and in how alike images of different classes are to the backbone, the more the more images a class has;
    where they are more alike than any that it was fitted to, it grows as their cosines differ less. It sees no feature,
    so that one fit serves every backbone and data set. More facts, and a network of them, fitted the data sets learnt
    from better and others worse. What is left, and differs from data set to data set, the support tells where classes
    have two images or more: they are classified by rows written without them.
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
        ways, alike, common = condition.mask.sum(-1), likeness(condition), common_factor(condition)

        def expected(images: Tensor, beside: Tensor) -> Float[Tensor, " batch"]:
            shots = (images / ways).log()
            facts = torch.stack([ways.log(), shots, beside.log1p(), alike * shots], -1)
            return _BASE * self.log_scale(facts)[:, 0].exp() / common  # cosines differ by less there

        images = there.sum((1, 2))
        lengths = (episode.support - standardizer.standardized_origin).norm(dim=-1) * there
        length = (lengths.sum((1, 2)) / images).clamp(min=1e-12)
        scale = expected(images, episode.unlabelled_mask.sum(-1))
        if not self.training and bool((condition.counts > 1).any()):  # what is learnt are the weights of these facts
            scale = scale * _sharper(condition, lengths / length[:, None, None], expected)
        return scale * standardizer.radius / length


def _sharper(
    condition: Condition,
    lengths: Float[Tensor, "batch ways shots"],
    expected: Callable[[Tensor, Tensor], Float[Tensor, " batch"]],
) -> Float[Tensor, " batch"]:
    """By how much more than expected the support's own images want their logits scaled, left out of the rows.

    The factor of the largest posterior: of the images' classes by logits at the scale that is expected of the images
    left, and of its logarithm, around 0 with deviation `_SPREAD`. 1 where no class has two images.
    """
    there, none = condition.support_mask, torch.zeros_like(condition.counts[:, 0])
    logits, judged = lengths.new_zeros(*lengths.flatten(1).shape, there.shape[1]), torch.zeros_like(there)
    for held, cosines in held_out_cosines(condition):
        factor = expected((there & ~held).sum((1, 2)), none)[:, None] * lengths.flatten(1)
        logits, judged = torch.where(held.flatten(1)[..., None], factor[..., None] * cosines, logits), judged | held
    logits = logits.masked_fill(~condition.mask[:, None], _NEVER)
    own = torch.arange(there.shape[1], device=logits.device).repeat_interleave(there.shape[2])
    right = logits.gather(-1, own[None, :, None].expand(len(logits), -1, 1))[..., 0]
    weight, sharper = judged.flatten(1), none
    for _ in range(_ROUNDS):  # Fisher scoring
        factor = sharper.exp()[:, None]
        probabilities = (factor[..., None] * logits).softmax(-1)
        mean = (probabilities * logits).sum(-1)
        variance = (probabilities * logits.square()).sum(-1) - mean.square()
        slope = (factor * (mean - right) * weight).sum(-1) + sharper / _SPREAD**2
        curvature = (factor.square() * variance * weight).sum(-1) + 1 / _SPREAD**2
        sharper = sharper - (slope / curvature).clamp(-_STEP, _STEP)
    return sharper.exp()
