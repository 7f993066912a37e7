"""A whole data set, as a folder of images or as features, read in one pass and written a head for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from datasets import Dataset
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.backbones.feature_cache import feature_batches
from weightgen.data.sources import data_fingerprint
from weightgen.episodes.dataset_episode import dataset_episode
from weightgen.errors import InputError
from weightgen.generator_pipeline import open_unlabelled
from weightgen.heads.generated_head import GeneratedHead
from weightgen.heads.head_memory import HeadMemory
from weightgen.records import Episode, Features, Head
from weightgen.row_pipeline import Denoise, RowPipeline
from weightgen.seeds import generator as seeded

_IMAGES_AT_ONCE = 1024


class DatasetPipeline(RowPipeline):
    """Brings data sets into the generator's space; components and config are those of `WeightGenerationPipeline`."""

    @torch.no_grad()
    def dataset_heads(
        self,
        features: Features,
        generators: Sequence[torch.Generator],
        *,
        steps: int | None = None,
        samples: int | None = None,
        denoiser: Denoise | None = None,
    ) -> Head:
        """A head on raw features for all classes of a data set, in the order of its `class_names`; a batch of one."""
        episode = self._dataset_episode(features.values.split(_IMAGES_AT_ONCE), features.labels, None)
        return self._heads(episode, generators, steps=steps, samples=samples, denoiser=denoiser)

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
        scheduler, steps = self.chain(steps, samples)
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

    def _episode_of(self, dataset: Dataset, unlabelled: Float[Tensor, "extra feature"] | None = None) -> Episode:
        """Labelled images, and raw features of unlabelled ones, in the generator's space."""
        labels = torch.tensor(dataset["label"][:])
        return self._dataset_episode(self._feature_batches(dataset), labels, unlabelled)

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
