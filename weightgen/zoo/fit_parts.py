"""Offsets of a backbone's parameters fitted to many tasks, with points kept on the way (Mc-Di, arXiv 2502.01117)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.records import Episode
from weightgen.selectors._part import Part
from weightgen.zoo.fit import FitOptions, Fitted

SCALE = 30.0
"""Of the cosines that a fit looks at. At 10, usual where rows are learnt along, images that are told surely still pull,
all tasks in one direction, and the mean of the zoo is worse than no offset (by 1 point on glyphs)."""

Split = Callable[[int], Episode]
"""From an epoch to two halves of every task's images, as the support and the queries of pixel episodes."""


@torch.no_grad()
def fit_parts(part: Part, split: Split, *, start: Float[Tensor, " parameters"], options: FitOptions) -> Fitted:
    """Fit the offset of every task so that the class means of one half of its images classify the other half.

    No head is fitted along: an offset that leans on a head of its own is of no use to one made later, from other
    images. Each epoch is one step of Adam, on halves drawn anew. Tasks do not touch each other, so that a batch of them
    is fitted as each alone would be; batch norms keep their statistics. Accuracy and loss are those of one more split.
    """
    episode = split(0)
    offsets = start.to(part.own).repeat(len(episode), 1)
    offsets.grad = torch.empty_like(offsets)
    adam = torch.optim.Adam([offsets], lr=options.learning_rate, weight_decay=options.weight_decay)
    kept = []
    for epoch in range(1, options.epochs + 1):
        for i, offset in enumerate(offsets):
            offsets.grad[i] = _gradient(part, offset, episode[i : i + 1])
        adam.step()
        if epoch in options.kept_epochs:
            kept.append(offsets.detach().clone())
        episode = split(epoch)
    logits, labels = part.query_logits(offsets, episode, scale=SCALE), episode.query_labels.to(offsets.device)
    accuracy = (logits.argmax(-1) == labels).to(offsets).mean(-1)
    return Fitted(torch.stack(kept, dim=1), 100 * accuracy, _cross_entropy(logits, labels))


def _gradient(part: Part, offset: Float[Tensor, " parameters"], episode: Episode) -> Float[Tensor, " parameters"]:
    with torch.enable_grad():
        leaf = offset.detach().requires_grad_()
        logits = part.query_logits(leaf[None], episode, scale=SCALE)
        return torch.autograd.grad(_cross_entropy(logits, episode.query_labels.to(logits.device)).sum(), leaf)[0]


def _cross_entropy(
    logits: Float[Tensor, "tasks queries ways"], labels: Int[Tensor, "tasks queries"]
) -> Float[Tensor, " tasks"]:
    return torch.nn.functional.cross_entropy(logits.mT, labels, reduction="none").mean(-1)
