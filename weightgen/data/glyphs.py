"""Characters rendered from the DejaVu faces that matplotlib ships: a data set without a download."""

import hashlib
import math
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import torch
from datasets import ClassLabel, Dataset, Features, Image
from jaxtyping import Float, UInt8
from matplotlib.ft2font import FT2Font
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont, features
from torch import Tensor
from torch.nn import functional

from weightgen import files, seeds
from weightgen.errors import InputError
from weightgen.records import Progress

_FACES_NEEDED = 8
_CANVAS_PIXELS = 64  # twice the 32 px that the shift is counted in
_EM_PIXELS = 40
_MARGIN_PIXELS = 2
_BRAILLE = range(0x2800, 0x2900)  # 256 patterns of the same six dots say nothing about shapes
_CLASSES_PER_BATCH = 64

_ROTATION_RADIANS = 0.7
_SHEAR = 0.5
_ZOOM = 0.4
_SHIFT = 5 / 32
_DRAWING = (_FACES_NEEDED, _CANVAS_PIXELS, _EM_PIXELS, _ROTATION_RADIANS, _SHEAR, _ZOOM, _SHIFT)


def render_glyphs(
    *,
    seed: int,
    images_per_class: int = 30,
    size: int = 28,
    classes: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Unicode letters and symbols, every image in another face, size, place, shear and rotation.

    A class is a character that 8 or more DejaVu faces hold; of characters that look alike in a face
    (A, Α, А) only the first counts. Images are grey, `size` × `size` pixels, dark ink on white paper.
    Rendered in seconds and kept under `files.cache_directory()`.

    seed: of all random choices; the images of a class do not depend on which other classes there are.
    classes: take only that many characters, in code point order.

    Returns the columns `image` (PNG) and `label` (named "U+0041 LATIN CAPITAL LETTER A"), sorted by
    class. Raises InputError for a number of images, pixels or classes below 1.
    """
    for name, number in (("images_per_class", images_per_class), ("size", size), ("classes", classes)):
        if number is not None and number < 1:
            raise InputError(f"glyphs: {name} is {number}; give 1 or more")
    key = files.text_hash(_drawing_version(), *(str(value) for value in (seed, images_per_class, size, classes)))
    path = files.cache_directory() / "glyphs" / f"{key}.arrow"
    dataset = None
    with files.optional_cache():
        dataset = Dataset.from_file(str(path)) if path.exists() else None
    if dataset is None:
        content = _render(seed, images_per_class, size, classes, progress)
        with files.optional_cache():
            files.write_bytes(path, content)
            dataset = Dataset.from_file(str(path))
    if dataset is None:
        dataset = Dataset.from_buffer(pa.py_buffer(content))
    return dataset.cast_column("image", Image(decode=False))  # older caches say otherwise


def _render(seed: int, images_per_class: int, size: int, classes: int | None, progress: Progress | None) -> bytes:
    names: list[str] = []
    encoded: list[bytes] = []
    characters = islice(_characters(), classes)
    while batch := list(islice(characters, _CLASSES_PER_BATCH)):
        drawings, motions = [], []
        for name, faces in batch:
            generator = seeds.generator(seed, "glyphs", name)
            order = torch.randperm(len(faces), generator=generator)
            drawings.append(faces[order.repeat(math.ceil(images_per_class / len(faces)))[:images_per_class]])
            motions.append(_random_motions(images_per_class, generator))
            names.append(name)
        encoded += _pngs(_moved(torch.cat(drawings), torch.cat(motions), size))
        if progress is not None:
            progress("rendering glyphs", len(names), classes or len(_coverage()))
    schema = Features({"image": Image(decode=False), "label": ClassLabel(names=names)}).arrow_schema
    images = pa.array([{"bytes": png, "path": None} for png in encoded], schema.field("image").type)
    labels = pa.array(np.repeat(np.arange(len(names)), images_per_class))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.table([images, labels], schema=schema), max_chunksize=1000)
    return sink.getvalue().to_pybytes()


def _characters() -> Iterator[tuple[str, UInt8[Tensor, "faces height width"]]]:
    """Class names and drawings, in code point order, without those that look like an earlier one."""
    fonts = [ImageFont.truetype(str(path), _EM_PIXELS, layout_engine=ImageFont.Layout.BASIC) for path in _font_files()]
    seen: set[tuple[int, bytes]] = set()
    for code, held_by in _coverage().items():
        drawn = [(i, _drawing(chr(code), fonts[i])) for i in held_by]
        looks = {(i, drawing.tobytes()) for i, drawing in drawn}
        if looks & seen or not all(drawing.any() for _, drawing in drawn):
            continue
        seen |= looks
        yield f"U+{code:04X} {unicodedata.name(chr(code))}", torch.from_numpy(np.stack([d for _, d in drawn]))


def _drawing(character: str, font: ImageFont.FreeTypeFont) -> UInt8[np.ndarray, "height width"]:
    """One character, ink 255, its bounding box in the middle of the canvas; very large ones shrunk to fit."""
    left, top, right, bottom = font.getbbox(character)
    width, height = math.ceil(right) - math.floor(left), math.ceil(bottom) - math.floor(top)
    side = max(width, height, _CANVAS_PIXELS - 2 * _MARGIN_PIXELS) + 2 * _MARGIN_PIXELS
    image = PILImage.new("L", (side, side))
    corner = ((side - width) // 2 - math.floor(left), (side - height) // 2 - math.floor(top))
    ImageDraw.Draw(image).text(corner, character, fill=255, font=font)
    if side != _CANVAS_PIXELS:
        image = image.resize((_CANVAS_PIXELS, _CANVAS_PIXELS), PILImage.Resampling.BOX)
    return np.asarray(image)


def _random_motions(images: int, generator: torch.Generator) -> Float[Tensor, "images 2 3"]:
    """Affine maps from output to canvas coordinates: rotation · shear, a zoom of each axis, and a shift."""
    rotation, shear, wide, high, across, down = (2 * torch.rand(6, images, generator=generator) - 1).unbind()
    angle, shear = rotation * _ROTATION_RADIANS, shear * _SHEAR
    wide, high = 1 + wide * _ZOOM, 1 + high * _ZOOM
    cos, sin = angle.cos(), angle.sin()
    # A shift of _SHIFT of the width is twice that in grid_sample's coordinates, which run from -1 to 1.
    first = [cos / wide, (cos * shear - sin) / wide, across * 2 * _SHIFT]
    second = [sin / high, (sin * shear + cos) / high, down * 2 * _SHIFT]
    rows = [*first, *second]
    return torch.stack(rows, dim=-1).view(images, 2, 3)


def _moved(
    drawings: UInt8[Tensor, "images height width"], motions: Float[Tensor, "images 2 3"], size: int
) -> UInt8[Tensor, "images size size"]:
    """Dark ink on white paper; sampled at twice the size and averaged, against aliasing."""
    ink = drawings[:, None].float() / 255
    fine = 2 * size
    axis = (torch.arange(fine) + 0.5) / size - 1
    points = torch.stack([axis.repeat(fine), axis.repeat_interleave(fine), torch.ones(fine * fine)])
    # The same as functional.affine_grid, which multiplies one small matrix at a time and takes five times as long.
    grid = (motions.view(-1, 3) @ points).view(-1, 2, fine, fine).permute(0, 2, 3, 1)  # images fine fine 2
    ink = functional.avg_pool2d(functional.grid_sample(ink, grid, align_corners=False), 2)
    return (255 * (1 - ink[:, 0])).round().clamp(0, 255).to(torch.uint8)


def _pngs(images: UInt8[Tensor, "images size size"]) -> list[bytes]:
    """Grey PNG files. Written here because Pillow takes ten times as long for images this small."""
    height, width = images.shape[1:]
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))  # 8 bit, grey
    lines = functional.pad(images, (1, 0)).numpy()  # each line begins with 0, "no filter"
    start, end = b"\x89PNG\r\n\x1a\n" + header, _chunk(b"IEND", b"")
    return [start + _chunk(b"IDAT", zlib.compress(image.tobytes(), 1)) + end for image in lines]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@lru_cache
def _font_files() -> tuple[Path, ...]:
    return tuple(sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVu*.ttf")))


@lru_cache
def _coverage() -> dict[int, list[int]]:
    """Code points of letters and symbols in enough faces, ascending, each with the numbers of its faces."""
    held_by: dict[int, list[int]] = {}
    for i, path in enumerate(_font_files()):
        for code in FT2Font(str(path)).get_charmap():
            held_by.setdefault(code, []).append(i)
    return {
        code: held_by[code]
        for code in sorted(held_by)
        if len(held_by[code]) >= _FACES_NEEDED and unicodedata.category(chr(code))[0] in "LS" and code not in _BRAILLE
    }


@lru_cache
def _drawing_version() -> str:
    """Changes with the fonts, the font engine, Unicode's tables and every constant above."""
    digest = hashlib.sha256(repr(_DRAWING).encode())
    for path in _font_files():
        digest.update(path.read_bytes())
    return f"{digest.hexdigest()} {features.version('freetype2')} {unicodedata.unidata_version}"
