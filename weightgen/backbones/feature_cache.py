"""Features of a whole data set: computed once, kept on disk, mapped into memory when read again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.preprocessing import ImageReader
from weightgen.data import pictures
from weightgen.data.feature_data import feature_values
from weightgen.data.labelled import FEATURES
from weightgen.data.labelled import data_fingerprint as fingerprint
from weightgen.errors import InputError
from weightgen.files import cache_directory, keep_tensors, kept_tensors, text_hash
from weightgen.records import Features

_IMAGES_AT_ONCE, _FEWEST_AT_ONCE = 256, 16
_PIXELS_AT_ONCE = 2**23  # 55 images of 224 pixels, for which a MobileNetV2 takes half a GiB
MOST_KEPT = 20_000
"""Images whose features `feature_batches` keeps on disk: 100 MB at 1,280 features."""


def features_of(
    backbone: Backbone,
    dataset: datasets.Dataset,
    *,
    data_fingerprint: str | None = None,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    quarter_turns: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    accelerator: Accelerator | None = None,
) -> Features:
    """Float32 features of every image, in the data set's order; those of the data set itself where it has features.

    dataset: columns `image` (datasets.Image) or `features`, and `label` (ClassLabel), rows sorted by class.
    data_fingerprint: stable hash of the data, if known; with those of weights and preprocessing the cache's key.
    device: where to compute; the result is on the CPU. The backbone goes back to where it was.
    batch_size: images that go through the network together; as many as their size allows if None.
    quarter_turns: turn every image, as the network would see it, by so many times 90° first.
    accelerator: of all processes that call this together; each computes a share, and every one returns all features,
        the same as one process would to the last bit. This process alone if None.

    Raises InputError when an image cannot be decoded, labels are not sorted, or features are not finite.
    """
    names = tuple(dataset.features["label"].names)
    if FEATURES in dataset.column_names:
        values = checked_features(feature_values(dataset), backbone, turned=quarter_turns > 0)
        return Features(values, torch.tensor(dataset["label"][:]), names)
    path = cache_path(backbone, data_fingerprint or fingerprint(dataset), quarter_turns)
    kept = kept_tensors(path)
    there = bool(kept) and len(kept["labels"]) == len(dataset)
    if there if accelerator is None else all(gather_object([there])):
        return Features(kept["values"], kept["labels"], names)
    reader = ImageReader(dataset, backbone.preprocess)
    values = torch.zeros(len(reader), backbone.feature_width)
    process, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    share = {"process": process, "processes": processes}
    for start, batch in _streamed(backbone, reader, batch_size, torch.device(device), quarter_turns, **share):
        _check_finite(batch, backbone, reader, first=start)
        values[start : start + len(batch)] = batch
        if progress is not None:
            progress("computing features", min(start + processes * len(batch), len(reader)), len(reader))
    if accelerator is not None:  # what others compute is 0 here
        values = accelerator.reduce(values.to(accelerator.device), "sum").cpu()
    if accelerator is None or accelerator.is_local_main_process:
        tensors = {"values": values, "labels": reader.labels}
        keep_tensors(path, tensors, {"class_names": json.dumps(names)})
    if accelerator is not None:
        accelerator.wait_for_everyone()  # until the features are kept, for the next that asks for them
    return Features(values, reader.labels, names)


def feature_batches(
    backbone: Backbone,
    dataset: datasets.Dataset,
    *,
    data_fingerprint: str | None = None,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Float[Tensor, "images feature"]]:
    """Float32 features in the data set's order, some images at a time, in memory that does not grow with their number.

    Up to `MOST_KEPT` images are computed once and kept on disk, as `features_of` does; more are computed anew.

    Raises InputError as `features_of`.
    """
    if len(dataset) <= MOST_KEPT or FEATURES in dataset.column_names:
        kept = features_of(backbone, dataset, data_fingerprint=data_fingerprint, batch_size=batch_size, device=device)
        yield from kept.values.split(batch_size or _IMAGES_AT_ONCE)
        return
    reader = ImageReader(dataset, backbone.preprocess)
    for start, values in _streamed(backbone, reader, batch_size, torch.device(device), quarter_turns=0):
        _check_finite(values, backbone, reader, first=start)
        yield values


def checked_features(
    values: Float[Tensor, "images feature"], backbone: Backbone, *, turned: bool = False
) -> Float[Tensor, "images feature"]:
    """The values. Raises InputError where they are not of the backbone's width, or would have to be turned."""
    if values.shape[1] != backbone.feature_width:
        raise InputError(
            f"data: features are {values.shape[1]} wide, and those of '{backbone.architecture}' "
            f"{backbone.feature_width}; give features of the same network"
        )
    if turned:
        raise InputError("data.turned: features cannot be turned; give images, or set turned: false")
    return values


def cache_path(backbone: Backbone, data_fingerprint: str, quarter_turns: int = 0) -> Path:
    """File of the features of one data set under one backbone, whether it exists or not."""
    turned = [f"turned {quarter_turns}"] if quarter_turns else []
    decoding = f"pictures {pictures.VERSION}"
    key = text_hash(backbone.weights_hash(), backbone.preprocessing_key(), data_fingerprint, decoding, *turned)
    return cache_directory() / "features" / f"{key}.safetensors"


def _batch_for(backbone: Backbone) -> int:
    """Images that go through the network together: the larger the fewer, for it holds many times their pixels."""
    return max(_FEWEST_AT_ONCE, min(_IMAGES_AT_ONCE, _PIXELS_AT_ONCE // math.prod(backbone.preprocess.input_size)))


def _streamed(
    backbone: Backbone,
    reader: ImageReader,
    batch_size: int | None,
    device: torch.device,
    quarter_turns: int,
    **share: int,
) -> Iterator[tuple[int, Float[Tensor, "images feature"]]]:
    """Features of some images at a time, on the CPU, each with the number of its first; shared as by `stream`."""
    home = next(backbone.parameters()).device
    backbone.to(device)
    try:
        for start, pixels in reader.stream(batch_size or _batch_for(backbone), **share):
            with torch.inference_mode():
                images = backbone.preprocess.normalise(pixels.to(device).rot90(quarter_turns, (-2, -1)))
                values = backbone(images).float().cpu()
            yield start, values.clone()  # an inference tensor could not be written to outside
    finally:
        backbone.to(home)


def _check_finite(
    values: Float[Tensor, "images feature"], backbone: Backbone, reader: ImageReader, *, first: int
) -> None:
    if not bool(torch.isfinite(values).all()):
        bad = first + int((~torch.isfinite(values)).any(1).nonzero()[0])
        raise InputError(
            f"backbone: '{backbone.architecture}' gives NaN or infinite features for {reader.name(bad)}; take another"
        )


def pixels_of(backbone: Backbone, dataset: datasets.Dataset, *, quarter_turns: int = 0) -> Features:
    """Every image at the backbone's input size as one flat row of bytes, in memory.

    dataset: columns `image` (datasets.Image) and `label` (ClassLabel), rows sorted by class.
    quarter_turns: turn every image by so many times 90° first.

    Raises InputError when an image cannot be decoded, or labels are not sorted.
    """
    reader = ImageReader(dataset, backbone.preprocess)
    values = reader.read_all().rot90(quarter_turns, (-2, -1)).flatten(1)
    return Features(values, reader.labels, reader.class_names)
