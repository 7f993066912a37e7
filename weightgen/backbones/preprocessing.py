"""From a picture to what the network sees: timm's evaluation transform, cut into pixels and normalisation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor

from weightgen.data.pictures import plain
from weightgen.errors import InputError
from weightgen.files import text_hash

KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
_MODES = {1: "L", 3: "RGB"}
_LONGEST_STRIP = 32  # times its width


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
        try:
            self._geometry = create_transform(**self.config, normalize=False)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"backbone: timm cannot preprocess with {self.config}; check its options") from error
        self._mean = torch.tensor(self.config["mean"])[:, None, None]
        self._std = torch.tensor(self.config["std"])[:, None, None]

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
