"""The generator at work: a folder of images in, a head out.

`WeightGenerationPipeline.__call__` reads in the order of the work: open the images, their features, the episode, its
condition, the chain, the tokens that it ends at, the head that these are decoded to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Unpack

import torch
from datasets import Dataset
from diffusers import SchedulerMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.feature_cache import crops_of, feature_batches, pixels_of
from weightgen.data.images import open_support, open_unlabelled
from weightgen.data.labelled import class_names
from weightgen.episodes.dataset_episode import MOST_SAMPLED, class_places, dataset_episode, episode_of
from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.files import tensors_hash, text_hash
from weightgen.heads.head import Head
from weightgen.heads.support_summary import SupportSummary
from weightgen.interfaces import AdaptsBackbone, Conditioner, Denoise, Denoiser, FeatureSpace, GeneratedHeads
from weightgen.parameter_spaces import ChainEnd, ParameterSpace
from weightgen.pipeline_io import Chosen, GeneratorPipeline
from weightgen.records import Calibration, Condition, Episode, Features, LinearHeads
from weightgen.schedulers.reverse_chain import MeanDDPMScheduler, reverse_chain, started, times_of
from weightgen.schedulers.schedulers import check_scheduler, no_noise, swap_scheduler
from weightgen.seeds import generator as seeded

_AT_ONCE = 2**21  # numbers of a support in one pass of the chain; eight megabytes


class WeightGenerationPipeline(GeneratorPipeline):
    """Denoises noise into parameters of a frozen backbone, its head or others; a diffusers pipeline.

    Components: `denoiser`, `conditioner`, `standardizer`, `space`, `backbone` and `scheduler`, any diffusers scheduler
    of the same noise levels: `pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)`.

    A single head follows the noise-free chain. Several draws need noise: where `scheduler` is `MeanDDPMScheduler`,
    asking for more than one sample runs `draw_scheduler` in its place.

    Config: `calibration` holds the factor on logits for every number of shots, `draw_calibration` that of several
    draws; `steps` and `samples` are the defaults of a call, `draw_steps` those of several draws; `provenance` is
    written into every head; `chain` is what the denoiser learnt of its chain, that of `scheduler` if None: a scheduler
    of another chain is refused; `images` are those it was trained on: `source`, `colour` and `side` in pixels;
    `kind_limits` say from which `distance_from_base` on, by shots, a support is of another kind than these.
    """

    alternative: Callable[[Backbone], WeightGenerationPipeline] | None = None
    """Makes the generator for images of another kind than the training classes; commands set it. None: this one."""

    @register_to_config
    def __init__(
        self,
        denoiser: Denoiser,
        conditioner: Conditioner,
        standardizer: Standardizer,
        space: ParameterSpace,
        scheduler: SchedulerMixin,
        backbone: Backbone,
        *,
        calibration: Sequence[Sequence[float]] = ((1.0, 1.0),),
        draw_calibration: Sequence[Sequence[float]] = ((1.0, 1.0),),
        steps: int = 5,
        samples: int = 1,
        draw_scheduler: str = "DDPMScheduler",
        draw_steps: int = 20,
        provenance: dict[str, str] | None = None,
        chain: Mapping[str, Any] | None = None,
        images: Mapping[str, Any] | None = None,
        kind_limits: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        own = {"denoiser": denoiser, "conditioner": conditioner, "standardizer": standardizer, "space": space}
        self.register_modules(**own, scheduler=scheduler, backbone=backbone)
        self._keep_chain()
        space.attach(backbone)

    @torch.no_grad()
    def __call__(
        self,
        support: str | Path | Dataset,
        *,
        unlabelled: str | Path | Dataset | None = None,
        num_inference_steps: int | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Head:
        """A head for a folder of images, one sub-folder per class.

        Args:
            support: folder with at least two class folders, any numbers of images; `features:FILE.safetensors`; or a
                data set with labels, of images or of features (`data.feature_data.feature_data` makes one of arrays).
            unlabelled: folder, `features:FILE` or data set of further images of these classes, mixed and perhaps with
                others among them; sub-folders are looked into, their names are not, nor are labels.
            num_inference_steps: denoiser calls in a row; the generator's default if None.
            num_samples: draws, kept and mixed by `predict`; each starts from its own noise.
            generator: source of the noise; seed 0 if None.

        Raises:
            InputError: the folder or an image in it cannot be used, or a number is below 1.
        """
        dataset = open_support(support)
        if unlabelled is not None:
            self.denoiser.check_unlabelled()
        beside = None if unlabelled is None else open_unlabelled(unlabelled, besides=dataset)
        episode = self._episode_of(dataset, beside)
        if bool(self.of_another_kind(episode)):
            return self._universal(dataset, unlabelled=unlabelled, num_samples=num_samples, generator=generator)
        chosen: dict[str, Any] = {"steps": num_inference_steps, "samples": num_samples, "dataset": dataset}
        return self._written(episode, class_names(dataset), generator, **chosen)

    @torch.no_grad()
    def extend(
        self,
        head: Head,
        support: str | Path | Dataset,
        *,
        num_inference_steps: int | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
        rewrite: bool = False,
    ) -> Head:
        """A head with further classes, without the images it was written from: its support summary stands for them.

        Old and new classes are denoised together. Rows, biases and draws of the old ones are kept, bit for bit. The new
        ones are written in what those were written in, so that their logits can be compared: the same space, and a
        factor on logits and a predictive variance for as many images as an average class had then.

        Args:
            head: written by this generator, just now or read by `load_head`.
            support: folder with one or more class folders, of classes that the head does not have.
            num_inference_steps, generator: as in a call.
            num_samples: draws; as many as the head has if None.
            rewrite: write all rows anew, as a call on all images would, up to which of them are looked at one by one.

        Raises:
            InputError: the folder or an image in it cannot be used, the head has such a class already, has another
                number of draws, keeps no statistics of its support, or is of another generator or backbone.

        Example::

            head = generator("birds/")
            head = generator.extend(head, "more_birds/")
        """
        if self.space.takes_images or self.class_names is not None:
            why = "knows classes and sees no images" if self.class_names else "writes parameters inside the backbone"
            raise InputError(f"this generator {why}; generate a head anew from all images of all classes")
        by = "" if head.support is None else head.support.generator
        if self.alternative is not None and by == self._universal.generator_hash():
            return self._universal.extend(head, support, num_samples=num_samples, generator=generator, rewrite=rewrite)
        kept = head.check_extensible(backbone=self.backbone.weights_hash(), generator=self.generator_hash())
        dataset = open_support(support, fewest=1)
        head.check_new_classes(added := class_names(dataset))
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
        recalled = self.conditioner.recalled(episode, self.standardizer, joined.space, joined.space_classes)
        noise = [generator or seeded(0, "generate")]
        ((tokens, _, features),) = self._denoised(episode, noise, spaces=[(slice(None), *recalled)], **chosen)
        shots = joined.shots.to(tokens).expand(1, len(added))
        new = self._decoded(tokens[:, :, len(head.class_names) :], shots, features, lambda: episode).linear
        scheduler, steps = self.chain(**chosen)
        return head.with_classes(added, new, support=joined, how=f"{steps} steps of {type(scheduler).__name__}")

    @torch.no_grad()
    def heads(
        self, episode: Episode, generators: Sequence[torch.Generator], **chosen: Unpack[Chosen]
    ) -> GeneratedHeads:
        """Heads for a batch of episodes of what they act on: raw features, or pixels (`ParameterSpace.takes_images`).

        Episodes may be ragged or padded. Each has a generator of its own, so that no head depends on its neighbours:
        large batches are written in parts that a cache holds, unless their chains are watched.
        """
        size = max(1, _AT_ONCE // max(1, episode.support[0].numel()))
        parts = [slice(start, start + size) for start in range(0, len(episode), size)]
        if len(parts) > 1 and not self.space.takes_images and "watch" not in chosen and len(generators) == len(episode):
            return LinearHeads.concatenated([self.heads(episode[i], generators[i], **chosen).linear for i in parts])
        inside = self._standardised(episode)
        heads = self._heads(inside, generators, inputs=episode.support_only(), **chosen)
        others = self.of_another_kind(inside).nonzero()[:, 0].cpu()
        if chosen.get("denoiser") is not None or not len(others):
            return heads
        noise = [generators[i] for i in others.tolist()]
        universal = self._universal.heads(episode[others], noise, samples=chosen.get("samples"))
        return heads.linear.replaced(others, universal.linear.to(self.device))

    def of_another_kind(self, episode: Episode) -> Bool[Tensor, " batch"]:
        """Which standardised episodes look like none of the training classes, and are left to `alternative`."""
        if self.alternative is None or not self.config.kind_limits:
            return torch.zeros(len(episode), dtype=torch.bool, device=self.device)
        shots = episode.counts.sum(-1) / (episode.counts > 0).sum(-1).clamp(min=1)
        limits = Calibration.of(self.config.kind_limits).at(shots)
        return self.standardizer.distance_from_base(episode) > limits

    @cached_property
    def _universal(self) -> WeightGenerationPipeline:
        assert self.alternative is not None
        return self.alternative(self.backbone)

    def decode(self, tokens: Float[Tensor, "batch draws tokens width"], episode: Episode) -> GeneratedHeads:
        """Heads of given tokens for episodes of what they act on; class rows live in the standardised space."""
        return self._decoded(tokens, episode.counts, self.standardizer, lambda: episode)

    @torch.no_grad()
    def tokens(
        self, episode: Episode, generators: Sequence[torch.Generator], **chosen: Unpack[Chosen]
    ) -> Float[Tensor, "batch draws tokens width"]:
        """What the chain ends at, each episode's in its own space; the arguments are those of `heads`."""
        return torch.cat([tokens for tokens, _, _ in self._denoised(self._standardised(episode), generators, **chosen)])

    @torch.no_grad()
    def prototypes(
        self, episode: Episode, generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "batch ways feature"]:
        """The class rows of single heads as points among raw features."""
        each = self._denoised(self._standardised(episode), generators, samples=1)
        return torch.cat([features.restore(self.space.decode(rows[:, 0])) for rows, _, features in each])

    @torch.no_grad()
    def dataset_heads(
        self,
        features: Features,
        generators: Sequence[torch.Generator],
        *,
        unlabelled: Float[Tensor, "others feature"] | None = None,
        **chosen: Unpack[Chosen],
    ) -> GeneratedHeads:
        """A head on raw features for all classes of a data set, in their order, unless the space takes images."""
        if unlabelled is not None:
            self.denoiser.check_unlabelled()
        more = {"crops": features.crops, "unlabelled": unlabelled}
        batches = features.values.split(MOST_SAMPLED)
        episode = self._dataset_episode(batches, features.labels, features.class_names, **more)
        return self._heads(episode, generators, inputs=episode, **chosen)

    @property
    def device(self) -> torch.device:
        """Where the chain runs."""
        return self.standardizer.mean.device

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The only classes that it writes classifiers for, in its order; None: any classes."""
        return self.space.class_names if self.space.class_names is not None else self.conditioner.class_names

    def scale(self, samples: int) -> Calibration:
        """Factor on logits by the number of shots, of a single head or of several draws."""
        return Calibration.of(self.config.draw_calibration if samples > 1 else self.config.calibration)

    def generator_hash(self) -> str:
        """16 hex digits of all that decides what statistics mean and which rows are written from them.

        Scheduler, steps and samples do not count: they are the choice of a call.
        """
        hashed = [self.backbone.weights_hash(), self.backbone.preprocessing_key()]
        for part in (self.standardizer, self.conditioner, self.denoiser, self.space):
            options = {key: value for key, value in part.config.items() if not key.startswith("_")}
            options.pop("turned", None)  # heads know hashes from before; it shows in the tensors
            hashed += [type(part).__name__, json.dumps(options, sort_keys=True), tensors_hash(part.state_dict())]
        return text_hash(*hashed, json.dumps([self.config.calibration, self.config.draw_calibration]))

    def chain(self, steps: int | None, samples: int) -> tuple[SchedulerMixin, int]:
        """The scheduler that a call runs, and for how many steps; the generator's own number if None.

        Raises InputError for several samples where there can be one only.
        """
        check_scheduler(self.scheduler, self.config.chain)  # it may have been changed since it was put there
        if samples > 1 and not self.can_draw:
            raise InputError(f"samples is {samples}; {no_noise(self.scheduler) or 'one is written'}, take 1")
        drawing = samples > 1 and isinstance(self.scheduler, MeanDDPMScheduler)
        scheduler = swap_scheduler(self.config.draw_scheduler, self.scheduler) if drawing else self.scheduler
        own = self.config.draw_steps if drawing else self.config.steps
        return scheduler, own if steps is None else steps

    def _episode_of(self, dataset: Dataset, beside: Dataset | None = None) -> Episode:
        """Labelled images, and unlabelled ones beside them, in the generator's space."""
        read = partial(feature_batches, self.backbone, device=str(self.device))
        unlabelled = None if beside is None else torch.cat(list(read(beside)))
        crops = crops_of(self.backbone, dataset, wanted=self.conditioner.looks_at_crops, device=self.device)
        more, labels = {"unlabelled": unlabelled, "crops": crops}, torch.tensor(dataset["label"][:])
        return self._dataset_episode(read(dataset), labels, class_names(dataset), **more)

    def _dataset_episode(
        self,
        batches: Iterable[Float[Tensor, "images feature"]],
        labels: Int[Tensor, " images"],
        names: Sequence[str],
        **more: Float[Tensor, "... feature"] | None,
    ) -> Episode:
        """A data set in the generator's space, from raw features in the order of its labels, and others beside them."""
        places = class_places(names, self.class_names)  # before any feature is computed
        read = self.standardizer.support
        standardised = (read(values.to(self.device)) for values in batches)
        inside: dict[str, Any] = {name: read(one.to(self.device)) for name, one in more.items() if one is not None}
        draw, classes = seeded(0, "sampled images"), int(labels.max()) + 1
        episode = dataset_episode(standardised, labels, classes=classes, generator=draw, **inside)
        return replace(episode, classes=places.to(episode.classes))

    def _standardised(self, inputs: Episode) -> Episode:
        return self.standardizer.standardize(self.space.features(inputs.support_only()).to(self.device))

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
    ) -> Iterator[tuple[Float[Tensor, "batch draws tokens width"], Episode, FeatureSpace]]:
        """What the chain ends at for standardised episodes: all at once, or where each gets a space, one by one.

        `spaces` are others than the conditioner would give them.
        """
        samples = self.config.samples if samples is None else samples
        scheduler, steps = self.chain(steps, samples)
        if wrong := [f"{name} is {n}" for name, n in (("steps", steps), ("samples", samples)) if n < 1]:
            raise InputError(f"{wrong[0]}; it must be 1 or more")
        if len(generators) != len(episode):
            raise InputError(f"{len(generators)} random generators for {len(episode)} episodes; give one for each")
        for which, own, features in spaces or self.conditioner.in_spaces(episode, self.standardizer):
            repeated = [generator for generator in generators[which] for _ in range(samples)]
            with torch.inference_mode():  # on the few rows of a head, what autograd keeps takes a quarter of the time
                condition = self.conditioner(own, features).repeat(samples)
                chain, like = started(scheduler, steps, device=self.device), self.space.like(condition)
                predict = self._prediction(denoiser or self.denoiser, condition, times_of(chain))
                tokens = reverse_chain(predict, chain, like=like, generators=repeated, watch=watch)
            yield tokens.clone().unflatten(0, (-1, samples)), own, features

    def _prediction(
        self, denoiser: Denoise, condition: Condition, times: Int[Tensor, " calls"]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """What a chain calls, for one condition."""
        denoise = denoiser.prepared(condition, times) if isinstance(denoiser, Denoiser) else denoiser
        looks = self.denoiser.needs_gradient
        return lambda noisy, time: denoise(noisy, time, self.conditioner.at(condition, noisy) if looks else condition)

    def _decoded(
        self, tokens: Tensor, counts: Tensor, features: FeatureSpace, inputs: Callable[[], Episode]
    ) -> GeneratedHeads:
        return self.space.heads(ChainEnd(tokens, counts, features, self.scale(tokens.shape[1]), inputs))

    def _heads(
        self, episode: Episode, generators: Sequence[torch.Generator], *, inputs: Episode, **chosen: Unpack[Chosen]
    ) -> GeneratedHeads:
        """Heads for a standardised batch of episodes; `inputs` are the same of what heads act on."""
        each = self._denoised(episode, generators, **chosen)
        heads = [self._decoded(tokens, own.counts, features, lambda: inputs) for tokens, own, features in each]
        return heads[0] if len(heads) == 1 else LinearHeads.concatenated([each.linear for each in heads])

    def _written(
        self,
        episode: Episode,
        names: tuple[str, ...],
        generator: torch.Generator | None,
        *,
        dataset: Dataset | None = None,
        provenance: Mapping[str, str] | None = None,
        **chosen: Unpack[Chosen],
    ) -> Head:
        """The head of a standardised data set, with its statistics; `dataset` for a space that takes its images."""
        ((tokens, own, features),) = self._denoised(episode, [generator or seeded(0, "generate")], **chosen)
        places = class_places(names, self.class_names)
        inputs = cache(lambda: replace(episode_of(pixels_of(self.backbone, dataset)), classes=places))
        heads = self._decoded(tokens, own.counts, features, inputs)
        backbone, inside, summary = self.backbone, (), None
        if isinstance(self.space, AdaptsBackbone) and self.space.takes_images:
            backbone, inside = self.space.backbone(tokens[0, 0], inputs)
            provenance = {**(provenance or {}), "adapted_from": self.backbone.weights_hash()}
        else:
            summary = SupportSummary.of(episode, space=features.tensors(), generator=self.generator_hash())
        scheduler, steps = self.chain(chosen.get("steps"), tokens.shape[1])
        images = {"support_images": int(episode.counts.sum()), "unlabelled_images": episode.unlabelled.shape[1]}
        chain = {"scheduler": type(scheduler).__name__, "steps": steps, "samples": tokens.shape[1]}
        made_by = {**(self.config.provenance or {}), **chain, **images, **(provenance or {})}
        return Head(
            draws=heads.linear, class_names=names, backbone=backbone, provenance=made_by, parts=inside, support=summary
        )
