"""Options of a recipe's `training` section."""

from __future__ import annotations

import operator
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from weightgen.section import Section


class ReptileOptions(Section):
    """The bi-level loop: every task adapts the weights for a few steps, and the average of the outcomes is followed."""

    inner_steps: PositiveInt = 3
    """Steps of plain descent on one task."""
    inner_learning_rate: PositiveFloat = 0.005
    """Of those steps."""
    draws: PositiveInt = 8
    """Noisy values of a task that every one of those steps looks at."""


class TrainingOptions(Section):
    """How the denoiser learns from episodes of base classes."""

    steps: PositiveInt = 2000
    """Optimiser steps."""
    episodes_per_step: PositiveInt = 32
    """Episodes in one step, over all processes together."""
    ways: tuple[PositiveInt, PositiveInt] = (5, 20)
    """Fewest and most classes of an episode; each step draws one number. Fewer classes than asked for lower it."""
    shots: tuple[PositiveInt, PositiveInt] = (1, 5)
    """Fewest and most support images of a class; each step draws one number."""
    sizes: Literal["even", "logarithmic"] = "even"
    """How ways and shots are drawn between their bounds. logarithmic: as data sets come, tens as often as hundreds; a
    class that holds fewer images gives what it has, and every other step classes differ in their numbers."""
    most_images: PositiveInt = 4096
    """Support images of an episode, at most; shots give way."""
    queries: PositiveInt = 10
    """Query images of a class, for objectives that look at them."""
    unlabelled: tuple[NonNegativeInt, NonNegativeInt] = (0, 0)
    """Fewest and most unlabelled images of an episode; every other step comes without. [0, 0]: never any."""
    neighbours: float = Field(default=0.0, ge=0, le=1)
    """Share of steps whose episodes have classes that look alike, as a user's often do."""
    warped: float = Field(default=0.0, ge=0, le=1)
    """Share of steps whose features are stretched and moved at random, so that one feature space stands for many."""
    start: Literal["scratch", "universal"] = "scratch"
    """Weights before the first step: random, or those of the universal generator, for its denoiser and conditioner."""
    reptile: ReptileOptions | None = None
    """Learn by REPTILE, with these options; None descends the loss of all episodes together. Its outer step is taken by
    the optimiser below; with sgd, a constant schedule and learning rate ζ it is the paper's φ ← φ + ζ mean(φ_i - φ)."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    """What follows the gradient."""
    learning_rate: PositiveFloat = 3e-4
    """Peak learning rate; it rises linearly during the warm-up and then falls along a cosine."""
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"] = (
        "cosine"
    )
    """Learning rate over steps, by diffusers' names; constant has no warm-up."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps in which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay (AdamW); of sgd an L2 penalty."""
    max_gradient_norm: PositiveFloat = 1.0
    """Gradients longer than this are shortened to it."""
    ema_halflife_steps: PositiveFloat = 100
    """After so many steps a weight counts half in the exponential average that is sampled from."""
    held_out_classes: float = Field(default=0.1, ge=0, lt=1)
    """Share of the base classes kept out of training, to choose the best step on; 0 keeps the last step."""
    folds: PositiveInt = 3
    """Groups of base classes; episodes of one see the feature space through statistics of the others. 1: no groups."""
    evaluate_every: PositiveInt = 250
    """Steps between two looks at the held-out classes."""
    checkpoint_every: PositiveInt = 250
    """Steps between two checkpoints."""
    precision: str = Field(default="no", pattern="^(no|fp16|bf16)$")
    """accelerate's mixed precision: no, fp16 or bf16; with `reptile` no."""
    tracker: Literal["tensorboard", "trackio", "wandb"] | None = Field(default=None, exclude_if=operator.not_)
    """Where else every step's record goes, beside metrics.jsonl: a tracker of accelerate, which is installed by the
    extra of its name. tensorboard writes below tracking/ of the run folder."""

    @model_validator(mode="after")
    def _ordered(self) -> TrainingOptions:
        for name in ("ways", "shots", "unlabelled"):
            least, most = getattr(self, name)
            if least > most:
                raise ValueError(f"{name} is [{least}, {most}]: put the smaller number first")
        if self.ways[0] < 2:
            raise ValueError(f"ways starts at {self.ways[0]}: an episode needs 2 classes or more")
        if self.reptile is not None and self.precision != "no":  # nor would attention run, batched over weights
            raise ValueError(
                f"precision is {self.precision}: reptile follows small differences of weights; set it to no"
            )
        return self
