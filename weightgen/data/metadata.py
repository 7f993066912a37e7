"""What stands beside the pixels in an image file: read for the orientation, taken out where a decoder fails on it.

Nothing here raises, whatever the metadata hold.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

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


def orientation(info: Mapping[Any, Any]) -> int:
    """How to turn a picture, 1 (not at all) to 8, from the `info` of an image that Pillow opened.

    EXIF counts first, then XMP. A tag that is no whole number from 1 to 8 means upright, as in browsers; what other
    tags hold does not matter.
    """
    found = _exif_orientation(_exif_block(info))
    if found is not None:
        return found
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
