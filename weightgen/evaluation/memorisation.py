"""Whether generated parameters are copies of the checkpoints that a generator learnt from.

Generators of weights have been found to replicate their training checkpoints, and to be no better at making new
networks than noise added to a checkpoint, or an average of several (Zeng et al. 2025, "Generative modeling of weights:
generalization or memorization?", arXiv 2506.07998). These are the measures of that paper and its two controls.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_SAMPLED = 1000


@dataclass(frozen=True)
class Likeness:
    """How like the checkpoints some sets of parameters are, and what they are worth; means over tasks.

    accuracy: percent.
    distance: to the nearest checkpoint, where 1 is as far as checkpoints are from their nearest other one; 0 is a copy.
        None where all checkpoints are equal.
    overlap: of wrong predictions with those of the nearest checkpoint, intersection over union in percent.
    """

    accuracy: float
    distance: float | None
    overlap: float


def nearest(
    vectors: Float[Tensor, "vectors width"],
    checkpoints: Float[Tensor, "checkpoints width"],
    *,
    not_at: Int[Tensor, " vectors"] | None = None,
) -> tuple[Float[Tensor, " vectors"], Int[Tensor, " vectors"]]:
    """Distance to the nearest checkpoint by Euclidean distance, and which it is.

    Args:
        not_at: for each vector a checkpoint that is passed over, because it is the vector itself.
    """
    # directly: by products, a copy would be at a distance of the rounding error
    distances = torch.cdist(vectors.double(), checkpoints.double(), compute_mode="donot_use_mm_for_euclid_dist")
    if not_at is not None:
        distances[torch.arange(len(vectors)), not_at] = torch.inf
    return distances.min(1)


def between_checkpoints(checkpoints: Float[Tensor, "checkpoints width"]) -> float:
    """Mean distance of a checkpoint to the nearest other one; two at least, of many some at even places."""
    count = min(len(checkpoints), _SAMPLED)
    places = torch.arange(count) * len(checkpoints) // count
    return float(nearest(checkpoints[places], checkpoints, not_at=places)[0].mean())


def wrong_overlap(
    ours: Bool[Tensor, "tasks queries"], theirs: Bool[Tensor, "tasks queries"]
) -> Float[Tensor, " tasks"]:
    """Intersection over union of two sets of wrong predictions, task by task; 1 where neither has one."""
    union = (ours | theirs).sum(-1).double()
    return torch.where(union > 0, (ours & theirs).sum(-1) / union.clamp(min=1), 1.0)


def likeness(
    distances: Float[Tensor, " tasks"],
    wrong: Bool[Tensor, "tasks queries"],
    nearest_wrong: Bool[Tensor, "tasks queries"],
    *,
    between: float,
) -> Likeness:
    """Of sets of parameters, one for each task.

    Args:
        distances: to the nearest checkpoint.
        wrong: queries that the set takes for another class. nearest_wrong: those that its nearest checkpoint does.
        between: distance of checkpoints from each other (`between_checkpoints`).
    """
    return Likeness(
        accuracy=100 * float(1 - wrong.double().mean()),
        distance=float(distances.mean()) / between if between else None,
        overlap=100 * float(wrong_overlap(wrong, nearest_wrong).mean()),
    )


def with_noise(
    checkpoints: Float[Tensor, "checkpoints width"],
    length: float | Float[Tensor, " checkpoints"],
    generator: torch.Generator,
) -> Float[Tensor, "checkpoints width"]:
    """Checkpoints moved by Gaussian noise of a given length: the first control."""
    noise = torch.randn(checkpoints.shape, generator=generator, dtype=checkpoints.dtype)
    norms = torch.linalg.vector_norm(noise, dim=1)
    factor = torch.as_tensor(length, dtype=checkpoints.dtype).expand(len(checkpoints)) / norms
    return checkpoints + noise.to(checkpoints) * factor[:, None].to(checkpoints)


def averages(
    checkpoints: Float[Tensor, "checkpoints width"],
    groups: Int[Tensor, " checkpoints"],
    wanted: Sequence[int],
    *,
    number: int,
    generator: torch.Generator,
) -> Float[Tensor, "wanted width"] | None:
    """Means of checkpoints drawn from a group: the second control.

    Args:
        groups: which group a checkpoint belongs to.
        wanted: a group for each mean.
        number: of checkpoints in a mean; all of a group with fewer.

    Returns:
        None where a wanted group has fewer than two.
    """
    means = []
    for group in wanted:
        own = (groups == group).nonzero()[:, 0]
        if len(own) < 2:
            return None
        drawn = own[torch.randperm(len(own), generator=generator)[:number]]
        means.append(checkpoints[drawn].mean(0))
    return torch.stack(means)


def spread(vectors: Float[Tensor, "vectors width"]) -> float:
    """Mean Euclidean distance between two different vectors; two at least."""
    return float(torch.pdist(vectors.double()).mean())
