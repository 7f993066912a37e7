"""How good a generator of parts is on base classes kept out of its training, and how sure it may be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.features.temperature import Calibration, fit_scale
from weightgen.part_pipeline import PartPipeline
from weightgen.records import Episode, Features
from weightgen.seeds import generator

_SHOTS = (1, 2, 5, 10)
_EPISODES = 30
_QUERIES = 10


@dataclass(frozen=True)
class HeldOutPixels:
    """Fixed episodes of held-out base classes, on which steps are chosen.

    Asking for more classes or images than there are lowers the ways and the queries.
    """

    pixels: Features
    ways: int
    shots: tuple[int, ...]
    queries: int
    episodes: int
    seed: int

    def accuracy(self, pipeline: PartPipeline) -> float:
        """Mean accuracy in percent over all shots."""
        fewest = int(self.pixels.counts.min())
        correct = []
        for number in self.shots:
            shots = min(number, fewest - 1)
            episode = _episode(
                self.pixels, self.ways, shots, min(self.queries, fewest - shots), self.episodes, seed=self.seed
            )
            logits = _logits(pipeline, episode, seed=self.seed)
            correct.append((logits.argmax(-1).cpu() == episode.query_labels).float().mean())
        return 100 * float(torch.stack(correct).mean())


def part_calibration(pipeline: PartPipeline, pixels: Features, *, ways: int, seed: int) -> Calibration:
    """The factor on the head's cosines with the least cross-entropy, for each of several numbers of shots.

    Numbers of shots that leave a class without a query are left out.
    """
    fewest, knots = int(pixels.counts.min()), []
    for shots in _SHOTS:
        if shots < fewest:
            episode = _episode(pixels, ways, shots, min(_QUERIES, fewest - shots), _EPISODES, seed=seed)
            logits = _logits(pipeline, episode, seed=seed).cpu()
            scale = fit_scale(logits.flatten(0, 1)[None], episode.query_labels.flatten()[None])
            knots.append((float(shots), scale))
    return Calibration(tuple(knots))


def _episode(pixels: Features, ways: int, shots: int, queries: int, episodes: int, *, seed: int) -> Episode:
    return EpisodeSampler(pixels).sample(
        batch=episodes,
        ways=min(ways, len(pixels.class_names)),
        shots=shots,
        queries=queries,
        generator=generator(seed, "held-out pixels", shots),
    )


@torch.no_grad()
def _logits(pipeline: PartPipeline, episode: Episode, *, seed: int) -> Float[Tensor, "batch queries ways"]:
    noise = [generator(seed, "held-out offset", i) for i in range(len(episode))]
    offsets = pipeline.offsets(episode, noise)
    return pipeline.part.query_logits(offsets, episode, scale=1.0)
