"""Every mode and format becomes 8-bit grey or colour, upright and on white, and metadata never stand in the way."""

import io
import struct
import threading
import warnings
import zlib

import image_fuzz
import numpy as np
import pytest
from encoded_images import CONTAINERS, SIZE, encode, every_kind, exif_block, jpeg, picture, png, tiff, turned_by
from hypothesis import given, settings
from hypothesis import strategies as st
from image_fuzz import TURNS, pixels
from PIL import Image, ImageCms, features

from weightgen.data import pictures
from weightgen.data.pictures import decoded, plain
from weightgen.errors import InputError

RED, WHITE = (255, 0, 0), (255, 255, 255)


def clear(mode, colour, alpha):
    image = Image.new(mode, SIZE, colour)
    image.putalpha(alpha)
    return image


def palette(**options):
    return encode(Image.new("RGB", SIZE, RED).quantize(4), "PNG", **options)


def grey(value, depth, **options):
    return png(np.full(SIZE[::-1], value), depth=depth, colour=0, **options)


def stored(values, kind="TIFF"):
    return encode(Image.fromarray(values), kind)


def shades(values):
    """A one-line picture of these values, and it again."""
    return np.asarray([values])


# what is written, expected mode, expected pixel (3, 2)
MODES = {
    "RGB": (encode(Image.new("RGB", SIZE, RED), "PNG"), "RGB", RED),
    "L": (encode(Image.new("L", SIZE, 77), "PNG"), "L", 77),
    "1": (encode(Image.new("1", SIZE, 1), "PNG"), "L", 255),
    "1 with key": (grey(1, 1, key=b"\0\1"), "L", 255),
    "1 with other key": (grey(0, 1, key=b"\0\1"), "L", 0),
    "P": (palette(), "RGB", RED),
    "P with one clear": (palette(transparency=0), "RGB", WHITE),
    "P with alphas": (palette(transparency=bytes([51] * 4)), "RGB", (255, 204, 204)),
    "P in GIF, clear": (encode(Image.new("P", SIZE, 3), "GIF", transparency=3), "RGB", WHITE),
    "RGB with key": (encode(Image.new("RGB", SIZE, RED), "PNG", transparency=RED), "RGB", WHITE),
    "RGB with other key": (encode(Image.new("RGB", SIZE, RED), "PNG", transparency=(254, 0, 0)), "RGB", RED),
    "L with key": (grey(77, 8, key=b"\0\x4d"), "L", 255),
    "L of 2 bit with key": (grey(2, 2, key=b"\0\2"), "L", 255),
    "L of 2 bit with other key": (grey(2, 2, key=b"\0\1"), "L", 170),
    "L of 4 bit with key": (grey(6, 4, key=b"\0\6"), "L", 255),
    "RGBA": (encode(clear("RGB", RED, 51), "PNG"), "RGB", (255, 204, 204)),
    "RGBA, black and clear": (encode(clear("RGB", 0, 0), "PNG"), "RGB", WHITE),
    "RGBA in WebP": (encode(clear("RGB", RED, 51), "WEBP", lossless=True), "RGB", (255, 204, 204)),
    "RGBA in TIFF": (encode(clear("RGB", RED, 51), "TIFF"), "RGB", (255, 204, 204)),
    "RGBA in ICO": (encode(clear("RGB", RED, 51), "ICO", sizes=[(16, 16)]), "RGB", (255, 204, 204)),
    "LA": (encode(clear("L", 9, 0), "PNG"), "L", 255),
    "LA half": (encode(clear("L", 0, 102), "PNG"), "L", 153),
    "CMYK": (encode(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "JPEG", quality=100), "RGB", RED),
    "CMYK in TIFF": (encode(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "TIFF"), "RGB", RED),
    "YCbCr": (encode(Image.new("YCbCr", SIZE, (76, 85, 255)), "TIFF"), "RGB", (254, 0, 0)),
    "LAB": (encode(Image.new("LAB", SIZE, (137, 128, 128)), "TIFF"), "RGB", (128, 128, 128)),
    "I;16": (grey(51400, 16), "L", 200),
    "I;16 with key": (grey(51400, 16, key=struct.pack(">H", 51400)), "L", 255),
    "I;16 with other key": (grey(51400, 16, key=struct.pack(">H", 51401)), "L", 200),
    "I;16 in TIFF": (stored(np.full(SIZE[::-1], 257, "<u2")), "L", 1),
    "I;16B": (stored(np.full(SIZE[::-1], 51400, ">u2")), "L", 200),
    "I;16 in PGM": (stored(np.full(SIZE[::-1], 51400, "<u2"), "PPM"), "L", 200),
    "I;16 in PGM, dark": (stored(np.full(SIZE[::-1], 255, "<u2"), "PPM"), "L", 1),
    "I;16 in JPEG 2000": (stored(np.full(SIZE[::-1], 51400, "<u2"), "JPEG2000"), "L", 200),
    "RGB of 16 bit": (png(np.full((*SIZE[::-1], 3), 51400), depth=16, colour=2), "RGB", (200, 200, 200)),
    "RGB of 16 bit with key": (
        png(np.full((*SIZE[::-1], 3), 51400), depth=16, colour=2, key=struct.pack(">HHH", *[51400] * 3)),
        "RGB",
        WHITE,
    ),
    "I": (stored(np.full(SIZE[::-1], 200, np.int32)), "L", 200),
    "I of 16 bit": (stored(np.full(SIZE[::-1], 51400, np.int32)), "L", 200),
    "F from 0 to 1": (stored(np.full(SIZE[::-1], 0.8, np.float32)), "L", 204),
    "F from 0 to 255": (stored(np.full(SIZE[::-1], 200.2, np.float32)), "L", 200),
    "F from 0 to 65535": (stored(np.full(SIZE[::-1], 51400, np.float32)), "L", 200),
    "F of one other value": (stored(np.full(SIZE[::-1], -4.0, np.float32)), "L", 0),
    "F in PFM": (stored(np.full(SIZE[::-1], 0.8, np.float32), "PPM"), "L", 204),
    "animated GIF": (
        encode(Image.new("RGB", SIZE, RED), "GIF", save_all=True, append_images=[Image.new("RGB", SIZE)]),
        "RGB",
        RED,
    ),
    "pages": (
        encode(Image.new("L", SIZE, 8), "TIFF", save_all=True, append_images=[Image.new("L", SIZE)]),
        "L",
        8,
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_read_as_grey_or_colour_on_white(mode):
    content, expected, pixel = MODES[mode]
    image = decoded(content, mode)
    assert (image.mode, image.getpixel((3, 2))) == (expected, pixel)


@pytest.mark.parametrize("kind", every_kind())
def test_an_image_opened_elsewhere_has_the_pixels_of_its_file(kind):
    content = every_kind()[kind]
    expected = decoded(content, kind)
    lazy, loaded = (Image.open(io.BytesIO(content)) for _ in range(2))
    loaded.load()
    assert np.array_equal(np.asarray(plain(lazy)), np.asarray(expected))
    if "bit key" not in kind and "16 key" not in kind:  # once it is loaded, Pillow does not tell the file's depth
        assert np.array_equal(np.asarray(plain(loaded)), np.asarray(expected))
    assert np.array_equal(np.asarray(plain(expected)), np.asarray(expected))


@pytest.mark.parametrize("mode", ["La", "RGBa", "RGBX", "HSV", "PA", "I;16L", "I;16N", "YCbCr", "LAB"])
def test_modes_that_no_file_has_are_read_too(mode):
    colour = picture()
    if mode.startswith("I;16"):
        values = np.asarray(colour.convert("L"))
        image = Image.frombytes(mode, SIZE, (values.astype("<u2") * 257).tobytes())
        expected, tolerance = values, 0
    elif mode in ("La", "RGBa"):
        image = clear("L" if mode == "La" else "RGB", 200 if mode == "La" else RED, 51).convert(mode)
        expected, tolerance = np.full((*SIZE[::-1],), 244) if mode == "La" else np.full((1, 1, 3), (255, 204, 204)), 1
    else:
        source = colour.quantize(200).convert("RGB") if mode == "PA" else colour
        image = clear("RGB", RED, 51).convert("PA") if mode == "PA" else source.convert(mode)
        expected, tolerance = (np.full((1, 1, 3), (255, 204, 204)), 1) if mode == "PA" else (np.asarray(colour), 16)
    assert image.mode == mode
    assert np.abs(np.asarray(plain(image)).astype(int) - expected).max() <= tolerance


@given(st.lists(st.integers(0, 255), min_size=2, max_size=40).filter(lambda values: max(values) > 1))
def test_a_picture_is_as_bright_in_every_depth(values):
    """Grey of 8, 16 and 32 bits, whole or not: the same picture."""
    line = shades(values).astype(np.uint8)
    deep = line.astype(np.uint16) * 257
    depths = [deep, deep.astype(">u2"), deep.astype(np.int32), line.astype(np.int32)]
    depths += [line.astype(np.float32), (line / 255).astype(np.float32), deep.astype(np.float32)]
    for stored_as in depths:
        assert np.array_equal(np.asarray(decoded(stored(stored_as), "x")), line), stored_as.dtype
        assert np.array_equal(np.asarray(plain(stored_as)), line)


def test_32_bit_grey_beyond_the_usual_ranges_runs_from_its_darkest_to_its_brightest():
    for kind in (np.float32, np.int32):
        assert np.asarray(decoded(stored(shades([-100, 0, 155]).astype(kind)), "x")).tolist() == [[0, 100, 255]]


def test_a_tiff_whose_0_is_white_is_turned_over():
    values = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE[::-1]).astype("<u2")
    content, inverted = (encode(Image.fromarray(each), "TIFF") for each in (values, 65535 - values))
    place = inverted.index(struct.pack("<HHI", 262, 3, 1)) + 8
    inverted = inverted[:place] + b"\0\0" + inverted[place + 2 :]
    assert np.array_equal(pixels(inverted), pixels(content))


def test_float_images_with_nan_are_refused():
    for bad in (np.nan, np.inf):
        with pytest.raises(InputError, match="x: holds NaN"):
            decoded(stored(shades([0.5, bad]).astype(np.float32)), "x")


@pytest.mark.parametrize("limit", [200, 300])  # more than the limit is a warning in Pillow, more than twice an error
def test_decompression_bombs_are_refused(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for read in (decoded, lambda content, where: plain(Image.open(io.BytesIO(content)), where)):
        with pytest.raises((InputError, Image.DecompressionBombError, Image.DecompressionBombWarning)) as error:
            read(every_kind()["rgb.png"], "x")
        assert read is not decoded or f"more than {limit} pixels" in str(error.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decoded(every_kind()["rgb.png"], "x").size == SIZE


BAD = {
    "nothing": (b"", "is empty"),
    "text": (b"this is no image", "not an image of a known kind"),
    "page": (b"<html>404 Not Found</html>", "not an image of a known kind"),
    "script": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "not an image of a known",
    ),
    "pickle": (b"\x80\x04\x95\x0b\x00\x00\x00.", "not an image of a known kind"),
    "photograph of a telephone": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "not an image of a known kind"),
    "half": (every_kind()["rgb.jpg"][:-300], "is damaged or cut short"),
    "header alone": (every_kind()["rgb.jpg"][:12], "is damaged or cut short|not an image"),
    "without pixels": (b"P6 0 0 255\n", "has no pixels|is damaged|not an image"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("quick", [False, True])
def test_what_is_no_image_is_refused_in_one_line(kind, quick):
    content, said = BAD[kind]
    with pytest.raises(InputError, match=f"^the file: .*({said})") as error:
        decoded(content, "the file", quick=quick)
    assert "\n" not in str(error.value)


def test_images_of_any_array_are_read_or_refused_in_one_line():
    assert plain(np.full((3, 4, 4), (0, 0, 0, 0), np.uint8)).getpixel((1, 1)) == WHITE
    assert plain(np.full((3, 4, 3), 7, np.uint8)).mode == "RGB"
    assert plain(np.ones((3, 4), bool)).getextrema() == (255, 255)
    for wrong in (np.zeros((2, 3, 4, 5), np.uint8), np.zeros((3, 4), np.int64), np.zeros((3, 4), complex)):
        with pytest.raises(InputError, match="image: ") as error:
            plain(wrong)
        assert "\n" not in str(error.value)


# EXIF that people have: entries of the block (or the block), and whether the picture is to be turned by 6
SHORT = struct.pack("<H", 6)
EXIF = {
    "rational over zero": ([turned_by(6), (0x011A, 5, 1, struct.pack("<II", 72, 0))], True),
    "resolution twice": ([turned_by(6), (0x011A, 5, 2, struct.pack("<IIII", 72, 1, 72, 1))], True),
    "no values": ([turned_by(6), (0x011A, 5, 0, b"")], True),
    "resolution as text": ([turned_by(6), (0x011A, 2, 3, b"72\0")], True),
    "behind a bad entry": ([(0x0100, 77, 9, b"\xff" * 4), turned_by(6)], True),
    "directory that is no address": ([turned_by(6), (0x8769, 2, 3, b"no\0"), (0x8825, 5, 1, b"\xff" * 8)], True),
    "orientation as a long": ([(0x0112, 4, 1, struct.pack("<I", 6))], True),
    "orientation as a byte": ([(0x0112, 1, 1, b"\6")], True),
    "orientation twice over": ([(0x0112, 3, 2, SHORT * 2)], True),
    "orientation 0": ([turned_by(0)], False),
    "orientation 9": ([turned_by(9)], False),
    "orientation as text": ([(0x0112, 2, 4, b"6\0\0\0")], False),
    "orientation as a rational": ([(0x0112, 5, 1, struct.pack("<II", 6, 1))], False),
    "orientation without a value": ([(0x0112, 3, 0, SHORT)], False),
    "header twice": (b"Exif\0\0" + exif_block([turned_by(6)]), True),
    "big-endian": (exif_block([turned_by(6, order=">")], order=">"), True),
    "nothing": (b"", False),
    "junk": (b"not exif at all", False),
    "cut short": (exif_block([turned_by(6)])[:14], False),
    "start beyond the end": (b"II*\0\xff\xff\xff\xff", False),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("case", EXIF)
def test_exif_turns_the_picture_and_does_nothing_else(container, case):
    entries, turned = EXIF[case]
    block = exif_block(entries) if isinstance(entries, list) else entries
    upright = pixels(CONTAINERS[container](picture(), exif_block([])))
    assert np.array_equal(pixels(CONTAINERS[container](picture(), block)), TURNS[6 if turned else 1](upright))


@pytest.mark.parametrize("orientation", TURNS)
def test_all_eight_orientations_in_every_format_that_has_one(orientation):
    image, block = picture(), exif_block([turned_by(orientation)])
    files = {name: (build(image, block), build(image, b"")) for name, build in CONTAINERS.items()}
    files["tiff"] = tiff(image, [turned_by(orientation)]), tiff(image)
    exif = Image.Exif()
    exif[0x0112] = orientation
    files["mpo"] = tuple(
        encode(image, "MPO", save_all=True, append_images=[image], **({"exif": exif} if given else {}))
        for given in (True, False)
    )
    profile = f"\nexif\n{len(block) + 6:8}\n{(b'Exif' + bytes(2) + block).hex()}\n".encode()
    raw = [(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))]
    files["raw profile"] = (png(np.asarray(image), depth=8, colour=2, chunks=raw), encode(image, "PNG"))
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    files["xmp in jpeg"] = jpeg(image, [(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)]), jpeg(image)
    text = [(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)]
    files["xmp in png"] = png(np.asarray(image), depth=8, colour=2, chunks=text), encode(image, "PNG")
    if features.check("avif"):
        files["avif"] = encode(image, "AVIF", exif=block), encode(image, "AVIF")
    for name, (turned, upright) in files.items():
        assert np.array_equal(pixels(turned), TURNS[orientation](pixels(upright))), name


def test_exif_counts_before_xmp_and_what_is_turned_is_not_turned_again():
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='8'/>"
    segments = [(0xE1, b"Exif\0\0" + exif_block([turned_by(6)])), (0xE1, xmp)]
    once = decoded(jpeg(picture(), segments), "x")
    assert once.size == SIZE[::-1] and np.array_equal(np.asarray(plain(once)), np.asarray(once))
    assert np.array_equal(np.asarray(once), TURNS[6](pixels(jpeg(picture()))))
    assert pixels(jpeg(picture(), [(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>\xa8\xff\xfe</x>")])) is not None


def test_metadata_that_stop_a_decoder_are_taken_out():
    image, block = picture(), exif_block([turned_by(6)])
    upright, turned = np.asarray(image), TURNS[6](np.asarray(image))
    long = (b"zTXt", b"workflow\0\0" + zlib.compress(bytes(5_000_000)))  # more than Pillow unpacks
    assert np.array_equal(pixels(png(upright, depth=8, colour=2, chunks=[long, (b"eXIf", block)])), turned)
    wrong_sum = bytearray(png(upright, depth=8, colour=2, chunks=[(b"tEXt", b"key\0value")]))
    wrong_sum[wrong_sum.index(b"value")] ^= 1
    assert np.array_equal(pixels(bytes(wrong_sum)), upright)
    centimetres = [turned_by(6), (282, 2, 3, b"72\0"), (296, 3, 1, struct.pack("<H", 3))]
    assert np.array_equal(pixels(tiff(image, centimetres)), turned)
    if features.check("avif"):
        exif = Image.Exif()
        exif[0x0112], exif[0x011A] = 6, 72.0
        content = encode(image, "AVIF", exif=exif)
        as_text = content.replace(struct.pack(">HHI", 0x011A, 5, 1), struct.pack(">HHI", 0x011A, 2, 3))
        assert as_text != content and np.array_equal(pixels(as_text), pixels(content))


def test_profiles_change_no_pixel():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    expected = pixels(encode(picture(), "PNG"))
    for each in (profile, b"no profile"):
        assert np.array_equal(pixels(encode(picture(), "PNG", icc_profile=each)), expected)


def test_threads_leave_the_warning_filters_as_they_were():
    before, content = list(warnings.filters), every_kind()["palette alphas.png"]
    threads = [threading.Thread(target=lambda: [decoded(content, "x") for _ in range(40)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before and not pictures._SILENCE._inside


@settings(max_examples=200)
@given(data=st.data())
def test_any_bytes_give_pixels_or_one_clear_line(data):
    kinds = every_kind()
    content = bytearray(kinds[data.draw(st.sampled_from(sorted(kinds)))])
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    pixels(bytes(content))


@settings(max_examples=200)
@given(st.binary(max_size=60), st.sampled_from(sorted(CONTAINERS)))
def test_any_exif_leaves_the_picture_readable(block, container):
    assert pixels(CONTAINERS[container](picture(), block)) is not None


def test_a_fuzz_run_in_small():
    assert image_fuzz.check_exif(image_fuzz.exif_blocks(30, seed=1)) > 90
    cases = (case for i, case in enumerate(image_fuzz.grid()) if i % 499 == 0)
    assert image_fuzz.check_exif(cases) > 150
    assert image_fuzz.check_truncations(step=101) > 500
    counted = image_fuzz.check_mutations(1000, seed=1)
    assert counted["read"] > 100 and counted["refused"] > 300


@pytest.mark.parametrize("pixels", [np.zeros((5, 5, 3)), np.zeros((3, 5, 7), np.uint8), np.zeros((2, 5, 5, 3))])
def test_an_array_that_is_no_picture_is_not_called_damaged(pixels: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"is an array of \w+ of shape \[.*\]; give uint8 \[height, width, channels\]"):
        plain(pixels)
