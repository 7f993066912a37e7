"""Files that are whole or absent: every write goes to a temporary neighbour and is then renamed.

torch and the hub's client are imported where they are needed: commands that read a recipe wait for neither.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from weightgen.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

_LITTER = {
    *("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("@eadir", "#recycle", "lost+found"),
}


def cache_directory() -> Path:
    """Where rendered data and features are kept: $WEIGHTGEN_CACHE, or ~/.cache/weightgen."""
    try:
        return Path(os.environ.get("WEIGHTGEN_CACHE") or Path.home() / ".cache" / "weightgen")
    except RuntimeError:  # a user without a home: nothing can be kept
        return Path(os.devnull) / "weightgen"


@contextlib.contextmanager
def optional_cache() -> Iterator[None]:
    """Reading from or writing to the cache; where that fails, one remark is logged, and the block ends there."""
    try:
        yield
    except OSError as error:
        directory, reason = cache_directory(), error.strerror or str(error)
        if directory not in _unusable:
            _unusable.add(directory)
            logging.getLogger(__name__).warning(
                f"{directory}: cannot be used as a cache ({reason}), nothing is kept; set WEIGHTGEN_CACHE to a folder "
                "with room"
            )


_unusable: set[Path] = set()  # remarked on already


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left behind by a desktop: no part of anybody's data."""
    return name.startswith(".") or name.casefold() in _LITTER


def check_folder(path: Path, *, what: str) -> None:
    """Raise InputError where no folder can be written, for a file lies there or above it, or permission lacks.

    `what` would be in it.
    """
    for each in (path, *path.parents):
        if os.path.lexists(each):
            if not each.is_dir():
                raise InputError(f"{shown(each)}: is a file; name a folder for {what}")
            if not os.access(each, os.W_OK):
                raise InputError(f"{shown(each)}: cannot be written to; name another folder for {what}")
            return


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """What the system refuses names `path`, in place of a temporary file, or of nothing where the disk is full."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file. Raises InputError for what UTF-8 cannot hold: a file name of other bytes."""
    try:
        encoded = content.encode()
    except UnicodeEncodeError as error:
        around = content[max(0, error.start - 40) : error.end + 20]
        raise InputError(f"{path}: cannot hold {around!a}, which is not valid UTF-8; rename that file") from error
    write_bytes(path, encoded)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(contiguous, dict(metadata or {})))


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises InputError when it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of an existing file") from error
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error}); write it again with weightgen") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; never a pickle.

    Raises InputError when the file is missing, damaged, or holds NaN or infinite values.
    """
    return read_checkpoint(path)[0]


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `read_tensors` reads, and the metadata of the file."""
    import torch
    from safetensors.torch import load

    try:
        content = path.read_bytes()
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of an existing file") from error
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: is not a whole safetensors file ({error}); copy or create it again") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: tensor '{name}' holds NaN or infinite values; create the file again")
    return tensors, header.get("__metadata__") or {}


def keep_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file of the cache, if there is a cache, for `kept_tensors` to read."""
    with optional_cache():
        write_tensors(path, tensors, {**(metadata or {}), "hash": tensors_hash(tensors)})


def kept_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a file that `keep_tensors` wrote, mapped into memory; none where it is absent or damaged."""
    try:
        with safe_open(path, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
            whole = (opened.metadata() or {}).get("hash") == tensors_hash(tensors)
    except (OSError, SafetensorError):
        return {}
    return tensors if whole else {}


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears whole at `path` when the block ends, or not at all.

    An older one is replaced; hidden files in it and what desktops left there are kept.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        temporary.chmod(0o755)
        try:
            yield temporary
        except OSError as error:
            error.filename = str(error.filename or path).replace(str(temporary), str(path))
            raise
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            try:
                os.replace(path, old / path.name)  # another process may have done so just now
                try:
                    os.replace(temporary, path)
                except BaseException:
                    os.replace(old / path.name, path)
                    raise
                for entry in (old / path.name).iterdir():
                    if is_litter(entry.name) and not (path / entry.name).exists():
                        os.replace(entry, path / entry.name)
            finally:
                if path.exists():  # else the old one could not be put back, and is all there is
                    shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits that change with any name, type, shape or value."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def text_hash(*parts: str) -> str:
    """16 hex digits of some strings."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def shown(path: Path) -> str:
    """A path for a message: on one line, with unprintable characters escaped."""
    text = str(path)
    return text if text.isprintable() else ascii(text)
