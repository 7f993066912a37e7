"""Components by name: a component's name is its file's name, its class that name in CamelCase."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from weightgen.errors import InputError

KINDS = ("selectors", "spaces", "conditioners", "denoisers", "objectives", "zoo_targets", "methods")
_ROOT = Path(__file__).parent


class Section(BaseModel):
    """A group of options; the text under each field is its help, its documentation and its schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def names(kind: str) -> list[str]:
    """Names of one kind's components, without importing any."""
    if kind not in KINDS:
        raise InputError(f"unknown kind of component '{kind}'{nearest(kind, KINDS)}")
    return sorted(path.stem for path in (_ROOT / kind).glob("*.py") if not path.stem.startswith("_"))


def summary(kind: str, name: str) -> str:
    """First line of a component's class docstring, read without importing it."""
    tree = ast.parse((_ROOT / kind / f"{name}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and _matches(node.name, name):
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise RuntimeError(f"weightgen/{kind}/{name}.py defines no class named after the file")


def get(kind: str, name: str) -> Any:
    """The class of a component; imports that one file only.

    A dotted name (`my_package.my_conditioner`) is a module outside weightgen. Raises InputError for
    an unknown name, with the nearest right one.
    """
    if "." in name:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise InputError(f"{kind}: cannot import '{name}' ({error}); is it installed?") from error
    else:
        known = names(kind)
        if name not in known:
            raise InputError(f"unknown name '{name}' among {kind}{nearest(name, known)}")
        module = importlib.import_module(f"weightgen.{kind}.{name}")
    stem = name.rpartition(".")[2]
    for attribute, value in vars(module).items():
        if inspect.isclass(value) and value.__module__ == module.__name__ and _matches(attribute, stem):
            return value
    raise InputError(f"{kind}: module '{name}' has no class named '{stem}' in CamelCase; add one")


def create(kind: str, name: str, options: Mapping[str, Any], **given: Any) -> Any:
    """Build a component: `options` come from a recipe, `given` from the program.

    Raises InputError when an option is unknown, with the nearest right one.
    """
    component = get(kind, name)
    check_options(component, options, place=f"{kind}.{name}", given=given)
    try:
        return component(**given, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"{kind}.{name}: {error}") from error


def check_options(component: type, options: Mapping[str, Any], *, place: str, given: Iterable[str] = ()) -> None:
    """Refuse options that the component's constructor does not take, and values of another type."""
    taken, types = option_names(component) - set(given), typing.get_type_hints(component.__init__)  # type: ignore[misc]
    for key, value in options.items():
        if key not in taken:
            raise InputError(f"{place} has no option '{key}'{nearest(key, taken)}")
        try:
            TypeAdapter(types.get(key, Any)).validate_python(value, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            message, mend = first["msg"], "; put it in quotes" if first["type"] == "string_type" else ""
            raise InputError(f"{place}.{key}: {message[0].lower()}{message[1:]} (got {value!r}){mend}") from error


def option_names(component: type) -> set[str]:
    """Keyword arguments of a component's constructor."""
    parameters = inspect.signature(component.__init__).parameters.values()  # type: ignore[misc]
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest right word, or all of them when none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; it is one of: {', '.join(known)}" if known else "; it takes none"


def _matches(class_name: str, file_name: str) -> bool:
    return class_name.lower().rstrip("_") == file_name.replace("_", "").lower()
