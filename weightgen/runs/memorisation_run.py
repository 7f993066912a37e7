"""The measures of memorisation on a trained generator and the zoo that it learnt from."""

import copy
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.evaluation.memorisation import (
    Likeness,
    averages,
    between_checkpoints,
    likeness,
    nearest,
    spread,
    with_noise,
)
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, Features
from weightgen.runs.generator_training import GeneratorTraining
from weightgen.seeds import derive
from weightgen.seeds import generator as seeded
from weightgen.training.folds import Fold

TASKS = 32
LEVELS = (0.5, 1.0)
"""Lengths of the noise added to checkpoints, in distances between checkpoints."""
_AVERAGED = 4
_QUERIES = 15


@dataclass(frozen=True)
class Checkpoints:
    """Parameters of many tasks, the ends of their fits or prototypes, as the tokens of a parameter space of values.

    What is compared are whole sets of tokens where tokens have places. Where they have none (class rows), a generator
    could copy every one of them from another checkpoint: there single tokens are compared, and the nearest checkpoint
    of a set is put together from those nearest to its tokens.

    classes: of each task, rows of the class names of its fold; where tokens have no places, of each token.
    """

    tokens: Float[Tensor, "tasks tokens width"]
    classes: Int[Tensor, "tasks ways"]
    ordered: bool

    @cached_property
    def units(self) -> tuple[Float[Tensor, "units values"], Int[Tensor, " places"]]:
        """What is compared, each once; and which of them stand at the places of the tokens."""
        units, inverse = self.of(self.tokens).unique(dim=0, return_inverse=True)
        return units, inverse

    def of(self, tokens: Float[Tensor, "sets tokens width"]) -> Float[Tensor, "places values"]:
        """Sets of tokens as what is compared."""
        return tokens.flatten(1) if self.ordered else tokens.flatten(0, 1)

    @property
    def one_task(self) -> bool:
        """Whether all are for the same classes."""
        return bool((self.classes == self.classes[0]).all())

    @property
    def groups(self) -> Int[Tensor, " units"]:
        """Those that can be averaged have the same number: all, or where tokens have no places those of one class."""
        units, inverse = self.units
        groups = torch.zeros(len(units), dtype=torch.int64)
        return groups if self.ordered else groups.scatter(0, inverse, self.classes.flatten())

    def places(self, tasks: Int[Tensor, " drawn"]) -> Int[Tensor, " places"]:
        """Numbers of the units that the checkpoints of some tasks are made of."""
        return self.units[1].unflatten(0, (len(self.tokens), -1))[tasks].flatten()

    def nearest(
        self, tokens: Float[Tensor, "sets tokens width"], *, not_at: Int[Tensor, " places"] | None = None
    ) -> tuple[Float[Tensor, " sets"], Float[Tensor, "sets tokens width"]]:
        """The checkpoints nearest to some sets: how far (per unit), and their tokens."""
        distance, which = nearest(self.of(tokens), self.units[0], not_at=not_at)
        return distance.unflatten(0, (len(tokens), -1)).mean(1), self.units[0][which].reshape(tokens.shape)


def memorisation(
    training: GeneratorTraining, pipeline: WeightGenerationPipeline, *, unseen: Features, shots: int, seed: int = 0
) -> dict[str, Any] | None:
    """Compare what a generator writes for tasks of its own training with the checkpoints that it learnt from.

    For each of some tasks of the zoo it writes a set of parameters, from images of the task's classes. Without a zoo
    the tasks are drawn from the base classes, and prototypes are the checkpoints. All is seen as training saw it,
    through the statistics of one fold.

    Args:
        training: of the generator, with its zoo. pipeline: the generator.
        unseen: images that heads act on; where they are of the tasks' classes they are judged on, else images that the
            checkpoints were fitted to.
        shots: images of a class that a set is written from, or fewer where there are not so many.

    Returns:
        As JSON: a `Likeness` for "generated", "checkpoints" (with the nearest other one), "noise" (checkpoints with
        noise as long as generated sets are far from them), "average" (None where no two checkpoints are for the same)
        and each of "noise_levels"; "best" is the accuracy of the best checkpoint, where all are for one task;
        "diversity" tells how far sets for one task are from each other by noise, in distances between checkpoints, and
        how far sets for different tasks are, as a share of what their checkpoints are.
        None for generators that give every episode a feature space of its own, where checkpoints have no place, and
        where there is one checkpoint only.
    """
    if pipeline.conditioner.adapts:
        return None
    fold, inputs = training.folds[0], training.zoo_plan.sources[0].inputs
    ordered = pipeline.space.of_values.ordered
    known = _checkpoints(fold, ways=training.recipe.evaluation.ways, ordered=ordered, seed=seed)
    seeing = copy.copy(pipeline)
    seeing.standardizer = fold.standardizer
    if len(known.units[0]) < 2:
        return None
    drawn = torch.randperm(len(known.tokens), generator=seeded(seed, "memorisation tasks"))[:TASKS]
    new = set(fold.features.class_names) <= set(unseen.class_names)
    episode = _episode(known.classes[drawn], fold, unseen if new else inputs, shots=shots, seed=seed)
    judged = _Judged(seeing, known, episode)
    own, between = known.tokens[drawn], between_checkpoints(known.units[0])

    written = [judged.written(derive(seed, "memorisation", number)) for number in range(2)]
    distances, _ = known.nearest(written[0])
    controls = {
        "generated": judged.likeness(written[0], between),
        "checkpoints": judged.likeness(own, between, not_at=known.places(drawn)),
        "noise": judged.likeness(_noisy(known, own, distances, seed), between),
        "average": judged.average(drawn, between, seed),
    }
    levels = [(level, judged.likeness(_noisy(known, own, level * between, seed), between)) for level in LEVELS]
    best = float(100 * (1 - judged.wrong(own).double().mean(-1)).max()) if known.one_task else None
    apart = torch.linalg.vector_norm(known.of(written[0]) - known.of(written[1]), dim=-1)
    flat, checkpoints = written[0].flatten(1), own.flatten(1)
    among = spread(checkpoints) if len(drawn) > 1 else None
    return {
        "tasks": len(drawn),
        "images": "new" if new else "training",
        **{name: None if each is None else asdict(each) for name, each in controls.items()},
        "noise_levels": [{"length": level, **asdict(each)} for level, each in levels],
        "best": best,
        "diversity": {
            "noise": float(apart.mean()) / between if between else None,
            "tasks": spread(flat) / among if among else None,
        },
    }


def _checkpoints(fold: Fold, *, ways: int, ordered: bool, seed: int) -> Checkpoints:
    """Of a fold: the members of its zoo with the ways that most have, or tasks of its classes and their prototypes."""
    if fold.zoo is not None:
        ways = max(fold.zoo.ways(), key=lambda number: len(fold.zoo.members(number)) if fold.zoo else 0)
        members = fold.zoo.members(ways)
        return Checkpoints(members.path[:, -1], members.classes, ordered)
    present, draw = len(fold.prototypes), seeded(seed, "memorisation classes")
    ways = min(ways, present)
    rounds = -(-TASKS // (present // ways))  # in each of them, every class is in one task, but for a remainder
    shuffled = [torch.randperm(present, generator=draw)[: present // ways * ways] for _ in range(rounds)]
    classes = torch.cat(shuffled).reshape(-1, ways)
    return Checkpoints(fold.prototypes.cpu()[classes], classes, ordered)


def _episode(classes: Int[Tensor, "tasks ways"], fold: Fold, inputs: Features, *, shots: int, seed: int) -> Episode:
    place = {name: number for number, name in enumerate(inputs.class_names)}
    rows = torch.tensor([place[name] for name in fold.features.class_names])[classes]
    fewest = int(inputs.counts.min())
    shots = max(1, min(shots, fewest // 2))
    draw = seeded(seed, "memorisation episodes")
    queries = min(_QUERIES, fewest - shots)
    return EpisodeSampler(inputs).sample(
        batch=len(rows), ways=rows.shape[1], shots=shots, queries=queries, generator=draw, classes=rows
    )


def _noisy(
    known: Checkpoints, own: Float[Tensor, "tasks tokens width"], length: float | Float[Tensor, " tasks"], seed: int
) -> Float[Tensor, "tasks tokens width"]:
    """Checkpoints with noise of a given length per unit."""
    units = known.of(own)
    if isinstance(length, Tensor):
        length = length.repeat_interleave(len(units) // len(own))
    return with_noise(units, length, seeded(seed, "memorisation noise")).reshape(own.shape)


@dataclass(frozen=True)
class _Judged:
    """Sets of parameters for the tasks of some episodes, by what they get wrong there.

    A generator that writes codes is judged by the parameters that they stand for, as checkpoints are.
    """

    pipeline: WeightGenerationPipeline
    known: Checkpoints
    episode: Episode

    @torch.no_grad()
    def written(self, seed: int) -> Float[Tensor, "tasks tokens width"]:
        """What the generator writes, from noise of this seed."""
        noise = [seeded(seed, number) for number in range(len(self.episode))]
        tokens = self.pipeline.tokens(self.episode.support_only(), noise, samples=1)[:, 0]
        return self.pipeline.space.uncoded(tokens).cpu()

    @cached_property
    def _of_values(self) -> WeightGenerationPipeline:
        pipeline = copy.copy(self.pipeline)
        pipeline.space = self.pipeline.space.of_values
        return pipeline

    @torch.no_grad()
    def wrong(self, tokens: Float[Tensor, "tasks tokens width"]) -> Bool[Tensor, "tasks queries"]:
        """Queries that are taken for another class."""
        device = self.pipeline.device
        heads = self._of_values.decode(tokens[:, None].to(device), self.episode.to(device))
        return heads.logits(self.episode.query.to(device)).argmax(-1).cpu() != self.episode.query_labels

    def likeness(
        self,
        tokens: Float[Tensor, "tasks tokens width"],
        between: float,
        *,
        not_at: Int[Tensor, " places"] | None = None,
    ) -> Likeness:
        """See there."""
        distances, closest = self.known.nearest(tokens, not_at=not_at)
        return likeness(distances, self.wrong(tokens), self.wrong(closest), between=between)

    def average(self, drawn: Int[Tensor, " tasks"], between: float, seed: int) -> Likeness | None:
        """Of checkpoints that stand for the same as those drawn; None where there is only one for each."""
        places = self.known.places(drawn)
        means = averages(
            self.known.units[0],
            self.known.groups,
            self.known.groups[places].tolist(),
            number=_AVERAGED,
            generator=seeded(seed, "memorisation averages"),
        )
        return None if means is None else self.likeness(means.reshape(self.known.tokens[drawn].shape), between)
