"""Features of a whole data set: computed once, kept on disk, mapped into memory when read again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.preprocessing import ImageReader
from weightgen.data import pictures
from weightgen.data.feature_data import crop_values, feature_values
from weightgen.data.labelled import FEATURES
from weightgen.data.labelled import data_fingerprint as fingerprint
from weightgen.errors import InputError
from weightgen.files import cache_directory, keep_tensors, kept_tensors, text_hash
from weightgen.records import Features, Progress

_IMAGES_AT_ONCE, _FEWEST_AT_ONCE = 256, 16
_PIXELS_AT_ONCE = 2**23  # 55 images of 224 pixels, for which a MobileNetV2 takes half a GiB
MOST_KEPT = 20_000
"""Images whose features `feature_batches` keeps on disk: 100 MB at 1,280 features."""
CROPS = 3
"""Of each image by `crops_of`."""
_CROP_SIDE = 0.8  # of an image's


def features_of(
    backbone: Backbone,
    dataset: datasets.Dataset,
    *,
    data_fingerprint: str | None = None,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    quarter_turns: int = 0,
    progress: Progress | None = None,
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
        values = _checked(dataset, backbone, turned=quarter_turns > 0)
        return Features(values, torch.tensor(dataset["label"][:]), names)
    turned = f"turned {quarter_turns}" if quarter_turns else ""
    path = cache_path(backbone, data_fingerprint or fingerprint(dataset), turned)
    turn = partial(torch.rot90, k=quarter_turns, dims=(-2, -1))
    how = _How(torch.device(device), batch_size, "computing features", progress, accelerator)
    values, labels = _kept_or_computed(backbone, dataset, path, turn, 1, how)
    return Features(values[:, 0], labels, names)


def crops_of(
    backbone: Backbone,
    dataset: datasets.Dataset,
    *,
    device: torch.device | str = "cpu",
    wanted: Callable[[int, int], bool] | None = None,
    progress: Progress | None = None,
    accelerator: Accelerator | None = None,
) -> Float[Tensor, "images crops feature"] | None:
    """Features of three crops of every image: its middle and two opposite corners, 0.8 of its sides long.

    They are computed once and kept on disk, as those of the images are. Of a data set of features those that it holds
    itself, None where there are none; and None where `wanted`, asked for so many images of so many classes, says no
    (`Conditioner.looks_at_crops`). Processes share them as those of the images.

    Raises InputError as `features_of`.
    """
    if wanted is not None and not wanted(len(dataset), len(set(dataset["label"]))):
        return None
    if FEATURES in dataset.column_names:
        return crop_values(dataset)
    path = cache_path(backbone, fingerprint(dataset), f"{CROPS} crops of {_CROP_SIDE}")
    together = max(1, _batch_for(backbone) // CROPS)
    how = _How(torch.device(device), together, "computing features of crops", progress, accelerator)
    return _kept_or_computed(backbone, dataset, path, _crops, CROPS, how)[0]


def features_with_crops(
    backbone: Backbone,
    dataset: datasets.Dataset,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    accelerator: Accelerator | None = None,
) -> Features:
    """`features_of` with `crops_of` the same images."""
    how: dict[str, Any] = {"device": device, "progress": progress, "accelerator": accelerator}
    return replace(features_of(backbone, dataset, **how), crops=crops_of(backbone, dataset, **how))


@dataclass(frozen=True)
class _How:
    """batch_size: images that go through the network together. activity: what `progress` is told."""

    device: torch.device
    batch_size: int | None
    activity: str
    progress: Progress | None
    accelerator: Accelerator | None


def _kept_or_computed(
    backbone: Backbone,
    dataset: datasets.Dataset,
    path: Path,
    view: Callable[[Tensor], Tensor],
    views: int,
    how: _How,
) -> tuple[Float[Tensor, "images views feature"], Int[Tensor, " images"]]:
    """Features of `views` views of every image, and the labels: those kept at `path`, or computed and kept there."""
    kept, accelerator = kept_tensors(path), how.accelerator
    there = len(kept.get("values", ())) == len(dataset)
    if there if accelerator is None else all(gather_object([there])):
        return kept["values"].view(len(dataset), views, -1), kept["labels"]
    reader = ImageReader(dataset, backbone.preprocess)
    values = torch.zeros(len(reader), views, backbone.feature_width)
    process, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    share = {"process": process, "processes": processes}
    for start, batch in _streamed(backbone, reader, how.batch_size, how.device, view, **share):
        _check_finite(batch.view(-1, views * batch.shape[1]), backbone, reader, first=start)
        done = start + len(batch) // views
        values[start:done] = batch.unflatten(0, (-1, views))
        if how.progress is not None:
            how.progress(how.activity, min(start + processes * (done - start), len(reader)), len(reader))
    if accelerator is not None:  # what others compute is 0 here
        values = accelerator.reduce(values.to(accelerator.device), "sum").cpu()
    if accelerator is None or accelerator.is_local_main_process:
        tensors = {"values": values.squeeze(1), "labels": reader.labels}
        keep_tensors(path, tensors, {"class_names": json.dumps(reader.class_names)})
    if accelerator is not None:
        accelerator.wait_for_everyone()  # until the features are kept, for the next that asks for them
    return values, reader.labels


def _crops(
    pixels: UInt8[Tensor, "images channels height width"],
) -> UInt8[Tensor, "crops channels height width"]:
    """All of an image one after the other, at its size."""
    height, width = pixels.shape[-2:]
    high, wide = round(_CROP_SIDE * height), round(_CROP_SIDE * width)
    places = [((height - high) // 2, (width - wide) // 2), (0, 0), (height - high, width - wide)]
    cut = torch.stack([pixels[..., y : y + high, x : x + wide] for y, x in places], 1).flatten(0, 1)
    resized = torch.nn.functional.interpolate(cut.float(), (height, width), mode="bilinear", align_corners=False)
    return resized.round().to(torch.uint8)


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
    for start, values in _streamed(backbone, reader, batch_size, torch.device(device), lambda pixels: pixels):
        _check_finite(values, backbone, reader, first=start)
        yield values


def _checked(dataset: datasets.Dataset, backbone: Backbone, *, turned: bool = False) -> Float[Tensor, "images feature"]:
    """Features as given. Raises InputError where they are not of the backbone's width, or would have to be turned."""
    values = feature_values(dataset)
    if values.shape[1] != backbone.feature_width:
        raise InputError(
            f"{dataset.info.description or 'data'}: features are {values.shape[1]} wide, and those of the "
            f"backbone '{backbone.architecture}' {backbone.feature_width}; give features of the same network"
        )
    if turned:
        raise InputError("data.turned: features cannot be turned; give images, or set turned: false")
    return values


def cache_path(backbone: Backbone, data_fingerprint: str, variant: str = "") -> Path:
    """File of the features of one data set, or of a variant of its images, under one backbone; it need not exist."""
    decoding, variants = f"pictures {pictures.VERSION}", [variant] if variant else []
    key = text_hash(backbone.weights_hash(), backbone.preprocessing_key(), data_fingerprint, decoding, *variants)
    return cache_directory() / "features" / f"{key}.safetensors"


def _batch_for(backbone: Backbone) -> int:
    """Images that go through the network together: the larger the fewer, for it holds many times their pixels."""
    return max(_FEWEST_AT_ONCE, min(_IMAGES_AT_ONCE, _PIXELS_AT_ONCE // math.prod(backbone.preprocess.input_size)))


def _streamed(
    backbone: Backbone,
    reader: ImageReader,
    batch_size: int | None,
    device: torch.device,
    view: Callable[[Tensor], Tensor],
    **share: int,
) -> Iterator[tuple[int, Float[Tensor, "views feature"]]]:
    """Features of some images as `view` shows them, on the CPU, each with the number of its first image.

    Shared among processes as by `ImageReader.stream`.
    """
    home = next(backbone.parameters()).device
    backbone.to(device)
    try:
        for start, pixels in reader.stream(batch_size or _batch_for(backbone), **share):
            with torch.inference_mode():
                images = backbone.preprocess.normalise(view(pixels.to(device)))
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
