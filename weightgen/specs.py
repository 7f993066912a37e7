"""What begins the SPEC of data and the name of a backbone, and the paths that both may hold; imports no torch."""

import os
from collections.abc import Callable
from pathlib import Path

FEATURES = "features:"
"""Begins the SPEC of a features file, and the name of the backbone that made it."""
HUB, LOCAL_DIR = "hf-hub:", "local-dir:"
"""Begin timm's names of a model on the hub and in a folder."""


def is_features(source: object) -> bool:
    """Whether this is the SPEC of a features file."""
    return str(source).startswith(FEATURES)


def is_place(backbone: str) -> bool:
    """Whether the name of a backbone is a path, or holds one."""
    return backbone.startswith((FEATURES, LOCAL_DIR)) or Path(backbone).expanduser().exists()


def absolute_spec(spec: str) -> str:
    """A SPEC whose path, if it is one, is written in full."""
    return changed(spec, absolute_path)


def changed_space(spec: str, change: Callable[[str], str]) -> str:
    """SPEC@BACKBONE with the path of its SPEC, if it has one, changed; so too that of a backbone that is a file."""
    source, at, backbone = spec.rpartition("@")
    if not at:
        return changed(spec, change)
    return f"{changed(source, change)}@{change(backbone) if Path(backbone).is_file() else backbone}"


def changed(spec: str, change: Callable[[str], str]) -> str:
    """A SPEC with its path, if it has one, changed."""
    if spec in ("", "glyphs") or spec.startswith("hub:"):
        return spec
    prefix = FEATURES if spec.startswith(FEATURES) else ""
    return prefix + change(spec.removeprefix(prefix))


def absolute_path(path: str) -> str:
    """A path in full, as seen from the current folder."""
    return os.path.abspath(os.path.expanduser(path))
