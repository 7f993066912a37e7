"""Paths in a recipe: what they mean must not depend on where a later command is started."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from weightgen.backbones.construction import LOCAL_DIR
from weightgen.config.recipe import Recipe
from weightgen.data.feature_data import FEATURES


def absolute_spec(spec: str) -> str:
    """A SPEC whose path, if it is one, is written in full."""
    return _changed(spec, _absolute)


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with the paths of data and checkpoint written in full, as seen from the current folder."""
    return _with_paths(recipe, _absolute)


def with_portable_paths(recipe: Recipe, home: Path) -> Recipe:
    """The recipe with paths below `home` relative to it and all others in full.

    So written, a project folder reads the same wherever it lies and wherever commands are started.
    """

    def portable(path: str) -> str:
        full = Path(_absolute(path))
        return full.relative_to(home).as_posix() if full.is_relative_to(home) else str(full)

    return _with_paths(recipe, portable)


def _with_paths(recipe: Recipe, change: Callable[[str], str]) -> Recipe:
    parts = {name: getattr(recipe.data, name) for name in ("source", "validation", "novel")}
    data: dict[str, object] = {name: _changed(value, change) for name, value in parts.items() if isinstance(value, str)}
    data["further"] = [_changed(spec, change) for spec in recipe.data.further]
    data["spaces"] = [_changed_space(spec, change) for spec in recipe.data.spaces]
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


def _changed_space(spec: str, change: Callable[[str], str]) -> str:
    """SPEC@BACKBONE with the path of its SPEC, if it has one, changed; so too that of a backbone that is a file."""
    source, at, backbone = spec.rpartition("@")
    if not at:
        return _changed(spec, change)
    return f"{_changed(source, change)}@{change(backbone) if Path(backbone).is_file() else backbone}"


def _changed(spec: str, change: Callable[[str], str]) -> str:
    """A SPEC with its path, if it has one, changed."""
    if spec in ("", "glyphs") or spec.startswith("hub:"):
        return spec
    prefix = FEATURES if spec.startswith(FEATURES) else ""
    return prefix + change(spec.removeprefix(prefix))


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))
