"""Looking at image data and taking one episode out of it."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage

from weightgen.data.feature_data import feature_values, has_features
from weightgen.data.labelled import class_counts, class_names, data_fingerprint, encoded
from weightgen.data.pictures import FORMATS
from weightgen.data.sources import open_data
from weightgen.errors import InputError, check_least
from weightgen.files import check_folder, new_folder, write_bytes
from weightgen.seeds import generator

_EXTENSIONS = {"JPEG": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}  # of the others it is the format's name


def describe(spec: str) -> dict[str, Any]:
    """Classes, images, image sizes and fingerprint of a SPEC."""
    dataset = open_data(spec)
    counts, names = class_counts(dataset), class_names(dataset)
    if has_features(dataset):
        first = f"{feature_values(dataset).shape[1]} features"
    else:
        image = _opened(encoded(dataset[0]["image"]), spec)
        first = f"{image.width}x{image.height} {image.mode}"
    return {
        "data": spec,
        "images": len(dataset),
        "classes": len(names),
        "images_per_class": [int(counts.min()), int(counts.max())],
        "first_image": first,
        "first_classes": list(names[:5]),
        "fingerprint": data_fingerprint(dataset),
    }


def write_sample(spec: str, out: Path, *, ways: int, shots: int, queries: int, seed: int) -> dict[str, Any]:
    """One episode of a SPEC as `support/` and `query/` image folders, no image in both.

    Images are written as they are encoded. Raises InputError when there are too few classes or images, or when `out`
    exists.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; choose another folder")
    check_folder(out, what="the sample")
    for least, number in ((2, {"ways": ways}), (1, {"shots": shots}), (0, {"queries": queries})):
        check_least(least, **number)
    dataset = open_data(spec)
    if has_features(dataset):
        raise InputError(f"{spec}: holds features, not images that could be written; give images")
    counts, names = torch.as_tensor(class_counts(dataset)), class_names(dataset)
    large = (counts >= shots + queries).nonzero()[:, 0]
    if len(large) < ways:
        raise InputError(
            f"{spec}: {len(large)} classes have {shots + queries} images or more and {ways} are asked for; "
            "lower ways, shots or queries"
        )
    draw, starts = generator(seed, "data sample"), counts.cumsum(0) - counts
    chosen = large[torch.randperm(len(large), generator=draw)[:ways]].tolist()
    folder_names = _folder_names([names[c] for c in chosen])
    with new_folder(out) as folder:
        for c, folder_name in zip(chosen, folder_names, strict=True):
            picked = (starts[c] + torch.randperm(int(counts[c]), generator=draw)[: shots + queries]).tolist()
            for i, row in enumerate(picked):
                content, part = encoded(dataset[row]["image"]), "support" if i < shots else "query"
                kind = _opened(content, spec).format or "PNG"
                place = folder / part / folder_name
                write_bytes(place / f"{i:04d}{_EXTENSIONS.get(kind, f'.{kind.lower()}')}", content)
    classes = [names[c] for c in chosen]
    return {"support": str(out / "support"), "query": str(out / "query"), "classes": classes}


def _folder_names(names: Sequence[str]) -> list[str]:
    """Class names as folder names, no two the same."""
    plain = [name.replace("/", "_").lstrip(".") or "_" for name in names]
    return [name if plain.count(name) == 1 else f"{name} {i}" for i, name in enumerate(plain)]


def _opened(content: bytes, spec: str) -> PILImage.Image:
    try:
        return PILImage.open(io.BytesIO(content), formats=FORMATS)
    except (OSError, ValueError) as error:
        raise InputError(f"{spec}: holds a file that is not an image ({error}); take it out") from error
