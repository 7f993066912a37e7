"""The scale of a finished generator's logits, for every number of shots."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.features.standardizer import Standardizer
from weightgen.features.temperature import fit_mixture_scale, fit_scale
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Calibration, Features
from weightgen.seeds import generator

SHOTS = (1, 2, 5, 10, 20, 50, 100)
_MOST_SHOTS = 10  # where every image goes through a backbone of its own
_EPISODES, _DRAWN_EPISODES = 30, 15  # every draw is a chain of its own
_DATA_SETS, _DRAWN_DATA_SETS = 12, 3  # where each gets a space of its own
_QUERIES = 10
_SUPPORTS = 200
OF_THE_SAME_KIND = 0.1
"""Share of supports of unseen base classes that may be taken for ones of another kind."""


@dataclass(frozen=True)
class View:
    """Classes as unseen ones look: through statistics of others. inputs: of what heads act on."""

    inputs: Features
    standardizer: Standardizer


def calibrated(
    pipeline: WeightGenerationPipeline, views: Sequence[View], *, ways: int, samples: int, seed: int
) -> Calibration:
    """The factor with the least cross-entropy over all views, for each of several numbers of shots.

    Args:
        pipeline: calibrated or not; its own calibration plays no part.
        views: held-out classes and folds of base classes.
        samples: 1 calibrates the single head, more the mixture of so many draws.

    Where a view has fewer than `ways` classes, all are judged with as many ways as it has. Numbers of shots that leave
    a class without a query are left out.
    """
    uncalibrated = copy.copy(pipeline)
    uncalibrated.register_to_config(calibration=((1.0, 1.0),), draw_calibration=((1.0, 1.0),))
    ways = min([ways, *(len(view.inputs.class_names) for view in views)])  # all views together, in one tensor
    knots = []
    for shots in SHOTS if not pipeline.space.takes_images else [n for n in SHOTS if n <= _MOST_SHOTS]:
        parts = [
            _logits(uncalibrated, view, ways=ways, shots=shots, samples=samples, seed=seed)
            for view in views
            if int(view.inputs.counts.min()) > shots
        ]
        if parts:
            logits, labels = torch.cat([part[0] for part in parts], 1), torch.cat([part[1] for part in parts])
            first = fit_scale(logits[:1], labels[None])
            scale = first if samples == 1 else fit_mixture_scale(logits, labels, start=first)
            knots.append((float(shots), scale))
    return Calibration(tuple(knots))


def kind_limits(
    views: Sequence[View], *, ways: int, seed: int, beyond: float = OF_THE_SAME_KIND
) -> list[tuple[float, float]]:
    """(shots, distance): what all but a share of supports of unseen base classes stay below.

    Args:
        views: held-out classes and folds of base classes, of features.
        beyond: that share; distances are those of `Standardizer.distance_from_base`.
    """
    limits, seen = [], []
    for view in views:  # every image standardised once, however often it is drawn
        values = view.inputs.values.to(view.standardizer.mean.device)
        seen.append((view, EpisodeSampler(replace(view.inputs, values=view.standardizer.support(values).cpu()))))
    for shots in SHOTS:
        distances = [
            view.standardizer.distance_from_base(
                sampler.sample(
                    batch=_SUPPORTS,
                    ways=min(ways, len(view.inputs.class_names)),
                    shots=shots,
                    queries=1,
                    generator=generator(seed, "kind", shots),
                ).to(view.standardizer.mean.device)
            )
            for view, sampler in seen
            if int(view.inputs.counts.min()) > shots
        ]
        if distances:
            limits.append((float(shots), float(torch.cat(distances).quantile(1 - beyond))))
    return limits


@torch.no_grad()
def _logits(
    pipeline: WeightGenerationPipeline, view: View, *, ways: int, shots: int, samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Logits [samples images ways] of every draw, and the labels."""
    seeing = copy.copy(pipeline)
    seeing.standardizer = view.standardizer
    single, drawn = (_DATA_SETS, _DRAWN_DATA_SETS) if pipeline.conditioner.adapts else (_EPISODES, _DRAWN_EPISODES)
    classes, left = len(view.inputs.class_names), int(view.inputs.counts.min()) - shots
    episode = EpisodeSampler(view.inputs).sample(
        batch=single if samples == 1 else drawn,
        ways=ways,
        shots=shots,
        queries=min(_QUERIES, left),
        generator=generator(seed, "calibration", shots, classes),
    )
    noise = [generator(seed, "calibration head", shots, i) for i in range(len(episode))]
    logits = seeing.heads(episode, noise, samples=samples).draw_logits(episode.query.to(seeing.device))
    return logits.transpose(0, 1).flatten(1, 2).cpu(), episode.query_labels.flatten()
