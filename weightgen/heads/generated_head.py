"""What the pipeline returns: a head that predicts, attaches itself to its backbone, and saves itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from weightgen.backbones.backbone import Backbone
from weightgen.heads.head_folder import check_head, save_head
from weightgen.heads.head_memory import HeadMemory, check_memory
from weightgen.heads.predictor import Prediction, Predictor
from weightgen.records import LinearHeads


@dataclass(frozen=True)
class GeneratedHead:
    """One written head, with all that is needed to use it.

    head: a batch of one, with one or more draws on raw features of `backbone`.
    class_names: one per row.
    provenance: how it was made; saved along.
    parts: names of the tensors inside `backbone` that were generated too.
    memory: what it was written from; saved along, so that classes can be added. None where that is not possible.
    mean: the single head that stands for the draws, where it was taken before: computed again, it may differ in the
        last bits.

    Raises InputError when head, names, backbone and memory do not fit each other.
    """

    head: LinearHeads
    class_names: tuple[str, ...]
    backbone: Backbone
    provenance: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    memory: HeadMemory | None = None
    mean: LinearHeads | None = None

    def __post_init__(self) -> None:
        sizes = {"ways": len(self.class_names), "feature_width": self.backbone.feature_width}
        check_head(self.head, **sizes)
        if self.memory is not None:
            check_memory(self.memory, **sizes)

    def attach(self) -> nn.Module:
        """A timm model with the mean head in its slot, in evaluation mode; the backbone is copied."""
        mean = self.mean or self.head.mean()
        return self.backbone.with_head(mean.weight[0, 0], mean.bias[0, 0])

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a head folder; see `save_head`."""
        save_head(
            Path(folder),
            head=self.head,
            backbone=self.backbone,
            class_names=self.class_names,
            provenance=self.provenance,
            parts=self.parts,
            memory=self.memory,
            mean=self.mean,
        )

    def predict(self, images: Sequence[Path | str | Image.Image] | Path | str | Image.Image) -> list[Prediction]:
        """Class, probability and uncertainty of images; see `Predictor.predict`."""
        return self._predictor().predict(images)

    def probabilities(self, features: Float[Tensor, "images feature"]) -> Float[Tensor, "images ways"]:
        """Class probabilities of backbone features, under the mixture of all draws."""
        return self._predictor().probabilities(features)

    def _predictor(self) -> Predictor:
        return Predictor(head=self.head, class_names=self.class_names, backbone=self.backbone)
