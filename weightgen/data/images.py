"""Image files as users have them: found in folders, checked, and brought into one of two modes."""

from __future__ import annotations

import io
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from weightgen.errors import InputError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pbm")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # not EPS, which would start Ghostscript
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


def find_images(folder: Path) -> list[Path]:
    """Image files in a folder and everything below it, sorted; hidden ones and other files are passed over.

    Links to folders are followed, each folder once. Raises InputError when the folder is missing,
    cannot be read, or holds no image.
    """
    found = sorted(_walk(folder, set()))
    if not found:
        raise InputError(f"{shown(folder)}: holds no image; images end in {' '.join(EXTENSIONS)}")
    return found


def find_classes(folder: Path, *, fewest: int = 2) -> dict[str, list[Path]]:
    """Classes of an image folder: every subfolder is a class, its name the class's name, both sorted.

    Only images directly in a subfolder count, so that a folder of splits (train/cat, test/cat) is not mistaken for
    classes. Passed over: hidden files and folders, files beside the class folders, files that do not have an image's
    extension, links back to the folder or above it. Any other name is fine.

    Raises InputError when the folder is missing, a class has no image, two classes are the same folder or have names
    that look alike, or there are fewer than `fewest` classes, 1 or 2.
    """
    here = folder.resolve()
    subfolders = [path for path in _entries(folder) if path.is_dir() and path.resolve() not in (here, *here.parents)]
    if not subfolders:
        raise InputError(f"{shown(folder)}: has no class folders; put the images of each class into a subfolder")
    classes, names, places = {}, set(), set()
    for path in subfolders:
        _check_text(path)
        name = unicodedata.normalize("NFC", path.name)
        if name in names or path.resolve() in places:
            raise InputError(f"{shown(path)}: is the same class as another subfolder; rename or remove one of them")
        images = [entry for entry in _entries(path) if _has_extension(entry) and not entry.is_dir()]
        if not images:
            raise InputError(
                f"{shown(path)}: the class has no image directly in it; add one that ends in {' '.join(EXTENSIONS)},"
                " or remove the folder"
            )
        names.add(name)
        places.add(path.resolve())
        classes[path.name] = images
    if len(classes) < fewest:
        raise InputError(
            f"{shown(folder)}: has one class only ({shown(subfolders[0])}); add a folder for another class"
        )
    return classes


def read_image(path: Path) -> Image.Image:
    """Read an image file as mode "L" (grey) or "RGB", 8 bit, upright.

    EXIF orientation is applied. Transparent parts become white. 16-bit grey is scaled from 0..65535; 32-bit grey, which
    has no fixed white, from its own darkest to its own brightest value. Of an animation this is the first frame.

    Raises InputError when the file is missing, empty, damaged, no image, or larger than Pillow's limit against
    decompression bombs (`PIL.Image.MAX_IMAGE_PIXELS`, 89 million pixels).
    """
    content = _content(path)
    with _decoding(path):
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        image.load()
        upright = ImageOps.exif_transpose(image)
    return _plain(upright, path)


def converted_image(path: Path) -> bytes | None:
    """Check an image file; PNG bytes of `read_image` if `datasets` would decode it to something else, else None.

    Animations are converted too, since `datasets` keeps their files open. Raises InputError as `read_image` does.
    Plain JPEG files are checked at an eighth of their size, which is quicker.
    """
    content = _content(path)
    with _decoding(path):
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        still = getattr(image, "n_frames", 1) == 1
        image.draft(None, (1, 1))
        image.load()
    if still and image.mode in ("1", "L", "RGB") and not image.has_transparency_data:
        return None
    stream = io.BytesIO()
    read_image(path).save(stream, "PNG")
    return stream.getvalue()


def shown(path: Path) -> str:
    """A path for a message: on one line, whatever characters it holds."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def _content(path: Path) -> bytes:
    _check_text(path)
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise InputError(f"{shown(path)}: is not a file; give an image")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({error.strerror}); check the path and its rights") from error
    if not content:
        raise InputError(f"{shown(path)}: is empty; copy the image again or remove it")
    return content


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into one line about the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"{shown(path)}: has more than {Image.MAX_IMAGE_PIXELS} pixels; make the image smaller or remove it"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{shown(path)}: is not an image of a known kind; convert it to PNG or remove it") from error
    except Exception as error:  # decoders of damaged files fail in many ways
        raise InputError(f"{shown(path)}: is damaged or cut short; copy the image again or remove it") from error


def _plain(image: Image.Image, path: Path) -> Image.Image:
    """Any mode → "L" or "RGB"."""
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in (*_DEEP_MODES, "I", "F"):
        return _from_deep(image, path)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")


def _from_deep(image: Image.Image, path: Path) -> Image.Image:
    """More than 8 bit of grey → "L"; Pillow's own conversion cuts everything above 255 off."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{shown(path)}: holds NaN or infinite pixels; write the image again")
    black, white = (0.0, 65535.0) if image.mode in _DEEP_MODES else (values.min(), values.max())
    return Image.fromarray(np.round((values - black) * 255 / max(white - black, 1e-30)).astype(np.uint8))


def _walk(folder: Path, visited: set[Path]) -> Iterator[Path]:
    visited.add(folder.resolve())
    for path in _entries(folder):
        if not path.is_dir():
            if _has_extension(path):
                yield path
        elif path.resolve() not in visited:
            yield from _walk(path, visited)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without hidden entries."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{shown(folder)}: cannot be opened as a folder ({error.strerror}); check the path") from error


def _has_extension(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS


def _check_text(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{shown(path)}: the name is not valid UTF-8; rename it") from error
