"""The records that travel between stages: features, episodes, conditions and heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Backbone features of labelled images, the rows of one class next to each other.

    `labels` are sorted ascending and index `class_names`.
    """

    values: Float[Tensor, "images feature"]
    labels: Int[Tensor, " images"]
    class_names: tuple[str, ...]

    @property
    def counts(self) -> Int[Tensor, " classes"]:
        """Images per class."""
        return torch.bincount(self.labels, minlength=len(self.class_names))

    def means(self) -> Float[Tensor, "classes feature"]:
        """Mean feature of every class."""
        total = self.values.new_zeros(len(self.class_names), self.values.shape[1])
        return total.index_add_(0, self.labels, self.values) / self.counts[:, None]

    def of_classes(self, names: Sequence[str]) -> Features:
        """The images of the named classes alone, relabelled in the order given."""
        position = {name: i for i, name in enumerate(self.class_names)}
        wanted = torch.tensor([position[name] for name in names], dtype=torch.int64)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), self.counts.cumsum(0)])
        pieces = [torch.arange(int(starts[i]), int(starts[i + 1])) for i in wanted]
        rows = torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.int64)
        labels = torch.repeat_interleave(torch.arange(len(wanted)), self.counts[wanted])
        return Features(self.values[rows], labels, tuple(names))


@dataclass(frozen=True)
class Episode:
    """A batch of N-way problems; the support may be ragged, which `support_mask` tells.

    A class without any support image is padding. `query` may hold no image at all (a user's folder), and so may
    `unlabelled`: images to learn from whose classes nobody told, some perhaps of no class of the episode.
    `classes` gives the row of `Features.class_names` that each way was drawn from.
    """

    support: Float[Tensor, "batch ways shots feature"]
    support_mask: Bool[Tensor, "batch ways shots"]
    query: Float[Tensor, "batch queries feature"]
    query_labels: Int[Tensor, "batch queries"]
    classes: Int[Tensor, "batch ways"]
    unlabelled: Float[Tensor, "batch extra feature"]
    unlabelled_mask: Bool[Tensor, "batch extra"]

    def __len__(self) -> int:
        return self.support.shape[0]

    @property
    def ways(self) -> int:
        return self.support.shape[1]

    @property
    def counts(self) -> Float[Tensor, "batch ways"]:
        """Support images per class."""
        return self.support_mask.sum(-1).to(self.support.dtype)

    def support_means(self) -> Float[Tensor, "batch ways feature"]:
        """Mean support feature of every class (0 for padding)."""
        masked = self.support * self.support_mask[..., None]
        return masked.sum(2) / self.counts.clamp(min=1)[..., None]

    def __getitem__(self, which: slice) -> Episode:
        """Some of the batch."""
        return Episode(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    def support_only(self) -> Episode:
        """The episode without its queries: all that a method may look at."""
        return replace(self, query=self.query[:, :0], query_labels=self.query_labels[:, :0])

    def labelled_only(self) -> Episode:
        """The episode without its unlabelled images: what an inductive method sees."""
        return replace(self, unlabelled=self.unlabelled[:, :0], unlabelled_mask=self.unlabelled_mask[:, :0])

    def to(self, device: torch.device | str) -> Episode:
        return Episode(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class Condition:
    """What the denoiser is told about a batch of episodes; one token per class row.

    All vectors live in the generator's standardised feature space.

    tokens: the best guess at each class's row before any noise is seen.
    variance: what that guess leaves unknown, per entry; None where a conditioner does not say.
    counts: support images behind each token; 0 marks padding.
    support, support_mask: the standardised support images themselves.
    gradient: direction of the support loss at the noisy rows. It changes with every denoiser call,
        so a conditioner fills it in through `Conditioner.at`; None where a conditioner has none.
    """

    tokens: Float[Tensor, "batch ways feature"]
    counts: Float[Tensor, "batch ways"]
    support: Float[Tensor, "batch ways shots feature"]
    support_mask: Bool[Tensor, "batch ways shots"]
    variance: Float[Tensor, "batch ways feature"] | None = None
    gradient: Float[Tensor, "batch ways feature"] | None = None

    @property
    def mask(self) -> Bool[Tensor, "batch ways"]:
        """True for real classes."""
        return self.counts > 0

    def repeat(self, times: int) -> Condition:
        """Every episode `times` times in a row."""
        present = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: v.repeat_interleave(times, 0) for k, v in present.items() if v is not None})

    def with_gradient(self, gradient: Float[Tensor, "batch ways feature"]) -> Condition:
        return replace(self, gradient=gradient)


@dataclass(frozen=True)
class Head:
    """Linear heads on raw backbone features: logits = features · weightᵀ + bias.

    One head per episode and draw. `weight` and `bias` are what is exported, nothing else decides.
    """

    weight: Float[Tensor, "batch samples ways feature"]
    bias: Float[Tensor, "batch samples ways"]

    def logits(self, features: Float[Tensor, "batch images feature"]) -> Float[Tensor, "batch images ways"]:
        """Logits of the exported head: the mean over draws of weight and bias."""
        mean = self.mean()
        return features @ mean.weight[:, 0].mT + mean.bias[:, 0, None]

    def probabilities(self, features: Float[Tensor, "batch images feature"]) -> Float[Tensor, "batch images ways"]:
        """Class probabilities of the mixture of all draws."""
        logits = torch.einsum("bif,bswf->bsiw", features, self.weight) + self.bias[:, :, None]
        return logits.softmax(-1).mean(1)

    def mean(self) -> Head:
        """One head per episode, the average of its draws."""
        return Head(self.weight.mean(1, keepdim=True), self.bias.mean(1, keepdim=True))
