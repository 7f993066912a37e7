"""What a recipe may not ask for where every episode gets a space of its own."""

from __future__ import annotations

from weightgen.errors import InputError
from weightgen.options.recipe import Recipe


def check_adapted(recipe: Recipe) -> None:
    """Refuse what makes no sense with a conditioner that adapts the space. Raises InputError."""
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
