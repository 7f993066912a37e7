"""Class, probability and uncertainty of images, by a saved or fresh head."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from weightgen.backbones.backbone import Backbone
from weightgen.data.images import find_images, read_image
from weightgen.heads.head_folder import check_head, load_head
from weightgen.records import Head


@dataclass(frozen=True)
class Prediction:
    """What a head says of one image.

    path: the image's file; None for an image given as such.
    class_name, probability: the most probable class, under the mixture of all draws.
    probabilities: every class, in the head's order.
    uncertainty: entropy of the mixture over log(classes): 0 is certain, 1 knows nothing.
    disagreement: the part of `uncertainty` that comes from draws contradicting each other (mutual information of
        class and draw over log(classes); Houlsby et al. 2011), 0 when all agree; None without several draws.
        The rest is doubt that every draw shares.
    """

    path: Path | None
    class_name: str
    probability: float
    uncertainty: float
    disagreement: float | None
    probabilities: dict[str, float]


class Predictor:
    """A head on its backbone, ready for images."""

    def __init__(self, *, head: Head, class_names: Sequence[str], backbone: Backbone) -> None:
        check_head(head, ways=len(class_names), feature_width=backbone.feature_width)
        self.head = Head(head.weight.detach().float().cpu(), head.bias.detach().float().cpu())
        self.class_names = tuple(class_names)
        self.backbone = backbone

    @classmethod
    def from_head(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> Predictor:
        """The predictor of a head folder. Raises InputError as `load_head` does."""
        saved = load_head(Path(folder))
        return cls(head=saved.head, class_names=saved.class_names, backbone=saved.backbone.to(device))

    def predict(
        self,
        images: Sequence[Path | str | Image.Image] | Path | str | Image.Image,
        *,
        batch_size: int = 64,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> list[Prediction]:
        """One prediction per image; a folder stands for the images in it.

        Files are read by `read_image`; an image given as such is taken as it is (no EXIF rotation, alpha dropped).

        Raises InputError for files that are no images.
        """
        given = [images] if isinstance(images, (str, Path, Image.Image)) else images
        single = [image for item in given for image in _expanded(item)]
        found: list[Prediction] = []
        for start in range(0, len(single), batch_size):
            batch = single[start : start + batch_size]
            found += self._describe(batch, self._features(batch))
            if progress is not None:
                progress("predicting", len(found), len(single))
        return found

    def probabilities(self, features: Float[Tensor, "images feature"]) -> Float[Tensor, "images ways"]:
        """Class probabilities of backbone features, under the mixture of all draws; on the CPU."""
        return self._draws(features).mean(0)

    def _draws(self, features: Float[Tensor, "images feature"]) -> Float[Tensor, "samples images ways"]:
        """Class probabilities under every draw: draws take the place of the batch."""
        single = Head(self.head.weight.transpose(0, 1), self.head.bias.transpose(0, 1))
        return single.probabilities(features.to(single.weight).expand(len(single.weight), -1, -1))

    @torch.no_grad()
    def _features(self, images: Sequence[Path | Image.Image]) -> Float[Tensor, "images feature"]:
        pictures = [image if isinstance(image, Image.Image) else read_image(image) for image in images]
        inputs = torch.stack([self.backbone.preprocess(picture) for picture in pictures])
        device = next(self.backbone.parameters()).device
        return self.backbone(inputs.to(device)).float().cpu()

    def _describe(
        self, images: Sequence[Path | Image.Image], features: Float[Tensor, "images feature"]
    ) -> list[Prediction]:
        draws = self._draws(features)  # [samples images ways]
        mixture = draws.mean(0)
        uncertainty = normalised_entropy(mixture)
        disagreement: list[float | None] = [None] * len(images)
        if len(draws) > 1:
            disagreement = list((uncertainty - normalised_entropy(draws).mean(0)).clamp(min=0).tolist())
        best = mixture.argmax(-1).tolist()
        return [
            Prediction(
                path=image if isinstance(image, Path) else None,
                class_name=self.class_names[best[i]],
                probability=row[best[i]],
                uncertainty=float(uncertainty[i]),
                disagreement=disagreement[i],
                probabilities=dict(zip(self.class_names, row, strict=True)),
            )
            for i, (image, row) in enumerate(zip(images, mixture.tolist(), strict=True))
        ]


def normalised_entropy(probabilities: Float[Tensor, "*any ways"]) -> Float[Tensor, "*any"]:
    """Entropy over log(ways), in 0 … 1; 0 for a single class."""
    ways = probabilities.shape[-1]
    if ways == 1:
        return torch.zeros_like(probabilities[..., 0])
    return (torch.special.entr(probabilities).sum(-1) / math.log(ways)).clamp(0, 1)


def _expanded(item: Path | str | Image.Image) -> Iterator[Path | Image.Image]:
    if isinstance(item, Image.Image):
        yield item
    elif Path(item).is_dir():
        yield from find_images(Path(item))
    else:
        yield Path(item)
