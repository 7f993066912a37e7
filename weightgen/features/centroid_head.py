"""A linear head that knows nothing but the support: cosine to the mean feature of each class."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightgen.records import PADDING_BIAS, LinearHeads


def centroid_head(
    support: Float[Tensor, "batch ways shots feature"],
    mask: Bool[Tensor, "batch ways shots"],
    *,
    scale: Float[Tensor, " batch"] | float,
) -> LinearHeads:
    """Logits are scale · ĉ·f / r on raw features, ĉ the direction of a class's mean feature.

    r, the mean length of the support's features, stands for each query's own length, which a linear layer cannot
    divide by; the ranking of classes is that of the cosine. No statistics of other classes take part, so that on an
    adapted backbone all that is gained comes from the adaptation. A class without support images gets probability 0.
    """
    there = mask[..., None]
    means = (support * there).sum(2) / there.sum(2).clamp(min=1)  # batch ways feature
    radius = (support.norm(dim=-1) * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
    factor = (torch.as_tensor(scale).to(support) / radius.clamp(min=1e-8))[:, None, None]
    weight = factor * torch.nn.functional.normalize(means, dim=-1)
    bias = torch.where(mask.any(-1), 0.0, PADDING_BIAS).to(weight)
    return LinearHeads(weight[:, None], bias[:, None])
