"""What denoiser and conditioner need of each other and of the rest of a recipe."""

from __future__ import annotations

from weightgen.config.recipe import Recipe
from weightgen.errors import InputError
from weightgen.interfaces import Conditioner, Denoiser


def check_together(recipe: Recipe, denoiser: Denoiser, conditioner: Conditioner) -> None:
    """Refuse components that do not fit together. Raises InputError."""
    name = recipe.denoiser.name
    if denoiser.needs_variance and not conditioner.gives_variance:
        raise InputError(
            f"denoiser '{name}' must be told what the condition leaves unknown; use conditioner local_targets, or "
            "task_prototypes with shrink: true"
        )
    if denoiser.needs_gradient and type(conditioner).at is Conditioner.at:
        raise InputError(f"denoiser '{name}' follows a gradient at the noisy rows; use conditioner task_prototypes")
    if denoiser.needs_left_out and not conditioner.adapts:
        raise InputError(f"denoiser '{name}' judges images that were left out; use conditioner dataset_statistics")
    if conditioner.adapts:
        _check_adapted(recipe)
    if recipe.training.unlabelled[1] and not denoiser.uses_unlabelled:
        raise InputError(
            f"training.unlabelled: denoiser '{name}' learns nothing from unlabelled images; set it to [0, 0]"
        )


def _check_adapted(recipe: Recipe) -> None:
    """Refuse what makes no sense where every episode gets a space of its own."""
    limits: list[tuple[str, object, tuple[object, ...], str]] = [
        ("selector.name", recipe.selector.name, ("head",), "parts of a backbone live in no space of features"),
        ("training.reptile", "given" if recipe.training.reptile else "null", ("null",), "tasks come one at a time"),
        ("generation.readout", recipe.generation.readout, (None, "gaussian"), "images are told by their density"),
        ("standardizer.map", recipe.standardizer.map, ("scale", "whiten"), "the scale of features must be known"),
    ]
    for key, given, allowed, why in limits:
        if given not in allowed:
            raise InputError(
                f"{key} is {given}; {why} with conditioner '{recipe.conditioner.name}', set it to {allowed[-1]}"
            )
