"""Every method on the same episodes, query by query."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightgen import seeds
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.shots import Shots
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.errors import InputError
from weightgen.evaluation.out_of_distribution import OtherImages, ood_aurocs, other_images
from weightgen.interfaces import Method
from weightgen.records import Episode, LinearHeads


class EpisodeSizes(TypedDict):
    """The keyword arguments that samplers, tuning and scoring have in common."""

    ways: int
    shots: Shots
    queries: int
    unlabelled: UnlabelledDraw | None


@dataclass(frozen=True)
class Scores:
    """How one method did, query by query; `scores[i]` of two methods are the same query image.

    correct: whether the class of highest probability is the true one.
    confidence: that highest probability.
    classes: the true class, a row of the features' `class_names`.
    seconds: time spent writing the heads, of all episodes together.
    drift: share of an episode's queries that are taken for one of the classes with more images than its average, less
        the share of those classes; 0 where no class has more.
    ood_aurocs: how well each of the head's scores tells queries from images of other classes (`ood_aurocs`), NaN for
        an episode without such images; None where there is no other class.
    """

    correct: Bool[Tensor, "episodes queries"]
    confidence: Float[Tensor, "episodes queries"]
    classes: Int[Tensor, "episodes queries"]
    seconds: float
    ood_aurocs: Float[Tensor, "episodes scores"] | None = None
    drift: Float[Tensor, " episodes"] | None = None

    @property
    def episode_accuracies(self) -> Float[Tensor, " episodes"]:
        """Share of correct queries of each episode, 0 to 1, in double precision."""
        return self.correct.double().mean(-1)


def score_all(
    methods: Sequence[Method],
    sampler: EpisodeSampler,
    *,
    ways: int,
    shots: Shots,
    queries: int,
    episodes: int,
    seed: int,
    unlabelled: UnlabelledDraw | None = None,
    batch: int = 50,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Scores]:
    """Scores of every method, by name, on the same `episodes` episodes of `queries` images per class.

    Each chunk of `batch` episodes is drawn once, from `seed` and its number; each method gets a fresh
    generator per episode, from `seed` and the episode's number, so adding a method changes no other.
    What is scored is `head.probabilities`: exactly the exported head, or the mixture where it has several
    draws. The images of other classes come from a generator of their own and change no episode.

    Raises:
        InputError: a single episode.
        ValueError: two methods of one name.
    """
    if episodes < 2:
        raise InputError(f"episodes: {episodes} leave no interval to print; ask for at least 2")
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise ValueError(f"methods need names of their own, got {names}")
    parts: dict[str, list[Scores]] = defaultdict(list)
    for chunk, start in enumerate(range(0, episodes, batch)):
        size = min(batch, episodes - start)
        generator = seeds.generator(seed, "evaluation", chunk)
        episode = sampler.sample(
            batch=size, ways=ways, shots=shots, queries=queries, unlabelled=unlabelled, generator=generator
        )
        others = other_images(sampler.features, episode, generator=seeds.generator(seed, "other classes", chunk))
        for method in methods:
            parts[method.name].append(_score_chunk(method, episode, others, seed=seed, first=start))
        if progress is not None:
            progress("episodes", start + size, episodes)
    return {name: _joined(parts[name]) for name in names}


def score(
    method: Method,
    sampler: EpisodeSampler,
    *,
    ways: int,
    shots: Shots,
    queries: int,
    episodes: int,
    seed: int,
    unlabelled: UnlabelledDraw | None = None,
    batch: int = 50,
) -> Scores:
    """`score_all` for one method."""
    sizes = EpisodeSizes(ways=ways, shots=shots, queries=queries, unlabelled=unlabelled)
    return score_all([method], sampler, episodes=episodes, seed=seed, batch=batch, **sizes)[method.name]


def _score_chunk(method: Method, episode: Episode, others: OtherImages | None, *, seed: int, first: int) -> Scores:
    generators = [seeds.generator(seed, "head", first + i) for i in range(len(episode))]
    begin = time.perf_counter()
    with torch.no_grad():
        written = method(episode, generators)
        # Onto the features' device inside the timed part: an accelerator has then really finished.
        head = LinearHeads(written.weight.to(episode.query.device), written.bias.to(episode.query.device))
    seconds = time.perf_counter() - begin
    confidence, predicted = head.probabilities(episode.query).max(-1)
    return Scores(
        correct=(predicted == episode.query_labels).cpu(),
        confidence=confidence.cpu(),
        classes=episode.classes.gather(1, episode.query_labels).cpu(),
        seconds=seconds,
        ood_aurocs=None if others is None else ood_aurocs(head, episode, others).cpu(),
        drift=_drift(predicted, episode).cpu(),
    )


def _joined(parts: Sequence[Scores]) -> Scores:
    aurocs = [part.ood_aurocs for part in parts if part.ood_aurocs is not None]
    return Scores(
        correct=torch.cat([part.correct for part in parts]),
        confidence=torch.cat([part.confidence for part in parts]),
        classes=torch.cat([part.classes for part in parts]),
        seconds=sum(part.seconds for part in parts),
        ood_aurocs=torch.cat(aurocs) if aurocs else None,
        drift=torch.cat([part.drift for part in parts if part.drift is not None]),
    )


def _drift(predicted: Int[Tensor, "batch queries"], episode: Episode) -> Float[Tensor, " batch"]:
    counts = episode.counts
    larger = counts > counts.mean(-1, keepdim=True)
    return larger.gather(1, predicted).double().mean(-1) - larger.double().mean(-1)
