"""Every method on the same episodes, query by query."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightgen import seeds
from weightgen.dataflow import Episode, Head
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.errors import InputError
from weightgen.method import Method


@dataclass(frozen=True)
class Scores:
    """How one method did, query by query; `scores[i]` of two methods are the same query image.

    correct: whether the class of highest probability is the true one.
    confidence: that highest probability.
    classes: the true class, a row of the features' `class_names`.
    seconds: time spent writing the heads, of all episodes together.
    """

    correct: Bool[Tensor, "episodes queries"]
    confidence: Float[Tensor, "episodes queries"]
    classes: Int[Tensor, "episodes queries"]
    seconds: float

    @property
    def episode_accuracies(self) -> Float[Tensor, " episodes"]:
        """Share of correct queries of each episode, 0 to 1, in double precision."""
        return self.correct.double().mean(-1)


def score_all(
    methods: Sequence[Method],
    sampler: EpisodeSampler,
    *,
    ways: int,
    shots: int,
    queries: int,
    episodes: int,
    seed: int,
    batch: int = 50,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Scores]:
    """Scores of every method, by name, on the same `episodes` episodes of `queries` images per class.

    Each chunk of `batch` episodes is drawn once, from `seed` and its number; each method gets a fresh
    generator per episode, from `seed` and the episode's number, so adding a method changes no other.
    What is scored is `head.logits`, exactly the exported head.

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
        episode = sampler.sample(batch=size, ways=ways, shots=shots, queries=queries, generator=generator)
        for method in methods:
            parts[method.name].append(_score_chunk(method, episode, seed=seed, first=start))
        if progress is not None:
            progress("episodes", start + size, episodes)
    return {name: _joined(parts[name]) for name in names}


def score(
    method: Method,
    sampler: EpisodeSampler,
    *,
    ways: int,
    shots: int,
    queries: int,
    episodes: int,
    seed: int,
    batch: int = 50,
) -> Scores:
    """`score_all` for one method."""
    return score_all(
        [method], sampler, ways=ways, shots=shots, queries=queries, episodes=episodes, seed=seed, batch=batch
    )[method.name]


def _score_chunk(method: Method, episode: Episode, *, seed: int, first: int) -> Scores:
    generators = [seeds.generator(seed, "head", first + i) for i in range(len(episode))]
    begin = time.perf_counter()
    with torch.no_grad():
        written = method(episode, generators)
        # Onto the features' device inside the timed part: an accelerator has then really finished.
        head = Head(written.weight.to(episode.query.device), written.bias.to(episode.query.device))
    seconds = time.perf_counter() - begin
    confidence, predicted = head.logits(episode.query).softmax(-1).max(-1)
    return Scores(
        correct=(predicted == episode.query_labels).cpu(),
        confidence=confidence.cpu(),
        classes=episode.classes.gather(1, episode.query_labels).cpu(),
        seconds=seconds,
    )


def _joined(parts: Sequence[Scores]) -> Scores:
    return Scores(
        correct=torch.cat([part.correct for part in parts]),
        confidence=torch.cat([part.confidence for part in parts]),
        classes=torch.cat([part.classes for part in parts]),
        seconds=sum(part.seconds for part in parts),
    )
