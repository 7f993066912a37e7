"""EXIF blocks of any content, and cut or changed files of every format: each gives pixels or one clear line.

The suite runs a few of each; `python benchmarks/fuzz_images.py` as many as asked for.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator

import numpy as np
from encoded_images import CONTAINERS, FIELD_BYTES, ORIENTATION, Entry, every_kind, exif_block, picture, tiff, turned_by
from PIL import ExifTags

from weightgen.data.pictures import decoded, plain
from weightgen.errors import InputError

TAGS = sorted(
    {tag for tag in map(int, (*ExifTags.Base, *ExifTags.IFD, *ExifTags.GPS)) if 0 <= tag < 65536}
    | {34377, 37724, 50341, 65535}
)
TYPES = (*range(0, 19), 255, 65535)
COUNTS = (0, 1, 2, 3, 4, 5, 100, 65535, 2**31, 2**32 - 1)
TIFF_LAYOUT = {*range(254, 260), 262, 266, 273, 274, *range(277, 282), 284, 292, 293, 317, *range(320, 326), 332, 334}
TIFF_LAYOUT |= {338, 339, 340, 341, 347, *range(512, 522), *range(529, 533)}
TURNS = {
    1: lambda values: values,
    2: lambda values: values[:, ::-1],
    3: lambda values: values[::-1, ::-1],
    4: lambda values: values[::-1],
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: np.rot90(values, 2).swapaxes(0, 1),
    8: lambda values: np.rot90(values),
}
"""What EXIF's orientations say, written down once more."""


def pixels(content: bytes, where: str = "the image") -> np.ndarray | None:
    """Decoded pixels, or None for an image that is refused; fails where it is refused in more than one clear line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            image = decoded(content, where)
        except InputError as error:
            assert str(error).startswith(f"{where}: ") and "\n" not in str(error) and len(str(error)) < 300, error
            return None
    assert image.mode in ("L", "RGB") and 0 not in image.size
    assert np.array_equal(np.asarray(plain(image)), np.asarray(image)), "reading the result again changes it"
    return np.asarray(image)


def exif_entry(tag: int, kind: int, count: int, random: np.random.Generator) -> Entry:
    """An entry whose value is as long as it should be, or of any length."""
    wanted = FIELD_BYTES.get(kind, 1) * count
    length = wanted if wanted <= 64 and random.random() < 0.8 else int(random.integers(0, 12))
    return tag, kind, count, random.bytes(length) if random.random() < 0.8 else bytes(length)


def exif_blocks(number: int, seed: int) -> Iterator[tuple[str, list[Entry], int, str]]:
    """Names, entries, the orientation among them, and the byte order."""
    random = np.random.default_rng([seed, 1])
    for i in range(number):
        order, entries = "<>"[int(random.integers(2))], []
        for _ in range(int(random.integers(1, 5))):
            tag = int(random.choice(TAGS)) if random.random() < 0.9 else int(random.integers(65536))
            kind, count = int(random.choice(TYPES)), int(random.choice(COUNTS))
            if tag != ORIENTATION:
                entries.append(exif_entry(tag, kind, count, random))
        orientation = int(random.integers(1, 9))
        entries.insert(int(random.integers(0, len(entries) + 1)), turned_by(orientation, order=order))
        yield f"EXIF {i} {[entry[:3] for entry in entries]}", entries, orientation, order


def grid() -> Iterator[tuple[str, list[Entry], int, str]]:
    """Every tag with every type and some counts, one at a time, beside an orientation."""
    random = np.random.default_rng(5)
    for tag in TAGS:
        for kind in TYPES:
            for count in (0, 1, 2, 100):
                if tag != ORIENTATION:
                    entries = sorted([exif_entry(tag, kind, count, random), turned_by(6)], key=lambda entry: entry[0])
                    yield f"EXIF {entries[0][:3]}", entries, 6, "<"


def check_exif(cases: Iterator[tuple[str, list[Entry], int, str]]) -> int:
    """Fail unless every file is read, and turned as its orientation says; the number of files."""
    image = picture()
    upright = {name: pixels(build(image, b"")) for name, build in CONTAINERS.items()}
    checked = 0
    for name, entries, orientation, order in cases:
        block = exif_block(entries, order=order)
        files = {container: build(image, block) for container, build in CONTAINERS.items()}
        expected = {container: TURNS[orientation](upright[container]) for container in CONTAINERS}
        if order == "<":  # the layout's own byte order
            further = [entry for entry in entries if entry[0] not in TIFF_LAYOUT - {ORIENTATION}]
            files["tiff"], expected["tiff"] = tiff(image, further), TURNS[orientation](np.asarray(image))
        for container, content in files.items():
            read = pixels(content)
            assert read is not None, f"{name}: {container} is refused"
            assert np.array_equal(read, expected[container]), f"{name}: {container} has other pixels"
            checked += 1
    return checked


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """A file cut short, with bytes changed, left out, put in, or doubled."""
    changed, place = bytearray(content), int(random.integers(0, len(content)))
    length = int(random.integers(1, 33))
    way = int(random.integers(0, 6))
    if way == 0:
        return content[:place]
    if way == 1:  # mostly in the header, where more depends on a byte
        for at in random.integers(0, min(len(content), 256), int(random.integers(1, 5))):
            changed[at] = int(random.integers(256))
    elif way == 2:
        for at in random.integers(0, len(content), int(random.integers(1, 9))):
            changed[at] ^= 1 << int(random.integers(8))
    elif way == 3:
        del changed[place : place + length]
    elif way == 4:
        changed[place:place] = random.bytes(length)
    else:
        changed[place : place + length] = struct.pack(">I", int(random.integers(2**32))) * (length // 4)
    return bytes(changed)


def check_mutations(number: int, seed: int) -> dict[str, int]:
    """Fail unless every changed file is read or refused in one line; how many of each."""
    random, kinds, counted = np.random.default_rng([seed, 2]), every_kind(), {"read": 0, "refused": 0}
    names = sorted(kinds)
    for i in range(number):
        name = names[i % len(names)]
        content = mutated(kinds[name], random)
        try:
            read = pixels(content)
        except AssertionError as error:
            raise AssertionError(f"case {i} of seed {seed}, {name}: {error}") from error
        counted["read" if read is not None else "refused"] += 1
    return counted


def check_truncations(step: int) -> int:
    """Fail unless every kind, cut after every so many bytes, is read or refused in one line; the number of files."""
    checked = 0
    for content in every_kind().values():
        for length in range(0, len(content), step):
            pixels(content[:length])
            checked += 1
    return checked
