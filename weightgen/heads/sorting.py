"""Images into one folder per class, as a head says; nothing there is overwritten."""

import filecmp
import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from weightgen.errors import InputError
from weightgen.files import check_folder, is_litter, naming, shown
from weightgen.heads.folder import check_beside
from weightgen.heads.prediction import NONE_OF_THESE, Prediction

_NONE = NONE_OF_THESE.replace(" ", "_")
_UNSAFE = {ord(sign): "_" for sign in '<>:"/\\|?*'} | dict.fromkeys([*range(32), 127], "_")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}
_LONGEST = 200  # bytes of a name, which leaves room for what tells two of a name apart


class ClassFolders:
    """A folder for every class, made when its first image comes; `none_of_these` for images below the threshold.

    An image keeps its file's name. Where another image has that name already, its content's hash is put behind it, so
    that the same images give the same files whatever their order, but for which of them came first.

    Args:
        folder: holds the class folders; created if missing.
        class_names: all classes of the head.
        link: put symbolic links there in place of copies.

    Attributes:
        names: folder of every class, safe on any system: signs that a file system refuses are _, two names that would
            be the same folder where case does not count are distinguished by a hash of the name.
        counts: "new" files, and those "already there" with the same content.

    Raises InputError when a file lies where a folder should, or the folder in one of a head.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], *, link: bool = False) -> None:
        self.folder, self.link, self.counts = folder, link, Counter[str]()
        self.names = {NONE_OF_THESE: _NONE} | folder_names(class_names)
        check_beside(folder, what="the sorted images")
        for name in self.names.values():
            check_folder(folder / name, what="the sorted images")

    def check_apart(self, sources: Sequence[Path]) -> None:
        """Raise InputError where the folder lies in one whose images are sorted: they would be sorted again."""
        own = self.folder.resolve()
        for source in sources:
            if source.is_dir() and source.resolve() in (own, *own.parents):
                raise InputError(
                    f"{shown(self.folder)}: lies in {shown(source)}, whose images are sorted; name a folder elsewhere"
                )

    def put(self, prediction: Prediction) -> Path:
        """Copy or link the image of a prediction to its class; where it is now. Raises OSError when that fails."""
        source = prediction.path
        if source is None:
            raise InputError("an image that is not a file cannot be sorted into folders; give files")
        place = self.folder / self.names[prediction.class_name]
        place.mkdir(parents=True, exist_ok=True)
        target = place / source.name
        if not self._added(source, target):
            target = place / _told_apart(source.name, source.read_bytes(), source.suffix)
            if not self._added(source, target):
                raise InputError(f"{shown(target)}: has another content than its name says; remove it")
        return target

    def _added(self, source: Path, target: Path) -> bool:
        """Whether the image is at `target` now; False where something else is."""
        new = _linked(source, target) if self.link else _copied(source, target)
        if not new and not (target.is_file() and filecmp.cmp(source, target, shallow=False)):
            return False
        self.counts["new" if new else "already there"] += 1
        return True


def folder_names(class_names: Sequence[str]) -> dict[str, str]:
    """A different name of a folder for every class; the class's own wherever that is safe."""
    safe = {name: _safe(name) for name in class_names}
    folders, taken = {}, {_NONE.casefold()}
    for name in sorted(class_names, key=lambda name: safe[name] != name):  # names that are safe keep theirs
        folder = safe[name]
        if folder.casefold() in taken:
            folder = _told_apart(folder, name.encode())
        taken.add(folder.casefold())
        folders[name] = folder
    return folders


def _safe(name: str) -> str:
    """Without what some file system refuses, and not taken for litter by `find_classes`."""
    cut = name.translate(_UNSAFE).encode()[:_LONGEST].decode(errors="ignore").rstrip(". ")
    odd = not cut or is_litter(cut) or cut.partition(".")[0].casefold() in _DEVICES
    return f"_{cut}" if odd else cut


def _told_apart(name: str, content: bytes, suffix: str = "") -> str:
    """The name with a hash before its suffix."""
    stem = name.removesuffix(suffix).encode()[:_LONGEST].decode(errors="ignore")
    return f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}{suffix}"


def _linked(source: Path, target: Path) -> bool:
    try:
        os.symlink(source.absolute(), target)
    except FileExistsError:
        return False
    return True


def _copied(source: Path, target: Path) -> bool:
    if os.path.lexists(target):
        return False
    with naming(target):
        return _copied_whole(source, target)


def _copied_whole(source: Path, target: Path) -> bool:
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".sorting.")
    os.close(descriptor)
    try:
        shutil.copyfile(source, temporary)
        shutil.copystat(source, temporary)
        try:
            os.link(temporary, target)  # unlike a renaming, never replaces what came meanwhile
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            os.rename(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return True
