"""Embeddings in place of images: `features:FILE.safetensors`, and arrays, as data sets with a column `features`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, Value
from datasets import Sequence as ListOf
from torch import Tensor

from weightgen.data.labelled import FEATURES as COLUMN
from weightgen.data.labelled import all_composed, labelled_table
from weightgen.errors import InputError
from weightgen.files import read_checkpoint, shown
from weightgen.specs import FEATURES

CROPS = "crops"


def has_features(dataset: Dataset) -> bool:
    """Whether a data set holds features in place of images; beside images a column `features` is something else."""
    return COLUMN in dataset.column_names and not {"image", "img"} & set(dataset.column_names)


def feature_values(dataset: Dataset) -> Tensor:
    """The column `features` [images feature], of its own type. Raises InputError for rows of different lengths."""
    return _values(dataset, COLUMN)


def crop_values(dataset: Dataset) -> Tensor | None:
    """Features of crops of each image as float32 [images crops feature]; None where the data set has none."""
    if CROPS not in dataset.column_names:
        return None
    return _values(dataset, CROPS).unflatten(1, (-1, dataset.features[COLUMN].length))


def _values(dataset: Dataset, name: str) -> Tensor:
    column = dataset.with_format("arrow")[:].column(name).combine_chunks()
    inside = getattr(column.type, "value_type", pa.null())
    if not pa.types.is_floating(inside) and not pa.types.is_integer(inside):
        raise InputError(f"{name}: the column holds {column.type}; give a list of numbers for each image")
    lengths = pc.list_value_length(column).unique().to_pylist() if len(column) else [0]
    if len(lengths) != 1 or lengths[0] is None:
        raise InputError(f"{name}: rows hold different numbers; give as many of each image")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(flat.reshape(len(dataset), lengths[0]).copy())


def feature_data(
    values: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int],
    class_names: Sequence[str] | None = None,
    *,
    crops: Tensor | np.ndarray | None = None,
    where: str = "features",
    fewest: int = 2,
) -> Dataset:
    """Features with labels as a data set that a pipeline takes in place of a folder of images.

    Args:
        values: [images feature], finite, not all zero.
        labels: whole numbers from 0, one per row, in any order.
        class_names: what label i means; the numbers themselves if None.
        crops: [images crops feature], features of crops of each image, which the universal generator looks at.
        where: begins error messages, e.g. the file.
        fewest: classes that there must be, 1 or 2.

    Returns:
        Columns `features` (float32), `label` (`datasets.ClassLabel`), `row` (the position given) and, if given,
        `crops`, sorted by class; classes without any row are left out.

    Raises:
        InputError: shapes that do not fit each other, values that are not finite or all zero, a label out of range,
            names that are not different, or one class only.

    Example::

        head = pipeline(feature_data(embeddings, labels, ["cat", "dog"]))
    """
    values, labels = torch.as_tensor(values), torch.as_tensor(labels)
    _check_values(values, where)
    if labels.dim() != 1 or len(labels) != len(values):
        raise InputError(
            f"{where}: labels have shape {list(labels.shape)}, and features are of {len(values)} images; give one each"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"{where}: labels are {labels.dtype}; give whole numbers from 0")
    labels = labels.long()
    present, codes = labels.unique(return_inverse=True)
    least, most = int(present[0]), int(present[-1])
    if least < 0:
        raise InputError(f"{where}: labels go from {least} to {most}; number classes from 0")
    if class_names is not None and most >= len(class_names):
        raise InputError(
            f"{where}: labels go from {least} to {most}, and there are {len(class_names)} class names; number classes "
            "from 0"
        )
    names = [str(i) if class_names is None else class_names[i] for i in present.tolist()]
    if len(names) < fewest:
        raise InputError(f"{where}: has one class only ({names[0]!r}); give features of two or more")
    order, kept = codes.argsort(stable=True), all_composed(names, where=where)
    if crops is not None:
        crops = torch.as_tensor(crops)
        if crops.dim() != 3 or (len(crops), crops.shape[2]) != tuple(values.shape) or not crops.shape[1]:
            raise InputError(
                f"{where}: crops have shape {list(crops.shape)}, and features {list(values.shape)}; give "
                f"[{len(values)}, crops, {values.shape[1]}]"
            )
        _check_values(crops.flatten(1), where, "crops")
        crops = crops.float()[order]
    return _dataset(values.float()[order], codes[order], kept, rows=order, crops=crops, where=where)


def open_features(spec: str, *, fewest: int = 2) -> Dataset:
    """Open `features:FILE.safetensors`.

    The file holds `features` [images feature], `labels` [images], perhaps `crops` [images crops feature] and, if there
    is one, the classifier that belongs to the features: `classifier.weight` [classes feature] and `classifier.bias`
    [classes], which `Backbone.create` reads.
    Its metadata hold `class_names`, a JSON list; without it labels are their own names.

    Raises InputError as `feature_data` does, and for a file that is missing, damaged, or lacks a tensor.
    """
    path, tensors, names = _opened(spec)
    if "labels" not in tensors:
        raise InputError(f"{shown(path)}: has no tensor 'labels'; write features [n, d] and labels [n]")
    return feature_data(
        tensors["features"],
        tensors["labels"],
        names,
        crops=tensors.get("crops"),
        where=shown(path),
        fewest=fewest,
    )


def unlabelled_features(spec: str) -> Dataset:
    """All features of a file as one class "unlabelled"; it needs no labels. Raises InputError as `open_features`."""
    path, tensors, _ = _opened(spec)
    return one_class_features(tensors["features"], where=shown(path))


def one_class_features(values: Tensor, *, where: str) -> Dataset:
    """Features [images feature] as one class "unlabelled". Raises InputError as `feature_data` does."""
    _check_values(values, where)
    nothing = torch.zeros(len(values), dtype=torch.int64)
    return _dataset(values.float(), nothing, ["unlabelled"], rows=torch.arange(len(values)), where=where)


def rows_not_in(known: np.ndarray, values: np.ndarray) -> list[int]:
    """Which rows of `values` are no rows of `known`, bit for bit."""
    seen = {row.tobytes() for row in known}
    return [i for i, row in enumerate(values) if row.tobytes() not in seen]


def read_classifier(spec: str) -> tuple[int, dict[str, Tensor]]:
    """Width of the features of a file, and the tensors `weight` and `bias` of its classifier if it has one."""
    path, tensors, _ = _opened(spec)
    _check_values(tensors["features"], shown(path))
    classifier = {name: tensors[f"classifier.{name}"] for name in ("weight", "bias") if f"classifier.{name}" in tensors}
    return tensors["features"].shape[1], classifier


def _opened(spec: str) -> tuple[Path, dict[str, Tensor], list[str] | None]:
    """Path, tensors, `features` among them, and class names."""
    path = Path(spec.removeprefix(FEATURES)).expanduser()
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"{spec}: is not a safetensors file; write 'features:FILE.safetensors'")
    tensors, metadata = read_checkpoint(path)
    if "features" not in tensors:
        raise InputError(f"{shown(path)}: has no tensor 'features'; write features [n, d]")
    if "class_names" not in metadata:
        return path, tensors, None
    try:
        names = json.loads(metadata["class_names"])
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{shown(path)}: metadata 'class_names' is not a JSON list of names; write json.dumps(names)")
    return path, tensors, names


def _check_values(values: Tensor, where: str, what: str = "features") -> None:
    if values.dim() != 2 or not values.numel():
        raise InputError(f"{where}: {what} have shape {list(values.shape)}; give [images, width]")
    if not values.is_floating_point():
        raise InputError(f"{where}: {what} are {values.dtype}; give floating-point numbers")
    values = values.float()  # as which they are used; larger numbers are infinite then
    bad = (~torch.isfinite(values)).any(1)
    if bool(bad.any()):
        raise InputError(f"{where}: row {int(bad.nonzero()[0])} holds NaN or infinite {what}; compute it again")
    zero = (values == 0).all(1)
    if bool(zero.any()):
        raise InputError(f"{where}: row {int(zero.nonzero()[0])} is all zero; compute its features again")


def _dataset(
    values: Tensor, labels: Tensor, names: Sequence[str], *, rows: Tensor, where: str, crops: Tensor | None = None
) -> Dataset:
    lists = {COLUMN: values} if crops is None else {COLUMN: values, CROPS: crops.flatten(1)}
    columns: dict[str, pa.Array] = {"row": pa.array(rows.numpy())}
    kinds: dict[str, Any] = {"row": Value("int64")}
    for name, tensor in lists.items():
        flat, length = pa.array(tensor.contiguous().view(-1).numpy()), tensor.shape[1]
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, length)
        kinds[name] = ListOf(Value("float32"), length=length)
    return labelled_table(pa.table(columns), labels.numpy(), names, kinds=kinds, where=where)
