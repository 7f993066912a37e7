"""Decodes an image from any source: 8-bit grey or colour, upright, on white.

`docs/how_to/images.md` says what becomes of every mode, and why.
"""

import io
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError

from weightgen.errors import InputError
from weightgen.files import shown

ORIENTING = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Keys of Pillow's `info` that may say how a picture is to be turned."""
_ORIENTATION = 0x0112
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # TIFF's field types
_EXIF_HEADER = b"Exif\0\0"
_XMP_ORIENTATION = re.compile(r"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])""")
# Tags of TIFF that say how pixels are laid out and coded; all others are metadata.
_TIFF_LAYOUT = {
    *(*range(254, 260), 262, 266, 273, 274, *range(277, 282), 284, 292, 293, 317, *range(320, 326), 332, 334, 338),
    *(339, 340, 341, 347, *range(512, 522), *range(529, 533)),
}
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
    if isinstance(image, np.ndarray):
        image = _of_array(image, where)
    with _complaints(where):
        return _plain(_with_pixels(image, where), where)


def _of_array(pixels: np.ndarray, where: str) -> Image.Image:
    try:
        return Image.fromarray(pixels)
    except (TypeError, ValueError, KeyError) as error:
        what = f"an array of {pixels.dtype} of shape {list(pixels.shape)}"
        raise InputError(f"{where}: is {what}; give uint8 [height, width, channels]") from error


def image_format(path: Path) -> str | None:
    """The format of an image file, by its content; None where it is not an image."""
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
    """Turn any exception of a decoder into one line about the image."""
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


# Metadata: read for the orientation, taken out where a decoder fails on it. Nothing below raises, whatever they hold.


def orientation(info: Mapping[Any, Any]) -> int:
    """How to turn a picture, 1 (not at all) to 8, from the `info` of an image that Pillow opened.

    EXIF counts first, then XMP. A tag that is not a whole number from 1 to 8 means upright, as in browsers; what other
    tags hold does not matter.
    """
    value = _exif_orientation(_exif_block(info))
    if value is not None:
        return value
    for key in ("XML:com.adobe.xmp", "xmp"):
        text = info.get(key, "")
        match = _XMP_ORIENTATION.search(text.decode("latin-1") if isinstance(text, bytes) else str(text))
        if match:
            return int(match[1])
    return 1


def without_metadata(content: bytes) -> tuple[bytes, bytes]:
    """An encoded image without what does not bear upon its pixels, and the EXIF block that was among it.

    Known for JPEG, PNG, TIFF and AVIF; of other formats, and of broken ones, the content comes back as it is.
    """
    for start, strip in _STRIPPERS.items():
        if content.startswith(start):
            return strip(content)
    return (_strip_avif(content), b"") if content[4:8] == b"ftyp" else (content, b"")


def _exif_block(info: Mapping[Any, Any]) -> bytes:
    block = info.get("exif")
    if block is None and isinstance(info.get("Raw profile type exif"), str):  # ImageMagick's way in PNG files
        try:
            block = bytes.fromhex("".join(info["Raw profile type exif"].split("\n")[3:]))
        except ValueError:
            block = None
    return block if isinstance(block, bytes) else b""


def _exif_orientation(block: bytes) -> int | None:
    """The orientation that an EXIF block gives; None where it has no such tag."""
    while block.startswith(_EXIF_HEADER):  # some writers put it there twice
        block = block[len(_EXIF_HEADER) :]
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, start)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", block, place)
            if tag == _ORIENTATION:
                return _valid(block, place + 8, order, kind, count)
    except struct.error:  # cut short
        pass
    return None


def _valid(block: bytes, place: int, order: str, kind: int, count: int) -> int:
    """The first value of an entry if it is an orientation, else 1."""
    code = _WHOLE_NUMBERS.get(kind)
    if code is None or not 0 < count * struct.calcsize(code) <= 4:  # more than 4 bytes would lie elsewhere
        return 1
    (value,) = struct.unpack_from(order + code, block, place)
    return value if 1 <= value <= 8 else 1


def _strip_jpeg(content: bytes) -> tuple[bytes, bytes]:
    """Without the segments of applications, but for JFIF and Adobe, which decide colours, and without comments."""
    kept, exif, place = [content[:2]], b"", 2
    while content[place : place + 1] == b"\xff" and place + 4 <= len(content):
        marker = content[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker == 0xDA:  # pixels follow
            break
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4])
        if marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(content[place:end])
        elif content[place + 4 : place + 10] == _EXIF_HEADER:
            exif += content[place + (10 if exif else 4) : end]
        place = end
    return b"".join(kept) + content[place:], exif


def _strip_png(content: bytes) -> tuple[bytes, bytes]:
    """Critical chunks and transparency alone."""
    kept, exif, place = [content[:8]], b"", 8
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        chunk = content[place : place + 12 + length]
        if kind[:1].isupper() or kind == b"tRNS":
            kept.append(chunk)
        elif kind == b"eXIf":
            exif = chunk[8:-4]
        place += 12 + length
    return b"".join(kept), exif


def _strip_tiff(content: bytes) -> tuple[bytes, bytes]:
    """Tags other than those of the pixels become one of no meaning, in place."""
    order, changed = ("<" if content[:2] == b"II" else ">"), bytearray(content)
    try:
        (start,) = struct.unpack_from(f"{order}I", content, 4)
        (entries,) = struct.unpack_from(f"{order}H", content, start)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            if struct.unpack_from(f"{order}H", content, place)[0] not in _TIFF_LAYOUT:
                struct.pack_into(f"{order}HHI", changed, place, 65000, 1, 1)
    except struct.error:  # cut short
        pass
    return bytes(changed), b""


def _strip_avif(content: bytes) -> bytes:
    """Items that hold EXIF are called something that no decoder looks for; AVIF itself says how to turn it."""
    return content.replace(b"Exif", b"free").replace(b"application/rdf+xml", b"application/unknown")


_STRIPPERS: dict[bytes, Callable[[bytes], tuple[bytes, bytes]]] = {
    b"\xff\xd8\xff": _strip_jpeg,
    b"\x89PNG\r\n\x1a\n": _strip_png,
    b"II*\0": _strip_tiff,
    b"MM\0*": _strip_tiff,
}


def file_content(path: Path) -> bytes:
    """The bytes of an image file. Raises InputError when there are none to be had."""
    check_text(path)
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise InputError(f"{shown(path)}: is not a file; give an image")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({error.strerror}); check the path and its rights") from error
    if not content:
        raise InputError(f"{shown(path)}: is empty; copy the image again or remove it")
    return content


def check_text(path: Path) -> None:
    """Raises InputError for a name that no text can hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{shown(path)}: the name is not valid UTF-8; rename it") from error
