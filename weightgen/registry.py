"""Components by name: a component's name is its file's name, its class that name in CamelCase."""

import ast
import collections.abc
import difflib
import importlib
import importlib.util
import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from weightgen.errors import InputError, reason

KINDS = ("selectors", "spaces", "conditioners", "denoisers", "objectives", "zoo_targets", "methods")
_ROOT = Path(__file__).parent
_MOST_NAMED = 12


@cache
def names(kind: str) -> tuple[str, ...]:
    """Names of one kind's components, sorted, without importing any."""
    if kind not in KINDS:
        raise InputError(f"unknown kind of component '{kind}'{nearest(kind, KINDS)}")
    return tuple(sorted(path.stem for path in (_ROOT / kind).glob("*.py") if not path.stem.startswith("_")))


def summary(kind: str, name: str) -> str:
    """First line of a component's class docstring, read without importing or parsing its file."""
    text = (_ROOT / kind / f"{name}.py").read_text(encoding="utf-8")
    classes = re.findall(r'^class (\w+)[^:]*:[^\n]*\n    r?"""(.*?)(?:"""|$)', text, re.MULTILINE)
    return next((line for one, line in classes if _matches(one, name)), "")


def declared_options(kind: str, name: str) -> dict[str, Any]:
    """Keyword arguments of a component's constructor and their types, read without importing it.

    What is no builtin, nor of typing or collections.abc, has the type Any here. A dotted name, which only an import
    can look into, is imported. Raises InputError for an unknown name, with the nearest right one.
    """
    if "." in name:
        return option_types(get(kind, name))
    _known(kind, name)
    functions = [node for node in _source(kind, name).body if isinstance(node, ast.FunctionDef)]
    arguments = [one for node in functions if node.name == "__init__" for one in node.args.kwonlyargs]
    return {one.arg: _type(ast.unparse(one.annotation) if one.annotation else "Any") for one in arguments}


def _type(annotation: str) -> Any:
    def annotated() -> None: ...

    annotated.__annotations__ = {"it": annotation}
    try:
        return typing.get_type_hints(annotated, localns={**vars(typing), **vars(collections.abc)})["it"]
    except NameError:
        return Any


@cache
def _source(kind: str, name: str) -> ast.ClassDef:
    tree = ast.parse((_ROOT / kind / f"{name}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and _matches(node.name, name):
            return node
    raise RuntimeError(f"weightgen/{kind}/{name}.py defines no class named after the file")


def _known(kind: str, name: str) -> None:
    if name not in (known := names(kind)):
        raise InputError(f"unknown name '{name}' among {kind}{nearest(name, known)}")


def get(kind: str, name: str) -> Any:
    """The class of a component; imports that one file only.

    A dotted name (`my_package.my_conditioner`) is a module outside weightgen. Raises InputError for
    an unknown name, with the nearest right one.
    """
    if "." in name:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # whatever a module outside weightgen raises when it is imported
            raise InputError(
                f"{kind}: cannot import '{name}' ({reason(error)}); install it, or name its directory in PYTHONPATH"
            ) from error
    else:
        _known(kind, name)
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
    check_options(option_types(component), options, place=f"{kind}.{name}", given=given)
    for key, parameter in inspect.signature(component.__init__).parameters.items():
        needed = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if needed and key not in {*given, *options}:
            raise InputError(f"{kind}.{name}: option '{key}' is missing; add it")
    try:
        return component(**given, **options)
    except (TypeError, ValueError, RuntimeError) as error:  # the last of memory that there is not
        raise InputError(f"{kind}.{name}: {reason(error)}") from error


def check_options(
    types: Mapping[str, Any], options: Mapping[str, Any], *, place: str, given: Iterable[str] = ()
) -> None:
    """Refuse options that a component of these `option_types` does not take, and values of another type."""
    from pydantic import TypeAdapter, ValidationError  # takes longer than to list all names

    taken = set(types) - set(given)
    for key, value in options.items():
        if key not in taken:
            raise InputError(f"{place} has no option '{key}'{nearest(key, taken)}")
        try:
            TypeAdapter(types[key]).validate_python(value, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            message, mend = first["msg"], "; put it in quotes" if first["type"] == "string_type" else ""
            raise InputError(f"{place}.{key}: {message[0].lower()}{message[1:]} (got {value!r}){mend}") from error


def option_names(component: type) -> set[str]:
    """Keyword arguments of a component's constructor."""
    parameters = inspect.signature(component.__init__).parameters.values()  # type: ignore[misc]
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


def option_types(component: type) -> dict[str, Any]:
    """The same, with their types."""
    types = typing.get_type_hints(component.__init__)  # type: ignore[misc]
    return {name: types.get(name, Any) for name in option_names(component)}


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest right word, or the first of them when none is near."""
    known = sorted(known)
    begun = [name for name in known if word and name.lower().startswith(word.lower())]
    close = begun or difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    more = f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
    return f"; it is one of: {', '.join(known[:_MOST_NAMED])}{more}" if known else "; it takes none"


def _matches(class_name: str, file_name: str) -> bool:
    return class_name.lower().rstrip("_") == file_name.replace("_", "").lower()
