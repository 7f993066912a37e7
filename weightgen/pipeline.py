"""The generator at work: a folder of images or a whole data set in, a head out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from diffusers import SchedulerMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.feature_cache import feature_batches
from weightgen.data.sources import class_names, data_fingerprint
from weightgen.dataflow import Episode, Features, Head
from weightgen.episodes.dataset_episode import dataset_episode
from weightgen.errors import InputError
from weightgen.export.generated_head import GeneratedHead
from weightgen.export.head_memory import HeadMemory
from weightgen.generator_pipeline import open_support, open_unlabelled
from weightgen.interfaces import Conditioner, Denoiser
from weightgen.parameters.standardizer import Standardizer
from weightgen.row_pipeline import Denoise, RowPipeline
from weightgen.seeds import generator as seeded

_IMAGES_AT_ONCE = 1024


class WeightGenerationPipeline(RowPipeline):
    """Denoises noise into the head of a frozen backbone; a diffusers pipeline.

    Components: `denoiser`, `conditioner`, `standardizer`, `backbone` and `scheduler`, any diffusers scheduler of the
    same noise levels: `pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)`.

    A single head follows the noise-free chain. Several draws need noise: where `scheduler` is `MeanDDPMScheduler`,
    asking for more than one sample runs `draw_scheduler` in its place.

    Config: `readout` and `calibration` say how rows become logits (see `RowReader`), `draw_calibration` for several
    draws; `steps` and `samples` are the defaults of a call, `draw_steps` those of several draws; `provenance` is
    written into every head.
    """

    @register_to_config
    def __init__(
        self,
        denoiser: Denoiser,
        conditioner: Conditioner,
        standardizer: Standardizer,
        scheduler: SchedulerMixin,
        backbone: Backbone,
        *,
        readout: str = "gaussian",
        calibration: Sequence[Sequence[float]] = ((1.0, 1.0),),
        draw_calibration: Sequence[Sequence[float]] = ((1.0, 1.0),),
        steps: int = 5,
        samples: int = 1,
        draw_scheduler: str = "DDPMScheduler",
        draw_steps: int = 20,
        provenance: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            denoiser=denoiser,
            conditioner=conditioner,
            standardizer=standardizer,
            scheduler=scheduler,
            backbone=backbone,
        )

    @torch.no_grad()
    def __call__(
        self,
        support: str | Path,
        *,
        unlabelled: str | Path | None = None,
        num_inference_steps: int | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> GeneratedHead:
        """A head for a folder of images, one sub-folder per class.

        Args:
            support: folder with at least two class folders; any numbers of images.
            unlabelled: folder of further images of these classes, mixed and perhaps with others among them; sub-folders
                are looked into, their names are not.
            num_inference_steps: denoiser calls in a row; the generator's default if None.
            num_samples: draws, kept and mixed by `predict`; each starts from its own noise.
            generator: source of the noise; seed 0 if None.

        Raises:
            InputError: the folder or an image in it cannot be used, or a number is below 1.
        """
        dataset = open_support(support)
        batches = self._feature_batches(dataset)
        others = None if unlabelled is None else self._features_beside(dataset, unlabelled)
        episode = self._dataset_episode(batches, torch.tensor(dataset["label"][:]), others)
        return self._written(episode, class_names(dataset), generator, steps=num_inference_steps, samples=num_samples)

    @torch.no_grad()
    def dataset_heads(
        self,
        features: Features,
        generators: Sequence[torch.Generator],
        *,
        steps: int | None = None,
        denoiser: Denoise | None = None,
    ) -> Head:
        """A head on raw features for all classes of a data set, in the order of its `class_names`; a batch of one."""
        episode = self._dataset_episode(features.values.split(_IMAGES_AT_ONCE), features.labels, None)
        return self._heads(episode, generators, steps=steps, denoiser=denoiser)

    def _written(
        self,
        episode: Episode,
        names: tuple[str, ...],
        generator: torch.Generator | None,
        *,
        steps: int | None,
        samples: int | None,
    ) -> GeneratedHead:
        """The head of a standardised data set, which remembers its labelled images."""
        ((rows, own, space),) = self._denoised(
            episode, [generator or seeded(0, "generate")], steps=steps, samples=samples
        )
        samples = rows.shape[1]
        scheduler, steps = self._chain(steps, samples)
        made_by = {
            **(self.config.provenance or {}),
            "scheduler": type(scheduler).__name__,
            "steps": str(steps),
            "samples": str(samples),
            "support_images": str(int(episode.counts.sum())),
            "unlabelled_images": str(episode.unlabelled.shape[1]),
        }
        head = self.reader(samples=samples, space=space).head(rows, own.counts)
        memory = HeadMemory.of(episode, space=space.tensors(), generator=self.generator_hash())
        return GeneratedHead(head, names, self.backbone, provenance=made_by, memory=memory)

    def _dataset_episode(
        self,
        batches: Iterable[Float[Tensor, "images feature"]],
        labels: Int[Tensor, " images"],
        unlabelled: Float[Tensor, "extra feature"] | None,
    ) -> Episode:
        """A data set in the generator's space, from raw features in the order of its labels."""
        standardised = (self.standardizer.support(values.to(self.device)) for values in batches)
        draw, classes = seeded(0, "sampled images"), int(labels.max()) + 1
        episode = dataset_episode(standardised, labels, classes=classes, generator=draw)
        if unlabelled is None:
            return episode
        others = self.standardizer.support(unlabelled.to(self.device))[None]
        there = torch.ones(others.shape[:2], dtype=torch.bool, device=others.device)
        return replace(episode, unlabelled=others, unlabelled_mask=there)

    def _features_beside(self, support: Dataset, folder: str | Path) -> Float[Tensor, "images feature"]:
        """Of a folder of unlabelled images."""
        if not self.denoiser.uses_unlabelled:
            kind = type(self.denoiser).__name__
            raise InputError(
                f"{folder}: a {kind} learns nothing from unlabelled images; leave them out, or train another"
            )
        dataset = open_unlabelled(folder, besides=support)
        return torch.cat(list(self._feature_batches(dataset)))

    def _feature_batches(self, dataset: Dataset) -> Iterator[Float[Tensor, "images feature"]]:
        fingerprint = data_fingerprint(dataset)
        return feature_batches(self.backbone, dataset, data_fingerprint=fingerprint, device=str(self.device))

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes: Any) -> WeightGenerationPipeline:
        """Read a generator's folder.

        Imports `weightgen` and diffusers schedulers only, reads safetensors only, and raises InputError for any
        missing file and any difference in keys, shapes or kinds.
        """
        components, config = cls._read(folder)
        try:
            made = cls(**{**components, **config, **changes})
            made._evaluating()
            for samples in (1, 2):
                made.reader(samples=samples)  # a calibration that is none is refused here, not in the middle of work
            return made
        except (TypeError, ValueError) as error:
            raise InputError(f"{folder}: does not fit this weightgen ({error}); save the generator again") from error
