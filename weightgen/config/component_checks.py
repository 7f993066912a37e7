"""What the components of a recipe need of each other and of the rest of it."""

from __future__ import annotations

from weightgen.config.recipe import Recipe
from weightgen.errors import InputError
from weightgen.interfaces import Conditioner, Denoiser, Objective, ParameterSpace
from weightgen.registry import get, option_names

_UNIVERSAL = ("ridge_transformer", "calibrated_prototypes")
_HEAD, _ROWS, _CHUNKS = "head", "class_rows", "chunks"


def check_space(recipe: Recipe, space: ParameterSpace) -> None:
    """Refuse a parameter space that does not hold what the selector generates. Raises InputError."""
    selector = recipe.selector.name
    if space.class_names is not None:  # with a last layer of its own
        return
    if space.takes_images == (selector == _HEAD):
        fitting = _ROWS if space.takes_images else _CHUNKS
        raise InputError(f"space '{recipe.space.name}' does not hold '{selector}'; set space.name to {fitting}")


def check_kinds(
    recipe: Recipe, space: ParameterSpace, denoiser: Denoiser, conditioner: Conditioner, objective: Objective
) -> None:
    """Refuse a recipe whose components do not suit its parameter space. Raises InputError."""
    selector = recipe.selector.name
    if denoiser.ordered != space.ordered:
        fitting = "chunk_transformer" if space.ordered else "class_transformer"
        raise InputError(f"denoiser '{recipe.denoiser.name}' does not fit space '{recipe.space.name}'; use {fitting}")
    if space.shape_options and "token_width" not in option_names(type(denoiser)):
        raise InputError(
            f"denoiser '{recipe.denoiser.name}' takes tokens as wide as features, and those of space "
            f"'{recipe.space.name}' are not; use token_transformer"
        )
    for name, component in ((recipe.space.name, space), (recipe.conditioner.name, conditioner)):
        if component.class_names is not None:
            _check_fixed_classes(recipe, name)
    if not space.takes_images:
        return
    if not get("zoo_targets", recipe.zoo.targets).fitted:
        raise InputError(
            f"selector '{selector}': zoo.targets '{recipe.zoo.targets}' are heads; use head, or set zoo.targets to "
            "trajectories"
        )
    if type(conditioner).at is not Conditioner.at:
        raise InputError(
            f"conditioner '{recipe.conditioner.name}' follows noisy class rows, and selector '{selector}' has none; "
            "use local_targets"
        )
    if objective.classifies_queries:
        raise InputError(
            f"objective '{recipe.objective.name}' classifies queries by class rows; selector '{selector}' has none, "
            "use local_consistency with query_weight: 0"
        )
    for key, given, allowed, why in _limits(recipe):
        if given != allowed:
            raise InputError(f"{key} is {given}; {why} with selector '{selector}', set it to {allowed}")


def _limits(recipe: Recipe) -> list[tuple[str, object, object, str]]:
    """Key, value, the only value that makes sense where parameters lie inside the backbone, and why."""
    training, fit, generation = recipe.training, recipe.zoo.fit, recipe.generation
    return [
        ("training.folds", training.folds, 1, "parameters are seen in one space"),
        ("training.unlabelled", list(training.unlabelled), [0, 0], "unlabelled images are of no use"),
        ("zoo.fit.feature_noise", fit.feature_noise, 0.0, "fits see images and not features"),
        ("generation.samples", generation.samples, 1, "one backbone is written"),
        ("generation.readout", generation.readout, None, "heads are cosines to class means"),
    ]


def _check_fixed_classes(recipe: Recipe, known: str) -> None:
    """Refuse to keep classes from a generator that is for all classes of its data and no others."""
    training, data = recipe.training, recipe.data
    for key, given, allowed in (
        ("training.held_out_classes", training.held_out_classes, 0),
        ("training.folds", training.folds, 1),
        ("data.novel", data.novel or 0, 0),
        ("data.turned", data.turned, False),
    ):
        if given != allowed:
            raise InputError(
                f"{key} is {given}; '{known}' knows its classes and no others, set it to {str(allowed).lower()}, and "
                "data.test_images to a share of their images to evaluate on"
            )


def check_together(recipe: Recipe, denoiser: Denoiser, conditioner: Conditioner) -> None:
    """Refuse components that do not fit together. Raises InputError."""
    name = recipe.denoiser.name
    if denoiser.needs_variance and not conditioner.gives_variance:
        raise InputError(
            f"denoiser '{name}' needs the variance of the condition; use conditioner local_targets, or "
            "task_prototypes with shrink: true"
        )
    if denoiser.needs_gradient and type(conditioner).at is Conditioner.at:
        raise InputError(f"denoiser '{name}' needs the gradient at the noisy rows; use conditioner task_prototypes")
    if denoiser.needs_loo and not conditioner.adapts:
        raise InputError(f"denoiser '{name}' needs leave-one-out logits; use conditioner dataset_statistics")
    if conditioner.adapts:
        _check_adapted(recipe)
    if recipe.training.start == "universal" and (name, recipe.conditioner.name) != _UNIVERSAL:
        raise InputError(
            f"training.start: the universal generator is of {' and '.join(_UNIVERSAL)}, not of {name} and "
            f"{recipe.conditioner.name}; take the recipe specialise, or start: scratch"
        )
    if recipe.data.spaces:
        _check_spaces(recipe)
    if recipe.training.unlabelled[1] and not denoiser.uses_unlabelled:
        raise InputError(
            f"training.unlabelled: denoiser '{name}' learns nothing from unlabelled images; set it to [0, 0]"
        )


def _check_spaces(recipe: Recipe) -> None:
    """Refuse further feature spaces for what belongs to one. Raises InputError."""
    for section in ("denoiser", "conditioner"):
        component = get(f"{section}s", getattr(recipe, section).name)
        if "feature_width" in option_names(component):
            raise InputError(f"data.spaces: {section} {getattr(recipe, section).name} has one feature width; drop it")
    if recipe.standardizer.map != "classifier" or get("zoo_targets", recipe.zoo.targets).fitted:
        raise InputError("data.spaces: needs standardizer.map: classifier and zoo.targets: ideal_prototypes; set both")


def _check_adapted(recipe: Recipe) -> None:
    """Refuse what makes no sense where every episode gets a space of its own."""
    limits: list[tuple[str, object, tuple[object, ...], str]] = [
        ("selector.name", recipe.selector.name, ("head",), "parameters inside a backbone have no feature space"),
        ("training.reptile", "given" if recipe.training.reptile else "null", ("null",), "tasks come one at a time"),
        ("generation.readout", recipe.generation.readout, (None, "gaussian"), "images are classified by their density"),
        ("standardizer.map", recipe.standardizer.map, ("scale", "whiten"), "the scale of features must be known"),
    ]
    for key, given, allowed, why in limits:
        if given not in allowed:
            raise InputError(
                f"{key} is {given}; {why} with conditioner '{recipe.conditioner.name}', set it to {allowed[-1]}"
            )
