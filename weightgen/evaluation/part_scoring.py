"""Ways to adapt a backbone, each on the same episodes, query by query."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen import seeds
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.evaluation.scoring import Scores
from weightgen.records import Episode
from weightgen.selectors._part import Part


@runtime_checkable
class PartMethod(Protocol):
    """A function of a batch of pixel episodes and one random generator per episode."""

    @property
    def name(self) -> str:
        """How tables call it."""
        ...

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        """Offsets for `episode`; the queries must not be looked at."""
        ...


@torch.no_grad()
def score_parts(
    methods: Sequence[PartMethod],
    part: Part,
    sampler: EpisodeSampler,
    *,
    ways: int,
    shots: int,
    queries: int,
    episodes: int,
    seed: int,
    scale: Callable[[Episode], Float[Tensor, " batch"]],
    batch: int = 50,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Scores]:
    """Scores of every method, by name; what `score_all` is for heads, on the episodes that it would draw.

    All methods classify by the centroids of the support on features of their own, at the same `scale`.
    """
    parts: dict[str, list[Scores]] = defaultdict(list)
    for chunk, start in enumerate(range(0, episodes, batch)):
        size = min(batch, episodes - start)
        draw = seeds.generator(seed, "evaluation", chunk)
        episode = sampler.sample(batch=size, ways=ways, shots=shots, queries=queries, generator=draw)
        scales = scale(episode)
        for method in methods:
            generators = [seeds.generator(seed, "head", start + i) for i in range(size)]
            begin = time.perf_counter()
            offsets = method(episode.support_only(), generators)
            seconds = time.perf_counter() - begin
            probabilities = part.query_logits(offsets, episode, scale=scales).softmax(-1).cpu()
            confidence, predicted = probabilities.max(-1)
            classes = episode.classes.gather(1, episode.query_labels)
            parts[method.name].append(Scores(predicted == episode.query_labels, confidence, classes, seconds))
        if progress is not None:
            progress(f"episodes, {shots}-shot", start + size, episodes)
    return {name: _joined(pieces) for name, pieces in parts.items()}


def _joined(parts: Sequence[Scores]) -> Scores:
    return Scores(
        correct=torch.cat([part.correct for part in parts]),
        confidence=torch.cat([part.confidence for part in parts]),
        classes=torch.cat([part.classes for part in parts]),
        seconds=sum(part.seconds for part in parts),
    )
