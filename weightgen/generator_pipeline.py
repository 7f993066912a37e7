"""What generators of heads and of parts have in common: where they run, their folder, a user's images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from diffusers import DiffusionPipeline, SchedulerMixin

from weightgen.backbones.backbone import Backbone
from weightgen.data.sources import open_folder, unlabelled_images
from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.files import push_folder
from weightgen.generator_folder import load_components, pipeline_name, save_components
from weightgen.interfaces import Conditioner, Denoiser


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

    def _evaluating(self) -> None:
        """Put all modules into evaluation mode."""
        for name in ("denoiser", "conditioner", "standardizer", "backbone", *self.further):
            getattr(self, name).eval()


def open_support(support: str | Path, *, fewest: int = 2) -> Dataset:
    """The images of a user's folder, one sub-folder per class. Raises InputError when it is none.

    fewest: classes that there must be, 1 or 2.
    """
    folder = Path(support).expanduser().absolute()
    if not folder.is_dir():
        raise InputError(f"{support}: is not a directory; give one with a sub-folder of images per class")
    return open_folder(folder, fewest=fewest)


def open_unlabelled(folder: str | Path, *, besides: Dataset) -> Dataset:
    """All images in a folder but those of the support, whatever the sub-folders are called.

    Raises InputError when it is no folder.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise InputError(f"{place}: is not a directory; give one with unlabelled images")
    return unlabelled_images(place, besides=besides)
