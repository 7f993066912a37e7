"""From the pictures of a data set to what the network sees: decoded by threads, then timm's evaluation transform."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor

from weightgen.data.labelled import FEATURES, encoded
from weightgen.data.pictures import decoded, plain
from weightgen.errors import InputError
from weightgen.files import text_hash
from weightgen.records import Progress

KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
_MODES = {1: "L", 3: "RGB"}
_LONGEST_STRIP = 32  # times its width
_CHUNK = 1024


class Preprocessing:
    """Resize, crop and normalise as a timm `pretrained_cfg` says; greyscale or colour by its channel count.

    Calling it equals timm's `create_transform` for evaluation on what `pictures.plain` makes of the image.
    Its two halves are there for speed: `pixels` per image (bytes, a quarter of the memory), `normalise` per batch.
    """

    def __init__(self, pretrained_cfg: Mapping[str, Any]) -> None:
        self.config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
        channels, height, width = self.config["input_size"]
        if channels not in _MODES:
            raise InputError(f"backbone: in_chans is {channels}; images are grey (1) or colour (3)")
        self.mode = _MODES[channels]
        self._size = (width, height)
        for key in ("mean", "std"):
            if len(self.config[key]) != channels:
                raise InputError(f"backbone: {key} has {len(self.config[key])} values for {channels} channels")
        self._check_numbers()
        try:
            self._geometry = create_transform(**self.config, normalize=False)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"backbone: timm cannot preprocess with {self.config}; check its options") from error
        self._mean = torch.tensor(self.config["mean"])[:, None, None]
        self._std = torch.tensor(self.config["std"])[:, None, None]

    def _check_numbers(self) -> None:
        """Raise InputError for numbers that timm takes and pictures end in an error or NaN by."""
        right = {
            "input_size": ("of 1 or more", all(side >= 1 for side in self.config["input_size"])),
            "crop_pct": ("above 0 and finite", 0 < self.config["crop_pct"] < math.inf),
            "mean": ("finite", all(map(math.isfinite, self.config["mean"]))),
            "std": ("above 0 and finite", all(0 < value < math.inf for value in self.config["std"])),
        }
        for key, (wanted, holds) in right.items():
            if not holds:
                raise InputError(f"backbone: {key} is {self.config[key]}; it must be {wanted}")

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of what the network sees."""
        return tuple(self.config["input_size"])

    def pixels(self, image: Image.Image | np.ndarray) -> UInt8[Tensor, "channels height width"]:
        """The picture at the network's input size, 0 to 255. Any size and mode goes in; `pictures.plain` reads it."""
        image = plain(image)
        if image.mode != self.mode:
            image = image.convert(self.mode)
        image = self._middle(image)
        if image.size == self._size and self.config["crop_pct"] == 1.0:  # resizing and cropping would change nothing
            values = np.array(image)
            return torch.from_numpy(
                values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))
            )
        return self._geometry(image)

    def _middle(self, image: Image.Image) -> Image.Image:
        """Without the ends of a narrow strip: enlarged before they are cut off, they would fill the memory."""
        most = _LONGEST_STRIP * min(image.size)
        if max(image.size) <= most or self.config["crop_mode"] == "squash":
            return image
        cut = [max(0, side - most) // 2 for side in image.size]
        return image.crop((cut[0], cut[1], image.width - cut[0], image.height - cut[1]))

    def normalise(
        self, pixels: UInt8[Tensor, "*batch channels height width"]
    ) -> Float[Tensor, "*batch channels height width"]:
        """Bytes to zero mean and unit scale, on the device where they lie."""
        return (pixels.float() / 255 - self._mean.to(pixels.device)) / self._std.to(pixels.device)

    def __call__(self, image: Image.Image) -> Float[Tensor, "channels height width"]:
        """The normalised pixels that the backbone reads."""
        return self.normalise(self.pixels(image))

    def key(self) -> str:
        """16 hex digits that change with anything that changes the result."""
        return text_hash(json.dumps({name: self.config[name] for name in KEYS}, sort_keys=True))


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

    def read_all(self, progress: Progress | None = None) -> UInt8[Tensor, "images c h w"]:
        """Pixels of every row, in one tensor."""
        pixels = torch.empty(len(self), *self._preprocess.input_size, dtype=torch.uint8)
        for start, piece in self.stream(_CHUNK):
            pixels[start : start + len(piece)] = piece
            if progress is not None:
                progress("decoding images", start + len(piece), len(self))
        return pixels

    def stream(
        self, size: int, *, process: int = 0, processes: int = 1
    ) -> Iterator[tuple[int, UInt8[Tensor, "images channels height width"]]]:
        """All rows in order, `size` at a time, each with the number of its first row; of these the share of a process.

        Images go together that would without other processes, so that the share of each is the same to the last bit.
        """
        for start in range(process * size, len(self), processes * size):
            yield start, self.read(range(start, min(start + size, len(self))))

    def _decode(
        self, examples: list[dict[str, Any]], rows: Sequence[int]
    ) -> UInt8[Tensor, "images channels height width"]:
        pairs = zip(examples, rows, strict=True)
        return torch.stack([self._preprocess.pixels(decoded(encoded(e), _name(e, row))) for e, row in pairs])


def _name(example: Mapping[str, Any], row: int) -> str:
    return example["path"] or f"image {row}"
