"""Recipe files and `key=value` overrides to a checked `Recipe`, and its paths; one line for whatever is wrong."""

import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from weightgen.config.names import recipe_names, recipe_path
from weightgen.config.recipe import Recipe
from weightgen.errors import InputError
from weightgen.files import text_hash
from weightgen.registry import nearest
from weightgen.specs import FEATURES, LOCAL_DIR, absolute_path, changed, changed_space

FROM_SCRATCH = ("conv4", "resnet12")
"""Backbones that nobody has published weights of: named alone, they keep the recipe's pretraining."""
_OTHER_DATA = ("data=", "data.source=")
_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # the others are refused where they are opened


@dataclass(frozen=True, repr=False)
class _Plain:
    """An unquoted YAML value that is no text to YAML (`no`, `007`, `2024-01-31`), and how it was written."""

    value: Any
    text: str

    def __repr__(self) -> str:
        return self.text


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # ten times as fast where it is built
    """Keeps how such values were written: which of the two is meant is for the option that takes it to say."""

    plain_tags = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null", "timestamp"))

    def plain(self, node: yaml.ScalarNode) -> Any:
        if node.tag != "tag:yaml.org,2002:timestamp" and ":" in node.value:  # 12:30 is 750 to YAML 1.1
            return node.value
        try:
            decimal = node.tag.endswith(":int") and node.value.lstrip("+-").isdecimal()  # 010 is 8 to YAML 1.1
            value = int(node.value) if decimal else yaml.SafeLoader.yaml_constructors[node.tag](self, node)
        except ValueError:  # looks like a date and is none
            return node.value
        return value if node.style in ("'", '"') else _Plain(value, node.value)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuses a key that is given twice, of which YAML would keep the last."""
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
                keys.add(key.value)
        return super().construct_mapping(node, deep)


for _tag in _Loader.plain_tags:
    _Loader.add_constructor(_tag, _Loader.plain)


def comes_with_weightgen(recipe: Recipe) -> bool:
    """Whether it is one of the recipes of the package, unchanged."""
    return any(load_recipe(name) == recipe for name in recipe_names())


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """A checked recipe.

    Args:
        name: path of a YAML file, or name of a recipe of weightgen.
        overrides: `dotted.key=value` with YAML values; a bare section takes its main value (`data=SPEC`,
            `backbone=FILE_OR_NAME`, `denoiser=NAME`). Names and paths are taken as they are written: `no`, `007` and
            `birds #2` need no quotes.

    Raises:
        InputError: one line that names the first wrong key and the nearest right one.
    """
    path = recipe_path(name)
    content, overrides = _parse(path), list(overrides)
    if any(override.startswith(_OTHER_DATA) for override in overrides) and isinstance(content.get("data"), dict):
        content["data"].pop("classes", None)  # so many of the recipe's own images
    for override in overrides:
        _apply(content, override)
    return check(_settled(content, [Recipe]), source=str(path))


def check(content: Mapping[str, Any], *, source: str) -> Recipe:
    """A `Recipe` from parsed YAML. `source` names the file in error messages."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{source}: {_explain(error)}") from error


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe: every option with its value."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def dotted(recipe: Recipe) -> dict[str, str | int | float]:
    """Every option by its dotted name; what is no number is text."""

    def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(value, dict):
            yield name, value if isinstance(value, (int, float, str)) else json.dumps(value)
            return
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else key)

    return dict(leaves(recipe.model_dump(mode="json"), ""))


def recipe_hash(recipe: Recipe) -> str:
    """8 hex digits that change with any option."""
    return text_hash(to_yaml(recipe))[:8]


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = _yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a YAML file") from error
    except yaml.YAMLError as error:
        why = " ".join(str(error).split()).replace('in "<unicode string>", line', "at line")
        raise InputError(f"{path}: is not valid YAML ({why})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a recipe; it must be a mapping of sections such as data and backbone")
    return content


def _yaml(text: str) -> Any:
    """Raises YAMLError for what is not YAML, or has no end."""
    content = yaml.load(text, _Loader)
    try:
        json.dumps(content, default=str, skipkeys=True)
    except ValueError as error:
        raise yaml.YAMLError("an anchor stands within itself") from error
    return content


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"'{override}' is not an override; write key=value, e.g. training.steps=500")
    value = _value(text, override)
    *parents, last = key.split(".")
    if not parents and last in Recipe.model_fields and not isinstance(value, dict):
        parents, last, value = _main_value(content, last, value)
    place = content
    for parent in parents:
        if not isinstance(place.get(parent), dict):
            place[parent] = {}
        place = place[parent]
    place[last] = value


def _value(text: str, override: str) -> Any:
    """The value of an override: YAML where it is a list, a mapping or quoted, else one word as it is written."""
    word = text.strip()
    if word.startswith(("[", "{", "'", '"')):
        try:
            return _yaml(text)
        except yaml.YAMLError as error:
            why = getattr(error, "problem", None) or error
            raise InputError(
                f"'{override}': the value is not valid YAML ({why}); quote names with special characters"
            ) from error
    tag = _Loader("").resolve(yaml.ScalarNode, word, (True, False))
    value = _Loader("").plain(yaml.ScalarNode(tag, word)) if tag in _Loader.plain_tags else text
    return replace(value, text=text) if isinstance(value, _Plain) else text


def _settled(value: Any, kinds: list[Any]) -> Any:
    """Parsed YAML with every unquoted value as an option of these kinds takes it: text as it was written."""
    if isinstance(value, _Plain):
        return value.text if _is_text(value.value, kinds) else value.value
    if isinstance(value, list):
        lists = [kind for kind in kinds if typing.get_origin(kind) in (list, tuple)]
        inner = [leaf for kind in lists for member in typing.get_args(kind) for leaf in _leaves(member)]
        return [_settled(one, inner) for one in value]
    if isinstance(value, dict):
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        fields = sections[0].model_fields if sections else {}
        return {
            str(key): _settled(one, _leaves(fields[str(key)].annotation) if str(key) in fields else [])
            for key, one in value.items()
        }
    return value


def _is_text(value: Any, kinds: list[Any]) -> bool:
    if isinstance(value, bool) and kinds and bool not in kinds:
        return True  # no number: pydantic would take it for 0 or 1
    taken = type(value) in kinds or (isinstance(value, int) and not isinstance(value, bool) and float in kinds)
    return str in kinds and not taken


def _leaves(annotation: Any) -> list[Any]:
    """The kinds that an annotation allows: members of unions, without their limits."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return [type(one) for one in inner]
    if origin is typing.Annotated:
        return _leaves(inner[0])
    if origin in (types.UnionType, typing.Union):
        return [leaf for one in inner for leaf in _leaves(one)]
    return [annotation]


def _main_value(content: dict[str, Any], section: str, value: Any) -> tuple[list[str], str, Any]:
    if section == "seed":
        return [], section, value
    if section == "backbone":
        return [], section, _backbone(content, str(value))
    main = {"data": "source", "zoo": "targets", "standardizer": "map", "generation": "read"}
    if section in ("training", "evaluation"):
        raise InputError(f"'{section}={value}': this section has no main value; name an option, e.g. {section}.steps=…")
    if section in ("selector", "space", "conditioner", "denoiser", "objective", "scheduler"):
        return [], section, {"name": value}  # options belong to the component that is replaced
    return [section], main[section], value


def _backbone(content: dict[str, Any], name: str) -> dict[str, Any]:
    """The section for a bare file or name, which brings its weights: nothing of the old section applies then."""
    if name.lower().endswith(_FILES) and not name.startswith("features:"):
        return {"checkpoint": name}
    if name not in FROM_SCRATCH:
        return {"model": name, "pretrained": True}
    old = content.get("backbone")
    kept = old if isinstance(old, dict) else {}
    return {**{key: one for key, one in kept.items() if key not in ("pretrained", "checkpoint")}, "model": name}


def _explain(error: ValidationError) -> str:
    """The first problem of a recipe in one line."""
    every = error.errors()
    own = [one for one in every if one["type"] == "value_error" and one["loc"][:-1] == every[0]["loc"][:-1]]
    first = own[0] if own else every[0]  # of the kinds that a value may have, that which says what is wrong with it
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        section = _model_at(path[:-1])
        return f"unknown key '{'.'.join(path)}'{nearest(path[-1], section.model_fields)}"
    names = [part for part in path if not _is_type_word(part)]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("tuple_type", "too_long") or (first["type"] == "missing" and path[-1].isdecimal()):
        default = _model_at(names[:-1]).model_fields[names[-1]].get_default()
        return f"{'.'.join(names)}: must be a list such as {list(default)}"
    if first["type"] == "int_from_float" and any(one["type"].startswith(("less_than", "greater")) for one in every):
        return f"{'.'.join(names)}: must be a whole number, or a share between 0 and 1 (got {first['input']})"
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


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with the paths of data and checkpoint written in full, as seen from the current folder."""
    return _with_paths(recipe, absolute_path)


def with_portable_paths(recipe: Recipe, home: Path) -> Recipe:
    """The recipe with paths below `home` relative to it and all others in full.

    So written, a project folder reads the same wherever it lies and wherever commands are started.
    """

    def portable(path: str) -> str:
        full = Path(absolute_path(path))
        return full.relative_to(home).as_posix() if full.is_relative_to(home) else str(full)

    return _with_paths(recipe, portable)


def _with_paths(recipe: Recipe, change: Callable[[str], str]) -> Recipe:
    parts = {name: getattr(recipe.data, name) for name in ("source", "validation", "novel")}
    data: dict[str, object] = {name: changed(value, change) for name, value in parts.items() if isinstance(value, str)}
    data["further"] = [changed(spec, change) for spec in recipe.data.further]
    data["spaces"] = [changed_space(spec, change) for spec in recipe.data.spaces]
    checkpoint, model = recipe.backbone.checkpoint, recipe.backbone.model or ""
    backbone = {} if checkpoint is None else {"checkpoint": change(checkpoint)}
    for prefix in (LOCAL_DIR, FEATURES):
        if model.startswith(prefix):
            backbone["model"] = prefix + change(model.removeprefix(prefix))
    zoo = {key: change(value) for key, value in recipe.zoo.options.items() if key == "path"}
    return recipe.model_copy(
        update={
            "zoo": recipe.zoo.model_copy(update=zoo),
            "data": recipe.data.model_copy(update=data),
            "backbone": recipe.backbone.model_copy(update=backbone),
        }
    )
