"""The generator at work: an episode in, a head out."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.feature_cache import features_of
from weightgen.data.sources import data_fingerprint, open_data
from weightgen.dataflow import Condition, Episode, Head
from weightgen.episodes.support_folder import episode_of
from weightgen.errors import InputError
from weightgen.export.generated_head import GeneratedHead
from weightgen.generator_folder import load_components, push_folder, save_components
from weightgen.interfaces import Conditioner, Denoiser
from weightgen.parameters.class_rows import RowReader
from weightgen.parameters.standardizer import Standardizer
from weightgen.seeds import generator as seeded

Denoise = Callable[[Tensor, Tensor, Condition], Tensor]
"""What a denoiser does: noisy rows, times and condition to a prediction."""


class WeightGenerationPipeline(DiffusionPipeline):
    """Denoises noise into the head of a frozen backbone; a diffusers pipeline.

    Components: `denoiser`, `conditioner`, `standardizer`, `backbone` and `scheduler`, any diffusers scheduler of the
    same noise levels: `pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)`.

    Config: `readout` and `scale` say how rows become logits (see `RowReader`); `steps` and `samples` are the defaults
    of a call; `provenance` is written into every head.
    """

    denoiser: Denoiser
    conditioner: Conditioner
    standardizer: Standardizer
    scheduler: SchedulerMixin
    backbone: Backbone

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
        scale: float = 1.0,
        steps: int = 5,
        samples: int = 1,
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
    def device(self) -> torch.device:
        """Where the chain runs."""
        return self.standardizer.mean.device

    @property
    def reader(self) -> RowReader:
        """How this generator's rows become a head."""
        return RowReader(self.standardizer, self.config.readout, self.config.scale)

    @torch.no_grad()
    def __call__(
        self,
        support: str | Path,
        *,
        num_inference_steps: int | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> GeneratedHead:
        """A head for a folder of images, one sub-folder per class.

        Args:
            support: folder with at least two class folders; any numbers of images.
            num_inference_steps: denoiser calls in a row; the generator's default if None.
            num_samples: draws, kept and mixed by `predict`; each starts from its own noise.
            generator: source of the noise; seed 0 if None.

        Raises:
            InputError: the folder or an image in it cannot be used, or a number is below 1.
        """
        folder = Path(support).expanduser().absolute()
        if not folder.is_dir():
            raise InputError(f"{support}: is no folder; give one with a sub-folder of images per class")
        dataset = open_data(str(folder))
        fingerprint = data_fingerprint(dataset)
        features = features_of(self.backbone, dataset, data_fingerprint=fingerprint, device=str(self.device))
        episode = episode_of(features)
        head = self.heads(episode, [generator or seeded(0, "generate")], steps=num_inference_steps, samples=num_samples)
        made_by = {
            **(self.config.provenance or {}),
            "scheduler": type(self.scheduler).__name__,
            "steps": str(num_inference_steps or self.config.steps),
            "samples": str(num_samples or self.config.samples),
            "support_images": str(len(dataset)),
        }
        return GeneratedHead(head, class_names=features.class_names, backbone=self.backbone, provenance=made_by)

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
        episode = episode.support_only().to(self.device)
        rows = self.rows(episode, generators, steps=steps, samples=samples, denoiser=denoiser)
        return self.reader.head(rows, episode.counts)

    def rows(
        self,
        episode: Episode,
        generators: Sequence[torch.Generator],
        *,
        steps: int | None = None,
        samples: int | None = None,
        denoiser: Denoise | None = None,
    ) -> Float[Tensor, "batch samples ways feature"]:
        """What the chain ends at, in the standardised space; the arguments are those of `heads`."""
        steps = self.config.steps if steps is None else steps
        samples = self.config.samples if samples is None else samples
        for name, number in (("steps", steps), ("samples", samples)):
            if number < 1:
                raise InputError(f"{name} is {number}; it must be 1 or more")
        if len(generators) != len(episode):
            raise InputError(f"{len(generators)} random generators for {len(episode)} episodes; give one for each")
        episode = self.standardizer.standardize(episode.support_only().to(self.device))
        condition = self.conditioner(episode, self.standardizer).repeat(samples)
        repeated = [generator for generator in generators for _ in range(samples)]
        rows = self._denoise(condition, repeated, steps, denoiser or self.denoiser)
        return rows.unflatten(0, (len(episode), samples))

    def _denoise(
        self, condition: Condition, generators: Sequence[torch.Generator], steps: int, denoiser: Denoise
    ) -> Float[Tensor, "batch ways feature"]:
        """Run the reverse chain from noise to clean rows."""
        scheduler = copy.deepcopy(self.scheduler)  # schedulers keep the history of a chain; ours stays as it was
        if steps > scheduler.config.num_train_timesteps:
            raise InputError(f"steps is {steps}; the chain has {scheduler.config.num_train_timesteps}, take fewer")
        scheduler.set_timesteps(steps, device=condition.tokens.device)
        shape = condition.tokens.shape[1:]
        noise = [torch.randn(shape, generator=generator, device=generator.device) for generator in generators]
        x = torch.stack(noise).to(condition.tokens) * scheduler.init_noise_sigma
        extra = {"generator": list(generators)} if _takes_generator(scheduler) else {}
        for t in scheduler.timesteps:
            noisy = scheduler.scale_model_input(x, t)
            time = t.round().long().expand(len(x))
            prediction = denoiser(noisy, time, self.conditioner.at(condition, noisy))
            x = scheduler.step(prediction, t, x, **extra).prev_sample
        return x

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write the generator's folder, whole or not at all; safetensors and JSON only."""
        save_components(self, Path(save_directory))

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes: Any) -> WeightGenerationPipeline:
        """Read a generator's folder.

        Imports `weightgen` and diffusers schedulers only, reads safetensors only, and raises InputError for any
        missing file and any difference in keys, shapes or kinds.
        """
        components, config = load_components(Path(folder))
        try:
            return cls(**{**components, **config, **changes})._evaluating()
        except TypeError as error:
            raise InputError(f"{folder}: does not fit this weightgen ({error}); save the generator again") from error

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the generator's folder to a hub repository; returns its address."""
        return push_folder(self.save_pretrained, repo_id, **options)

    def _evaluating(self) -> WeightGenerationPipeline:
        for component in (self.denoiser, self.conditioner, self.standardizer, self.backbone):
            component.eval()
        return self


def _takes_generator(scheduler: SchedulerMixin) -> bool:
    return "generator" in inspect.signature(scheduler.step).parameters
