"""Modules by name, in PEFT's words."""

import difflib
import re
from collections.abc import Iterable

from torch import nn

from weightgen.errors import InputError


class ModuleNames:
    """What `target_modules` and `exclude_modules` mean in PEFT (its `check_target_module_exists`).

    words: a string is a regular expression for the whole name; a list holds names, or their ends from a dot on.
    option: what the words are called in a recipe.

    Raises InputError for no words, and for a string that is no regular expression.
    """

    def __init__(self, words: str | list[str], *, option: str) -> None:
        if not words:
            raise InputError(f"{option} is empty; name modules, or leave the option out")
        self.words = words
        self._option = option
        try:
            self._pattern = re.compile(words) if isinstance(words, str) else None
        except re.error as error:
            raise InputError(f"{option}: '{words}' is no regular expression ({error}); mend it") from error

    def __contains__(self, name: str) -> bool:
        if self._pattern is not None:
            return self._pattern.fullmatch(name) is not None
        return any(name == word or name.endswith(f".{word}") for word in self.words)

    def refusal(self, model: nn.Module) -> str:
        """That nothing outside the head matches, with the nearest names that would."""
        words = [self.words] if isinstance(self.words, str) else self.words
        names = trunk_modules(model)
        known = sorted({*names, *(end for name in names if not (end := name.rpartition(".")[2]).isdigit())})
        near = dict.fromkeys(close for word in words for close in difflib.get_close_matches(word, known, 3, cutoff=0.0))
        return (
            f"{self._option} {self.words!r} match nothing with parameters outside the head of a {type(model).__name__};"
            f" its nearest modules are: {', '.join(list(near)[:6])}"
        )


def head_slot(model: nn.Module) -> str:
    """Name of the linear layer that makes a timm model's logits, such as "fc" or "head.fc".

    Raises InputError for a model that is not timm's, has several heads, or none (`num_classes=0`).
    """
    name = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    if not isinstance(name, str):
        raise InputError(
            f"a {type(model).__name__} names no single head in pretrained_cfg['classifier']; use a timm classifier"
        )
    return name


def trunk_modules(model: nn.Module) -> list[str]:
    """Names of all modules but the model itself, its head, and what is in the head."""
    head = head_slot(model)
    return [name for name, _ in model.named_modules() if name and not f"{name}.".startswith(f"{head}.")]


def trunk_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All but those of the head."""
    head = f"{head_slot(model)}."
    return {name: value for name, value in model.named_parameters() if not name.startswith(head)}


def ancestors(name: str) -> Iterable[str]:
    """Names of the modules that a parameter lies in, the innermost first."""
    while name := name.rpartition(".")[0]:
        yield name
