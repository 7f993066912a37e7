"""Leave-one-out logits: labelled images judged by a head made without them, in closed form."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightgen.records import Condition

_MOST_LEVERAGE = 0.97  # of one image in the covariance; at 1 nothing would be left of it


def loo_change(condition: Condition, images: Float[Tensor, "*ways"]) -> Float[Tensor, "batch ways shots ways"]:
    """Change of each image's logits when it leaves its class's mean and the covariance; 0 where it is all there is.

    images: the weight of the covariance, which is the identity here; one for all, or for each class in a column,
        infinite where its images are no part of the covariance.
    """
    space, counts, support = condition.space, condition.counts[..., None], condition.support
    rows, means = space.along_axes(condition.tokens), space.along_axes(condition.means)
    alone = (counts <= 1) | ~condition.support_mask
    others = (counts - 1).clamp(min=1)
    away = (support - means[:, :, None]) * condition.support_mask[..., None]
    growth = counts / others  # an image is further from the others' mean than from its own class's
    # Its own class has a mean of one image fewer, which its prior draws closer: left = share (mean - away / others).
    share = space.prior_variance / (space.prior_variance + 1 / others)
    closer, level = share * means, (means + means - rows) / 2
    length, shrunk, twice = (away.square() @ torch.stack([torch.ones_like(share), share, share.square()], -1)).unbind(
        -1
    )
    beside = torch.stack([means, closer, share * closer, rows], -1)
    to_mean, to_closer, to_twice, to_row = (away @ beside).unbind(-1)  # products of vectors, without the vectors
    leverage = (length / images * growth).clamp(max=_MOST_LEVERAGE)
    wider = growth / (1 - leverage) / images
    seen = length + to_mean  # with the image itself
    along = torch.einsum("bwsf,bvf->bwsv", away, rows)
    change = wider[..., None] * (seen[..., None] * along - along.square() / 2)
    across = to_closer - shrunk / others
    left = (closer.square().sum(-1)[..., None] - 2 * to_twice / others + twice / others.square()) / 2
    own_logit = (means * closer).sum(-1)[..., None] - to_closer / others + across - left
    own_logit = own_logit + wider * (seen * across - across.square() / 2)
    whole = to_row + (rows * level).sum(-1)[..., None]
    own = torch.eye(rows.shape[1], dtype=torch.bool, device=rows.device)[None, :, None]
    change = torch.where(own, (own_logit - whole)[..., None], change)
    return change.masked_fill(alone[..., None], 0.0)


def loo_mask(condition: Condition) -> Bool[Tensor, "batch ways shots"]:
    """Images whose class is still there without them."""
    return condition.support_mask & (condition.counts > 1)[..., None]


def loo_logits(
    condition: Condition, rows: Float[Tensor, "batch ways feature"]
) -> Float[Tensor, "batch ways shots ways"]:
    """Gaussian logits, before any scale, of labelled images, each by rows computed without it.

    The variance is that of the exported head: noise, and what is left unknown of an average class. `rows` are along the
    axes of the condition's space.
    """
    real, change = condition.mask[..., None], condition.loo_change
    assert condition.variance is not None and change is not None
    unknown = (condition.variance * real).sum(1) / real.sum(1).clamp(min=1)
    variance = condition.space.noise_variance + unknown  # batch feature
    weights = rows / variance[:, None]
    logits = torch.einsum("bwsf,bvf->bwsv", condition.support, weights) - ((weights * rows).sum(-1) / 2)[:, None, None]
    logits = logits + change / variance.mean(-1)[:, None, None, None]  # exact where all axes have the same variance
    return logits.masked_fill(~condition.mask[:, None, None], torch.finfo(rows.dtype).min / 2)
