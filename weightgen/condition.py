"""What a denoiser is told: a condition, and the space that it lives in."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Space:
    """What base classes tell of the standardised space in which conditions and rows live.

    prior_variance: of class prototypes, along each axis. noise_variance: of images around their prototype.
    sharpness: the factor that makes Gaussian log-likelihoods honest.
    axes: orthogonal; `vector @ axes` has the axes of the raw features, the same for every set of base classes.
    """

    prior_variance: Float[Tensor, " feature"]
    noise_variance: Float[Tensor, "1"]
    sharpness: Float[Tensor, ""]
    axes: Float[Tensor, "feature feature"]


@dataclass(frozen=True)
class Condition:
    """What the denoiser is told about a batch of episodes; one token per class row.

    All vectors live in the generator's standardised feature space.

    tokens: the best guess at each class's row before any noise is seen.
    means: of each class's labelled images.
    variance: what that guess leaves unknown, per entry; None where a conditioner does not say.
    counts: labelled images behind each token; 0 marks padding.
    support, support_mask: labelled images themselves, standardised: all of them, or of a large data set a sample.
    unlabelled, unlabelled_mask: further images, of these classes or of others; perhaps none.
    space: what is known of the space.
    gradient: direction of the support loss at the noisy rows. It changes with every denoiser call,
        so a conditioner fills it in through `Conditioner.at`; None where a conditioner has none.
    left_out: what it changes in the logits of a labelled image, before any scale, when the image itself is left out of
        what the rows are made of; None where a conditioner does not say.
    segment: number, from 0, of the local target that is asked for (Mc-Di); None for the one whose segment of the chain
        the time lies in. Only training with overlapping ranges has any other.
    """

    tokens: Float[Tensor, "batch ways feature"]
    means: Float[Tensor, "batch ways feature"]
    counts: Float[Tensor, "batch ways"]
    support: Float[Tensor, "batch ways shots feature"]
    support_mask: Bool[Tensor, "batch ways shots"]
    unlabelled: Float[Tensor, "batch extra feature"]
    unlabelled_mask: Bool[Tensor, "batch extra"]
    space: Space
    variance: Float[Tensor, "batch ways feature"] | None = None
    gradient: Float[Tensor, "batch ways feature"] | None = None
    left_out: Float[Tensor, "batch ways shots ways"] | None = None
    segment: Int[Tensor, " batch"] | None = None

    @property
    def mask(self) -> Bool[Tensor, "batch ways"]:
        """True for real classes."""
        return self.counts > 0

    def repeat(self, times: int) -> Condition:
        """Every episode `times` times in a row."""
        present = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in present.items() if isinstance(value, Tensor)}
        batched: dict[str, Any] = {name: value.repeat_interleave(times, 0) for name, value in tensors.items()}
        return replace(self, **batched)

    def with_gradient(self, gradient: Float[Tensor, "batch ways feature"]) -> Condition:
        return replace(self, gradient=gradient)
