"""Whether a classifier can tell images of its own classes from images of others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from weightgen.classifiers import LinearHeads
from weightgen.interfaces import Classifier
from weightgen.records import Episode, Features

FURTHER_CLASSES = 5


@dataclass(frozen=True)
class OtherImages:
    """Images of no class of their episode. `mask` tells which are really there."""

    values: Num[Tensor, "batch others feature"]
    mask: Bool[Tensor, "batch others"]


def other_images(features: Features, episode: Episode, *, generator: torch.Generator) -> OtherImages | None:
    """As many images as there are queries, of up to five classes beyond the episode's; fewer where these hold fewer.

    No image that the episode shows as unlabelled. None where there is no further class.
    """
    further = min(FURTHER_CLASSES, len(features.class_names) - episode.ways)
    if further < 1:
        return None
    chance = torch.rand(len(episode), len(features.class_names), generator=generator)
    drawn = chance.scatter(1, episode.classes, -1.0).topk(further).indices
    allowed = torch.zeros(chance.shape, dtype=torch.bool).scatter(1, drawn, True)[:, features.labels]
    keys = torch.rand(allowed.shape, generator=generator).masked_fill(~allowed, -1.0)
    best = keys.topk(min(episode.query.shape[1], keys.shape[1]))
    values = features.values[best.indices]
    same = _fingerprints(values)[:, :, None] == _fingerprints(episode.unlabelled)[:, None]
    shown = (same & episode.unlabelled_mask[:, None]).any(-1)
    return OtherImages(values, (best.values >= 0) & ~shown)


def ood_aurocs(classifier: Classifier, episode: Episode, others: OtherImages) -> Float[Tensor, "batch scores"]:
    """How well each score of `familiarity` ranks the queries above the other images, per episode, 0 to 1.

    Within an episode, for the logits of different episodes have different offsets.
    """
    inside, outside = (familiarity(classifier, images) for images in (episode.query, others.values))
    return auroc(inside, outside, others.mask[:, None].to(inside.device))


def familiarity(
    classifier: Classifier, images: Num[Tensor, "batch images feature"]
) -> Float[Tensor, "batch scores images"]:
    """Scores that should be high for images of the classifier's own classes.

    The largest probability (Hendrycks & Gimpel, ICLR 2017) and the energy, log Σ exp of the logits (Liu et al.,
    NeurIPS 2020); for a mixture of several draws also minus its entropy.
    """
    logits = classifier.logits(images).double()  # single precision calls many a probability exactly 1
    probabilities = logits.softmax(-1)
    scores = [probabilities.amax(-1), logits.logsumexp(-1)]
    if isinstance(classifier, LinearHeads) and classifier.weight.shape[1] > 1:
        scores.append(-torch.special.entr(probabilities).sum(-1))
    return torch.stack(scores, 1)


def auroc(
    inside: Float[Tensor, "*batch queries"], outside: Float[Tensor, "*batch others"], mask: Bool[Tensor, "... others"]
) -> Float[Tensor, "*batch"]:
    """Chance that a score inside is above one outside, ties counting half; NaN where the mask leaves none outside."""
    ranked = outside.masked_fill(~mask, torch.inf).sort(-1).values
    below = torch.searchsorted(ranked, inside.contiguous())
    up_to = torch.searchsorted(ranked, inside.contiguous(), right=True)
    return (below + up_to).double().mean(-1) / 2 / mask.sum(-1)


def _fingerprints(values: Num[Tensor, "batch images feature"]) -> Int[Tensor, "batch images"]:
    """A number for each image, exactly the same wherever the image turns up."""
    return (values.contiguous().view(torch.int32) if values.is_floating_point() else values).sum(-1, dtype=torch.int64)
