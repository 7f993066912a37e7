"""What may lie where a head folder is read from, or written to."""

from __future__ import annotations

from pathlib import Path

from weightgen.errors import InputError
from weightgen.files import is_litter
from weightgen.heads.memory_file import MEMORY_FILE

_FILES = ("README.md", "config.json", "head.safetensors", "model.safetensors", "samples.safetensors", MEMORY_FILE)


def check_target(folder: Path) -> None:
    """Refuse to replace anything but an empty folder or a head folder with none but its own files.

    Raises InputError.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder for the head")
    present = {path.name for path in folder.iterdir() if not is_litter(path.name)}  # litter outlives the replacement
    foreign = sorted(present - set(_FILES))
    if foreign or (present and "head.safetensors" not in present):
        other = foreign[0] if foreign else min(present)
        raise InputError(f"{folder}: holds '{other}', which is no part of a head; name a new or empty folder")


def check_is_head(folder: Path) -> None:
    """Raise InputError, which says what else it is, unless the folder is a head's."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; name the folder of a generated head")
    if (folder / "head.safetensors").exists():
        return
    if any((folder / name).exists() for name in ("model_index.json", "generator", "recipe.yaml")):
        raise InputError(f"{folder}: is a generator, not a head; write a head with it by weightgen generate")
    raise InputError(f"{folder}: is no head folder (head.safetensors is missing); write one by weightgen generate")
