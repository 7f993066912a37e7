"""Data sets of another kind than photographs, for training the universal generator and for judging it.

python benchmarks/rendered_sets.py SPEC OUT

Renders OUT/plates, OUT/edges, OUT/textures and OUT/crops, folders of class folders that every SPEC may name; from the
photographs of SPEC where it needs some: those of Caltech-101's base classes in `docs/results/universal.md`.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from weightgen.data.labelled import class_names
from weightgen.data.sources import open_data

Images = dict[str, list[Image.Image]]
SIDE = 192
COLOURS = ((200, 20, 30), (20, 60, 170), (240, 200, 20), (250, 250, 250), (20, 120, 60), (30, 30, 30))
RIMS, FILLS, BLUE = (*COLOURS[:2], COLOURS[5]), COLOURS[1:4], COLOURS[1]
CORNERS = {"triangle": (3, -math.pi / 2), "yield": (3, math.pi / 2), "octagon": (8, math.pi / 8), "diamond": (4, 0.0)}
CORNERS["square"] = (4, math.pi / 4)
SYMBOLS = (*"0123456789ABEHKMPRSTXZ!?↑←→↰↱✈☠⚠⚙☁☂☕", "30", "50", "60", "70", "80", "100", "120")


def photographs(dataset: Dataset) -> Images:
    """Images of every class, RGB, 128 pixels."""
    names = class_names(dataset)
    images: Images = {name: [] for name in names}
    for row in dataset.cast_column("image", ImageFeature()):
        images[names[row["label"]]].append(row["image"].convert("RGB").resize((128, 128)))
    return images


def plates(backgrounds: list[Image.Image], *, classes: int = 40, images: int = 30, seed: int = 11) -> Images:
    """In the manner of traffic signs: shape, rim, colour and symbol; turned, blurred, in other light."""
    draw, made = random.Random(seed), Images()
    while len(made) < classes:
        shape, rim, fill = draw.choice(["circle", *CORNERS]), draw.choice(RIMS), draw.choice(FILLS)
        symbol = draw.choice(SYMBOLS)
        name = f"{shape} {SYMBOLS.index(symbol)}"
        if rim != fill and name not in made:
            plate = _plate(shape, rim, fill, symbol)
            made[name] = [_seen(plate, draw.choice(backgrounds), draw) for _ in range(images)]
    return made


def _plate(shape: str, rim: tuple[int, ...], fill: tuple[int, ...], symbol: str) -> Image.Image:
    plate, middle = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)), SIDE / 2
    pen = ImageDraw.Draw(plate)
    for radius, colour in ((SIDE * 0.42, rim), (SIDE * 0.33, fill)):
        if shape == "circle":
            pen.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), fill=colour)
        else:
            corners, turn = CORNERS[shape]
            angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
            points = [(middle + 1.1 * radius * math.cos(a), middle + 1.1 * radius * math.sin(a)) for a in angles]
            pen.polygon(points, fill=colour)
    size = int(SIDE * (0.34 if len(symbol) == 1 else 0.24))
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans-Bold.ttf"), size)
    ink = (250, 250, 250) if fill == BLUE else (20, 20, 20)
    pen.text((middle, middle), symbol, font=font, fill=ink, anchor="mm")
    return plate


def _seen(plate: Image.Image, background: Image.Image, draw: random.Random) -> Image.Image:
    """The plate in front of a piece of a photograph, as a cheap camera may show it."""
    turned, size = plate.rotate(draw.uniform(-12, 12), resample=Image.Resampling.BICUBIC), draw.uniform(0.65, 1.05)
    turned = turned.resize((int(SIDE * size * draw.uniform(0.8, 1.1)), int(SIDE * size)))
    x, y = draw.randint(0, 60), draw.randint(0, 60)
    scene = background.crop((x, y, x + 68, y + 68)).resize((SIDE, SIDE))
    left, top = (int((SIDE - side) / 2 + draw.uniform(-15, 15)) for side in turned.size)
    scene.paste(turned, (left, top), turned)
    light = np.asarray(scene, float) / 255 * draw.uniform(0.25, 1.15) + draw.uniform(-0.05, 0.15)
    light = light * np.array([draw.uniform(0.85, 1.15) for _ in range(3)])
    light += np.random.default_rng(draw.randrange(1 << 30)).normal(0, draw.uniform(0, 0.06), light.shape)
    side = draw.choice([32, 48, 64, 96])
    return _image(light).filter(ImageFilter.GaussianBlur(draw.uniform(0, 3.5))).resize((side, side))


def edges(images: Images, *, most: int = 30) -> Images:
    """The outlines of photographs, dark on light."""
    return {name: [_outline(image) for image in own[:most]] for name, own in images.items()}


def _outline(image: Image.Image) -> Image.Image:
    found = ImageOps.grayscale(image).filter(ImageFilter.GaussianBlur(1)).filter(ImageFilter.FIND_EDGES)
    return ImageOps.invert(ImageOps.autocontrast(found)).crop((3, 3, 125, 125)).convert("RGB")


def textures(*, classes: int = 40, images: int = 25, seed: int = 17) -> Images:
    """Stripes, dots and noise of a band of frequencies, in two colours."""
    draw = np.random.default_rng(seed)
    return {f"texture {number:02d}": list(_textures(draw, images)) for number in range(classes)}


def _textures(draw: np.random.Generator, images: int) -> Iterator[Image.Image]:
    kind, frequency, turn = draw.integers(0, 4), draw.uniform(3, 24), draw.uniform(0, np.pi)
    aspect, colours, contrast = draw.uniform(1, 5), draw.uniform(0, 1, (2, 3)), draw.uniform(0.5, 6)
    y, x = np.mgrid[0:128, 0:128] / 128
    ky, kx = np.meshgrid(np.fft.fftfreq(128) * 128, np.fft.fftfreq(128) * 128, indexing="ij")
    for _ in range(images):
        wave, angle, phase = 2 * np.pi * frequency * draw.uniform(0.7, 1.4), turn + draw.normal(0, 0.15), draw.uniform()
        u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        if kind == 0:
            height = np.sin(wave * u + 9 * phase + 1.5 * np.sin(6 * np.pi * v))
        elif kind == 1:
            height = np.sin(wave * u + 9 * phase) * np.sin(wave * v + 9 * phase)
        else:
            along, across = np.cos(angle) * kx + np.sin(angle) * ky, np.cos(angle) * ky - np.sin(angle) * kx
            away = np.hypot(along, across * (aspect if kind == 3 else 1)) - wave / (2 * np.pi)
            band = np.exp(-((away / (0.35 * frequency + 1)) ** 2))
            height = np.fft.ifft2(np.fft.fft2(draw.normal(size=(128, 128))) * band).real
            height /= height.std()
        share = 1 / (1 + np.exp(-contrast * height))[..., None]
        dark, light = colours + draw.normal(0, 0.08, (2, 3))
        pixels = (share * dark + (1 - share) * light) * draw.uniform(0.6, 1.2)
        yield _image(pixels + draw.normal(0, 0.03, pixels.shape))


def crops(pool: list[Image.Image], *, classes: int = 120, images: int = 20, seed: int = 5) -> Images:
    """Every class is one photograph: pieces of it, turned, mirrored, in other light."""
    draw = random.Random(seed)
    chosen = draw.sample(pool, min(classes, len(pool)))
    return {f"piece {i:03d}": [_piece(image, draw) for _ in range(images)] for i, image in enumerate(chosen)}


def _piece(image: Image.Image, draw: random.Random) -> Image.Image:
    side = draw.uniform(0.35, 0.7) * 128
    x, y = draw.uniform(0, 128 - side), draw.uniform(0, 128 - side)
    turned = image.rotate(draw.uniform(-20, 20), resample=Image.Resampling.BILINEAR)
    piece = turned.crop((int(x), int(y), int(x + side), int(y + side))).resize((128, 128))
    piece = ImageOps.mirror(piece) if draw.random() < 0.5 else piece
    piece = ImageEnhance.Brightness(piece).enhance(draw.uniform(0.6, 1.4))
    return ImageEnhance.Color(piece).enhance(draw.uniform(0.5, 1.5))


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((pixels.clip(0, 1) * 255).astype("uint8"))


def main(spec: str, out: str) -> None:
    """Render and write all of them."""
    images = photographs(open_data(spec, seed=0))
    pool = [image for own in images.values() for image in own[:4]]
    made = {"plates": plates(pool), "edges": edges(images), "textures": textures(), "crops": crops(pool)}
    for kind, classes in made.items():
        for name, own in classes.items():
            folder = Path(out) / kind / name
            folder.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(own):
                image.save(folder / f"{number:03d}.png")
        print(f"{Path(out) / kind}: {len(classes)} classes, {sum(map(len, classes.values()))} images")


if __name__ == "__main__":
    main(*sys.argv[1:])
