"""The stage before the denoiser's: a parameter space that learns to give a zoo's values back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from weightgen.checkpoint import CheckpointFolder
from weightgen.errors import InputError
from weightgen.interfaces import FitProblem, LearntSpace
from weightgen.seeds import generator
from weightgen.training.learner import Learner
from weightgen.training.options import TrainingOptions

_LOOKS = 10  # at reconstructions, evenly over the steps
_LEAST_SHARE = 0.25  # of what members are above chance


@dataclass(frozen=True)
class Reconstructions:
    """Members of a zoo, and the images that they were fitted to: what reconstructions are judged by.

    values: of some members. problem: of the same tasks. chance: accuracy in percent of a guess.
    """

    values: Float[Tensor, "tasks ..."]
    problem: FitProblem
    chance: float

    def accuracies(self, space: LearntSpace) -> tuple[float, float]:
        """Mean accuracy in percent of the members, and of their reconstructions."""
        again = space.decode(space.encode(self.values)).to(self.values)
        return tuple(float(self.problem.judged(values)[0].mean()) for values in (self.values, again))  # type: ignore[return-value]

    def check(self, own: float, reconstructed: float) -> None:
        """Raise InputError where reconstructions are at chance and the members are not."""
        if own > self.chance + 1 and reconstructed < self.chance + _LEAST_SHARE * (own - self.chance):
            raise InputError(
                f"space: what the autoencoder reconstructs classifies {reconstructed:.1f} % right, at chance "
                f"({self.chance:.1f} %), where the zoo's members have {own:.1f} %; raise space.steps or space.width, "
                "or lower space.latent_noise"
            )


class _Losses(nn.Module):
    """What one wrapper serves for every process."""

    def __init__(self, space: LearntSpace) -> None:
        super().__init__()
        self.space = space

    def forward(self, items: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        return self.space.losses(items, draw)


def train_space(
    space: LearntSpace,
    values: Sequence[Tensor],
    judged: Callable[[], Reconstructions],
    *,
    seed: int,
    checkpoints: CheckpointFolder,
    accelerator: Accelerator,
) -> Iterator[dict[str, Any]]:
    """Train the space in place and yield one record per step; resumes from the newest checkpoint.

    The last record, and some on the way, hold the accuracy of reconstructed parameters beside that of the zoo's.

    Args:
        values: of the zoo, as `ParameterSpace.encode` takes them.
        judged: makes what reconstructions are judged by.

    Raises InputError where reconstructions classify at chance in the end.
    """
    items = torch.cat([space.items(each) for each in values]).to(accelerator.device)
    steps, every = int(space.config.steps), max(1, int(space.config.steps) // _LOOKS)
    options = TrainingOptions(steps=steps, learning_rate=space.config.learning_rate, warmup_steps=min(100, steps // 10))
    learner = Learner(_Losses(space), options, accelerator)
    done, reconstructions = learner.restore(checkpoints), judged()

    def look() -> tuple[float, float]:
        space.settle(items)
        return reconstructions.accuracies(space)

    for step in range(done, steps):
        draw = generator(seed, "space training", step, accelerator.process_index)
        drawn = torch.randint(len(items), (int(space.config.batch),), generator=draw)
        losses = learner.wrapped(items[drawn], draw)
        learner.descend(losses["loss"])
        record = {"step": step + 1, **{name: float(value.detach()) for name, value in losses.items()}}
        if (step + 1) % every == 0 and step + 1 < steps:
            record["zoo_accuracy"], record["reconstructed_accuracy"] = look()
        if step + 1 < steps:
            yield record
        if (step + 1) % every == 0 or step + 1 == steps:
            learner.save(checkpoints, step + 1)
    learner.finish()
    own, reconstructed = look()
    if done < steps:
        yield {**record, "zoo_accuracy": own, "reconstructed_accuracy": reconstructed}
    reconstructions.check(own, reconstructed)
