"""Where images come from: glyphs, an image folder, a Parquet file or the hub, all as `datasets.Dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Image, load_dataset

from weightgen.data.glyphs import render_glyphs
from weightgen.data.images import converted_image, find_classes, find_images, shown
from weightgen.data.labelled import (
    class_counts,
    class_names,
    data_fingerprint,
    encoded,
    labelled_images,
    one_class,
    select_classes,
)
from weightgen.errors import InputError

__all__ = [
    "class_counts",
    "class_names",
    "data_fingerprint",
    "open_data",
    "open_folder",
    "select_classes",
    "unlabelled_images",
]

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label", "labels")
_FORMS = "'glyphs', a folder with one subfolder of images per class, a .parquet file, or 'hub:owner/name[:split]'"


def open_data(spec: str, *, seed: int = 0) -> Dataset:
    """Open labelled images.

    spec: one of
        `glyphs`: characters rendered here, nothing is downloaded (a folder of that name is `./glyphs`);
        an image folder: one subfolder of images per class, see `images.find_classes`. Every image is checked;
        a `.parquet` file: one row per image, read into memory;
        `hub:owner/name[:split]`: anything `datasets.load_dataset` opens; split is `train` unless given.
    seed: of the glyphs; the other sources do not depend on it.

    In a Parquet file and on the hub the columns are `image` or `img`, and `label`, `fine_label` or `labels`; labels
    without names (whole numbers or text) name their classes themselves.

    Returns the columns `image` (`datasets.Image`) and `label` (`datasets.ClassLabel`), rows sorted by class.
    Raises InputError when the data is missing or damaged.
    """
    if spec == "glyphs":
        return render_glyphs(seed=seed)
    if spec.startswith("hub:"):
        return _open_hub(spec)
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        return open_folder(path)
    if path.is_file() and path.suffix.lower() == ".parquet":
        return _open_parquet(path)
    what = "is not data that can be opened" if path.is_file() else "does not exist"
    raise InputError(f"{shown(path) if spec else repr(spec)}: {what}; data is {_FORMS}")


def open_folder(folder: Path, *, fewest: int = 2) -> Dataset:
    """Open an image folder, as `open_data` does.

    fewest: classes that there must be, 1 or 2.
    """
    classes = find_classes(folder, fewest=fewest)
    labels = [i for i, paths in enumerate(classes.values()) for _ in paths]
    images = _read([path for paths in classes.values() for path in paths])
    return labelled_images(images, pa.chunked_array([labels]), tuple(classes), where=shown(folder), fewest=fewest)


def unlabelled_images(folder: Path, *, besides: Dataset) -> Dataset:
    """All images in a folder and below it, as one class "unlabelled"; what the sub-folders are called tells nothing.

    besides: images that are known already, and left out: sorted pictures often lie among the unsorted.

    Raises InputError when there is none, or one cannot be read.
    """
    known = {encoded(image) for image in besides.with_format("arrow")[:].column("image").to_pylist()}
    images = [image for image in _read(find_images(folder)).to_pylist() if encoded(image) not in known]
    if not images:
        raise InputError(f"{shown(folder)}: holds no image that is not in the support too; add others")
    return one_class(pa.chunked_array([pa.array(images, Image().pa_type)]), "unlabelled")


def _read(paths: list[Path]) -> pa.ChunkedArray:
    """Checked and encoded images, each with the path of its file."""
    images = [{"bytes": converted_image(path), "path": str(path.absolute())} for path in paths]
    return pa.chunked_array([pa.array(images, Image().pa_type)])


def _open_parquet(path: Path) -> Dataset:
    where = shown(path)
    try:
        schema = pq.read_schema(path)
        columns = _choose_columns(schema.names, where)
        table = pq.read_table(path, columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{where}: is not a whole Parquet file ({_first_line(error)}); copy it again") from error
    images, labels = (table.column(name) for name in columns)
    if pa.types.is_struct(images.type) and images.type.get_field_index("bytes") >= 0:
        without = sum(chunk.field("bytes").null_count for chunk in images.chunks)
    else:
        without = 0 if not pa.types.is_string(images.type) else len(images)
    if without:
        raise InputError(f"{where}: {without} images are given by path only; store their encoded bytes in the file")
    return labelled_images(images, labels, _label_names(schema, columns[1]), where=where)


def _open_hub(spec: str) -> Dataset:
    name, _, split = spec.removeprefix("hub:").partition(":")
    if not name:
        raise InputError(f"{spec}: names no data set; write 'hub:owner/name' or 'hub:owner/name:split'")
    try:
        dataset = load_dataset(name, split=split or "train")
    except Exception as error:  # network, hub and data set code each have exceptions of their own
        raise InputError(
            f"{spec}: cannot be loaded ({_first_line(error)}); check the name, the split and the network"
        ) from error
    columns = _choose_columns(dataset.column_names, spec)
    table = dataset.select_columns(list(columns)).with_format("arrow")[:]
    label = dataset.features[columns[1]]
    names = label.names if isinstance(label, ClassLabel) else None
    return labelled_images(table.column(columns[0]), table.column(columns[1]), names, where=spec)


def _choose_columns(present: list[str], where: str) -> tuple[str, str]:
    """The image column and the label column."""
    chosen = []
    for what, known in (("image", _IMAGE_COLUMNS), ("label", _LABEL_COLUMNS)):
        found = next((name for name in known if name in present), None)
        if found is None:
            raise InputError(f"{where}: has no {what} column, only {', '.join(present)}; name one of them '{known[0]}'")
        chosen.append(found)
    return chosen[0], chosen[1]


def _label_names(schema: Any, column: str) -> list[str] | None:
    """Class names that `datasets` wrote into a Parquet file's schema."""
    if b"huggingface" not in (schema.metadata or {}):
        return None
    feature = Features.from_arrow_schema(schema)[column]
    return feature.names if isinstance(feature, ClassLabel) else None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
