"""Encoded images of a data set to pixel tensors, by threads (the decoders release Python's lock)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.preprocessing import Preprocessing
from weightgen.data.labelled import FEATURES, encoded
from weightgen.data.pictures import decoded
from weightgen.errors import InputError
from weightgen.records import Features

_CHUNK = 1024


class ImageReader:
    """Pixels of any rows of a data set with columns `image` (datasets.Image) and `label` (ClassLabel).

    `datasets` never decodes: it drops transparency and cuts 16-bit grey off at 255.

    Raises InputError for features in place of images, and for rows that are not sorted by class.
    """

    def __init__(self, dataset: datasets.Dataset, preprocess: Preprocessing) -> None:
        if FEATURES in dataset.column_names:
            raise InputError("data: holds features, not images, which are wanted here; give images, or leave this out")
        kept = [column for column in dataset.column_names if column != "image"]
        self._encoded = dataset.remove_columns(kept).cast_column("image", datasets.Image(decode=False))
        self._preprocess = preprocess
        self._threads = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="decode")
        self.class_names = tuple(dataset.features["label"].names)
        self.labels: Int[Tensor, " images"] = torch.from_numpy(np.asarray(dataset["label"][:], dtype=np.int64))
        if bool((self.labels.diff() < 0).any()):
            raise InputError("data: rows are not sorted by class; sort the data set by its label column")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def bytes(self) -> int:
        """Memory that all pixels take."""
        return len(self) * int(np.prod(self._preprocess.input_size))

    def name(self, row: int) -> str:
        """What a message calls the image of a row: its file, or where the user's data hold it."""
        return _name(self._encoded[row]["image"], row)

    def read(self, rows: Sequence[int]) -> UInt8[Tensor, "images channels height width"]:
        """Pixels of some rows at the network's input size. Raises InputError naming an image that cannot be decoded."""
        examples = self._encoded[rows]["image"]
        if not examples:
            return torch.zeros(0, *self._preprocess.input_size, dtype=torch.uint8)
        share = -(-len(examples) // ((os.cpu_count() or 1) * 4))
        jobs = [(examples[i : i + share], rows[i : i + share]) for i in range(0, len(examples), share)]
        return torch.cat(list(self._threads.map(lambda job: self._decode(*job), jobs)))

    def read_all(self, progress: Callable[[str, int, int], None] | None = None) -> UInt8[Tensor, "images c h w"]:
        """Pixels of every row, in one tensor."""
        pixels = torch.empty(len(self), *self._preprocess.input_size, dtype=torch.uint8)
        for start, piece in self.stream(_CHUNK):
            pixels[start : start + len(piece)] = piece
            if progress is not None:
                progress("decoding images", start + len(piece), len(self))
        return pixels

    def stream(self, size: int) -> Iterator[tuple[int, UInt8[Tensor, "images channels height width"]]]:
        """All rows in order, `size` at a time, each with the number of its first row."""
        for start in range(0, len(self), size):
            yield start, self.read(range(start, min(start + size, len(self))))

    def _decode(
        self, examples: list[dict[str, Any]], rows: Sequence[int]
    ) -> UInt8[Tensor, "images channels height width"]:
        pairs = zip(examples, rows, strict=True)
        return torch.stack([self._preprocess.pixels(decoded(encoded(e), _name(e, row))) for e, row in pairs])


def pixels_of(backbone: Backbone, dataset: datasets.Dataset, *, quarter_turns: int = 0) -> Features:
    """Every image at the backbone's input size as one flat row of bytes, in memory.

    dataset: columns `image` (datasets.Image) and `label` (ClassLabel), rows sorted by class.
    quarter_turns: turn every image by so many times 90° first.

    Raises InputError when an image cannot be decoded, or labels are not sorted.
    """
    reader = ImageReader(dataset, backbone.preprocess)
    values = reader.read_all().rot90(quarter_turns, (-2, -1)).flatten(1)
    return Features(values, reader.labels, reader.class_names)


def _name(example: Mapping[str, Any], row: int) -> str:
    return example["path"] or f"image {row}"
