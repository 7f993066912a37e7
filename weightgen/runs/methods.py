"""Which methods a comparison has, and how each is made ready."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from weightgen import registry
from weightgen.errors import InputError
from weightgen.evaluation.tuning import BaseClassFolds, CrossValidation
from weightgen.interfaces import Method, TunableMethod
from weightgen.pipeline import WeightGenerationPipeline

GENERATOR = "generator"
RAW_CENTROID = "raw_centroid"
INDUCTIVE = "inductive"
DRAWS = "draws"
FINE_TUNED = "fine_tuned_head"
NO_CROPS = "no_crops"
PARTS = {"the chain": "one_step", "the learnt network": "no_denoiser", "looking at crops": NO_CROPS}
"""What is measured against which ablation."""


def known_methods(asked: Sequence[str] = ()) -> dict[str, tuple[type[Method], dict[str, Any]]]:
    """By the names that tables have, the generator first: the method and its options.

    Names with dots among those `asked` for are modules outside weightgen.
    """
    files = registry.names("methods")
    known = {name: variant for file in files for name, variant in registry.get("methods", file).variants().items()}
    outside = {name: (registry.get("methods", name), dict[str, Any]()) for name in asked if "." in name}
    return {GENERATOR: known.pop(GENERATOR), **dict(sorted(known.items())), **outside}


def chosen_methods(
    asked: Sequence[str] | None,
    *,
    protocol: Literal["episodes", "transfer"],
    unlabelled: bool = False,
    fitted: bool = True,
    base_classes: bool = True,
    crops: bool = False,
    pipeline: WeightGenerationPipeline,
) -> list[str]:
    """The names asked for; None means all of the protocol that run with, or without, unlabelled images.

    The raw cosine centroid is always among them. `draws` is left out of all where the generator cannot draw, and where
    there are unlabelled images: its every step would go through them again for every draw, which takes longer than
    everything else together; and so does `fine_tuned_head` where its options are chosen anew for every episode.

    fitted: whether the zoo's members were fitted to tasks, so that methods can fit others.
    base_classes: whether there are classes that methods can be tuned on.
    crops: whether there are crops of support images that the generator looks at.

    Raises InputError for a name that is unknown, given twice, or of a method that cannot run here.
    """
    known = known_methods(asked or ())
    setting: dict[str, Any] = {"protocol": protocol, "unlabelled": unlabelled, "fitted": fitted, "crops": crops}
    setting |= {"pipeline": pipeline, "tuned": base_classes}
    objections = {name: _objection(name, method, **setting) for name, (method, _) in known.items()}
    if asked:
        _check_names(asked, known)
        for name in asked:
            if objections[name] is not None:
                raise InputError(f"method '{name}'{objections[name]}")
        return list(dict.fromkeys([*asked, RAW_CENTROID]))
    excluded = {DRAWS} if unlabelled else set()
    excluded |= {FINE_TUNED} if protocol == "episodes" and not base_classes else set()
    excluded |= {name for name, objection in objections.items() if objection is not None}
    return [name for name, (method, _) in known.items() if protocol in method.protocols and name not in excluded]


def build_methods(
    names: Sequence[str],
    pipeline: WeightGenerationPipeline | None,
    *,
    folds: BaseClassFolds | None = None,
    built: Callable[[int], None] = lambda _: None,
    **given: Any,
) -> dict[str, Method]:
    """Methods ready to be fitted, by name.

    Args:
        names: of `known_methods`.
        pipeline: for the generator and its ablations.
        folds: chooses the options of methods that use base classes; None leaves all to cross-validation of the support.
        built: called with the number of those that are ready.
        given: further arguments, for the methods whose constructors take them.
    """
    known, methods = known_methods(names), {}
    for i, name in enumerate(names):
        methods[name] = _built(*known[name], folds, {"pipeline": pipeline, **given})
        built(i + 1)
    return methods


def _built(
    method: type[Method], options: dict[str, Any], folds: BaseClassFolds | None, given: dict[str, Any]
) -> Method:
    if issubclass(method, TunableMethod):
        return CrossValidation(method) if folds is None or method.base_classes == "unused" else folds(method)
    taken = registry.option_names(method)
    return method(**{key: value for key, value in given.items() if key in taken}, **options)


def _check_names(asked: Sequence[str], known: Iterable[str]) -> None:
    for i, name in enumerate(asked):
        if name not in known:
            raise InputError(f"unknown method '{name}'{registry.nearest(name, known)}")
        if name in asked[:i]:
            raise InputError(f"method '{name}' is named twice; name it once")


def _objection(
    name: str,
    method: type[Method],
    *,
    pipeline: WeightGenerationPipeline,
    protocol: str,
    unlabelled: bool,
    fitted: bool,
    tuned: bool,
    crops: bool,
) -> str | None:
    """Why a method cannot run here, and the remedy; None where it can."""
    if name == DRAWS and not pipeline.can_draw:
        return ": this generator writes a single head; leave the method out"
    if name == NO_CROPS and not crops:
        return ": this generator sees no crops of these images; leave the method out"
    if method.inside_backbone and not pipeline.space.takes_images:
        return " is for generators that write inside the backbone; leave it out"
    if method.fits_parameters and not fitted:
        return " fits as the zoo did, and this zoo was not fitted; leave it out"
    if not tuned and getattr(method, "base_classes", None) == "needed":
        return " is tuned on base classes, and the universal generator has none; leave it out"
    if protocol == "transfer" and (method.uses_unlabelled or getattr(method, "base_classes", None) == "needed"):
        return " is for episodes; leave it out where whole training sets are compared"
    if method.uses_unlabelled and not unlabelled:
        return " needs unlabelled images; give --unlabelled N, or leave the method out"
    return None
