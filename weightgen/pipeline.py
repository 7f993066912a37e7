"""The generator at work: a folder of images in, a head out, or a head with further classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin
from diffusers.configuration_utils import register_to_config

from weightgen.backbones.backbone import Backbone
from weightgen.data.sources import class_names
from weightgen.dataset_pipeline import DatasetPipeline
from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.generator_pipeline import open_support
from weightgen.heads.generated_head import GeneratedHead
from weightgen.heads.head_extension import check_new_classes, extensible_memory, extension_note, with_rows
from weightgen.heads.head_folder import SavedHead
from weightgen.interfaces import Conditioner, Denoiser
from weightgen.seeds import generator as seeded


class WeightGenerationPipeline(DatasetPipeline):
    """Denoises noise into the head of a frozen backbone; a diffusers pipeline.

    Components: `denoiser`, `conditioner`, `standardizer`, `backbone` and `scheduler`, any diffusers scheduler of the
    same noise levels: `pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)`.

    A single head follows the noise-free chain. Several draws need noise: where `scheduler` is `MeanDDPMScheduler`,
    asking for more than one sample runs `draw_scheduler` in its place.

    Config: `readout` and `calibration` say how rows become logits (see `RowReader`), `draw_calibration` for several
    draws; `steps` and `samples` are the defaults of a call, `draw_steps` those of several draws; `provenance` is
    written into every head; `chain` is what the denoiser learnt of its chain, that of `scheduler` if None: a scheduler
    of another chain is refused.
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
        others = None if unlabelled is None else self._features_beside(dataset, unlabelled)
        episode = self._episode_of(dataset, others)
        return self._written(episode, class_names(dataset), generator, steps=num_inference_steps, samples=num_samples)

    @torch.no_grad()
    def extended(
        self,
        head: SavedHead,
        support: str | Path,
        *,
        num_inference_steps: int | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
        rewrite: bool = False,
    ) -> GeneratedHead:
        """A head with further classes, without the images it was written from: its memory stands for them.

        Old and new classes are denoised together. Rows, biases and draws of the old ones are kept, bit for bit. The new
        ones are written in what those were written in, for else their logits could not be compared: the same space, and
        a factor on logits and a predictive variance for as many images as an average class had then, however many the
        new classes have.

        Args:
            head: of this generator, with its memory.
            support: folder with one or more class folders, of classes that the head does not have.
            num_inference_steps, generator: as in a call.
            num_samples: draws; as many as the head has if None.
            rewrite: write all rows anew, from old and new images alike: as a call would if all images were there, up to
                which of them are looked at one by one.

        Raises:
            InputError: the folder or an image in it cannot be used, the head has such a class already, has another
                number of draws, remembers nothing, or is of another generator or backbone.
        """
        memory = extensible_memory(head, backbone=self.backbone.weights_hash(), generator=self.generator_hash())
        dataset = open_support(support, fewest=1)
        added = class_names(dataset)
        check_new_classes(added, head.class_names)
        drawn = head.head.weight.shape[1]
        samples = drawn if num_samples is None else num_samples
        if samples != drawn and not rewrite:
            raise InputError(f"samples is {samples}, and the head has {drawn}; take {drawn}, or rewrite all classes")
        joined = memory.joined(self._episode_of(dataset))
        names, episode = (*head.class_names, *added), joined.episode().to(self.device)
        chosen: dict[str, Any] = {"steps": num_inference_steps, "samples": samples}
        if rewrite:
            made = self._written(episode, names, generator, **chosen)
            note = extension_note(added, head.provenance, how="all rows anew")
            return replace(made, provenance={**made.provenance, **note})
        origin = joined.origin
        recalled = self.conditioner.recalled(episode, self.standardizer, space=origin.space, founding=origin.founding)
        noise = [generator or seeded(0, "generate")]
        ((rows, _, space),) = self._denoised(episode, noise, spaces=[(slice(None), *recalled)], **chosen)
        shots = origin.shots.to(rows).expand(1, len(added))
        new = self.reader(samples=samples, space=space).head(rows[:, :, len(head.class_names) :], shots)
        scheduler, steps = self.chain(**chosen)
        note = extension_note(added, head.provenance, how=f"{steps} steps of {type(scheduler).__name__}")
        return with_rows(head, new, class_names=names, memory=joined, note=note)

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
            for samples in (1, 2):
                made.reader(samples=samples)  # a calibration that is none is refused here, not in the middle of work
            return made
        except (TypeError, ValueError) as error:
            raise InputError(f"{folder}: does not fit this weightgen ({error}); save the generator again") from error
