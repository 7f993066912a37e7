"""Every method on the same tasks, query by query, and beside images of other classes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, TypedDict, Unpack, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Num
from threadpoolctl import threadpool_limits
from torch import Tensor

from weightgen import seeds
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.shots import Shots, shots_label, shots_words
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.errors import InputError
from weightgen.interfaces import Classifier, Method
from weightgen.records import Episode, Features, LinearHeads, Progress

Unit = Literal["episodes", "images"]


class EpisodeSizes(TypedDict):
    """The keyword arguments that samplers, tuning and scoring have in common."""

    ways: int
    shots: Shots
    queries: int
    unlabelled: UnlabelledDraw | None


@dataclass(frozen=True)
class Task:
    """A batch of episodes that methods are fitted to and judged by.

    rng_seeds: of a random generator for each episode; every method gets fresh ones. others: images of other classes.
    inputs: the same of what the generator's heads act on, for methods with `takes_inputs`; None where that is features.
    """

    episode: Episode
    rng_seeds: Sequence[int]
    others: OtherImages | None = None
    inputs: Task | None = None


@runtime_checkable
class Tasks(Protocol):
    """What a protocol judges methods by.

    unit: what is independent, so that intervals are over it: episodes, or the images of one test set.
    """

    unit: ClassVar[Unit]

    @property
    def what(self) -> str:
        """Of what, for progress."""

    @property
    def total(self) -> int:
        """Episodes in all."""

    def __iter__(self) -> Iterator[Task]: ...


@dataclass(frozen=True)
class Episodes:
    """Episodes drawn from the classes of a sampler.

    Each chunk of `batch` episodes is drawn once, from `seed` and its number; methods get a random generator for each
    episode, from `seed` and the episode's number. Images of other classes come from a generator of their own and
    change no episode.

    sampler, sizes: say what is drawn. episodes: how many. inputs: draws the same images as `Task.inputs` has them.

    Raises InputError for a single episode.
    """

    unit: ClassVar[Unit] = "episodes"
    sampler: EpisodeSampler
    sizes: EpisodeSizes
    episodes: int
    seed: int
    batch: int = 50
    inputs: EpisodeSampler | None = None

    def __post_init__(self) -> None:
        if self.episodes < 2:
            raise InputError(f"episodes: {self.episodes} leave no interval to print; ask for at least 2")

    @property
    def what(self) -> str:
        """The setting."""
        return f"episodes, {shots_words(shots_label(self.sizes['shots']))}"

    @property
    def total(self) -> int:
        """Number of episodes."""
        return self.episodes

    def __iter__(self) -> Iterator[Task]:
        for chunk, start in enumerate(range(0, self.episodes, self.batch)):
            size = min(self.batch, self.episodes - start)
            rng_seeds = [seeds.derive(self.seed, "head", start + i) for i in range(size)]
            task = self._task(self.sampler, chunk, rng_seeds)
            yield task if self.inputs is None else replace(task, inputs=self._task(self.inputs, chunk, rng_seeds))

    def _task(self, sampler: EpisodeSampler, chunk: int, rng_seeds: list[int]) -> Task:
        draw, apart = (seeds.generator(self.seed, what, chunk) for what in ("evaluation", "other classes"))
        episode = sampler.sample(batch=len(rng_seeds), generator=draw, **self.sizes)
        return Task(episode, rng_seeds, other_images(sampler.features, episode, generator=apart))


@dataclass(frozen=True)
class Scores:
    """How one method did, query by query; `correct[i, j]` of two methods are the same query image.

    correct: whether the class of highest probability is the true one.
    confidence: that highest probability.
    classes: the true class, a row of the features' `class_names`.
    seconds: of making one classifier, features given; the median over tasks.
    unit: what intervals are over.
    predicted: the class of highest probability, as `classes`.
    drift: share of an episode's queries that are taken for one of the classes with more images than its average, less
        the share of those classes among the queries; 0 where no class has more.
    ood_aurocs: how well each of the classifier's scores tells queries from images of other classes (`ood_aurocs`), NaN
        for an episode without such images; None where there is no other class.
    """

    correct: Bool[Tensor, "episodes queries"]
    confidence: Float[Tensor, "episodes queries"]
    classes: Int[Tensor, "episodes queries"]
    seconds: float
    unit: Unit = "episodes"
    ood_aurocs: Float[Tensor, "episodes scores"] | None = None
    drift: Float[Tensor, " episodes"] | None = None
    predicted: Int[Tensor, "episodes queries"] | None = None

    @property
    def accuracies(self) -> Float[Tensor, " units"]:
        """Share of correct answers of each episode, or of each image over all training sets; in double precision."""
        return self.correct.double().mean(-1 if self.unit == "episodes" else 0)


def score_all(methods: Mapping[str, Method], tasks: Tasks, *, progress: Progress | None = None) -> dict[str, Scores]:
    """Scores of every method, by name, on the same tasks; adding a method changes no other's.

    What is scored is softmax of `Classifier.logits`: exactly the head, or the mixture where it has several draws.
    """
    parts: dict[str, list[Scores]] = {name: [] for name in methods}
    done = 0
    # As many threads as torch has, for all: more than there are cores would wait for each other.
    with threadpool_limits(torch.get_num_threads()), torch.no_grad():
        for task in tasks:
            for name, method in methods.items():
                own = task.inputs if method.takes_inputs and task.inputs is not None else task
                parts[name].append(_scored(method, own, unit=tasks.unit))
                done += len(task.rng_seeds)
                if progress is not None:
                    progress(tasks.what, done, tasks.total * len(methods))
    return {name: _joined(parts[name]) for name in methods}


def score(
    method: Method, sampler: EpisodeSampler, *, episodes: int, seed: int, batch: int = 50, **sizes: Unpack[EpisodeSizes]
) -> Scores:
    """`score_all` for one method on episodes."""
    tasks = Episodes(sampler, {"unlabelled": None, **sizes}, episodes=episodes, seed=seed, batch=batch)
    return score_all({"method": method}, tasks)["method"]


def _scored(method: Method, task: Task, *, unit: Unit) -> Scores:
    support = task.episode.support_only()
    rngs = [torch.Generator().manual_seed(seed) for seed in task.rng_seeds]
    begin = time.perf_counter()
    classifier = method.fit(support, rngs)
    seconds = (time.perf_counter() - begin) / len(support)
    episode, others = task.episode, task.others
    confidence, predicted = classifier.logits(episode.query).softmax(-1).cpu().max(-1)
    return Scores(
        correct=predicted == episode.query_labels,
        confidence=confidence,
        classes=episode.classes.gather(1, episode.query_labels),
        seconds=seconds,
        unit=unit,
        drift=_drift(predicted, episode),
        predicted=episode.classes.gather(1, predicted),
        ood_aurocs=None if others is None else ood_aurocs(classifier, episode, others).cpu(),
    )


def _joined(parts: Sequence[Scores]) -> Scores:
    aurocs = [part.ood_aurocs for part in parts if part.ood_aurocs is not None]
    return Scores(
        correct=torch.cat([part.correct for part in parts]),
        confidence=torch.cat([part.confidence for part in parts]),
        classes=torch.cat([part.classes for part in parts]),
        seconds=statistics.median(part.seconds for part in parts),
        unit=parts[0].unit,
        drift=torch.cat([part.drift for part in parts if part.drift is not None]),
        predicted=torch.cat([part.predicted for part in parts if part.predicted is not None]),
        ood_aurocs=torch.cat(aurocs) if aurocs else None,
    )


def _drift(predicted: Int[Tensor, "batch queries"], episode: Episode) -> Float[Tensor, " batch"]:
    counts = episode.counts
    larger = counts > counts.mean(-1, keepdim=True)
    taken, there = (larger.gather(1, labels).double().mean(-1) for labels in (predicted, episode.query_labels))
    return taken - there


FURTHER_CLASSES = 5


@dataclass(frozen=True)
class OtherImages:
    """Images of no class of their episode. `mask` tells which are really there."""

    values: Num[Tensor, "batch others feature"]
    mask: Bool[Tensor, "batch others"]


def other_images(features: Features, episode: Episode, *, generator: torch.Generator) -> OtherImages | None:
    """As many images as there are queries, of up to five classes beyond the episode's; fewer where these hold fewer.

    No image that the episode shows as unlabelled. None where there is no further class.
    """
    further = min(FURTHER_CLASSES, len(features.class_names) - episode.ways)
    if further < 1:
        return None
    chance = torch.rand(len(episode), len(features.class_names), generator=generator)
    drawn = chance.scatter(1, episode.classes, -1.0).topk(further).indices
    allowed = torch.zeros(chance.shape, dtype=torch.bool).scatter(1, drawn, True)[:, features.labels]
    keys = torch.rand(allowed.shape, generator=generator).masked_fill(~allowed, -1.0)
    best = keys.topk(min(episode.query.shape[1], keys.shape[1]))
    values = features.values[best.indices]
    same = _fingerprints(values)[:, :, None] == _fingerprints(episode.unlabelled)[:, None]
    shown = (same & episode.unlabelled_mask[:, None]).any(-1)
    return OtherImages(values, (best.values >= 0) & ~shown)


def ood_aurocs(classifier: Classifier, episode: Episode, others: OtherImages) -> Float[Tensor, "batch scores"]:
    """How well each score of `familiarity` ranks the queries above the other images, per episode, 0 to 1.

    Within an episode, for the logits of different episodes have different offsets.
    """
    inside, outside = (familiarity(classifier, images) for images in (episode.query, others.values))
    return auroc(inside, outside, others.mask[:, None].to(inside.device))


def familiarity(
    classifier: Classifier, images: Num[Tensor, "batch images feature"]
) -> Float[Tensor, "batch scores images"]:
    """Scores that should be high for images of the classifier's own classes.

    The largest probability (Hendrycks & Gimpel, ICLR 2017) and the energy, log Σ exp of the logits (Liu et al.,
    NeurIPS 2020); for a mixture of several draws also minus its entropy.
    """
    logits = classifier.logits(images).double()  # single precision calls many a probability exactly 1
    probabilities = logits.softmax(-1)
    scores = [probabilities.amax(-1), logits.logsumexp(-1)]
    if isinstance(classifier, LinearHeads) and classifier.weight.shape[1] > 1:
        scores.append(-torch.special.entr(probabilities).sum(-1))
    return torch.stack(scores, 1)


def auroc(
    inside: Float[Tensor, "*batch queries"], outside: Float[Tensor, "*batch others"], mask: Bool[Tensor, "... others"]
) -> Float[Tensor, "*batch"]:
    """Chance that a score inside is above one outside, ties counting half; NaN where the mask leaves none outside."""
    ranked = outside.masked_fill(~mask, torch.inf).sort(-1).values
    below = torch.searchsorted(ranked, inside.contiguous())
    up_to = torch.searchsorted(ranked, inside.contiguous(), right=True)
    return (below + up_to).double().mean(-1) / 2 / mask.sum(-1)


def _fingerprints(values: Num[Tensor, "batch images feature"]) -> Int[Tensor, "batch images"]:
    """A number for each image, exactly the same wherever the image turns up."""
    return (values.contiguous().view(torch.int32) if values.is_floating_point() else values).sum(-1, dtype=torch.int64)
