"""Parquet files as `datasets` and the hub store them: shards of splits, an image and a label column."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Image

from weightgen.data.labelled import labelled_images, stored_images
from weightgen.errors import InputError, reason
from weightgen.files import is_litter, shown
from weightgen.registry import nearest

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label", "labels")
_SHARD = re.compile(r"(?:(?P<split>\w+(?:\.\w+)*)-)?(?P<number>\d{5})-of-(?P<shards>\d{5})")
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def parquet_files(folder: Path) -> list[Path]:
    """Parquet files of a folder, sorted: those in it or in folders named after splits, else those of its `data/`."""
    for place in (folder, folder / "data"):
        folders = [entry for entry in [place, *place.glob("*/")] if entry == place or entry.name in _SPLITS]
        files = [path for each in folders for path in each.glob("*") if is_parquet(path)]
        if files:
            return sorted(files)
    return []


def is_parquet(path: Path) -> bool:
    """Whether this is a file called .parquet."""
    return path.suffix.lower() == ".parquet" and not is_litter(path.name) and path.is_file()


def of_split(paths: Sequence[Path], split: str | None, *, where: str) -> list[Path]:
    """Files of one split; a name like `train-00000-of-00002.parquet`, `test.parquet` or `val/0.parquet` names it.

    split: None is `train`, or the only one there is.

    Raises InputError when the split does not exist, or a shard of it is missing.
    """
    splits: dict[str, list[Path]] = {}
    for path in paths:
        splits.setdefault(_split_of(path), []).append(path)
    wanted = _SPLITS.get(split, split) if split else ("train" if "train" in splits else min(splits))
    if wanted not in splits or (split is None and len(splits) > 1 and wanted != "train"):
        asked = f"has no split '{split}'" if split else "has several splits"
        raise InputError(f"{where}: {asked}; add :{' or :'.join(sorted(splits))} to the path")
    _check_complete(splits[wanted], where)
    return splits[wanted]


def read_parquet(paths: Sequence[Path], column: str | None, *, where: str) -> Dataset:
    """Labelled images of some files one after the other. Raises InputError when one cannot be used.

    column: of the labels; `label`, `fine_label` or `labels` if None.
    """
    tables = [_read(path, column) for path in paths]
    (_, first, names), *others = tables
    for path, (_, labels, other_names) in zip(paths[1:], others, strict=True):
        if labels.type != first.type or other_names != names:
            raise InputError(f"{shown(path)}: has other labels than {shown(paths[0])}; give files of one data set")
    images = pa.chunked_array([chunk for table, _, _ in tables for chunk in table.chunks], Image().pa_type)
    labels = pa.chunked_array([chunk for _, labels, _ in tables for chunk in labels.chunks], first.type)
    return labelled_images(images, labels, names, where=where)


def labelled_columns(
    schema: pa.Schema, column: str | None, *, where: str, remedy: str = "add #column=NAME to the SPEC with one of"
) -> tuple[str, str, list[str] | None]:
    """The image column, the label column, and the names of its numbers if it has them.

    The label column is the one asked for, else `label`, `fine_label` or `labels`. `remedy` is said before the names of
    other columns where there is none such. Raises InputError then, and as `image_column` does.
    """
    image = image_column(schema, where=where)
    label, names = label_column(schema, column, besides=image, where=where, remedy=remedy)
    return image, label, names


def image_column(schema: pa.Schema, *, where: str) -> str:
    """`image` or `img`, else the only column that holds images. Raises InputError when there is none such."""
    features = _features(schema)
    holding = [field.name for field in schema if isinstance(features.get(field.name), Image) or _may_hold(field.type)]
    known = [name for name in _IMAGE_COLUMNS if name in schema.names]
    if not known and len(holding) != 1:
        what = f"{len(holding)} columns that may hold images ({', '.join(holding)})" if holding else "no image column"
        raise InputError(f"{where}: has {what} among {', '.join(schema.names)}; name one of them 'image'")
    return str((known or holding)[0])


def label_column(
    schema: pa.Schema, column: str | None, *, besides: str, where: str, remedy: str
) -> tuple[str, list[str] | None]:
    """The label column, and the names of its numbers if it has them; see `labelled_columns`."""
    label = column or next((name for name in _LABEL_COLUMNS if name in schema.names), None)
    others = [name for name in schema.names if name != besides]
    if label is None or label not in others:
        what = f"column '{label}'{nearest(label, others)}" if label else "label column"
        raise InputError(f"{where}: has no {what}; {remedy} {', '.join(others) or 'none'}")
    feature = _features(schema).get(label)
    return label, feature.names if isinstance(feature, ClassLabel) else None


def _features(schema: pa.Schema) -> Features | dict[str, Any]:
    return Features.from_arrow_schema(schema) if b"huggingface" in (schema.metadata or {}) else {}


def _read(path: Path, column: str | None) -> tuple[pa.ChunkedArray, pa.ChunkedArray, list[str] | None]:
    where = shown(path)
    try:
        schema = pq.read_schema(path)
        image, label, names = labelled_columns(schema, column, where=where)
        table = pq.read_table(path, columns=[image, label], partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{where}: is not a whole Parquet file ({reason(error)}); copy it again") from error
    images = stored_images(table.column(image), where=where)
    by_path = [pa.compute.and_(one.field("bytes").is_null(), one.is_valid()) for one in images.chunks]
    without = sum(int(pa.compute.sum(one).as_py() or 0) for one in by_path)
    if without:
        raise InputError(f"{where}: {without} images are given by path only; store their encoded bytes in the file")
    return images, table.column(label), names


def _may_hold(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return any(fits(kind) for fits in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _split_of(path: Path) -> str:
    shard = _SHARD.match(path.name)
    if shard and shard["split"]:
        return _SPLITS.get(shard["split"], shard["split"])
    words = [*re.split(r"[-._ 0-9]+", path.stem.lower()), path.parent.name]
    return next((_SPLITS[word] for word in words if word in _SPLITS), "train")


def _check_complete(paths: Sequence[Path], where: str) -> None:
    """Raise InputError unless all shards that the names count are there."""
    present = {path.name for path in paths}
    for shard in filter(None, map(_SHARD.match, sorted(present))):
        start = shard.string[: shard.start("number")]
        for wanted in (f"{start}{number:05d}-of-{shard['shards']}" for number in range(int(shard["shards"]))):
            if not any(name.startswith(wanted) for name in present):
                raise InputError(f"{where}: lacks {wanted}.parquet; download the data set again")
