"""Features of a whole data set: computed once, kept on disk, mapped into memory when read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.decoding import ImageReader
from weightgen.dataflow import Features
from weightgen.errors import InputError
from weightgen.files import cache_directory, tensors_hash, text_hash, write_tensors


def features_of(
    backbone: Backbone,
    dataset: datasets.Dataset,
    *,
    data_fingerprint: str,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    quarter_turns: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Features:
    """Float32 features of every image, in the data set's order.

    dataset: columns `image` (datasets.Image) and `label` (ClassLabel), rows sorted by class.
    data_fingerprint: stable hash of the data; with the hashes of weights and preprocessing the cache's key.
    device: where to compute; the result is on the CPU. The backbone goes back to where it was.
    quarter_turns: turn every image, as the network would see it, by so many times 90° first.

    Raises InputError when an image cannot be decoded, labels are not sorted, or features are not finite.
    """
    path = cache_path(backbone, data_fingerprint, quarter_turns)
    names = tuple(dataset.features["label"].names)
    cached = _read(path, len(dataset), names)
    if cached is not None:
        return cached
    reader = ImageReader(dataset, backbone.preprocess)
    if bool((reader.labels.diff() < 0).any()):
        raise InputError("data: rows are not sorted by class; sort the data set by its label column")
    values = _compute(backbone, reader, batch_size, torch.device(device), quarter_turns, progress)
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).any(1).nonzero()[0])
        raise InputError(f"backbone: '{backbone.architecture}' gives NaN or infinite features for image {bad}")
    tensors = {"values": values, "labels": reader.labels}
    write_tensors(path, tensors, {"class_names": json.dumps(names), "hash": tensors_hash(tensors)})
    return Features(values, reader.labels, names)


def cache_path(backbone: Backbone, data_fingerprint: str, quarter_turns: int = 0) -> Path:
    """File of the features of one data set under one backbone, whether it exists or not."""
    turned = [f"turned {quarter_turns}"] if quarter_turns else []
    key = text_hash(backbone.weights_hash(), backbone.preprocessing_key(), data_fingerprint, *turned)
    return cache_directory() / "features" / f"{key}.safetensors"


def _compute(
    backbone: Backbone,
    reader: ImageReader,
    batch_size: int,
    device: torch.device,
    quarter_turns: int,
    progress: Callable[[str, int, int], None] | None,
) -> Float[Tensor, "images feature"]:
    home = next(backbone.parameters()).device
    backbone.to(device)
    values = torch.empty(len(reader), backbone.feature_width)
    try:
        with torch.inference_mode():
            for start, pixels in reader.stream(batch_size):
                images = backbone.preprocess.normalise(pixels.to(device).rot90(quarter_turns, (-2, -1)))
                values[start : start + len(images)] = backbone(images).float().cpu()
                if progress is not None:
                    progress("computing features", start + len(images), len(reader))
    finally:
        backbone.to(home)
    return values


def _read(path: Path, images: int, names: tuple[str, ...]) -> Features | None:
    """Features from a cache file, memory-mapped; None when it is absent, damaged, or of other data."""
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in ("values", "labels")}
    except (OSError, SafetensorError):
        return None
    if tensors_hash(tensors) != metadata.get("hash") or len(tensors["labels"]) != images:
        return None
    return Features(tensors["values"], tensors["labels"], names)
