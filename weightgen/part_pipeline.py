"""A generator of parameters inside the backbone at work: a support in, an adapted backbone with a head out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import SchedulerMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.pixels import pixels_of
from weightgen.data.sources import open_support
from weightgen.episodes.support_folder import episode_of
from weightgen.errors import InputError
from weightgen.features.centroid_head import centroid_head
from weightgen.features.standardizer import Standardizer
from weightgen.features.temperature import Calibration
from weightgen.features.vector_scale import VectorScale
from weightgen.heads.head import Head
from weightgen.interfaces import Conditioner, Denoiser
from weightgen.pipeline_io import GeneratorPipeline
from weightgen.records import Episode
from weightgen.registry import create
from weightgen.schedulers.reverse_chain import reverse_chain
from weightgen.schedulers.schedulers import check_scheduler
from weightgen.seeds import generator as seeded
from weightgen.selectors._part import Part


class PartPipeline(GeneratorPipeline):
    """Denoises noise into an offset of a backbone's parameters; the head are the centroids on the adapted features.

    Components: those of `WeightGenerationPipeline`, and `vector_scale`. The condition is made of features of the
    backbone as it is.

    Config: `selector`, its name and options; `calibration`, knots of the head's scale over shots; `steps`, the default
    of a call; `provenance`, written into every head; `chain` and `images`, as in `WeightGenerationPipeline`.
    """

    vector_scale: VectorScale
    further: ClassVar[Mapping[str, type]] = {"vector_scale": VectorScale}

    @register_to_config
    def __init__(
        self,
        denoiser: Denoiser,
        conditioner: Conditioner,
        standardizer: Standardizer,
        vector_scale: VectorScale,
        scheduler: SchedulerMixin,
        backbone: Backbone,
        *,
        selector: Mapping[str, Any],
        calibration: Sequence[Sequence[float]] = ((1.0, 1.0),),
        steps: int = 20,
        provenance: dict[str, str] | None = None,
        chain: Mapping[str, Any] | None = None,
        images: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            denoiser=denoiser,
            conditioner=conditioner,
            standardizer=standardizer,
            vector_scale=vector_scale,
            scheduler=scheduler,
            backbone=backbone,
        )
        self._keep_chain()

    @cached_property
    def part(self) -> Part:
        """What is generated. Raises InputError when the backbone has no such part, or one of another size."""
        options = dict(self.config.selector)
        part = Part(self.backbone, create("selectors", options.pop("name"), options))
        sizes = [tensor.numel() for tensor in part.layout.unflatten(part.own).values()]
        for component in (self.vector_scale, self.denoiser):
            if list(component.config.sizes) != sizes:
                raise InputError(
                    f"a {type(component).__name__} for tensors of {list(component.config.sizes)} entries does not fit "
                    f"a selection of {sizes}; these parts are not of one generator"
                )
        return part

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
        """An adapted backbone with its head for a folder of images, one sub-folder per class.

        The arguments are those of `WeightGenerationPipeline`; unlabelled images and several samples are refused.

        Raises:
            InputError: the folder or an image in it cannot be used, or a number is below 1.
        """
        if unlabelled is not None:
            raise InputError(
                f"{unlabelled}: a generator of parts learns nothing from unlabelled images; leave them out"
            )
        if num_samples not in (None, 1):
            raise InputError(f"samples is {num_samples}; a generator of parts writes a single backbone, take 1")
        dataset = open_support(support)
        pixels = pixels_of(self.backbone, dataset)
        episode = episode_of(pixels)
        steps = self.config.steps if num_inference_steps is None else num_inference_steps
        offsets = self.offsets(episode, [generator or seeded(0, "generate")], steps=steps)
        features = self.part.features(offsets[0], episode.support)
        draws = centroid_head(features, episode.support_mask.to(features.device), scale=self.scale(episode))
        backbone, names = self.part.adapted(offsets[0])
        made_by = {
            **(self.config.provenance or {}),
            "scheduler": type(self.scheduler).__name__,
            "steps": str(steps),
            "samples": "1",
            "support_images": str(len(dataset)),
            "unlabelled_images": "0",
            "adapted_from": self.backbone.weights_hash(),
        }
        return Head(draws=draws, class_names=pixels.class_names, backbone=backbone, provenance=made_by, parts=names)

    @torch.no_grad()
    def offsets(
        self, episode: Episode, generators: Sequence[torch.Generator], *, steps: int | None = None
    ) -> Float[Tensor, "batch parameters"]:
        """What the chain ends at for pixel episodes, as offsets from the backbone's own parameters.

        Args:
            episode: of pixels (`Part`); its queries are not looked at.
            generators: one per episode, so that an offset does not depend on its neighbours in the batch.
            steps: denoiser calls in a row.
        """
        check_scheduler(self.scheduler, self.config.chain)  # it may have been changed since it was put there
        steps = self.config.steps if steps is None else steps
        if steps < 1:
            raise InputError(f"steps is {steps}; it must be 1 or more")
        raw = self.part.unadapted(episode).to(self.device)
        condition = self.conditioner(self.standardizer.standardize(raw), self.standardizer)

        def predict(noisy: Tensor, time: Tensor) -> Tensor:
            return self.denoiser(noisy, time, self.conditioner.at(condition, noisy))

        layout, width = self.part.layout, self.denoiser.config.token_width
        like = layout.tokens(self.vector_scale.mean.expand(len(episode), -1), width=width)
        tokens = reverse_chain(predict, self.scheduler, steps, like=like, generators=generators)
        return self.vector_scale.restore(layout.from_tokens(tokens)).to(self.part.own)

    def scale(self, episode: Episode) -> Float[Tensor, " batch"]:
        """Of the head's logits, by the number of support images of a class."""
        counts = episode.support_mask.sum(-1).float()
        shots = counts.sum(-1) / (counts > 0).sum(-1).clamp(min=1)
        return Calibration.of(self.config.calibration).at(shots)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes: Any) -> PartPipeline:
        """Read a generator's folder, as safely as `WeightGenerationPipeline.from_pretrained` does."""
        changes = cls._checked(changes)
        components, config = cls._read(folder)
        _check_selector(config.get("selector"), folder)
        try:
            made = cls(**{**components, **config, **changes})
            made._evaluating()
            check_scheduler(made.scheduler, made.config.chain)
            Calibration.of(made.config.calibration)
            made.part  # noqa: B018 - sizes that do not fit are refused here, not in the middle of work
            return made
        except (TypeError, ValueError) as error:
            raise InputError(f"{folder}: does not fit this weightgen ({error}); save the generator again") from error


def _check_selector(selector: Any, folder: str | Path) -> None:
    """A folder may not make us import code that the user did not."""
    name = selector.get("name") if isinstance(selector, dict) else None
    if not isinstance(name, str):
        raise InputError(f"{folder}: its index names no selector; save the generator again")
    if "." in name and name not in sys.modules:
        raise InputError(f"{folder}: the selector comes from '{name}'; import that module first if you trust it")
