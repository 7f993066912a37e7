"""Names of recipes, and of components and their options in one, checked by reading sources: nothing is imported."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from weightgen.errors import InputError
from weightgen.extras import require
from weightgen.registry import check_options, declared_options, nearest

if TYPE_CHECKING:
    from weightgen.config.recipe import Recipe

_PACKAGE = "weightgen.recipes"
GIVEN = {
    "selector": set[str](),
    "space": {"selector", "sizes", "readout", "classes", "feature_width"},
    "conditioner": {"feature_width", "classes"},
    "denoiser": {"feature_width", "num_train_timesteps", "base_classes", "sizes", "token_width"},
    "objective": set[str](),
}
"""Arguments of the components of a section that the program decides, and no recipe."""


def recipe_names() -> list[str]:
    """Names of the recipes that come with weightgen, such as `metadiff` and `paper/metadiff`."""
    root = Path(str(resources.files(_PACKAGE)))
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe given by path or by name. Raises InputError with the nearest right name."""
    if Path(name).is_file():
        return Path(name)
    root = Path(str(resources.files(_PACKAGE)))
    bare = name.removeprefix("recipes/").removesuffix(".yaml")
    if bare in recipe_names():
        return root / f"{bare}.yaml"
    raise InputError(f"recipe '{name}': no such file, nor a recipe of weightgen{nearest(bare, recipe_names())}")


def check_names(recipe: Recipe) -> None:
    """Refuse unknown components, schedulers and options, options of another type, and a tracker that is not installed.

    Raises InputError.
    """
    if recipe.training.tracker is not None:
        require(recipe.training.tracker, what=f"training.tracker: {recipe.training.tracker}")
    for section, given in GIVEN.items():
        chosen = getattr(recipe, section)
        check_options(declared_options(f"{section}s", chosen.name), chosen.options, place=section, given=given)
    targets, taken = recipe.zoo.targets, declared_options("zoo_targets", recipe.zoo.targets)
    for key in ("tasks", "fit"):
        if key in recipe.zoo.options and key not in taken:
            raise InputError(f"zoo: tasks and fit are for targets: trajectories; drop {key} with {targets}")
    check_options(taken, recipe.zoo.options, place="zoo")
    for name in (recipe.scheduler.name, recipe.generation.scheduler, recipe.generation.draw_scheduler):
        if name is not None and name not in _schedulers():
            raise InputError(f"unknown scheduler '{name}'{nearest(name, _schedulers())}")
    known = _scheduler_options(recipe.scheduler.name)
    for key in recipe.scheduler.options:
        if key not in known:
            raise InputError(f"scheduler.{recipe.scheduler.name} has no option '{key}'{nearest(key, known)}")


@cache
def _schedulers() -> dict[str, Path]:
    """Every scheduler class of diffusers, and of our own, and its file."""
    diffusers = importlib.util.find_spec("diffusers")
    assert diffusers is not None and diffusers.origin is not None
    own, theirs = Path(__file__).parents[1] / "schedulers", Path(diffusers.origin).parent / "schedulers"
    return {
        line.removeprefix("class ").partition("(")[0]: path
        for path in (*theirs.glob("scheduling_*.py"), *own.glob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("class ") and "Scheduler(" in line
    }


def _scheduler_options(name: str) -> set[str]:
    """Options of a scheduler: arguments of its constructor, or of the first above it that has one."""
    for node in ast.parse(_schedulers()[name].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    return {one.arg for one in part.args.args[1:] + part.args.kwonlyargs}
            return _scheduler_options(ast.unparse(node.bases[0]))
    raise RuntimeError(f"{_schedulers()[name]} defines no class {name}")
