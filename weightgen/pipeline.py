"""The generator at work: a folder of images in, a head out.

`WeightGenerationPipeline.__call__` reads in the order of the work: open the images, their features, the episode, its
condition, the chain, the rows that it ends at, the head that these are decoded to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from weightgen.data.sources import class_names, data_fingerprint, open_support, open_unlabelled
from weightgen.episodes.dataset_episode import dataset_episode
from weightgen.errors import InputError
from weightgen.features.class_rows import RowReader
from weightgen.features.standardizer import Standardizer
from weightgen.features.temperature import Calibration
from weightgen.files import tensors_hash, text_hash
from weightgen.heads.head import Head
from weightgen.heads.support_summary import SupportSummary
from weightgen.interfaces import Conditioner, Denoiser, FeatureSpace
from weightgen.pipeline_io import GeneratorPipeline
from weightgen.records import Condition, Episode, Features, LinearHeads
from weightgen.schedulers.mean_ddpm import MeanDDPMScheduler
from weightgen.schedulers.reverse_chain import reverse_chain
from weightgen.schedulers.schedulers import check_scheduler, swap_scheduler
from weightgen.seeds import generator as seeded

_IMAGES_AT_ONCE = 1024
_NOTHING: Mapping[str, str] = {}
Denoise = Callable[[Tensor, Tensor, Condition], Tensor]
"""What a denoiser does: noisy rows, times and condition to a prediction."""


class WeightGenerationPipeline(GeneratorPipeline):
    """Denoises noise into the head of a frozen backbone; a diffusers pipeline.

    Components: `denoiser`, `conditioner`, `standardizer`, `backbone` and `scheduler`, any diffusers scheduler of the
    same noise levels: `pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)`.

    A single head follows the noise-free chain. Several draws need noise: where `scheduler` is `MeanDDPMScheduler`,
    asking for more than one sample runs `draw_scheduler` in its place.

    Config: `readout` and `calibration` say how rows become logits (see `RowReader`), `draw_calibration` for several
    draws; `steps` and `samples` are the defaults of a call, `draw_steps` those of several draws; `provenance` is
    written into every head; `chain` is what the denoiser learnt of its chain, that of `scheduler` if None: a scheduler
    of another chain is refused; `images` are those it was trained on: `source`, `colour` and `side` in pixels.
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
        chain: Mapping[str, Any] | None = None,
        images: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            denoiser=denoiser,
            conditioner=conditioner,
            standardizer=standardizer,
            scheduler=scheduler,
            backbone=backbone,
        )
        self._keep_chain()

    @torch.no_grad()
    def __call__(
        self,
        support: str | Path,
        *,
        unlabelled: str | Path | None = None,
        num_inference_steps: int | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Head:
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
        others = None if unlabelled is None else self._features_beside(dataset, unlabelled)
        episode = self._episode_of(dataset, others)
        return self._written(episode, class_names(dataset), generator, steps=num_inference_steps, samples=num_samples)

    @torch.no_grad()
    def extend(
        self,
        head: Head,
        support: str | Path,
        *,
        num_inference_steps: int | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
        rewrite: bool = False,
    ) -> Head:
        """A head with further classes, without the images it was written from: its support summary stands for them.

        Old and new classes are denoised together. Rows, biases and draws of the old ones are kept, bit for bit. The new
        ones are written in what those were written in, for else their logits could not be compared: the same space, and
        a factor on logits and a predictive variance for as many images as an average class had then, however many the
        new classes have.

        Args:
            head: written by this generator, just now or read by `load_head`.
            support: folder with one or more class folders, of classes that the head does not have.
            num_inference_steps, generator: as in a call.
            num_samples: draws; as many as the head has if None.
            rewrite: write all rows anew, from old and new images alike: as a call would if all images were there, up to
                which of them are looked at one by one.

        Raises:
            InputError: the folder or an image in it cannot be used, the head has such a class already, has another
                number of draws, keeps no statistics of its support, or is of another generator or backbone.

        Example::

            head = generator("birds/")
            head = generator.extend(head, "more_birds/")
        """
        kept = head.check_extensible(backbone=self.backbone.weights_hash(), generator=self.generator_hash())
        dataset = open_support(support, fewest=1)
        added = class_names(dataset)
        head.check_new_classes(added)
        samples = head.samples if num_samples is None else num_samples
        if samples != head.samples and not rewrite:
            raise InputError(
                f"samples is {samples}, and the head has {head.samples}; take {head.samples}, or rewrite all classes"
            )
        joined = kept.joined(self._episode_of(dataset))
        episode = joined.episode().to(self.device)
        chosen: dict[str, Any] = {"steps": num_inference_steps, "samples": samples}
        if rewrite:
            note = head.extension_note(added, how="all rows anew")
            return self._written(episode, (*head.class_names, *added), generator, provenance=note, **chosen)
        recalled = self.conditioner.recalled(
            episode, self.standardizer, space=joined.space, founding=joined.space_classes
        )
        noise = [generator or seeded(0, "generate")]
        ((rows, _, space),) = self._denoised(episode, noise, spaces=[(slice(None), *recalled)], **chosen)
        shots = joined.shots.to(rows).expand(1, len(added))
        new = self.reader(samples=samples, space=space).head(rows[:, :, len(head.class_names) :], shots)
        scheduler, steps = self.chain(**chosen)
        return head.with_classes(added, new, support=joined, how=f"{steps} steps of {type(scheduler).__name__}")

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes: Any) -> WeightGenerationPipeline:
        """Read a generator's folder.

        Imports `weightgen` and diffusers schedulers only, reads safetensors only, and raises InputError for any
        missing file and any difference in keys, shapes or kinds.
        """
        changes = cls._checked(changes)
        components, config = cls._read(folder)
        try:
            made = cls(**{**components, **config, **changes})
            made._evaluating()
            check_scheduler(made.scheduler, made.config.chain)
            for samples in (1, 2):
                made.reader(samples=samples)  # a calibration that is none is refused here, not in the middle of work
            return made
        except (TypeError, ValueError) as error:
            raise InputError(f"{folder}: does not fit this weightgen ({error}); save the generator again") from error

    def heads(
        self,
        episode: Episode,
        generators: Sequence[torch.Generator],
        *,
        steps: int | None = None,
        samples: int | None = None,
        denoiser: Denoise | None = None,
    ) -> LinearHeads:
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

    @torch.no_grad()
    def dataset_heads(
        self,
        features: Features,
        generators: Sequence[torch.Generator],
        *,
        steps: int | None = None,
        samples: int | None = None,
        denoiser: Denoise | None = None,
    ) -> LinearHeads:
        """A head on raw features for all classes of a data set, in the order of its `class_names`; a batch of one."""
        episode = self._dataset_episode(features.values.split(_IMAGES_AT_ONCE), features.labels, None)
        return self._heads(episode, generators, steps=steps, samples=samples, denoiser=denoiser)

    @property
    def can_draw(self) -> bool:
        """Whether several samples differ by more than errors; a chain in segments has no noise to draw with."""
        return bool(self.scheduler.config.get("segments", 1) == 1)

    def reader(self, *, samples: int, space: FeatureSpace | None = None) -> RowReader:
        """How rows become heads, of a single one or several draws; in the generator's own space, or in another."""
        draws = samples > 1
        calibration = Calibration.of(self.config.draw_calibration if draws else self.config.calibration)
        return RowReader(space or self.standardizer, self.config.readout, calibration, draws=draws)

    def chain(self, steps: int | None, samples: int) -> tuple[SchedulerMixin, int]:
        """The scheduler that a call runs, and for how many steps; the generator's own number if None.

        Raises InputError for several samples of a chain in segments.
        """
        check_scheduler(self.scheduler, self.config.chain)  # it may have been changed since it was put there
        if samples > 1 and not self.can_draw:
            segments = self.scheduler.config.segments
            raise InputError(f"samples is {samples}; a chain in {segments} segments has no noise to draw with, take 1")
        drawing = samples > 1 and isinstance(self.scheduler, MeanDDPMScheduler)
        scheduler = swap_scheduler(self.config.draw_scheduler, self.scheduler) if drawing else self.scheduler
        usual = self.config.draw_steps if drawing else self.config.steps
        return scheduler, usual if steps is None else steps

    def generator_hash(self) -> str:
        """16 hex digits of all that decides what statistics mean and which rows are written from them.

        Scheduler, steps and samples do not count: they are the choice of a call.
        """
        told = [self.backbone.weights_hash(), self.backbone.preprocessing_key()]
        for part in (self.standardizer, self.conditioner, self.denoiser):
            options = {key: value for key, value in part.config.items() if not key.startswith("_")}
            told += [type(part).__name__, json.dumps(options, sort_keys=True), tensors_hash(part.state_dict())]
        readout = [self.config[key] for key in ("readout", "calibration", "draw_calibration")]
        return text_hash(*told, json.dumps(readout))

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

    def _standardised(self, episode: Episode) -> Episode:
        return self.standardizer.standardize(episode.support_only().to(self.device))

    def _denoised(
        self,
        episode: Episode,
        generators: Sequence[torch.Generator],
        *,
        steps: int | None = None,
        samples: int | None = None,
        denoiser: Denoise | None = None,
        watch: Callable[[Tensor], None] | None = None,
        spaces: Iterable[tuple[slice, Episode, FeatureSpace]] | None = None,
    ) -> Iterator[tuple[Float[Tensor, "batch samples ways feature"], Episode, FeatureSpace]]:
        """What the chain ends at for standardised episodes: all at once, or where each gets a space, one by one.

        `spaces` are others than the conditioner would give them.
        """
        samples = self.config.samples if samples is None else samples
        scheduler, steps = self.chain(steps, samples)
        for name, number in (("steps", steps), ("samples", samples)):
            if number < 1:
                raise InputError(f"{name} is {number}; it must be 1 or more")
        if len(generators) != len(episode):
            raise InputError(f"{len(generators)} random generators for {len(episode)} episodes; give one for each")
        denoise = denoiser or self.denoiser
        for which, own, space in spaces or self.conditioner.in_spaces(episode, self.standardizer):
            condition = self.conditioner(own, space).repeat(samples)
            repeated = [generator for generator in generators[which] for _ in range(samples)]
            predict = partial(self._predicted, denoise, condition)
            rows = reverse_chain(predict, scheduler, steps, like=condition.tokens, generators=repeated, watch=watch)
            yield rows.unflatten(0, (-1, samples)), own, space

    def _predicted(self, denoise: Denoise, condition: Condition, noisy: Tensor, time: Tensor) -> Tensor:
        return denoise(noisy, time, self.conditioner.at(condition, noisy))

    def _heads(self, episode: Episode, generators: Sequence[torch.Generator], **chosen: Any) -> LinearHeads:
        """Heads on raw features for a standardised batch of episodes."""
        heads = [
            self.reader(samples=rows.shape[1], space=space).head(rows, own.counts)
            for rows, own, space in self._denoised(episode, generators, **chosen)
        ]
        return LinearHeads(torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads]))

    def _written(
        self,
        episode: Episode,
        names: tuple[str, ...],
        generator: torch.Generator | None,
        *,
        steps: int | None,
        samples: int | None,
        provenance: Mapping[str, str] = _NOTHING,
    ) -> Head:
        """The head of a standardised data set, which keeps the statistics of its labelled images."""
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
            **provenance,
        }
        return Head(
            draws=self.reader(samples=samples, space=space).head(rows, own.counts),
            class_names=names,
            backbone=self.backbone,
            provenance=made_by,
            support=SupportSummary.of(episode, space=space.tensors(), generator=self.generator_hash()),
        )
