"""The checks of jaxtyping's import hook at half their cost; imported before weightgen is.

`jaxtyping.jaxtyped` binds the arguments of each call, and checks them a second time beside what is returned, for the
words of its messages: that was half of a test run. Here each value is checked once, and the sizes of named dimensions
are compared between the arguments and the result of those functions that name any.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import jaxtyping

SHAPES = jaxtyping.jaxtyped("context")


def quickly_checked(function: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    """A function whose arguments and result are checked, unless jaxtyping is switched off; a class with such fields."""
    if function is None:
        return functools.partial(quickly_checked, typechecker=typechecker)
    if inspect.isclass(function):
        own = vars(function).get("__init__")
        if dataclasses.is_dataclass(function) and own is not None and not hasattr(own, "__wrapped__"):
            function.__init__ = quickly_checked(own, typechecker=typechecker)
        return function
    function.__annotations__ = {name: resolved(function, name) for name in function.__annotations__}
    if inspect.isgeneratorfunction(function):
        function.__annotations__.pop("return", None)  # what it yields, one at a time
    checked, shaped = typechecker(function), "jaxtyping" in repr(function.__annotations__)

    @functools.wraps(function)
    def quick(*arguments: Any, **named: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*arguments, **named)
        if not shaped:
            return checked(*arguments, **named)
        with SHAPES:
            return checked(*arguments, **named)

    return quick


def resolved(function: Any, name: str) -> Any:
    """An annotation out of its string; Any for what only type checkers import, as jaxtyping has it."""

    def one() -> None: ...

    one.__annotations__ = {name: function.__annotations__[name]}
    try:
        return get_type_hints(one, function.__globals__, include_extras=True)[name]
    except Exception:
        return Any


jaxtyping.jaxtyped = quickly_checked
