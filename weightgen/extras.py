"""Packages that only some features need: the extras of pyproject.toml."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from weightgen.errors import InputError

EXTRAS: Mapping[str, Sequence[str]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "lora": ("peft",),
    "peers": ("easyfsl",),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""Modules by the extra that installs them."""


def missing(extra: str) -> list[str]:
    """Modules of an extra that are not installed; nothing is imported."""
    return [name for name in EXTRAS[extra] if find_spec(name) is None]


def require(extra: str, *, what: str) -> None:
    """Raise InputError, which gives the pip command, unless the modules of an extra are there.

    Args:
        extra: one of `EXTRAS`.
        what: begins the message: what needs them.
    """
    absent = missing(extra)
    if absent:
        raise InputError(f"{what} needs {', '.join(absent)}: pip install 'weightgen[{extra}]'")
