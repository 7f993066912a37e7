"""Small images in every mode and format that is read, and EXIF blocks of any content."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, features

SIZE = (23, 17)
ORIENTATION = 0x0112
FIELD_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
Entry = tuple[int, int, int, bytes]
"""Tag, type, count and value of an EXIF entry, whatever belongs together."""


def picture(size: tuple[int, int] = SIZE, *, seed: int = 0) -> Image.Image:
    """A colour picture without any symmetry: smooth ground, one block, one corner."""
    width, height = size
    across, down = np.linspace(0, 1, width)[None, :], np.linspace(0, 1, height)[:, None]
    shades = np.stack([200 * across + 20 * down, 90 * down + 0 * across + 30, 220 - 160 * across * down], -1)
    values = (shades + np.random.default_rng(seed).integers(0, 9, (height, width, 3))).astype(np.uint8)
    values[height // 5 : height // 2, width // 6 : width // 3] = (250, 240, 10)
    values[: height // 4, -(width // 5) :] = (5, 10, 20)
    return Image.fromarray(values)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(values: np.ndarray, *, depth: int, colour: int, key: bytes = b"", chunks: Sequence[tuple[bytes, bytes]] = ()):
    """A PNG file of samples as they are: those depths that Pillow reads and does not write."""
    height, width = values.shape[:2]
    flat = values.reshape(height, -1)
    if depth == 16:
        rows = flat.astype(">u2").view(np.uint8)
    elif depth == 8:
        rows = flat.astype(np.uint8)
    else:
        bits = (flat[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = [(b"IHDR", header), *chunks, *([(b"tRNS", key)] if key else []), (b"IDAT", zlib.compress(lines))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*each) for each in [*body, (b"IEND", b"")])


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def exif_block(entries: Sequence[Entry], *, order: str = "<") -> bytes:
    """A TIFF header and one directory; values longer than 4 bytes are put behind it, as the rules are."""
    pool_at = 8 + 2 + 12 * len(entries) + 4
    body, pool = struct.pack(f"{order}H", len(entries)), b""
    for tag, kind, count, value in entries:
        if len(value) > 4:
            field, pool = struct.pack(f"{order}I", pool_at + len(pool)), pool + value
        else:
            field = value.ljust(4, b"\0")
        body += struct.pack(f"{order}HHI", tag, kind, count) + field
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}I", 8) + body + struct.pack(f"{order}I", 0) + pool


def turned_by(value: int, *, order: str = "<") -> Entry:
    return ORIENTATION, 3, 1, struct.pack(f"{order}H", value)


def jpeg(image: Image.Image, segments: Sequence[tuple[int, bytes]] = ()) -> bytes:
    """JPEG with segments (marker, content) behind the start marker."""
    content = encode(image, "JPEG", quality=92)
    added = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return content[:2] + added + content[2:]


def riff(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(kind + struct.pack("<I", len(part)) + part + bytes(len(part) % 2) for kind, part in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def webp(image: Image.Image, block: bytes) -> bytes:
    """Lossless WebP with an EXIF chunk that Pillow would not write."""
    plain = encode(image, "WEBP", lossless=True)
    size = struct.pack("<I", image.width - 1)[:3] + struct.pack("<I", image.height - 1)[:3]
    return riff([(b"VP8X", b"\x08\0\0\0" + size), (b"VP8L", plain[20:]), (b"EXIF", block)])


def tiff(image: Image.Image, entries: Sequence[Entry] = ()) -> bytes:
    """Uncompressed little-endian TIFF of a colour picture, with further tags of any content."""
    values = np.asarray(image.convert("RGB")).tobytes()
    shorts = {256: image.width, 257: image.height, 259: 1, 262: 2, 277: 3, 278: image.height, 284: 1}
    layout: list[Entry] = [(tag, 3, 1, struct.pack("<H", value)) for tag, value in shorts.items()]
    layout += [(258, 3, 3, struct.pack("<HHH", 8, 8, 8)), (279, 4, 1, struct.pack("<I", len(values)))]
    every = sorted([*layout, (273, 4, 1, bytes(4)), *entries], key=lambda entry: entry[0])
    content = exif_block(every)
    place = 8 + 2 + 12 * [entry[:3] for entry in every].index((273, 4, 1)) + 8
    return content[:place] + struct.pack("<I", len(content)) + content[place + 4 :] + values


CONTAINERS: dict[str, Callable[[Image.Image, bytes], bytes]] = {
    "jpeg": lambda image, block: jpeg(image, [(0xE1, b"Exif\0\0" + block)]),
    "png": lambda image, block: png(np.asarray(image), depth=8, colour=2, chunks=[(b"eXIf", block)]),
    "webp": webp,
}
"""Files of a colour picture with an EXIF block as it is."""


def _plain_kinds(colour: Image.Image) -> dict[str, bytes]:
    grey, pale = colour.convert("L"), np.asarray(colour)
    clear = colour.convert("RGBA")
    clear.putalpha(grey.point(lambda value: 255 if value > 120 else value))
    grey_clear = grey.convert("LA")
    grey_clear.putalpha(clear.getchannel("A"))
    deep = np.asarray(grey).astype(np.uint16) * 257
    few = colour.quantize(9)
    frames = [few.transpose(Image.Transpose.ROTATE_180)]
    wide = pale.astype(np.uint16) * 257
    wide_clear = np.asarray(clear).astype(np.uint16) * 257
    key16, key = struct.pack(">HHH", *map(int, wide[0, 0])), tuple(map(int, pale[0, 0]))
    return {
        "rgb.png": encode(colour, "PNG"),
        "grey.png": encode(grey, "PNG"),
        "bit.png": encode(grey.convert("1"), "PNG"),
        "rgba.png": encode(clear, "PNG"),
        "la.png": encode(grey_clear, "PNG"),
        "palette.png": encode(few, "PNG"),
        "palette 2 bit.png": encode(colour.quantize(4), "PNG", bits=2),
        "palette one clear.png": encode(few, "PNG", transparency=2),
        "palette alphas.png": encode(few, "PNG", transparency=bytes(range(0, 250, 29))),
        "rgb key.png": encode(colour, "PNG", transparency=key),
        "grey key.png": encode(grey, "PNG", transparency=int(deep[0, 0]) // 257),
        "bit key.png": png(np.asarray(grey) // 128, depth=1, colour=0, key=b"\0\1"),
        "grey 2 bit key.png": png(np.asarray(grey) // 64, depth=2, colour=0, key=b"\0\2"),
        "grey 4 bit key.png": png(np.asarray(grey) // 16, depth=4, colour=0, key=b"\0\6"),
        "grey 16.png": png(deep, depth=16, colour=0),
        "grey 16 key.png": png(deep, depth=16, colour=0, key=struct.pack(">H", int(deep[0, 0]))),
        "rgb 16.png": png(wide, depth=16, colour=2),
        "rgb 16 key.png": png(wide, depth=16, colour=2, key=key16),
        "rgba 16.png": png(wide_clear, depth=16, colour=6),
        "la 16.png": png(np.asarray(grey_clear).astype(np.uint16) * 257, depth=16, colour=4),
        "animated.png": encode(colour, "PNG", save_all=True, append_images=[colour.rotate(180)]),
        "rgb.jpg": encode(colour, "JPEG"),
        "grey.jpg": encode(grey, "JPEG"),
        "cmyk.jpg": encode(colour.convert("CMYK"), "JPEG"),
        "progressive.jpg": encode(colour, "JPEG", progressive=True),
        "stereo.mpo": encode(colour, "MPO", save_all=True, append_images=[colour.rotate(180)]),
        "lossy.webp": encode(colour, "WEBP"),
        "rgba.webp": encode(clear, "WEBP", lossless=True),
        "animated.webp": encode(colour, "WEBP", save_all=True, append_images=[colour.rotate(180)], lossless=True),
        "palette.gif": encode(few, "GIF"),
        "clear.gif": encode(few, "GIF", transparency=1),
        "animated.gif": encode(few, "GIF", save_all=True, append_images=frames),
        "rgb.bmp": encode(colour, "BMP"),
        "rgba.bmp": encode(clear, "BMP"),
        "palette.bmp": encode(few, "BMP"),
        "bit.bmp": encode(grey.convert("1"), "BMP"),
        "icon.ico": encode(clear, "ICO", sizes=[(16, 16)]),
        "rgb.qoi": encode(colour, "QOI"),
        "rgba.qoi": encode(clear, "QOI"),
        "rgb.jp2": encode(colour, "JPEG2000"),
        "grey 16.jp2": encode(Image.fromarray(deep), "JPEG2000"),
        "rgba.jp2": encode(clear, "JPEG2000"),
        "rgb.ppm": encode(colour, "PPM"),
        "grey.pgm": encode(grey, "PPM"),
        "bit.pbm": encode(grey.convert("1"), "PPM"),
        "grey 16.pgm": encode(Image.fromarray(deep), "PPM"),
        "float.pfm": encode(Image.fromarray(np.asarray(grey).astype(np.float32) / 255), "PPM"),
        "text.ppm": b"P3\n2 1\n255\n255 0 0 0 0 255\n",
    }


def _tiff_kinds(colour: Image.Image) -> dict[str, bytes]:
    grey = colour.convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 257
    modes = {mode: colour.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB")}
    depths = {"<u2": deep, ">u2": deep, "<i4": deep, "<f4": np.asarray(grey) / 255, "<f8": np.asarray(grey) / 255}
    arrays = {name: Image.fromarray(values.astype(name)) for name, values in depths.items()}
    packed = {kind: encode(colour, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_deflate", "jpeg")}
    return {
        **{f"{mode}.tif": encode(image, "TIFF") for mode, image in modes.items()},
        **{
            f"{name[1:]}{'le' if name[0] == '<' else 'be'}.tif": encode(image, "TIFF") for name, image in arrays.items()
        },
        **{f"{kind}.tif": content for kind, content in packed.items()},
        "fax.tif": encode(grey.convert("1"), "TIFF", compression="group4"),
        "two pages.tif": encode(colour, "TIFF", save_all=True, append_images=[colour.rotate(180)]),
    }


@cache
def every_kind() -> dict[str, bytes]:
    """One encoded image for every mode and format, by a file name for it."""
    colour = picture()
    kinds = {**_plain_kinds(colour), **_tiff_kinds(colour)}
    if features.check("avif"):
        kinds["rgb.avif"] = encode(colour, "AVIF")
        kinds["turned.avif"] = encode(colour, "AVIF", exif=exif_block([turned_by(6)]))
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "any text", zip=True)
    kinds["text.png"] = encode(colour, "PNG", pnginfo=info, icc_profile=b"no profile")
    for container, build in CONTAINERS.items():
        kinds[f"turned.{container}"] = build(colour, exif_block([turned_by(6)]))
    kinds["turned.tiff"] = tiff(colour, [turned_by(6)])
    return kinds
