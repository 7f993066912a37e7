"""The generator at work: an episode in, a head out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
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
from weightgen.dataflow import Condition, Episode, Features, Head
from weightgen.diffusion.mean_ddpm import MeanDDPMScheduler
from weightgen.diffusion.reverse_chain import reverse_chain
from weightgen.diffusion.schedulers import swap_scheduler
from weightgen.episodes.dataset_episode import dataset_episode
from weightgen.errors import InputError
from weightgen.export.generated_head import GeneratedHead
from weightgen.generator_pipeline import GeneratorPipeline, open_support, open_unlabelled
from weightgen.interfaces import Conditioner, Denoiser, FeatureSpace
from weightgen.parameters.class_rows import RowReader
from weightgen.parameters.standardizer import Standardizer
from weightgen.parameters.temperature import Calibration
from weightgen.seeds import generator as seeded

Denoise = Callable[[Tensor, Tensor, Condition], Tensor]
"""What a denoiser does: noisy rows, times and condition to a prediction."""
_IMAGES_AT_ONCE = 1024


class WeightGenerationPipeline(GeneratorPipeline):
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

    @property
    def can_draw(self) -> bool:
        """Whether several samples differ by more than errors; a chain in segments has no noise to draw with."""
        return bool(self.scheduler.config.get("segments", 1) == 1)

    def reader(self, *, samples: int, space: FeatureSpace | None = None) -> RowReader:
        """How rows become heads, of a single one or several draws; in the generator's own space, or in another."""
        draws = samples > 1
        calibration = Calibration.of(self.config.draw_calibration if draws else self.config.calibration)
        return RowReader(space or self.standardizer, self.config.readout, calibration, draws=draws)

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
        noise = [generator or seeded(0, "generate")]
        head = self._heads(episode, noise, steps=num_inference_steps, samples=num_samples)
        samples = head.weight.shape[1]
        scheduler, steps = self._chain(num_inference_steps, samples)
        made_by = {
            **(self.config.provenance or {}),
            "scheduler": type(scheduler).__name__,
            "steps": str(steps),
            "samples": str(samples),
            "support_images": str(len(dataset)),
            "unlabelled_images": str(episode.unlabelled.shape[1]),
        }
        return GeneratedHead(head, class_names=class_names(dataset), backbone=self.backbone, provenance=made_by)

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

    def heads(
        self,
        episode: Episode,
        generators: Sequence[torch.Generator],
        *,
        steps: int | None = None,
        samples: int | None = None,
        denoiser: Denoise | None = None,
    ) -> Head:
        """Heads on raw features for a batch of episodes of raw features.

        Args:
            episode: any ways, any shots, ragged or padded.
            generators: one per episode, so that a head does not depend on its neighbours in the batch.
            steps: denoiser calls in a row. samples: draws per episode.
            denoiser: used instead of the generator's own (what would another one have done?).
        """
        standardised = self._standardised(episode)
        return self._heads(standardised, generators, steps=steps, samples=samples, denoiser=denoiser)

    def rows(
        self,
        episode: Episode,
        generators: Sequence[torch.Generator],
        *,
        steps: int | None = None,
        samples: int | None = None,
        denoiser: Denoise | None = None,
        watch: Callable[[Tensor], None] | None = None,
    ) -> Float[Tensor, "batch samples ways feature"]:
        """What the chain ends at, each episode's in its own space; the arguments are those of `heads`.

        `watch` is shown the chain's rows on the way (`reverse_chain`), the samples of an episode next to each other.
        """
        chosen: dict[str, Any] = {"steps": steps, "samples": samples, "denoiser": denoiser, "watch": watch}
        return torch.cat([rows for rows, _, _ in self._denoised(self._standardised(episode), generators, **chosen)])

    def prototypes(
        self, episode: Episode, generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "batch ways feature"]:
        """The rows of single heads as points among raw features."""
        told = self._denoised(self._standardised(episode), generators, samples=1)
        return torch.cat([space.restore(rows[:, 0]) for rows, _, space in told])

    def _standardised(self, episode: Episode) -> Episode:
        return self.standardizer.standardize(episode.support_only().to(self.device))

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

    def _heads(self, episode: Episode, generators: Sequence[torch.Generator], **chosen: Any) -> Head:
        """Heads on raw features for a standardised batch of episodes."""
        heads = [
            self.reader(samples=rows.shape[1], space=space).head(rows, own.counts)
            for rows, own, space in self._denoised(episode, generators, **chosen)
        ]
        return Head(torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads]))

    def _denoised(
        self,
        episode: Episode,
        generators: Sequence[torch.Generator],
        *,
        steps: int | None = None,
        samples: int | None = None,
        denoiser: Denoise | None = None,
        watch: Callable[[Tensor], None] | None = None,
    ) -> Iterator[tuple[Float[Tensor, "batch samples ways feature"], Episode, FeatureSpace]]:
        """What the chain ends at for standardised episodes: all at once, or where each gets a space, one by one."""
        samples = self.config.samples if samples is None else samples
        scheduler, steps = self._chain(steps, samples)
        for name, number in (("steps", steps), ("samples", samples)):
            if number < 1:
                raise InputError(f"{name} is {number}; it must be 1 or more")
        if len(generators) != len(episode):
            raise InputError(f"{len(generators)} random generators for {len(episode)} episodes; give one for each")
        denoise, together = denoiser or self.denoiser, 1 if self.conditioner.adapts else len(episode)
        for start in range(0, len(episode), together):
            which = slice(start, start + together)
            own, space = self.conditioner.adapted(episode[which], self.standardizer)
            condition = self.conditioner(own, space).repeat(samples)
            repeated = [generator for generator in generators[which] for _ in range(samples)]
            predict = partial(self._predicted, denoise, condition)
            rows = reverse_chain(predict, scheduler, steps, like=condition.tokens, generators=repeated, watch=watch)
            yield rows.unflatten(0, (-1, samples)), own, space

    def _predicted(self, denoise: Denoise, condition: Condition, noisy: Tensor, time: Tensor) -> Tensor:
        return denoise(noisy, time, self.conditioner.at(condition, noisy))

    def _chain(self, steps: int | None, samples: int) -> tuple[SchedulerMixin, int]:
        """The scheduler that a call runs, and for how many steps.

        Raises InputError for several samples of a chain in segments.
        """
        if samples > 1 and not self.can_draw:
            segments = self.scheduler.config.segments
            raise InputError(f"samples is {samples}; a chain in {segments} segments has no noise to draw with, take 1")
        drawing = samples > 1 and isinstance(self.scheduler, MeanDDPMScheduler)
        scheduler = swap_scheduler(self.config.draw_scheduler, self.scheduler) if drawing else self.scheduler
        usual = self.config.draw_steps if drawing else self.config.steps
        return scheduler, usual if steps is None else steps

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
