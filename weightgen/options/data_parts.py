"""The data section at work: images for the backbone, the generator, validation and novel classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import datasets
import torch

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.feature_cache import features_of
from weightgen.backbones.pixels import pixels_of
from weightgen.data.class_splits import ClassSplit, named_split, split_classes
from weightgen.data.sources import class_names, data_fingerprint, open_data, select_classes
from weightgen.dataflow import TURNED, Features
from weightgen.errors import InputError
from weightgen.options.recipe import DataOptions


@dataclass(frozen=True)
class DataParts:
    """Images by use; no class is in two parts, except that `backbone` is `base` where none were set aside."""

    backbone: datasets.Dataset
    base: datasets.Dataset
    validation: datasets.Dataset
    novel: datasets.Dataset


def open_parts(options: DataOptions, *, seed: int, pretraining: bool) -> DataParts:
    """Open the SPECs of a recipe and split their classes.

    Args:
        pretraining: False means that no classes need to be set aside for the backbone.

    Raises:
        InputError: a SPEC cannot be opened, a split asks for too much, or a class would serve twice.
    """
    images = open_data(options.source, seed=seed)
    split = _split(options, class_names(images), seed=seed, pretraining=pretraining)
    base = select_classes(images, split.base)
    parts = DataParts(
        backbone=select_classes(images, split.backbone) if split.backbone else base,
        base=base,
        validation=_part(options.validation, images, split.validation, seed=seed),
        novel=_part(options.novel, images, split.novel, seed=seed),
    )
    _check_disjoint(parts)
    return parts


def base_features(
    options: DataOptions,
    backbone: Backbone,
    base: datasets.Dataset,
    *,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> Features:
    """Features of the classes that a generator learns from, and that baselines are tuned on."""
    compute = partial(
        features_of, backbone, base, data_fingerprint=data_fingerprint(base), device=device, progress=progress
    )
    if not options.turned:
        return compute()
    parts = [(turns, compute(quarter_turns=turns)) for turns in (1, 2, 3)]
    classes = len(parts[0][1].class_names)
    return Features(
        values=torch.cat([part.values for _, part in parts]),
        labels=torch.cat([part.labels + i * classes for i, (_, part) in enumerate(parts)]),
        class_names=tuple(f"{name}{TURNED}{90 * turns}°" for turns, part in parts for name in part.class_names),
    )


def base_pixels(options: DataOptions, backbone: Backbone, base: datasets.Dataset) -> Features:
    """Pixels of the same images, of the same classes in the same order."""
    return pixels_of(backbone, base, quarter_turns=(1, 2, 3) if options.turned else (0,))


def _split(options: DataOptions, names: tuple[str, ...], *, seed: int, pretraining: bool) -> ClassSplit:
    backbone = options.backbone_classes if pretraining else 0
    if options.split is not None:
        published = named_split(options.split)
        present = {part: [name for name in published[part] if name in set(names)] for part in published}
        if not present["base"]:
            raise InputError(f"data.split '{options.split}' names none of the classes of {options.source}; drop it")
        kept = [name for part in ("base", "validation", "novel") for name in present[part]]
        return split_classes(
            kept, backbone_classes=backbone, validation=present["validation"], novel=present["novel"], seed=seed
        )
    if isinstance(backbone, int) and backbone > len(names) // 2:
        raise InputError(
            f"data.backbone_classes is {backbone} and {options.source} has {len(names)} classes; "
            f"lower it to {len(names) // 2} or less, or set 0 to share the base classes"
        )
    shares = {
        part: 0 if isinstance(value, str) else value
        for part, value in (("validation", options.validation), ("novel", options.novel))
    }
    return split_classes(names, backbone_classes=backbone, seed=seed, **shares)


def _part(option: object, images: datasets.Dataset, names: tuple[str, ...], *, seed: int) -> datasets.Dataset:
    return open_data(option, seed=seed) if isinstance(option, str) else select_classes(images, names)


def _check_disjoint(parts: DataParts) -> None:
    used = {"source": parts.base, "validation": parts.validation, "novel": parts.novel}
    if parts.backbone is not parts.base:
        used = {"backbone_classes": parts.backbone, **used}
    owner: dict[str, str] = {}
    for key, images in used.items():
        for name in class_names(images):
            if name in owner:
                raise InputError(f"class '{name}' is in both data.{owner[name]} and data.{key}; take it out of one")
            owner[name] = key
