import io

import numpy as np
import pytest
from PIL import Image

from weightgen.data import images
from weightgen.data.images import converted_image, find_classes, find_images, read_image, shown
from weightgen.errors import InputError

SIZE = (7, 5)
RED = (255, 0, 0)


def rgba(alpha):
    image = Image.new("RGBA", SIZE, (255, 0, 0, 255))
    image.putpixel((0, 0), (255, 0, 0, alpha))
    return image


def palette():
    image = Image.new("RGB", SIZE, RED).quantize(4)
    assert image.mode == "P"
    return image


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def turned_jpeg(path):
    """Seven wide and five high in the file, to be shown five wide and seven high."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(path, Image.new("RGB", SIZE, RED), exif=exif)


def animation(path, **options):
    return save(
        path, Image.new("RGB", SIZE, RED), save_all=True, append_images=[Image.new("RGB", SIZE, "blue")], **options
    )


def deep(path, value, kind):
    return save(path, Image.fromarray(np.full((5, 7), value, dtype=kind)))


def ramp(path, kind):
    return save(path, Image.fromarray(np.linspace(-3, 900, 35).reshape(5, 7).astype(kind)))


# kind: how to write it, expected mode, expected size, expected pixel (3, 2)
KINDS = {
    "rgb.png": (lambda p: save(p, Image.new("RGB", SIZE, RED)), "RGB", SIZE, RED),
    "grey.png": (lambda p: save(p, Image.new("L", SIZE, 77)), "L", SIZE, 77),
    "bit.png": (lambda p: save(p, Image.new("1", SIZE, 1)), "L", SIZE, 255),
    "palette.png": (lambda p: save(p, palette()), "RGB", SIZE, RED),
    "palette_clear.png": (lambda p: save(p, palette(), transparency=0), "RGB", SIZE, (255, 255, 255)),
    "colour_key.png": (lambda p: save(p, Image.new("RGB", SIZE, RED), transparency=RED), "RGB", SIZE, (255, 255, 255)),
    "alpha.png": (lambda p: save(p, rgba(0)), "RGB", SIZE, RED),
    "grey_alpha.png": (lambda p: save(p, Image.new("LA", SIZE, (9, 0))), "L", SIZE, 255),
    "alpha.webp": (lambda p: save(p, rgba(0), lossless=True), "RGB", SIZE, RED),
    "cmyk.jpg": (lambda p: save(p, Image.new("CMYK", SIZE, (0, 255, 255, 0)), quality=100), "RGB", SIZE, RED),
    "deep.png": (lambda p: deep(p, 51400, np.uint16), "L", SIZE, 200),
    "deep.tif": (lambda p: deep(p, 257, np.uint16), "L", SIZE, 1),
    "float.tiff": (lambda p: ramp(p, np.float32), "L", SIZE, 128),
    "int32.tiff": (lambda p: ramp(p, np.int32), "L", SIZE, 127),
    "turned.jpeg": (turned_jpeg, "RGB", SIZE[::-1], (254, 0, 0)),
    "UPPER.JPG": (lambda p: save(p, Image.new("L", SIZE, 77)), "L", SIZE, 77),
    "animated.gif": (animation, "RGB", SIZE, RED),
    "animated.png": (animation, "RGB", SIZE, RED),
    "animated.webp": (lambda p: animation(p, lossless=True), "RGB", SIZE, RED),
    "grey.pgm": (lambda p: save(p, Image.new("L", SIZE, 77)), "L", SIZE, 77),
    "odd name — ü 漢 'x'.bmp": (lambda p: save(p, Image.new("RGB", SIZE, RED)), "RGB", SIZE, RED),
}


def png_bytes():
    stream = io.BytesIO()
    Image.effect_noise((61, 43), 90).save(stream, "PNG")
    return stream.getvalue()


def jpeg_bytes():
    stream = io.BytesIO()
    Image.effect_noise((61, 43), 90).save(stream, "JPEG")
    return stream.getvalue()


BAD = {
    "empty.png": b"",
    "text.png": b"this is no image",
    "cut.png": png_bytes()[:-400],
    "cut.jpg": jpeg_bytes()[:-400],
    "header_only.jpg": jpeg_bytes()[:12],
    "flipped.png": png_bytes()[:60] + bytes(40) + png_bytes()[100:],
    "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "page.jpg": b"<html>404 Not Found</html>",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_grey_or_colour(tmp_path, kind):
    write, mode, size, pixel = KINDS[kind]
    image = read_image(write(tmp_path / kind))
    assert (image.mode, image.size) == (mode, size)
    assert image.getpixel((3, 2)) == pixel


def test_transparent_parts_become_white(tmp_path):
    assert read_image(save(tmp_path / "a.png", rgba(0))).getpixel((0, 0)) == (255, 255, 255)
    assert read_image(save(tmp_path / "a.png", rgba(51))).getpixel((0, 0)) == (255, 204, 204)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_decoder_shows_the_same(tmp_path, kind):
    path = KINDS[kind][0](tmp_path / kind)
    stored = converted_image(path)
    image = Image.open(io.BytesIO(path.read_bytes() if stored is None else stored))
    wanted = read_image(path).convert("RGB")
    if kind == "turned.jpeg":
        assert stored is None  # datasets itself applies the orientation
        image = image.rotate(-90, expand=True)
    assert (np.asarray(image.convert("RGB")) == np.asarray(wanted)).all()


@pytest.mark.parametrize("kind", ["animated.gif", "animated.png", "animated.webp"])
def test_animations_are_converted(tmp_path, kind):
    assert converted_image(KINDS[kind][0](tmp_path / kind)) is not None


def test_plain_images_are_not_converted(tmp_path):
    assert converted_image(KINDS["rgb.png"][0](tmp_path / "rgb.png")) is None
    assert converted_image(save(tmp_path / "big.jpg", Image.new("RGB", (640, 480), RED))) is None


@pytest.mark.parametrize("read", [read_image, converted_image])
@pytest.mark.parametrize("kind", BAD)
def test_broken_files_are_named(tmp_path, kind, read):
    path = tmp_path / kind
    path.write_bytes(BAD[kind])
    with pytest.raises(InputError) as error:
        read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_folder_and_unreadable_files(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(InputError, match="is not a file"):
        read_image(tmp_path)
    path = KINDS["rgb.png"][0](tmp_path / "rgb.png")

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        read_image(path)


@pytest.mark.parametrize("limit", [20, 10])  # more than the limit is a warning in Pillow, more than twice an error
def test_decompression_bombs_are_refused(tmp_path, monkeypatch, limit):
    path = KINDS["rgb.png"][0](tmp_path / "rgb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(InputError, match=f"more than {limit} pixels"):
        read_image(path)


def test_float_images_with_nan_are_refused(tmp_path):
    with pytest.raises(InputError, match="NaN"):
        read_image(deep(tmp_path / "nan.tif", np.nan, np.float32))


def test_constant_float_image(tmp_path):
    assert read_image(deep(tmp_path / "flat.tif", 4.0, np.float32)).getextrema() == (0, 0)


def test_messages_stay_on_one_line(tmp_path):
    path = tmp_path / "two\nlines.png"
    path.write_bytes(b"")
    with pytest.raises(InputError) as error:
        read_image(path)
    assert "\n" not in str(error.value) and "two\\nlines" in str(error.value)
    assert shown(tmp_path / "ü 漢") == str(tmp_path / "ü 漢")


def fill(folder, *names):
    for name in names:
        save(folder / name, Image.new("L", SIZE, 3))
    return folder


def test_find_images_walks_down_sorted(tmp_path):
    fill(tmp_path, "b.png", "a.JPG", "sub/c.webp", ".hidden.png", ".cache/d.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == ["a.JPG", "b.png", "sub/c.webp"]


def test_find_images_survives_link_loops(tmp_path):
    fill(tmp_path, "a.png", "sub/b.png")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "twice").symlink_to(tmp_path / "sub")
    assert [path.name for path in find_images(tmp_path)] == ["a.png", "b.png"]


def test_find_images_needs_a_folder_with_images(tmp_path):
    with pytest.raises(InputError, match="holds no image"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="cannot be opened as a folder"):
        find_images(tmp_path / "absent")
    with pytest.raises(InputError, match="cannot be opened as a folder"):
        find_images(fill(tmp_path, "a.png") / "a.png")


def test_find_classes_sorted_and_clean(tmp_path):
    fill(tmp_path, "zebra/2.png", "zebra/1.png", "ant/x.jpg", ".git/y.png", "stray.png", "ü 漢/a.png", "a\nb/1.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\n")
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "ant" / "deeper").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    classes = find_classes(tmp_path)
    assert list(classes) == ["a\nb", "ant", "zebra", "ü 漢"]
    assert [path.name for path in classes["zebra"]] == ["1.png", "2.png"]
    assert [path.name for path in classes["ant"]] == ["x.jpg"]


def test_find_classes_follows_links_to_folders_elsewhere(tmp_path):
    elsewhere = fill(tmp_path / "elsewhere", "1.png")
    fill(tmp_path / "data", "cat/1.png")
    (tmp_path / "data" / "dog").symlink_to(elsewhere)
    assert list(find_classes(tmp_path / "data")) == ["cat", "dog"]


def broken_folders():
    def empty_class(folder):
        fill(folder, "cat/1.png", "dog/notes.png")
        (folder / "dog" / "notes.png").rename(folder / "dog" / "notes.txt")

    def same_folder(folder):
        fill(folder, "cat/1.png")
        (folder / "dog").symlink_to(folder / "cat")

    def undecodable(folder):
        fill(folder, "cat/1.png", "dog/1.png")
        (folder / "dog").rename(folder / "d\udcffg")

    return {
        "one class only": (lambda folder: fill(folder, "cat/1.png"), "one class only"),
        "empty class": (empty_class, "dog: the class has no image"),
        "splits": (lambda folder: fill(folder, "train/cat/1.png", "test/cat/1.png"), "test: the class has no image"),
        "no subfolders": (lambda folder: fill(folder, "1.png"), "no class folders"),
        "same folder twice": (same_folder, "same class as another"),
        "names that look alike": (
            lambda folder: fill(folder, "\u00e9/1.png", "e\u0301/1.png"),
            "same class as another",
        ),
        "not UTF-8": (undecodable, "not valid UTF-8"),
        "missing": (lambda folder: folder.rmdir(), "cannot be opened as a folder"),
    }


@pytest.mark.parametrize("case", broken_folders())
def test_broken_class_folders(tmp_path, case):
    prepare, message = broken_folders()[case]
    folder = tmp_path / "data"
    folder.mkdir()
    prepare(folder)
    with pytest.raises(InputError, match=message) as error:
        find_classes(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value).replace("'", "")


def test_extensions_are_lower_case_and_unique():
    assert len(set(images.EXTENSIONS)) == len(images.EXTENSIONS)
    assert all(extension == extension.lower() and extension.startswith(".") for extension in images.EXTENSIONS)
