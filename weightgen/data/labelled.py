"""Labelled images as every source hands them over: one `datasets.Dataset`, rows sorted by class."""

import hashlib
import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image
from datasets.fingerprint import generate_random_fingerprint
from datasets.table import InMemoryTable
from PIL import Image as PILImage

from weightgen import files
from weightgen.data.pictures import file_content
from weightgen.errors import InputError
from weightgen.registry import nearest

_ROWS_PER_BATCH = 1000
FEATURES = "features"
"""The column that a data set of embeddings has in place of `image`."""
_PLAIN_TYPES = {
    pa.binary(): (pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
    pa.string(): (pa.types.is_large_string, pa.types.is_string_view),
}


def composed(name: str) -> str:
    """A class name in Unicode's form NFC: é and other letters have two spellings, which file systems mix."""
    return unicodedata.normalize("NFC", name)


def class_names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the classes, in the order of their labels."""
    return tuple(dataset.features["label"].names)


def class_counts(dataset: Dataset) -> np.ndarray:
    """Images per class: integers, one per name of `class_names`."""
    return np.bincount(_labels(dataset), minlength=len(class_names(dataset)))


def select_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The images, or features, of the named classes alone, relabelled and laid out in the order given.

    Nothing is decoded or copied. Raises InputError for a name that is unknown or given twice.
    """
    names = [composed(name) for name in names]
    wanted = np.array(positions(names, class_names(dataset), of="the data") if names else [], dtype=np.int64)
    counts = class_counts(dataset)
    starts = np.concatenate([[0], counts.cumsum()])
    table = dataset.with_format("arrow")[:].drop_columns("label")
    chosen = pa.concat_tables([table.slice(0, 0), *(table.slice(starts[i], counts[i]) for i in wanted)])
    return labelled_table(chosen, np.repeat(np.arange(len(names)), counts[wanted]), names, kinds={**dataset.features})


def data_fingerprint(dataset: Dataset) -> str:
    """16 hex digits that change with any encoded image or feature, label, class name or their order, and nothing else.

    Where the images come from does not count: a folder and a Parquet file of the same files agree.
    Images kept as files are read from there. Nothing is decoded.
    """
    digest = hashlib.sha256(files.text_hash(*class_names(dataset)).encode())
    digest.update(_labels(dataset).astype("<i8").tobytes())
    (column,) = {"image", FEATURES} & set(dataset.column_names)
    for batch in dataset.select_columns(column).with_format("arrow").iter(_ROWS_PER_BATCH):
        for content in _contents(batch.column(column)):
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
    return digest.hexdigest()[:16]


def labelled_images(
    images: pa.ChunkedArray, labels: pa.ChunkedArray, names: Sequence[str] | None, *, where: str, fewest: int = 2
) -> Dataset:
    """A dataset of two raw columns: `image` (`datasets.Image`, not decoded) and `label` (`ClassLabel`), by class.

    images: {bytes, path}, as `stored_images` gives them. labels: whole numbers, text, or true and false.
    names: what label i means; None makes every distinct label a class, named by itself.
    where: begins error messages, e.g. the file.
    fewest: classes that there must be, 1 or 2.

    Classes without any image are left out; names are brought into one form by `composed`. Raises InputError when
    there are fewer classes, two names then agree, or a row has no image or no label.
    """
    if not len(labels):
        raise InputError(f"{where}: holds no rows; give data with images")
    codes, names = label_codes(labels, names, where=where)
    present, codes = np.unique(codes, return_inverse=True)
    if len(present) < fewest:
        raise InputError(f"{where}: has one class only ({names[present[0]]!r}); give images of two or more")
    if images.null_count:
        raise InputError(f"{where}: {images.null_count} rows have no image; remove them")
    if (codes[1:] < codes[:-1]).any():
        order = np.argsort(codes, kind="stable")
        images, codes = _rearranged(images, order), codes[order]
    return _dataset(images, codes, all_composed([names[i] for i in present], where=where))


def stored_images(images: pa.ChunkedArray, *, where: str) -> pa.ChunkedArray:
    """Encoded images as {bytes, path}; the path of those given by bytes says which row of `where` they are.

    images: bytes, {bytes, path}, paths of local files, or lists of pixels. Raises InputError for anything else.
    """
    try:
        if pa.types.is_list(images.type):
            images = pa.chunked_array([pa.array([_as_png(row) for row in images.to_pylist()], pa.binary())])
        chunks = [Image().cast_storage(chunk) for chunk in images.cast(_plain_type(images.type)).chunks]
    except (TypeError, ValueError, OSError, pa.ArrowException) as error:
        raise InputError(
            f"{where}: the image column holds {images.type}, not encoded images; store PNG or JPEG bytes"
        ) from error
    starts = np.cumsum([0, *map(len, chunks)])
    named = [_with_rows(chunk, int(start), where) for chunk, start in zip(chunks, starts, strict=False)]
    return pa.chunked_array(named, Image().pa_type)


def _as_png(rows: list[Any] | None) -> bytes | None:
    """Whole numbers of 8 bits, or grey ones of 16. Raises ValueError for others."""
    if rows is None:
        return None
    values = np.array(rows)
    if values.dtype.kind != "i" or values.ndim < 2 or values.min() < 0:
        raise ValueError("not rows of whole numbers from 0 on")
    stream = io.BytesIO()
    picture = PILImage.fromarray(values.astype(np.min_scalar_type(values.max())))
    picture.save(stream, "PNG")
    return stream.getvalue()


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without views, large offsets and dictionaries, which other writers of Parquet use."""
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind.fields])
    for plain, fits in _PLAIN_TYPES.items():
        if any(fit(kind) for fit in fits):
            return plain
    return kind


def _with_rows(images: pa.StructArray, start: int, where: str) -> pa.StructArray:
    """Rows keep this name wherever sorting and selecting put them."""
    by_bytes = images.field("bytes").is_valid().to_pylist()
    paths = [
        f"{where}: row {start + i} (counted from 0{', ' + path if path else ''})" if has else path
        for i, (has, path) in enumerate(zip(by_bytes, images.field("path").to_pylist(), strict=True))
    ]
    return pa.StructArray.from_arrays(
        [images.field("bytes"), pa.array(paths, pa.string())], fields=list(Image().pa_type), mask=images.is_null()
    )


def _contents(rows: pa.ChunkedArray) -> Iterable[bytes]:
    """Encoded images, or the bytes of features."""
    if pa.types.is_struct(rows.type):
        return (encoded(row) for row in rows.to_pylist())
    values = rows.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return (row.tobytes() for row in values.reshape(len(rows), -1).astype("<f4"))


def encoded(image: Mapping[str, Any]) -> bytes:
    """A row of the image column as it is encoded, from the table or from its file.

    Raises InputError when the file cannot be read.
    """
    return image["bytes"] if image["bytes"] is not None else file_content(Path(image["path"]))


def one_class(images: pa.ChunkedArray, name: str) -> Dataset:
    """A dataset like that of `labelled_images` for images without labels."""
    return _dataset(images, np.zeros(len(images), dtype=np.int64), [name])


def label_codes(
    labels: pa.ChunkedArray, names: Sequence[str] | None, *, where: str
) -> tuple[np.ndarray, Sequence[str]]:
    """Labels as whole numbers, and what each number means. Raises InputError for others, and for missing ones."""
    labels = labels.cast(_plain_type(labels.type))
    if not any(fits(labels.type) for fits in (pa.types.is_string, pa.types.is_integer, pa.types.is_boolean)):
        raise InputError(f"{where}: labels are {labels.type}; give whole numbers, text, or true and false")
    missing = labels.null_count
    if names is not None:
        missing += pc.sum(pc.less(labels, 0)).as_py() or 0  # a ClassLabel of -1 means unknown
    if missing:
        raise InputError(f"{where}: {missing} rows have no label; remove them or take another split")
    if names is None:
        values = pa.array(sorted(labels.unique().to_pylist()), labels.type)
        return pc.index_in(labels, value_set=values).to_numpy(), [str(value) for value in values.to_pylist()]
    if pc.max(labels).as_py() >= len(names):
        raise InputError(f"{where}: label {pc.max(labels)} has no name, there are {len(names)}; write the names again")
    return labels.to_numpy(), names


def all_composed(names: Sequence[str], *, where: str) -> list[str]:
    """Class names in NFC, no two the same."""
    spelled: dict[str, str] = {}
    for name in names:
        if (other := spelled.get(composed(name))) == name:
            raise InputError(f"{where}: two classes are called {name!a}; give them different names")
        spelled[composed(name)] = name
        if other is not None:
            raise InputError(f"{where}: classes {other!a} and {name!a} look alike; give both one name")
    return list(spelled)


def _rearranged(images: pa.ChunkedArray, order: np.ndarray) -> pa.ChunkedArray:
    """Rows in another order, gathered a batch at a time: one `take` fails beyond 2 GB."""
    rows = Dataset(InMemoryTable(pa.table({"image": images})), fingerprint=generate_random_fingerprint()).select(order)
    batches = [batch.column("image").combine_chunks() for batch in rows.with_format("arrow").iter(_ROWS_PER_BATCH)]
    return pa.chunked_array([chunk for batch in batches for chunk in getattr(batch, "chunks", [batch])], images.type)


def _dataset(images: pa.ChunkedArray, labels: np.ndarray, names: Sequence[str]) -> Dataset:
    return labelled_table(pa.table({"image": images}), labels, names, kinds={"image": Image(decode=False)})


def labelled_table(
    columns: pa.Table, labels: np.ndarray, names: Sequence[str], *, kinds: Mapping[str, Any], where: str = ""
) -> Dataset:
    """Columns of these `datasets` types with a column `label` of classes, without a copy; `where` describes it."""
    schema = Features({**kinds, "label": ClassLabel(names=list(names))}).arrow_schema
    table = columns.append_column("label", pa.array(labels.astype(np.int64))).cast(schema)
    # A fingerprint of datasets' own making would be a hash of the whole table, pickled.
    info = DatasetInfo(description=where)
    return Dataset(InMemoryTable(table), info=info, fingerprint=generate_random_fingerprint())


def _labels(dataset: Dataset) -> np.ndarray:
    return dataset.select_columns("label").with_format("arrow")[:].column("label").to_numpy()


def position(name: str, names: Sequence[str]) -> int | None:
    """Position of a class by its name, or by one that looks like it where only one class does; else None."""
    if name in names:
        return names.index(name)
    alike = [i for i, other in enumerate(names) if composed(other) == composed(name)]
    return alike[0] if len(alike) == 1 else None


def positions(chosen: Sequence[str], names: Sequence[str], *, of: str = "the head") -> list[int]:
    """Positions of some classes `of` something. Raises InputError for none, an unknown one, and one named twice."""
    places: list[int] = []
    for name in chosen:
        place = position(name, names)
        if place is None:
            raise InputError(f"{of} has no class {name!r}{nearest(name, names)}")
        if place in places:
            raise InputError(f"class {names[place]!r} is named twice; name it once")
        places.append(place)
    if not places:
        raise InputError("no class is named; name one or more")
    return places


def check_class_names(names: Sequence[Any], *, place: str = "class names") -> None:
    """Raise InputError unless the names are different strings that a file can hold."""
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise InputError(f"{place}: {name!r} is not a class name; give every class a non-empty text")
        if name in names[:i]:
            raise InputError(f"{place}: class {name!r} is named twice; rename one")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise InputError(f"{place}: class {name!r} is not valid Unicode; rename its folder")
    if not names:
        raise InputError(f"{place}: there is no class; give one or more")
