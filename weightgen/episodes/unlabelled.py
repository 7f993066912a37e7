"""Which unlabelled images come with an episode, and how they are drawn."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightgen.errors import InputError

DISTRACTOR_CLASSES = 3
_NEVER = float("-inf")


@dataclass(frozen=True)
class UnlabelledDraw:
    """Unlabelled images of an episode, disjoint from support and queries unless these serve themselves.

    images: how many; fewer where the classes hold no more.
    concentration: class shares are drawn from a Dirichlet distribution with this parameter: 2 is unbalanced, 0.5 very
        much so; None gives every class as many.
    distractors: share of the images that are of three other classes.
    transductive: the queries themselves are the unlabelled images; the other numbers then do not matter.

    Raises InputError for a number out of range.
    """

    images: int
    concentration: float | None = 2.0
    distractors: float = 0.2
    transductive: bool = False

    def __post_init__(self) -> None:
        if self.images < 0:
            raise InputError(f"unlabelled images: {self.images} is below 0")
        if self.concentration is not None and not 0 < self.concentration < float("inf"):
            raise InputError(f"class shares: {self.concentration} is not a Dirichlet parameter; give one above 0")
        if not 0 <= self.distractors < 1:
            raise InputError(f"distractors: {self.distractors} is not a share; give 0 to below 1")

    @property
    def distractor_images(self) -> int:
        """How many of the images are of other classes."""
        return 0 if self.transductive else round(self.distractors * self.images)

    @property
    def extra_classes(self) -> int:
        """Classes needed beside those of the episode."""
        return DISTRACTOR_CLASSES if self.distractor_images else 0

    def as_json(self, *, queries: int, fewest: int | None = None) -> dict[str, Any]:
        """What it comes to: queries that serve themselves are as many as there are, balanced, none of another class.

        queries: of an episode. fewest: unlabelled images that an episode has at least; all that are asked for if None.
        """
        images = queries if self.transductive else self.images
        return {
            "images": images,
            "fewest": images if fewest is None else fewest,
            "concentration": None if self.transductive else self.concentration,
            "distractors": 0.0 if self.transductive else self.distractors,
            "transductive": self.transductive,
        }


def pick(
    pool: Int[Tensor, "batch classes images"],
    present: Bool[Tensor, "batch classes images"],
    *,
    number: int,
    concentration: float | None,
    generator: torch.Generator,
) -> tuple[Int[Tensor, "batch number"], Bool[Tensor, "batch number"]]:
    """Entries of `pool`, which is shuffled within each class, and which of them are really there.

    Without replacement: an image's chance is its class's share over the class's images, so that a class that runs out
    leaves its places to the others (the Gumbel top-k trick, Kool et al., ICML 2019).
    """
    batch, classes, images = pool.shape
    chance = torch.rand(pool.shape, generator=generator).clamp(min=1e-12)
    if concentration is None:  # the first of every class, then the second …; chance decides within a round
        keys = chance - torch.arange(images)
    else:
        shares = _dirichlet(batch, classes, concentration, generator)
        held = present.sum(-1, keepdim=True).clamp(min=1)
        keys = shares.clamp(min=1e-12).log()[..., None] - held.log() - (-chance.log()).log()
    best = keys.masked_fill(~present, _NEVER).flatten(1).topk(min(number, classes * images))
    return pool.flatten(1).gather(1, best.indices), best.values > _NEVER


def _dirichlet(
    batch: int, classes: int, concentration: float, generator: torch.Generator
) -> Float[Tensor, "batch classes"]:
    """Normalised Gamma draws; torch.distributions takes no generator."""
    gammas = torch._standard_gamma(torch.full((batch, classes), float(concentration)), generator=generator)
    return gammas / gammas.sum(-1, keepdim=True)
