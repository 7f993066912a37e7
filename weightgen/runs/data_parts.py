"""The data section at work: images for the backbone, the generator, validation and novel classes."""

import itertools
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import datasets
import torch
from accelerate import Accelerator

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.feature_cache import features_of, features_with_crops, pixels_of
from weightgen.config.recipe import DataOptions
from weightgen.data.class_splits import ClassSplit, named_split, split_classes
from weightgen.data.labelled import class_counts, class_names, data_fingerprint, select_classes
from weightgen.data.sources import open_data
from weightgen.errors import InputError
from weightgen.evaluation.training_sets import held_out_rows
from weightgen.features.standardizer import Standardizer
from weightgen.files import text_hash
from weightgen.records import TURNED, Calibration, Features, Progress
from weightgen.seeds import generator
from weightgen.specs import FEATURES
from weightgen.training.folds import Fold
from weightgen.zoo_targets.ideal_prototypes import ideal_prototypes


@dataclass(frozen=True)
class DataParts:
    """Images by use; no class is in two parts, except that `backbone` is `base` where none were set aside.

    novel: classes for the final figures, or further images of the base classes (`data.test_images`).
    further: joins `base` in what the generator learns from.
    opened: the data sets that these parts were taken from, each whole.
    """

    backbone: datasets.Dataset
    base: datasets.Dataset
    validation: datasets.Dataset
    novel: datasets.Dataset
    further: tuple[datasets.Dataset, ...] = ()
    opened: tuple[datasets.Dataset, ...] = ()

    def fingerprint(self) -> str:
        """16 hex digits that change with any image, label or class name, and not with how they are split."""
        return text_hash(*map(data_fingerprint, self.opened))

    def learnt_counts(self) -> dict[str, int]:
        """Images of every class that the generator learns from."""
        counts: dict[str, int] = {}
        for images in (self.base, *self.further):
            for name, count in zip(class_names(images), class_counts(images), strict=True):
                counts[_unused(name, counts)] = int(count)
        return counts


def open_parts(options: DataOptions, *, seed: int, pretraining: bool) -> DataParts:
    """Open the SPECs of a recipe and split their classes.

    Args:
        pretraining: False means that no classes need to be set aside for the backbone.

    Raises:
        InputError: a SPEC cannot be opened, a split asks for too much, or a class would serve twice.
    """
    images = open_data(options.source, seed=seed)
    if options.classes is not None:
        images = _some_classes(images, options.classes, options.source, seed=seed)
    split = _split(options, class_names(images), seed=seed, pretraining=pretraining)
    base, test = select_classes(images, split.base), None
    if options.test_images:
        out = held_out_rows(torch.from_numpy(class_counts(base)), class_names(base), options.test_images, seed=seed)
        base, test = (base.select(rows.nonzero()[:, 0].tolist()) for rows in (~out, out))
    validation = _part(options.validation, images, split.validation, seed=seed)
    novel = _part(options.novel, images, split.novel, seed=seed) if test is None else test
    further = tuple(open_data(spec, seed=seed) for spec in options.further)
    own = ((options.validation, validation), (options.novel, novel))
    parts = DataParts(
        backbone=select_classes(images, split.backbone) if split.backbone else base,
        base=base,
        validation=validation,
        novel=novel,
        further=further,
        opened=(images, *further, *(part for option, part in own if isinstance(option, str))),
    )
    _check_disjoint(parts if test is None else replace(parts, novel=select_classes(images, ())))
    return parts


def _some_classes(images: datasets.Dataset, number: int, source: str, *, seed: int) -> datasets.Dataset:
    names = class_names(images)
    if number > len(names):
        raise InputError(f"data.classes is {number} and {source} has {len(names)} classes; lower it")
    drawn = torch.randperm(len(names), generator=generator(seed, "classes"))[:number].sort().values
    return select_classes(images, [names[i] for i in drawn.tolist()])


def base_features(
    options: DataOptions,
    backbone: Backbone,
    parts: DataParts,
    *,
    crops: bool = False,
    accelerator: Accelerator | None = None,
    progress: Progress | None = None,
) -> Features:
    """Features of the classes that a generator learns from, and that baselines are tuned on.

    crops: with crops of the images, unless these are turned.
    accelerator: of all processes, which then share the work; this one alone, on the CPU, if None.
    """
    device = "cpu" if accelerator is None else accelerator.device
    how: dict[str, Any] = {"device": device, "progress": progress, "accelerator": accelerator}
    if crops and not options.turned:
        each = [features_with_crops(backbone, images, **how) for images in (parts.base, *parts.further)]
        return _joined(each)
    return _base(options, parts, partial(features_of, backbone, **how))


def base_pixels(options: DataOptions, backbone: Backbone, parts: DataParts) -> Features:
    """Pixels of the same images, of the same classes in the same order."""
    return _base(options, parts, partial(pixels_of, backbone))


def _base(options: DataOptions, parts: DataParts, read: Callable[..., Features]) -> Features:
    """What `read` makes of all base images; turned ones are classes of their own."""
    each = []
    for images in (parts.base, *parts.further):
        for turns in (1, 2, 3) if options.turned else (0,):
            own, ending = read(images, quarter_turns=turns), f"{TURNED}{90 * turns}°" if turns else ""
            each.append(replace(own, class_names=tuple(name + ending for name in own.class_names)))
    return _joined(each)


def space_features(
    options: DataOptions, *, seed: int, crops: bool, accelerator: Accelerator, progress: Progress | None = None
) -> list[Fold]:
    """Those of `data.spaces`, with crops of images if asked. Raises InputError for a SPEC or backbone of no use."""
    each = []
    for source, named in space_specs(options):
        backbone, images = Backbone.named(named), open_data(source, seed=seed)
        how: dict[str, Any] = {"device": accelerator.device, "accelerator": accelerator, "progress": progress}
        features = (features_with_crops if crops else features_of)(backbone, images, **how)
        standardizer = Standardizer.of_backbone(backbone)
        each.append(Fold(features, ideal_prototypes(features, standardizer), standardizer, Calibration()))
    return each


def spaces_fingerprint(options: DataOptions, *, seed: int) -> str:
    """16 hex digits that change with any image, label or class name of `data.spaces`."""
    return text_hash(*(data_fingerprint(open_data(source, seed=seed)) for source, _ in space_specs(options)))


def space_specs(options: DataOptions) -> list[tuple[str, str]]:
    """SPEC and backbone of each of `data.spaces`; features bring their own. Raises InputError where one is missing."""
    pairs = []
    for spec in options.spaces:
        source, _, named = spec.rpartition("@")
        if not (source and named) and not spec.startswith(FEATURES):
            raise InputError(f"data.spaces: {spec} names no backbone; write SPEC@BACKBONE or features:FILE.safetensors")
        pairs.append((source or spec, named))
    return pairs


def _joined(parts: Sequence[Features]) -> Features:
    """All classes side by side; a name that is taken gets a number."""
    if len(parts) == 1:
        return parts[0]
    names: dict[str, None] = {}
    for part in parts:
        for name in part.class_names:
            names[_unused(name, names)] = None
    crops = [part.crops for part in parts if part.crops is not None]
    before = itertools.accumulate((len(part.class_names) for part in parts), initial=0)
    return Features(
        values=torch.cat([part.values for part in parts]),
        labels=torch.cat([part.labels + start for start, part in zip(before, parts, strict=False)]),
        class_names=tuple(names),
        crops=torch.cat(crops) if len(crops) == len(parts) else None,
    )


def _unused(name: str, taken: Container[str]) -> str:
    """The name, or with the first number that makes it another than those taken."""
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _split(options: DataOptions, names: tuple[str, ...], *, seed: int, pretraining: bool) -> ClassSplit:
    backbone = options.backbone_classes if pretraining else 0
    if options.split is not None:
        present = named_split(options.split, names)
        if not present["base"]:
            raise InputError(f"data.split '{options.split}' names none of the classes of {options.source}; drop it")
        kept = [name for part in ("base", "validation", "novel") for name in present[part]]
        return split_classes(
            kept, backbone_classes=backbone, validation=present["validation"], novel=present["novel"], seed=seed
        )
    if isinstance(backbone, int) and backbone > (half := len(names) // 2):
        raise InputError(
            f"data.backbone_classes is {backbone} and {options.source} has {len(names)} classes; "
            f"{f'lower it to {half} or less, or ' if half else ''}set 0 to share the base classes; a "
            "pretrained backbone (backbone=NAME) needs none"
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
    for number, images in enumerate(parts.further):
        shared = set(class_names(images)) & {*class_names(parts.validation), *class_names(parts.novel)}
        if shared:
            raise InputError(
                f"class '{min(shared)}' is in data.further[{number}] and kept for validation or novel; take it out of "
                "one"
            )
    if parts.backbone is not parts.base:
        used = {"backbone_classes": parts.backbone, **used}
    owner: dict[str, str] = {}
    for key, images in used.items():
        for name in class_names(images):
            if name in owner:
                raise InputError(f"class '{name}' is in both data.{owner[name]} and data.{key}; take it out of one")
            owner[name] = key
