"""The one way from an encoded image to pixels, whatever holds it: 8-bit grey or colour, upright, on white.

`docs/how_to/images.md` says what becomes of every mode, and why.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError

from weightgen.data.metadata import ORIENTING, orientation, without_metadata
from weightgen.errors import InputError

VERSION = 1
"""Changes with the pixels of any image; caches of what was computed from pixels depend on it."""
# No EPS, which would start Ghostscript, no WMF, which needs Windows, and none that other programs have to decode.
_WANTED = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "ICO", "QOI")
Image.init()
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)
EXTENSIONS = tuple(
    sorted(suffix for suffix, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO"))
)

_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_DEEP = (*_16_BIT, "I", "F")
_RANGES = {"I": (255.0, 65535.0), "F": (1.0, 255.0, 65535.0)}
_GREY = ("1", "L", "LA", "La", *_DEEP)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decoded(content: bytes, where: str, *, quick: bool = False) -> Image.Image:
    """An encoded image as mode "L" (grey) or "RGB", 8 bit, upright; of an animation the first frame.

    where: begins error messages, e.g. the file.
    quick: a JPEG at an eighth of its size, to see whether it is whole.

    Raises InputError when the content is empty, damaged, no image, or larger than Pillow's limit against decompression
    bombs (`PIL.Image.MAX_IMAGE_PIXELS`, 89 million pixels). Metadata never make an image unreadable.
    """
    if not content:
        raise InputError(f"{where}: is empty; copy the image again or remove it")
    with _complaints(where):
        return _plain(_loaded(content, where, quick=quick), where)


def plain(image: Image.Image | np.ndarray, where: str = "image") -> Image.Image:
    """An image that was opened elsewhere, or an array, in the mode and with the pixels that `decoded` gives its file.

    Raises InputError as `decoded` does.
    """
    with _complaints(where):
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        return _plain(_with_pixels(image, where), where)


def image_format(path: Path) -> str | None:
    """The format of an image file, by its content, whatever it is called; None if it is none."""
    with _SILENCE:
        try:
            with Image.open(path, formats=FORMATS) as image:
                return image.format
        except Exception:  # as many kinds as there are decoders
            return None


def _loaded(content: bytes, where: str, *, quick: bool) -> Image.Image:
    """Decoded pixels in the mode of the file; metadata that a decoder fails on are taken out."""
    try:
        return _opened(content, where, quick=quick)
    except (InputError, Image.DecompressionBombError):
        raise
    except Exception as error:  # decoders of damaged files fail in many ways
        bare, exif = without_metadata(content)
        if bare == content:
            raise
        try:
            image = _opened(bare, where, quick=quick)
        except Exception:
            raise error from None
        if exif:
            image.info["exif"] = exif
        return image


def _opened(content: bytes, where: str, *, quick: bool) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if quick:
        image.draft(None, (1, 1))
    return _with_pixels(image, where)


def _with_pixels(image: Image.Image, where: str) -> Image.Image:
    if 0 in image.size:
        raise InputError(f"{where}: has no pixels; remove it")
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError
    _scale_key(image)
    image.load()
    return image


def _scale_key(image: Image.Image) -> None:
    """PNG gives the transparent colour in the file's own depth, and Pillow keeps it so while it scales the pixels."""
    key, tile = image.info.get("transparency"), getattr(image, "tile", None)
    if image.format != "PNG" or key is None or not tile:
        return
    if isinstance(key, int):
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}.get(tile[0].args, 1)
    elif isinstance(key, tuple) and tile[0].args == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _plain(image: Image.Image, where: str) -> Image.Image:
    """Any mode → "L" or "RGB", upright."""
    image, grey = _upright(image), image.mode in _GREY
    if image.mode in _DEEP:
        return _from_deep(image, where)
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # the only way out of premultiplied grey
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    mode = "L" if grey else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _upright(image: Image.Image) -> Image.Image:
    turn = None if image.format == "TIFF" else _TURNS.get(orientation(image.info))  # Pillow turns TIFF itself
    if turn is None:
        return image
    turned = image.transpose(turn)
    for key in ORIENTING:  # once is enough
        turned.info.pop(key, None)
    return turned


def _from_deep(image: Image.Image, where: str) -> Image.Image:
    """More than 8 bit of grey → "L"; Pillow's own conversion cuts everything above 255 off."""
    values: np.ndarray = np.asarray(image).astype(np.float32 if image.mode in _16_BIT else np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{where}: holds NaN or infinite pixels; write the image again")
    black, white = _black_and_white(image, values)
    key = image.info.get("transparency")
    clear = values == key if isinstance(key, int) else None
    if getattr(image, "tag_v2", {}).get(262) == 0:  # a TIFF whose 0 is white
        values = black + white - values
    scaled = np.round((values - black) * 255 / (white - black)).astype(np.uint8)
    if clear is not None:
        scaled[clear] = 255
    return Image.fromarray(scaled)


def _black_and_white(image: Image.Image, values: Float[np.ndarray, "height width"]) -> tuple[float, float]:
    """Values that become 0 and 255: of the ranges that such images come in the smallest that holds all values."""
    if image.mode in _16_BIT or (image.format == "PPM" and image.mode == "I"):
        return 0.0, 65535.0
    darkest, brightest = float(values.min()), float(values.max())
    for white in _RANGES[image.mode]:
        if darkest >= 0 and brightest <= white:
            return 0.0, white
    return darkest, brightest if brightest > darkest else darkest + 1


class _Silence:
    """No warnings while any thread is inside: Pillow's are of metadata; `catch_warnings` alone is for one thread."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._outside: warnings.catch_warnings | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._outside = warnings.catch_warnings()
                self._outside.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._outside is not None:
                self._outside.__exit__(None, None, None)


_SILENCE = _Silence()


@contextmanager
def _complaints(where: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one line about the image."""
    try:
        with _SILENCE:
            yield
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{where}: has more than {Image.MAX_IMAGE_PIXELS} pixels; make the image smaller or remove it"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{where}: is not an image of a known kind; convert it to PNG or remove it") from error
    except Exception as error:  # decoders of damaged files fail in many ways
        raise InputError(f"{where}: is damaged or cut short; copy the image again or remove it") from error
