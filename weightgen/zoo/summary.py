"""What a zoo looks like in a few numbers."""

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.zoo.members import Members, Zoo

_SAMPLED = 2000


def zoo_summary(zoo: Zoo) -> dict[str, float | int]:
    """Sizes, accuracies in percent, and lengths of a zoo that has members.

    Lengths are per row, so that tasks of any ways can be averaged: those of the flattened member divided by the root of
    its number of rows (1 for members that are flat vectors). `target_norm_1` is that of the first local target, and so
    on; `path_step`, where there is more than one, is the mean distance between neighbours along a path.

    `nearest_member_mean` and `_min` tell how far the ends of fits are from the nearest other one, among at most about
    2,000 members at even places. Only members of one fold and of equal ways are compared, row by row in their own
    order; the two are left out where none has a companion.
    """
    groups = [zoo.of_fold(fold).members(ways) for fold in zoo.folds() for ways in zoo.of_fold(fold).ways()]
    accuracy = torch.cat([members.accuracy for members in groups]).double()
    norms = torch.cat([_length(members.path) for members in groups]).mean(0).tolist()
    summary: dict[str, float | int] = {
        "members": len(zoo),
        "fewest_ways": min(zoo.ways()),
        "most_ways": max(zoo.ways()),
        "local_targets": len(norms),
        "accuracy_mean": float(accuracy.mean()),
        "accuracy_std": float(accuracy.std(correction=0)),
        "accuracy_min": float(accuracy.min()),
        "accuracy_max": float(accuracy.max()),
    }
    summary |= {f"target_norm_{i}": norm for i, norm in enumerate(norms, start=1)}
    if len(norms) > 1:
        summary["path_step"] = float(torch.cat([_length(members.path.diff(dim=1)) for members in groups]).mean())
    nearest = [_nearest(members, -(-_SAMPLED * len(members) // len(zoo))) for members in groups if len(members) > 1]
    if nearest:
        distances = torch.cat(nearest)
        summary |= {"nearest_member_mean": float(distances.mean()), "nearest_member_min": float(distances.min())}
    return summary


def _length(path: Float[Tensor, "tasks local_targets *parameters"]) -> Float[Tensor, "tasks local_targets"]:
    return torch.linalg.vector_norm(path.flatten(2), dim=-1) / _root_of_rows(path)


def _nearest(members: Members, most: int) -> Float[Tensor, " sampled"]:
    """Distance of some members' ends to the nearest of the others, per row."""
    count = min(len(members), max(most, 2))
    places = torch.arange(count) * len(members) // count
    ends = members.path[places, -1].flatten(1)
    return torch.cdist(ends, ends).fill_diagonal_(torch.inf).amin(1) / _root_of_rows(members.path)


def _root_of_rows(path: Float[Tensor, "tasks local_targets *parameters"]) -> float:
    """Of a member's number of rows; the last axis is a row, or the whole vector."""
    return (path[0, 0].numel() / path.shape[-1]) ** 0.5
