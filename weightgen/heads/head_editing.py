"""A head with fewer classes, or with other names: the rows that stay are not touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weightgen.data.labelled import composed
from weightgen.errors import InputError
from weightgen.heads.class_names import find_class, find_renaming
from weightgen.heads.head_folder import SavedHead, load_head, save_head
from weightgen.heads.head_place import check_is_head
from weightgen.heads.model_config import read_model_config
from weightgen.records import Head

_FEWEST = 2


def remove_classes(folder: Path, names: Sequence[str], out: Path | None = None) -> None:
    """Write the head without some classes: without their rows, biases, draws and memory.

    Rows, biases and draws of the other classes are the old ones, bit for bit. Parts inside the backbone and the
    provenance stay; the provenance says under "edited" what was removed.

    Args:
        folder: a head folder.
        names: of classes; one that merely looks like a class's name (NFC) stands for it.
        out: folder of the new head; `folder` itself if None, which is replaced whole or not at all.

    Raises:
        InputError: no such head or class, no class or one named twice, fewer than two classes left, or `out` holds
            other files.
    """
    saved = load_head(folder)
    gone = [find_class(name, saved.class_names, place=str(folder)) for name in names]
    _check_once([saved.class_names[i] for i in gone], place=str(folder))
    kept = [i for i in range(len(saved.class_names)) if i not in gone]
    if len(kept) < _FEWEST:
        raise InputError(
            f"{folder}: {len(kept)} of {len(saved.class_names)} classes would stay; keep {_FEWEST} or more"
        )
    _save(
        saved,
        folder if out is None else out,
        f"removed {', '.join(repr(saved.class_names[i]) for i in gone)}",
        head=_rows(saved.head, kept),
        mean=_rows(saved.mean, kept),
        class_names=[saved.class_names[i] for i in kept],
        memory=None if saved.memory is None else saved.memory.without(gone),
    )


def rename_classes(folder: Path, names: Mapping[str, str], out: Path | None = None) -> None:
    """Write the head with other names for some classes; nothing else changes but the note under "edited".

    Args:
        folder: a head folder.
        names: new names by old ones, all changed at once, so that two classes may swap theirs. New names are brought to
            NFC, as names of class folders are.
        out: folder of the new head; `folder` itself if None, which is replaced whole or not at all.

    Raises:
        InputError: no such head or class, no class or one named twice, an empty name, two classes whose names would
            look alike (NFC), a name that changes nothing, or `out` holds other files.
    """
    saved = load_head(folder)
    positions = [find_class(old, saved.class_names, place=str(folder)) for old in names]
    _check_once([saved.class_names[i] for i in positions], place=str(folder))
    renamed, told = list(saved.class_names), []
    for i, new in zip(positions, names.values(), strict=True):
        if not new.strip():
            raise InputError(f"{folder}: class {renamed[i]!r} would have an empty name; give it another")
        if composed(new) == renamed[i]:
            raise InputError(f"{folder}: class {renamed[i]!r} is called so already; leave it out")
        told.append(f"{renamed[i]!r} to {composed(new)!r}")
        renamed[i] = composed(new)
    for i in positions:
        if [composed(name) for name in renamed].count(renamed[i]) > 1:
            raise InputError(f"{folder}: two classes would be called {renamed[i]!r}; give them different names")
    _save(saved, folder if out is None else out, f"renamed {', '.join(told)}", class_names=renamed)


def read_renaming(folder: Path, pairs: Sequence[str]) -> dict[str, str]:
    """What OLD=NEW texts mean for the classes of a head folder: new names by old ones.

    Raises InputError for a text that has no class before any '=', or several, and for a class renamed twice.
    """
    check_is_head(folder)
    class_names = read_model_config(folder / "config.json")["label_names"]
    found = [find_renaming(pair, class_names, place=str(folder)) for pair in pairs]
    _check_once([old for old, _ in found], place=str(folder))
    return dict(found)


def _save(saved: SavedHead, out: Path, note: str, **changes: Any) -> None:
    """Write a head that was read, with some changes and a note of them behind earlier ones."""
    before = saved.provenance.get("edited")
    fields = ("head", "mean", "class_names", "backbone", "parts", "memory")
    arguments = {name: getattr(saved, name) for name in fields} | changes
    save_head(out, **arguments, provenance={**saved.provenance, "edited": f"{before}; {note}" if before else note})


def _rows(head: Head, kept: Sequence[int]) -> Head:
    return Head(head.weight[:, :, kept], head.bias[:, :, kept])


def _check_once(names: Sequence[str], *, place: str) -> None:
    if not names:
        raise InputError(f"{place}: no class is named; name one or more")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{place}: class {name!r} is named twice; name it once")
