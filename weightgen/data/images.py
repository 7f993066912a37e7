"""Images as users have them: searched in folders by name or content, read, and opened as data sets."""

import hashlib
import logging
import mimetypes
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset
from PIL import Image

from weightgen.data.feature_data import (
    crop_values,
    feature_data,
    feature_values,
    has_features,
    one_class_features,
    open_features,
    rows_not_in,
    unlabelled_features,
)
from weightgen.data.labelled import (
    FEATURES,
    composed,
    encoded,
    label_codes,
    labelled_images,
    one_class,
    stored_images,
)
from weightgen.data.parquet import image_column, label_column, labelled_columns
from weightgen.data.pictures import EXTENSIONS, FORMATS, check_text, decoded, file_content, image_format
from weightgen.errors import InputError
from weightgen.files import is_litter, shown
from weightgen.specs import FEATURES as FEATURES_FILE

_NAMED = 5  # files that a remark names
_DATA = (
    *(".md", ".yaml", ".yml", ".toml", ".ini", ".log", ".jsonl", ".parquet", ".arrow", ".npy", ".npz", ".safetensors"),
    *(".pt", ".pth", ".pkl", ".db", ".sqlite", ".lnk", ".url", ".md5", ".sha256"),
)


def find_images(folder: Path) -> list[Path]:
    """Image files in a folder and everything below it, sorted; `files.is_litter` and other files are passed over.

    Links to folders are followed, each folder once. Logs one warning of files that may be meant as images and are
    none. Raises InputError when the folder is missing, cannot be read, or holds no image.
    """
    images, others = _sorted_out(sorted(_walk(folder, set())))
    if not images:
        raise InputError(f"{shown(folder)}: holds no image{_instead(others)}; images are {', '.join(FORMATS)}")
    _remark(folder, others)
    return images


def find_classes(folder: Path, *, fewest: int = 2) -> dict[str, list[Path]]:
    """Classes of an image folder: every subfolder is a class, its name in NFC the class's name, both sorted.

    Only images directly in a subfolder count, so that a folder of splits (train/cat, test/cat) is not mistaken for
    classes. Passed over: hidden files and folders, what desktops leave behind, files beside the class folders, files
    that are not images, links back to the folder or above it. Any other name is fine.

    Logs a warning of images beside the class folders, and one of files that may be meant as images and are none. Raises
    InputError when the folder is missing, a class has no image, two classes are the same folder or have names that look
    alike, or there are fewer than `fewest` classes, 1 or 2.
    """
    here = folder.resolve()
    subfolders = [path for path in _entries(folder) if path.is_dir() and path.resolve() not in (here, *here.parents)]
    if not subfolders:
        raise InputError(f"{shown(folder)}: has no class folders; put the images of each class into a subfolder")
    classes: dict[str, list[Path]] = {}
    places, passed_over = set(), []
    for path in subfolders:
        check_text(path)
        name = composed(path.name)
        if name in classes or path.resolve() in places:
            raise InputError(f"{shown(path)}: is the same class as another subfolder; rename or remove one of them")
        classes[name], others = _sorted_out(entry for entry in _entries(path) if not entry.is_dir())
        if not classes[name]:
            raise InputError(
                f"{shown(path)}: the class has no image directly in it{_instead(others)}; "
                f"add one ({', '.join(FORMATS)}) or remove the folder"
            )
        places.add(path.resolve())
        passed_over += others
    if len(classes) < fewest:
        raise InputError(
            f"{shown(folder)}: has one class only ({shown(subfolders[0])}); add a folder for another class"
        )
    _remark(folder, passed_over)
    if beside := [path for path in _entries(folder) if not path.is_dir() and _is_image(path)]:
        _warn(folder, "images outside its class folders", beside, "move them into one, if they belong to a class")
    return dict(sorted(classes.items()))


def matching(path: Path) -> list[Path]:
    """What a pattern with *, ? or [] matches, sorted; a path that exists, or is not a pattern, as it is.

    `**` stands for any folders, links are not followed by it. What `files.is_litter` calls so has to be spelt out.
    Raises InputError for a pattern that matches nothing.
    """
    parts = path.parts
    first = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    if os.path.lexists(path) or first == len(parts):
        return [path]
    base = Path(*parts[:first])
    try:
        matches = sorted(base.glob(str(Path(*parts[first:]))))
    except ValueError as error:
        raise InputError(f"{shown(path)}: is not a valid pattern ({error})") from error
    matches = [one for one in matches if not any(map(is_litter, one.parts[len(base.parts) :]))]
    if not matches:
        raise InputError(f"{shown(path)}: matches nothing; check the pattern, and quote it against the shell")
    return matches


def has_images(folder: Path) -> bool:
    """Whether an image lies directly in a folder."""
    return any(_is_image(path) for path in _entries(folder) if not path.is_dir())


def read_image(path: Path) -> Image.Image:
    """Read an image file as `pictures.decoded` does. Raises InputError also when the file is missing."""
    return decoded(file_content(path), shown(path))


def check_image(path: Path) -> None:
    """Raise InputError as `read_image` does; JPEG files are decoded at an eighth of their size, which is quicker."""
    decoded(file_content(path), shown(path), quick=True)


def _walk(folder: Path, visited: set[Path]) -> Iterator[Path]:
    visited.add(folder.resolve())
    for path in _entries(folder):
        if not path.is_dir():
            yield path
        elif path.resolve() not in visited:
            yield from _walk(path, visited)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without litter."""
    try:
        return sorted(path for path in folder.iterdir() if not is_litter(path.name))
    except OSError as error:
        raise InputError(f"{shown(folder)}: cannot be opened as a folder ({error.strerror}); check the path") from error


def _sorted_out(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Images, and other files but those whose name says that they are text or data."""
    images, others = [], []
    for path in paths:
        if _is_image(path):
            images.append(path)
        elif path.is_file() and not _is_data(path):
            others.append(path)
    return images, others


def _is_image(path: Path) -> bool:
    """By an image's suffix; under any other name by content."""
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS or not path.is_file():  # opening a pipe would wait for ever
        return suffix in EXTENSIONS
    kind = image_format(path)
    return kind is not None and not (kind == "TIFF" and suffix)  # cameras' raw formats begin as TIFF does


def _is_data(path: Path) -> bool:
    kind, _ = mimetypes.guess_type(path.name)
    return path.suffix.lower() in _DATA or (kind is not None and not kind.startswith(("image/", "video/")))


def _instead(others: list[Path]) -> str:
    return f" ({shown(Path(others[0].name))} is of no kind that is read)" if others else ""


def _remark(folder: Path, others: list[Path]) -> None:
    if others:
        _warn(folder, "what is not an image of a known kind", others, "convert images among them to PNG or JPEG")


def _warn(folder: Path, what: str, paths: list[Path], remedy: str) -> None:
    """Log that files were passed over."""
    names = [shown(path.relative_to(folder)) for path in paths[:_NAMED]]
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    logging.getLogger(__name__).warning(f"{shown(folder)}: passed over {what}: {', '.join(names)}{more}; {remedy}")


def open_support(support: str | Path | Dataset, *, fewest: int = 2) -> Dataset:
    """A user's images or features: a folder with one sub-folder per class, `features:FILE`, or a data set.

    fewest: classes that there must be, 1 or 2.

    Raises InputError when it is none of these, and as `labelled_dataset` does.
    """
    if isinstance(support, Dataset):
        given = support.with_format(None)
        return given if _in_order(given, fewest) else labelled_dataset(given, where="support", fewest=fewest)
    check_place(support, "support")
    if str(support).startswith(FEATURES_FILE):
        return _different(open_features(str(support), fewest=fewest), str(support))
    folder = Path(support).expanduser().absolute()
    if not str(support) or not folder.is_dir():
        raise InputError(f"{support or repr('')}: is not a directory; give one with a sub-folder of images per class")
    return _different(open_folder(folder, fewest=fewest), str(support))


def labelled_dataset(
    dataset: Dataset,
    *,
    where: str,
    fewest: int = 2,
    column: str | None = None,
    remedy: str = "rename to 'label' one of",
) -> Dataset:
    """Any `datasets.Dataset` of labelled images, or of `features`, in the form of `labelled.labelled_images`.

    Columns are found as `parquet.labelled_columns` finds them; rows may be in any order, and classes without rows are
    left out. Raises InputError for what is no such data.
    """
    if not len(dataset):
        raise InputError(f"{where}: holds no rows; give data with images")
    schema = dataset.features.arrow_schema
    if has_features(dataset):
        label, names = label_column(schema, column, besides=FEATURES, where=where, remedy=remedy)
        codes, called = label_codes(dataset.with_format("arrow")[:].column(label), names, where=where)
        crops = crop_values(dataset)
        return feature_data(feature_values(dataset), np.array(codes), called, crops=crops, where=where, fewest=fewest)
    image, label, names = labelled_columns(schema, column, where=where, remedy=remedy)
    table = dataset.select_columns([image, label]).with_format("arrow")[:]
    images = stored_images(table.column(image), where=where)
    return labelled_images(images, table.column(label), names, where=where, fewest=fewest)


def _in_order(dataset: Dataset, fewest: int) -> bool:
    """Whether it is what `labelled_dataset` would make of it: sorted, no class without rows, nothing missing."""
    columns, label = {"image", FEATURES} & set(dataset.column_names), dataset.features.get("label")
    if not len(dataset) or len(columns) != 1 or not isinstance(label, datasets.ClassLabel) or len(label.names) < fewest:
        return False
    table = dataset.with_format("arrow")[:]
    if table.column("label").null_count or table.column(*columns).null_count:
        return False
    if FEATURES in columns and getattr(table.column(FEATURES).type, "value_type", None) != pa.float32():
        return False
    labels = table.column("label").to_numpy()
    finite = "image" in columns or bool(np.isfinite(feature_values(dataset).numpy()).all())
    return finite and bool((np.diff(labels) >= 0).all()) and set(labels) == set(range(len(label.names)))


def check_place(source: object, what: str) -> None:
    """Raise InputError for what is neither a path nor a SPEC."""
    if not isinstance(source, (str, Path)):
        kind = type(source).__name__
        raise InputError(
            f"{what}: is of type {kind}; give a folder, features:FILE or a datasets.Dataset (one split, not a stream)"
        )


def _different(dataset: Dataset, where: str) -> Dataset:
    """The data set. Raises InputError where all its images, two or more, are the same."""
    column = FEATURES if FEATURES in dataset.column_names else "image"
    rows = (row[column] if column == FEATURES else encoded(row[column]) for row in dataset)
    first = next(rows)
    if len(dataset) > 1 and all(row == first for row in rows):
        raise InputError(f"{where}: all {len(dataset)} images are the same, nothing tells classes apart; give others")
    return dataset


def open_unlabelled(source: str | Path | Dataset, *, besides: Dataset) -> Dataset:
    """All images in a folder but those of the support; or `features:FILE`, or a data set, whose labels do not count.

    Names of sub-folders are ignored. Images of the support are left out, for sorted pictures often lie among the
    unsorted. Raises InputError for a folder without further images, one that cannot be read, or the other kind of data.
    """
    given, name = (source, "unlabelled") if isinstance(source, Dataset) else (None, str(source))
    if given is None:
        check_place(source, "unlabelled")
    if has_features(besides) != (name.startswith(FEATURES_FILE) if given is None else has_features(given)):
        raise InputError(f"{name}: images and features do not go together; give the same kind as the support's")
    if has_features(besides):
        others = unlabelled_features(name) if given is None else one_class_features(feature_values(given), where=name)
        rows = rows_not_in(feature_values(besides).numpy(), feature_values(others).numpy())
        if not rows:
            raise InputError(f"{name}: holds no row that is not in the support too; add others")
        return others if len(rows) == len(others) else others.select(rows)
    column = _checked(find_images(_directory(name))) if given is None else _images_of(given, where=name)
    known = {_digest(image) for image in besides.with_format("arrow")[:].column("image").to_pylist()}
    images = [image for image in column.to_pylist() if _digest(image) not in known]
    if not images:
        raise InputError(f"{shown(Path(name))}: holds no image that is not in the support too; add others")
    return one_class(pa.chunked_array([pa.array(images, datasets.Image().pa_type)]), "unlabelled")


def _images_of(dataset: Dataset, *, where: str) -> pa.ChunkedArray:
    name = image_column(dataset.features.arrow_schema, where=where)
    column = stored_images(dataset.select_columns(name).with_format("arrow")[:].column(name), where=where)
    if column.null_count:
        raise InputError(f"{where}: {column.null_count} rows have no image; remove them")
    return column


def _directory(name: str) -> Path:
    place = Path(name).expanduser()
    if not place.is_dir():
        raise InputError(f"{place}: is not a directory; give one with unlabelled images")
    return place


def row_name(dataset: Dataset, row: int) -> str:
    """What a message calls an image of a data set: its file, or where the user's data hold it."""
    if has_features(dataset):
        return f"row {dataset[row]['row']}"
    return str(dataset[row]["image"]["path"] or f"image {row}")


def open_folder(folder: Path, *, fewest: int = 2) -> Dataset:
    """Open an image folder, as `open_data` does.

    fewest: classes that there must be, 1 or 2.
    """
    classes = find_classes(folder, fewest=fewest)
    labels = [i for i, paths in enumerate(classes.values()) for _ in paths]
    images = _checked([path for paths in classes.values() for path in paths])
    return labelled_images(images, pa.chunked_array([labels]), tuple(classes), where=shown(folder), fewest=fewest)


def _digest(image: dict[str, Any]) -> bytes:
    return hashlib.sha256(encoded(image)).digest()


def _checked(paths: list[Path]) -> pa.ChunkedArray:
    """Images that can be decoded, by the paths of their files."""
    for path in paths:
        check_image(path)
    images = [{"bytes": None, "path": str(path.absolute())} for path in paths]
    return pa.chunked_array([pa.array(images, datasets.Image().pa_type)])
