"""What a recipe may not ask for where parameters inside the backbone are generated."""

from __future__ import annotations

from weightgen.config.recipe import Recipe
from weightgen.errors import InputError
from weightgen.interfaces import Conditioner, Denoiser

HEAD = "head"


def check_kinds(recipe: Recipe, denoiser: type[Denoiser], conditioner: type[Conditioner]) -> None:
    """Refuse a recipe whose parts do not suit what its selector generates, class rows or parts. Raises InputError."""
    selector, wanted = recipe.selector.name, "rows" if recipe.selector.name == HEAD else "parts"
    if wanted == "parts" and recipe.zoo.targets != "trajectories":
        raise InputError(
            f"selector '{selector}': zoo.targets '{recipe.zoo.targets}' are heads; use head, or set zoo.targets to "
            "trajectories"
        )
    if denoiser.denoises != wanted:
        mend = "class_transformer" if wanted == "rows" else "part_transformer"
        raise InputError(f"denoiser '{recipe.denoiser.name}' denoises no {wanted} of selector '{selector}'; use {mend}")
    if wanted == "rows":
        return
    if conditioner.at is not Conditioner.at:
        raise InputError(
            f"conditioner '{recipe.conditioner.name}' follows noisy class rows, and selector '{selector}' has none; "
            "use local_targets"
        )
    for key, given, allowed, why in _limits(recipe):
        if given != allowed:
            raise InputError(f"{key} is {given}; {why} with selector '{selector}', set it to {allowed}")


def _limits(recipe: Recipe) -> list[tuple[str, object, object, str]]:
    """Key, value, the only value that makes sense, and why."""
    training, fit, generation = recipe.training, recipe.zoo.fit, recipe.generation
    objective, rows = recipe.objective, "queries are classified by class rows, which are not generated"
    limits: list[tuple[str, object, object, str]] = [
        ("training.folds", training.folds, 1, "parameters are seen in one space"),
        ("training.unlabelled", list(training.unlabelled), [0, 0], "unlabelled images are of no use"),
        ("zoo.fit.sharpness_aware_radius", fit.sharpness_aware_radius, 0.0, "fits follow the plain gradient"),
        ("zoo.fit.feature_noise", fit.feature_noise, 0.0, "fits see images and not features"),
        ("generation.read", generation.read, "mean", "one backbone is written"),
        ("generation.samples", generation.samples, 1, "one backbone is written"),
        ("generation.readout", generation.readout, None, "heads are cosines to class means"),
        ("objective.query_weight", objective.options.get("query_weight", 0), 0, rows),
    ]
    if objective.name == "query_loss":
        limits.append(("objective.name", objective.name, "local_consistency", rows))
    return limits
