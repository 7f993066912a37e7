"""Which methods a comparison has, and how each is made ready."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from weightgen import registry
from weightgen.errors import InputError
from weightgen.evaluation.part_methods import PART_METHODS
from weightgen.evaluation.tuning import BaseClassFolds, CrossValidation
from weightgen.interfaces import Method, TunableMethod
from weightgen.pipeline import WeightGenerationPipeline

GENERATOR = "generator"
RAW_CENTROID = "raw_centroid"
INDUCTIVE = "inductive"
DRAWS = "draws"
PARTS = {"the chain": "one_step", "the learnt network": "no_denoiser"}  # what is measured against which ablation


def known_methods() -> dict[str, tuple[type[Method], dict[str, Any]]]:
    """By the names that tables have, the generator first: the registered method and its options."""
    found = {
        name: (method, options)
        for method in (registry.get("methods", file) for file in registry.names("methods"))
        for name, options in method.variants().items()
    }
    return {GENERATOR: found.pop(GENERATOR), **found}


def chosen_methods(
    asked: Sequence[str] | None, *, protocol: Literal["episodes", "transfer"], unlabelled: bool = False, can_draw: bool
) -> list[str]:
    """The names asked for; None means all of the protocol that run with, or without, unlabelled images.

    The raw cosine centroid is always among them. `draws` is left out of all where the generator cannot draw, and where
    there are unlabelled images: its every step would go through them again for every draw, which takes longer than
    everything else together.

    Raises InputError for a name that is unknown, given twice, or of a method that cannot run here.
    """
    known = known_methods()
    if asked:
        _check_names(asked, known)
        for name in asked:
            _check_setting(name, known[name][0], protocol=protocol, unlabelled=unlabelled, can_draw=can_draw)
        return with_raw_centroid(asked)
    left_out = {DRAWS} if unlabelled or not can_draw else set()
    left_out |= {name for name, (method, _) in known.items() if method.uses_unlabelled and not unlabelled}
    return [name for name, (method, _) in known.items() if protocol in method.protocols and name not in left_out]


def chosen_part_methods(asked: Sequence[str] | None) -> list[str]:
    """The same for a generator of parts (`PART_METHODS`)."""
    _check_names(asked or (), PART_METHODS)
    return with_raw_centroid(asked or list(PART_METHODS))


def with_raw_centroid(names: Sequence[str]) -> list[str]:
    """The names, and that of the raw cosine centroid if it is not among them."""
    return list(dict.fromkeys([*names, RAW_CENTROID]))


def build_methods(
    names: Sequence[str],
    pipeline: WeightGenerationPipeline | None,
    *,
    folds: BaseClassFolds | None = None,
    built: Callable[[int], None] = lambda _: None,
) -> dict[str, Method]:
    """Methods ready to be fitted, by name.

    Args:
        names: of `known_methods`.
        pipeline: for the generator and its ablations.
        folds: chooses the options of methods that use base classes; None leaves all to cross-validation of the support.
        built: told how many are ready.
    """
    known, methods = known_methods(), {}
    for i, name in enumerate(names):
        methods[name] = _built(*known[name], pipeline, folds)
        built(i + 1)
    return methods


def _built(
    method: type[Method],
    options: dict[str, Any],
    pipeline: WeightGenerationPipeline | None,
    folds: BaseClassFolds | None,
) -> Method:
    if issubclass(method, TunableMethod):
        return CrossValidation(method) if folds is None or method.base_classes == "unused" else folds(method)
    given = {"pipeline": pipeline} if "pipeline" in registry.option_names(method) else {}
    return method(**given, **options)


def _check_names(asked: Sequence[str], known: Iterable[str]) -> None:
    for i, name in enumerate(asked):
        if name not in known:
            raise InputError(f"unknown method '{name}'{registry.nearest(name, known)}")
        if name in asked[:i]:
            raise InputError(f"method '{name}' is named twice; name it once")


def _check_setting(name: str, method: type[Method], *, protocol: str, unlabelled: bool, can_draw: bool) -> None:
    if name == DRAWS and not can_draw:
        raise InputError(f"method '{name}': a chain in segments has no noise to draw with; leave the method out")
    if protocol == "transfer" and (method.uses_unlabelled or getattr(method, "base_classes", None) == "needed"):
        raise InputError(f"method '{name}' is for episodes; leave it out where whole training sets are compared")
    if method.uses_unlabelled and not unlabelled:
        raise InputError(f"method '{name}' needs unlabelled images; give --unlabelled N, or leave the method out")
