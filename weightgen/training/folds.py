"""Base classes in groups, each seen through statistics of the others, as new classes will be."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.features.temperature import fit_scale
from weightgen.interfaces import ClassifiesFeatures, Conditioner, FeatureSpace, ParameterSpace
from weightgen.records import Calibration, Episode, Features
from weightgen.seeds import derive, generator
from weightgen.spaces.class_rows import ClassRows
from weightgen.zoo.members import Zoo
from weightgen.zoo_targets.ideal_prototypes import ideal_prototypes

_EPISODES = 50
_QUERIES = 10
_WAYS = 10
QueryLogits = Callable[[Tensor, Episode, FeatureSpace], Tensor]
"""Class rows, a standardised episode and its feature space to the logits of its queries."""


@dataclass(frozen=True)
class Fold:
    """Some base classes, in a feature space whose statistics come from the others, and what is learnt of them.

    prototypes: the target row of every class. scale: factor on the logits of queries.
    zoo: tokens of parameters fitted to many tasks of these classes instead; None where the prototypes are the targets.
    """

    features: Features
    prototypes: Float[Tensor, "classes feature"]
    standardizer: Standardizer
    scale: Calibration
    zoo: Zoo | None = None


def cross_fitted(
    features: Features,
    *,
    folds: int,
    standardizer: Standardizer,
    conditioner: Conditioner,
    space: ParameterSpace,
    shots: tuple[int, int],
    seed: int,
) -> tuple[Fold, ...]:
    """The base classes in `folds` groups, each with a standardizer fitted on all other groups.

    A feature space fitted on the very classes that episodes are drawn from flatters them: their prototypes lie along
    its first axes. A denoiser learns to trust those axes and fails on new classes (measured: 12 to 37 points below the
    centroid with 60 classes of 1280 features). Here every episode looks as one of unseen classes will.

    Each fold also gets the logit scale that calibrates heads without a network, so that the query loss teaches
    discrimination and not a scale, and its standardizer the one that calibrates Gaussian log-likelihoods.

    Args:
        standardizer: fitted or not; every fold gets one with its options.
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
    folds_of_classes, guess = [], conditioner if conditioner.sees_images else TaskPrototypes()
    groups = features.groups(folds, generator(seed, "folds"))
    if space.class_names is not None or conditioner.class_names is not None:
        groups = [features.class_names]  # places of classes mean something
    for number, own in enumerate(groups):
        inside = features.of_classes(own)
        outside = features if folds == 1 else features.without(own)
        standardizer = copy.deepcopy(standardizer).fit(outside)
        calibrate = partial(
            _logit_scale, inside, guess, standardizer, shots=shots, seed=derive(seed, "fold scale", number)
        )
        unscaled = Calibration()
        standardizer.likelihood_scale.fill_(
            calibrate(partial(ClassRows(readout="gaussian").query_logits, scale=unscaled))
        )
        scale = unscaled  # of heads that act on other than these features
        if isinstance(space.of_values, ClassifiesFeatures):
            scale = Calibration.flat(calibrate(partial(space.of_values.query_logits, scale=unscaled), adapted=True))
        folds_of_classes.append(Fold(inside, ideal_prototypes(inside, standardizer), standardizer, scale))
    return tuple(folds_of_classes)


def mean_likelihood_scale(folds: Sequence[Fold]) -> Tensor:
    """The scale for a standardizer fitted on all base classes: that of the folds', on classes unseen by them."""
    return torch.stack([fold.standardizer.likelihood_scale for fold in folds]).log().mean().exp()


@torch.no_grad()
def _logit_scale(
    features: Features,
    conditioner: Conditioner,
    standardizer: Standardizer,
    query_logits: QueryLogits,
    *,
    shots: tuple[int, int],
    seed: int,
    adapted: bool = False,
) -> float:
    """The factor that calibrates heads made of the condition's tokens; in the spaces that episodes get if `adapted`."""
    sampler, fewest, logits, labels = EpisodeSampler(features), int(features.counts.min()), [], []
    for number in sorted({min(number, fewest - 1) for number in shots}):
        episode = sampler.sample(
            batch=_EPISODES,
            ways=min(_WAYS, len(features.class_names)),
            shots=number,
            queries=min(_QUERIES, fewest - number),
            generator=generator(seed, number),
        )
        episode = standardizer.standardize(episode)
        as_it_is = ((slice(None), episode, standardizer),)
        for _, own, space in conditioner.in_spaces(episode, standardizer) if adapted else as_it_is:
            tokens = conditioner(own, space).tokens
            logits.append(query_logits(tokens, own, space).flatten(0, 1))  # the number of queries may differ
            labels.append(own.query_labels.flatten())
    return fit_scale(torch.cat(logits)[None], torch.cat(labels)[None])
