"""Recipe files and `key=value` overrides to a checked `Recipe`; one line for whatever is wrong."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from weightgen.errors import InputError
from weightgen.files import text_hash
from weightgen.options.recipe import Recipe
from weightgen.registry import nearest

_PACKAGE = "weightgen.recipes"


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


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """A checked recipe.

    Args:
        name: path of a YAML file, or name of a recipe of weightgen.
        overrides: `dotted.key=value` with YAML values; a bare section takes its main value (`data=SPEC`,
            `backbone=FILE_OR_NAME`, `denoiser=NAME`).

    Raises:
        InputError: one line that names the first wrong key and the nearest right one.
    """
    path = recipe_path(name)
    content = _parse(path)
    for override in overrides:
        _apply(content, override)
    return check(content, source=str(path))


def check(content: Mapping[str, Any], *, source: str) -> Recipe:
    """A `Recipe` from parsed YAML. `source` names the file in error messages."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{source}: {_explain(error)}") from error


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe: every option with its value."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def recipe_hash(recipe: Recipe) -> str:
    """8 hex digits that change with any option."""
    return text_hash(to_yaml(recipe))[:8]


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a YAML file") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is no recipe; it must be a mapping of sections such as data and backbone")
    return content


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"'{override}' is no override; write key=value, e.g. training.steps=500")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"'{override}': the value is not valid YAML; quote it") from error
    *parents, last = key.split(".")
    if not parents and last in Recipe.model_fields and not isinstance(value, dict):
        parents, last, value = _main_value(content, last, value)
    place = content
    for parent in parents:
        if not isinstance(place.get(parent), dict):
            place[parent] = {}
        place = place[parent]
    place[last] = value


def _main_value(content: dict[str, Any], section: str, value: Any) -> tuple[list[str], str, Any]:
    """Where the main value of a bare section goes."""
    if section == "seed":
        return [], section, value
    if section == "backbone" and str(value).endswith(".safetensors"):
        return [], section, {"checkpoint": value}  # a file brings its weights: nothing of the old section applies
    main = {"data": "source", "backbone": "model", "zoo": "targets", "standardizer": "map", "generation": "read"}
    if section in ("training", "evaluation"):
        raise InputError(f"'{section}={value}': this section has no main value; name an option, e.g. {section}.steps=…")
    if section in ("conditioner", "denoiser", "objective", "selector", "scheduler"):
        return [], section, {"name": value}  # options belong to the component that is replaced
    return [section], main[section], value


def _explain(error: ValidationError) -> str:
    """The first problem of a recipe in one line."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        section = _model_at(path[:-1])
        return f"unknown key '{'.'.join(path)}'{nearest(path[-1], section.model_fields)}"
    names = [part for part in path if not _is_type_word(part)]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"key '{'.'.join(names)}' is missing; add it"
    given = first.get("input")
    shown = "" if isinstance(given, Mapping) else f" (got {given!r})"
    return f"{'.'.join(names) or 'recipe'}: {message[0].lower()}{message[1:]}{shown}"


def _is_type_word(part: str) -> bool:
    """Pydantic names the members of a union in a location; they are no keys."""
    return not part.isidentifier() or part in ("int", "float", "str", "constrained-int", "list")


def _model_at(path: list[str]) -> type[BaseModel]:
    model: type[BaseModel] = Recipe
    for part in path:
        annotation = model.model_fields[part].annotation
        options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return model
