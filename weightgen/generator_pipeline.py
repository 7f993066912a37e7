"""What generators of heads and of parts have in common: where they run, their folder, a user's images."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from datasets import Dataset
from diffusers import DiffusionPipeline, SchedulerMixin

from weightgen.backbones.backbone import Backbone
from weightgen.data.sources import open_folder, unlabelled_images
from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.generator_folder import load_components, pipeline_name, push_folder, save_components
from weightgen.interfaces import Conditioner, Denoiser
from weightgen.registry import nearest
from weightgen.schedulers.schedulers import chain_of, check_scheduler


class GeneratorPipeline(DiffusionPipeline):
    """A diffusers pipeline that is saved as safetensors and JSON alone.

    further: kinds of the components, by name, that a subclass has beside those below.
    """

    denoiser: Denoiser
    conditioner: Conditioner
    standardizer: Standardizer
    scheduler: SchedulerMixin
    backbone: Backbone
    further: ClassVar[Mapping[str, type]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        chain = self._trained_chain if name == "scheduler" else None
        if chain is not None:
            check_scheduler(value, chain)
        super().__setattr__(name, value)

    @property
    def _trained_chain(self) -> Mapping[str, Any] | None:
        """What the denoiser learnt of its chain (`chain_of`); None before the components are there."""
        return getattr(self, "_internal_dict", {}).get("chain")

    def _keep_chain(self) -> None:
        """Take the scheduler for the one of training, unless a folder says which that was."""
        self.register_to_config(chain=dict(self._trained_chain or chain_of(self.scheduler)))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move all components to a device, in diffusers' notations. They work in float32 alone.

        Raises InputError for another type of numbers, and for a device that torch does not have here.
        """
        given = [*args, *(kwargs.get(key) for key in ("device", "dtype", "torch_dtype"))]
        check_dtype(*(one for one in given if isinstance(one, torch.dtype)))
        for device in (one for one in given if one is not None and not isinstance(one, torch.dtype)):
            try:
                for module in self.components.values():
                    if isinstance(module, torch.nn.Module):
                        module.to(torch.device(device))
            except (AssertionError, RuntimeError, TypeError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise InputError(f"device {device}: torch cannot use it here ({reason}); take cpu") from error
        return self

    def enable_model_cpu_offload(self, *_: Any, **__: Any) -> None:
        """Refused: a generator is moved whole."""
        raise InputError("a generator is too small to be offloaded in parts; move it whole, with pipeline.to(device)")

    enable_sequential_cpu_offload = enable_model_cpu_offload
    enable_group_offload = enable_model_cpu_offload

    @property
    def device(self) -> torch.device:
        """Where the chain runs."""
        return self.standardizer.mean.device

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write the generator's folder, whole or not at all; safetensors and JSON only."""
        save_components(self, Path(save_directory), further=self.further)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the generator's folder to a hub repository; returns its address."""
        return push_folder(self.save_pretrained, repo_id, **options)

    @classmethod
    def _read(cls, folder: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Components and config of a folder that this class has saved. Raises InputError for another's."""
        name = pipeline_name(Path(folder))
        if name != cls.__name__:
            raise InputError(f"{folder}: holds a {name}, not a {cls.__name__}; load it by that class")
        return load_components(Path(folder), further=cls.further)

    @classmethod
    def _checked(cls, changes: Mapping[str, Any]) -> dict[str, Any]:
        """What a caller of `from_pretrained` wants otherwise than the folder has it: options of the class.

        Raises InputError for others, and for another type of numbers than float32.
        """
        check_dtype(changes.get("torch_dtype"), changes.get("dtype"))
        kept = {key: value for key, value in changes.items() if key not in ("torch_dtype", "dtype")}
        known = set(inspect.signature(cls.__init__).parameters) - {"self"}
        for key in kept:
            if key not in known:
                raise InputError(f"from_pretrained takes no '{key}'{nearest(key, known)}")
        return kept

    def _evaluating(self) -> None:
        """Put all modules into evaluation mode."""
        for name in ("denoiser", "conditioner", "standardizer", "backbone", *self.further):
            getattr(self, name).eval()


def check_dtype(*dtypes: Any) -> None:
    """Raise InputError for a type of numbers that a generator does not work in."""
    for dtype in dtypes:
        if dtype not in (None, "auto", torch.float32, "float32"):
            raise InputError(
                f"{dtype}: a generator works in float32, for heads follow small differences of features; leave it out"
            )


def open_support(support: str | Path, *, fewest: int = 2) -> Dataset:
    """The images of a user's folder, one sub-folder per class. Raises InputError when it is none.

    fewest: classes that there must be, 1 or 2.
    """
    folder = Path(support).expanduser().absolute()
    if not folder.is_dir():
        raise InputError(f"{support}: is no folder; give one with a sub-folder of images per class")
    return open_folder(folder, fewest=fewest)


def open_unlabelled(folder: str | Path, *, besides: Dataset) -> Dataset:
    """All images in a folder but those of the support, whatever the sub-folders are called.

    Raises InputError when it is no folder.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise InputError(f"{place}: is no folder; give one with unlabelled images")
    return unlabelled_images(place, besides=besides)
