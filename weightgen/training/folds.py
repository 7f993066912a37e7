"""Base classes in groups, each seen through statistics of the others, as new classes will be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.errors import InputError
from weightgen.features.class_rows import Readout, RowReader
from weightgen.features.standardizer import Standardizer
from weightgen.features.temperature import Calibration, fit_scale
from weightgen.interfaces import Conditioner
from weightgen.records import Features
from weightgen.seeds import derive, generator
from weightgen.zoo.ideal_prototypes import ideal_prototypes
from weightgen.zoo.members import Zoo

_EPISODES = 50
_QUERIES = 10
_WAYS = 10


@dataclass(frozen=True)
class Fold:
    """Some base classes, in a space whose statistics come from the other base classes, and what is learnt of them.

    prototypes: the target row of every class.
    zoo: rows fitted to many tasks of these classes instead; None where the prototypes are the targets.
    """

    features: Features
    prototypes: Float[Tensor, "classes feature"]
    reader: RowReader
    zoo: Zoo | None = None


def cross_fitted(
    features: Features,
    *,
    folds: int,
    shape: Mapping[str, Any],
    conditioner: Conditioner,
    readout: Readout,
    shots: tuple[int, int],
    seed: int,
) -> tuple[Fold, ...]:
    """The base classes in `folds` groups, each with a standardizer fitted on all other groups.

    A feature space fitted on the very classes that episodes are drawn from flatters them: their prototypes lie along
    its first axes. A denoiser learns to trust those axes and fails on new classes (measured: 12 to 37 points below the
    centroid with 60 classes of 1280 features). Here every episode looks as one of unseen classes will.

    Each fold's reader also gets the scale that makes heads without a network honest, so that the query loss teaches
    discrimination and not sharpness, and its standardizer the sharpness that makes assignments honest.

    Args:
        shape: the standardizer's arguments.
        folds: 1 fits one standardizer on all classes, as the paper does.
        shots: fewest and most, for the scale.

    Raises:
        InputError: too few classes for so many folds.
    """
    classes = len(features.families)
    if classes < 2 * folds:
        raise InputError(
            f"training.folds is {folds} and there are {classes} base classes; every fold needs 2, lower it"
        )
    made = []
    for number, own in enumerate(features.groups(folds, generator(seed, "folds"))):
        inside = features.of_classes(own)
        outside = features if folds == 1 else features.without(own)
        standardizer = Standardizer(**shape).fit(outside)
        judge = partial(_honest_scale, inside, conditioner, shots=shots, seed=derive(seed, "fold scale", number))
        standardizer.sharpness.fill_(judge(RowReader(standardizer, "gaussian")))
        scale = Calibration.flat(judge(RowReader(standardizer, readout), adapted=True))
        made.append(Fold(inside, ideal_prototypes(inside, standardizer), RowReader(standardizer, readout, scale)))
    return tuple(made)


def mean_sharpness(folds: Sequence[Fold]) -> Tensor:
    """The sharpness of a standardizer fitted on all base classes: that of the folds', on classes unseen by them."""
    return torch.stack([fold.reader.standardizer.sharpness for fold in folds]).log().mean().exp()


@torch.no_grad()
def _honest_scale(
    features: Features,
    conditioner: Conditioner,
    reader: RowReader,
    *,
    shots: tuple[int, int],
    seed: int,
    adapted: bool = False,
) -> float:
    """The factor that calibrates heads made of the condition's tokens; in spaces as episodes get if `adapted`."""
    sampler, fewest, logits, labels = EpisodeSampler(features), int(features.counts.min()), [], []
    for number in sorted({min(number, fewest - 1) for number in shots}):
        episode = sampler.sample(
            batch=_EPISODES,
            ways=min(_WAYS, len(features.class_names)),
            shots=number,
            queries=min(_QUERIES, fewest - number),
            generator=generator(seed, number),
        )
        episode = reader.standardizer.standardize(episode)
        as_it_is = ((slice(None), episode, reader.standardizer),)
        for _, own, space in conditioner.in_spaces(episode, reader.standardizer) if adapted else as_it_is:
            condition = conditioner(own, space)
            head = replace(reader, standardizer=space).standardised_head(condition.tokens[:, None], condition.counts)
            logits.append(head.logits(own.query).flatten(0, 1))  # the number of queries may differ
            labels.append(own.query_labels.flatten())
    return fit_scale(torch.cat(logits)[None], torch.cat(labels)[None])
