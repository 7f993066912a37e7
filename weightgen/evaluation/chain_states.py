"""What a generator's chain passes on its way, episode by episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightgen import seeds
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.evaluation.scoring import EpisodeSizes
from weightgen.pipeline import Denoise, WeightGenerationPipeline
from weightgen.records import Features

_EPISODES_AT_ONCE = 25


@dataclass(frozen=True)
class ChainStates:
    """Standardised rows on the way from noise.

    at_ends: where the segments end, of all episodes; of a chain without segments, where it ends.
    shown: the noise, and the rows after every denoiser call, of the first episodes.
    ends: places in `shown` where the segments end.
    """

    at_ends: Float[Tensor, "episodes ends ways feature"]
    shown: Float[Tensor, "shown states ways feature"]
    ends: tuple[int, ...]


@torch.no_grad()
def chain_states(
    pipeline: WeightGenerationPipeline,
    features: Features,
    classes: Int[Tensor, "episodes ways"],
    sizes: EpisodeSizes,
    *,
    shown: int,
    denoiser: Denoise | None = None,
    seed: int = 0,
) -> ChainStates:
    """Run the chain on episodes of these classes; seed and place decide the images and the noise of an episode.

    Args:
        classes: rows of the features' `class_names`.
        shown: episodes of which every state is kept.
        denoiser: used instead of the generator's own.
    """
    sampler, inner = EpisodeSampler(features), _inner_ends(pipeline)
    watches: list[_Watch] = []
    at_ends = []
    for start in range(0, len(classes), _EPISODES_AT_ONCE):
        part = classes[start : start + _EPISODES_AT_ONCE]
        draw = seeds.generator(seed, "chain episodes", start)
        episode = sampler.sample(batch=len(part), classes=part, generator=draw, **sizes)
        noise = [seeds.generator(seed, "chain noise", start + i) for i in range(len(part))]
        watch = _Watch(inner, shown=max(0, shown - start))
        last = pipeline.rows(episode, noise, samples=1, denoiser=denoiser, watch=watch)[:, 0]
        watches.append(watch)
        at_ends.append(torch.stack([*watch.at_ends, last], 1).cpu())
    states = torch.cat([torch.stack(watch.states, 1) for watch in watches]).cpu()
    return ChainStates(torch.cat(at_ends), states, (*inner, states.shape[1] - 1))


class _Watch:
    """Keeps what is needed of a chain's states: everything of the first episodes, the ends of segments of all."""

    def __init__(self, inner: Sequence[int], *, shown: int) -> None:
        self._inner, self._shown = inner, shown
        self.at_ends: list[Tensor] = []
        self.states: list[Tensor] = []

    def __call__(self, rows: Float[Tensor, "batch ways feature"]) -> None:
        if len(self.states) in self._inner:
            self.at_ends.append(rows)
        self.states.append(rows[: self._shown].clone())  # a view would keep the whole batch


def _inner_ends(pipeline: WeightGenerationPipeline) -> tuple[int, ...]:
    """Denoiser calls after which the segments end, but for the last; none where the chain has no segments."""
    scheduler = pipeline.scheduler
    if scheduler.config.get("segments", 1) == 1:
        return ()
    return tuple((scheduler.boundaries[0] - scheduler.boundaries[1:-1]).tolist())
