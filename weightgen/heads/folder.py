"""A head on disk, as a folder that timm and transformers load too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from weightgen.backbones import construction
from weightgen.backbones.backbone import Backbone, FeatureBackbone
from weightgen.data.labelled import check_class_names
from weightgen.errors import InputError
from weightgen.files import (
    check_folder,
    is_litter,
    new_folder,
    read_checkpoint,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
)
from weightgen.heads.model_card import model_card
from weightgen.heads.support_summary import FILE as SUPPORT
from weightgen.heads.support_summary import SupportSummary
from weightgen.records import LinearHeads

if TYPE_CHECKING:
    from weightgen.heads.head import Head

_MODEL, _CONFIG, _HEAD, _SAMPLES = "model.safetensors", "config.json", construction.HEAD, "samples.safetensors"
_FILES = (_MODEL, _CONFIG, _HEAD, _SAMPLES, SUPPORT, "README.md")
_NOT_OF_THIS_HEAD = (
    "architecture", "state_dict", "url", "file", "source", "hf_hub_id", "hf_hub_filename",
    "label_names", "label_descriptions", "label_offset",
)  # fmt: skip
"""Keys of `pretrained_cfg` that say where the backbone's weights came from, and the classes of their head."""
_KEYS = {"architecture": str, "num_classes": int, "label_names": list, "pretrained_cfg": dict}


class HeadFields(TypedDict):
    """Arguments of a `Head`."""

    draws: LinearHeads
    mean: LinearHeads
    class_names: tuple[str, ...]
    backbone: Backbone
    provenance: dict[str, str]
    parts: tuple[str, ...]
    support: SupportSummary | None


def check_target(folder: Path) -> None:
    """Refuse to replace anything but an empty folder or a head folder with none but its own files.

    Raises InputError.
    """
    check_folder(folder, what="the head")
    check_beside(folder.parent, what="this head")
    if not folder.exists():
        return
    present = {path.name for path in folder.iterdir() if not is_litter(path.name)}  # litter outlives the replacement
    foreign = sorted(present - set(_FILES))
    if foreign or (present and _HEAD not in present):
        other = foreign[0] if foreign else min(present)
        raise InputError(f"{folder}: holds '{other}', which is not a file of a head; name a new or empty folder")


def check_beside(place: Path, *, what: str) -> None:
    """Raise InputError where `what` would be written into a head folder, which holds nothing else."""
    for folder in (place, *place.parents):
        if (folder / _HEAD).is_file():
            raise InputError(f"{place}: lies in a head folder, which holds nothing else; write {what} elsewhere")


def write_head(folder: Path, head: Head) -> None:
    """Write a head folder, whole or not at all; an older head folder there is replaced.

    model.safetensors, config.json: the timm model with the mean head.
    head.safetensors: the mean head alone, [ways feature] and [ways], and the tensors of the backbone that were
        generated with it, named as in the model; class names and provenance are its metadata.
    samples.safetensors: all draws, [samples ways feature] and [samples ways], where there is more than one.
    statistics.safetensors: the support summary, where there is one.

    Of a head on features that are given as such, without a network: head.safetensors and, of several draws,
    samples.safetensors.

    Raises InputError when the folder holds other files.
    """
    folder = folder.resolve()
    check_target(folder)
    tensors = dict(zip(_names(head.backbone), (head.weight, head.bias), strict=True))
    trunk = head.backbone.trunk.state_dict()
    tensors |= {name: trunk[name] for name in head.parts}
    metadata = {**head.provenance, "class_names": json.dumps(list(head.class_names), ensure_ascii=False)}
    with new_folder(folder) as new:
        write_tensors(new / _HEAD, tensors, metadata)
        if head.samples > 1:
            write_tensors(new / _SAMPLES, {"weight": head.draws.weight[0], "bias": head.draws.bias[0]})
        if isinstance(head.backbone, FeatureBackbone):
            return
        write_tensors(new / _MODEL, trunk | tensors, {"format": "pt"})
        write_json(new / _CONFIG, _config(head.backbone, head.class_names))
        if head.support is not None:
            head.support.write(new / SUPPORT, head.class_names)
        write_text(new / "README.md", model_card(head))


def read_head(folder: Path) -> HeadFields:
    """Read a head folder.

    Raises InputError for another kind of folder, missing or damaged files, NaN, and files that contradict each
    other: shapes, class names, draws, or the generated tensors of the backbone.
    """
    _check_is_head(folder)
    if not (folder / _CONFIG).exists() and not (folder / _MODEL).exists():
        return _read_alone(folder)
    config = _read_config(folder / _CONFIG)
    tensors = read_tensors(folder / _MODEL)
    backbone = _build_backbone(config, tensors, source=folder / _MODEL)
    generated, metadata = read_checkpoint(folder / _HEAD)
    names, class_names = _names(backbone), tuple(config["label_names"])
    parts = {name: generated.pop(name) for name in sorted(generated.keys() - set(names))}
    shapes = ((len(class_names), backbone.feature_width), (len(class_names),))
    _check_shapes(folder / _HEAD, generated, dict(zip(names, shapes, strict=True)))
    if metadata.pop("class_names", None) != json.dumps(config["label_names"], ensure_ascii=False):
        raise InputError(f"{folder}: class names differ between {_HEAD} and {_CONFIG}; generate it again")
    in_model = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{backbone.head_slot}.")}
    if set(in_model) != set(names) or any(not torch.equal(in_model[name], generated[name]) for name in names):
        raise InputError(f"{folder}: the head in {_MODEL} is not that of {_HEAD}; generate it again")
    if any(name not in tensors or not torch.equal(tensors[name], tensor) for name, tensor in parts.items()):
        raise InputError(f"{folder / _HEAD}: holds tensors that {_MODEL} lacks; generate it again")
    mean = LinearHeads(*(generated[name][None, None] for name in names))
    return {
        "draws": _read_samples(folder / _SAMPLES, mean),
        "mean": mean,
        "class_names": class_names,
        "backbone": backbone,
        "provenance": {"backbone_weights": "", **metadata},
        "parts": tuple(parts),
        "support": SupportSummary.read(folder / SUPPORT, class_names) if (folder / SUPPORT).exists() else None,
    }


def _read_alone(folder: Path) -> HeadFields:
    """A head on given features, which has neither a model nor its config."""
    tensors, metadata = read_checkpoint(folder / _HEAD)
    try:
        class_names = json.loads(metadata.pop("class_names", ""))
    except ValueError as error:
        raise InputError(f"{folder / _HEAD}: metadata name no classes ({error}); generate it again") from error
    if metadata.get("backbone") != FeatureBackbone.NAME:
        raise InputError(f"{folder}: {_CONFIG} and {_MODEL} are missing; generate the head again")
    check_class_names(class_names, place=f"{folder / _HEAD}: class_names")
    weight = tensors.get("classifier.weight")
    width = weight.shape[1] if weight is not None and weight.dim() == 2 else 0
    shapes = {"classifier.weight": (len(class_names), width), "classifier.bias": (len(class_names),)}
    _check_shapes(folder / _HEAD, tensors, shapes)
    mean = LinearHeads(tensors["classifier.weight"][None, None], tensors["classifier.bias"][None, None])
    return {
        "draws": _read_samples(folder / _SAMPLES, mean),
        "mean": mean,
        "class_names": tuple(class_names),
        "backbone": FeatureBackbone(width),
        "provenance": metadata,
        "parts": (),
        "support": None,
    }


def _check_is_head(folder: Path) -> None:
    """Raise InputError, which says what else it is, unless the folder is a head's."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a directory; name the folder of a generated head")
    if (folder / _HEAD).exists():
        return
    if any((folder / name).exists() for name in ("model_index.json", "generator", "recipe.yaml")):
        raise InputError(f"{folder}: is a generator, not a head; write a head with it by weightgen generate")
    raise InputError(f"{folder}: is not a head folder ({_HEAD} is missing); write one by weightgen generate")


def _config(backbone: Backbone, class_names: Sequence[str]) -> dict[str, Any]:
    """What timm's own export writes, but `model_args` without `num_classes`, which transformers sets itself.

    All of `pretrained_cfg` goes along, so that images are resized, cropped and normalised as they were here.
    """
    pretrained_cfg = {
        key: value
        for key, value in backbone.pretrained_cfg.items()
        if key not in _NOT_OF_THIS_HEAD and value is not None
    }
    config = {
        "architecture": backbone.architecture,
        "num_classes": len(class_names),
        "num_features": backbone.feature_width,
        "label_names": list(class_names),
        "pretrained_cfg": {**pretrained_cfg, "num_classes": len(class_names), "custom_load": False},
    }
    return {**config, "model_args": dict(backbone.options)} if backbone.options else config


def _read_config(path: Path) -> dict[str, Any]:
    """Inverse of `_config`, `model_args` always present. Raises InputError for anything else."""
    config = read_json(path)
    for key, kind in _KEYS.items():
        if not isinstance(config, dict) or not isinstance(config.get(key), kind):
            raise InputError(f"{path}: '{key}' is missing or not of type {kind.__name__}; generate the head again")
    names = config["label_names"]
    check_class_names(names, place=f"{path}: label_names")
    if len(names) != config["num_classes"]:
        raise InputError(
            f"{path}: num_classes is {config['num_classes']}, but label_names holds {len(names)}; generate it again"
        )
    if not isinstance(config.setdefault("model_args", {}), dict):
        raise InputError(f"{path}: 'model_args' is not of type dict; generate the head again")
    return config


def _build_backbone(config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, source: Path) -> Backbone:
    """The backbone that a config describes, with these tensors, of which the head's own are left out.

    Raises InputError where they do not fit each other.
    """
    architecture, options, pretrained_cfg = config["architecture"], config["model_args"], config["pretrained_cfg"]
    path = source.parent / _CONFIG
    try:
        construction.check_name(architecture)
        model = construction.build(architecture, options, config=pretrained_cfg)
        backbone = Backbone(model, architecture=architecture, options=options, pretrained_cfg=pretrained_cfg)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, AssertionError) as error:
        raise InputError(f"{path}: pretrained_cfg does not describe a model ({error}); generate it again") from error
    trunk = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{backbone.head_slot}.")}
    construction.load_strictly(backbone.trunk, trunk, source=str(source))
    return backbone


def _read_samples(path: Path, mean: LinearHeads) -> LinearHeads:
    """The draws; the mean where it is the only one."""
    if not path.exists():
        return mean
    samples = read_tensors(path)
    count = samples["weight"].shape[0] if "weight" in samples and samples["weight"].dim() else 0
    _check_shapes(path, samples, {"weight": (count, *mean.weight.shape[2:]), "bias": (count, *mean.bias.shape[2:])})
    draws = LinearHeads(samples["weight"][None], samples["bias"][None])
    own = draws.mean() if count else draws
    if not count or not all(
        torch.allclose(getattr(own, name), getattr(mean, name), rtol=1e-4, atol=1e-5) for name in ("weight", "bias")
    ):
        raise InputError(f"{path}: the mean of its draws is not the head in {_HEAD}; generate it again")
    return draws


def _check_shapes(path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if given != shapes:
        raise InputError(f"{path}: holds {given} instead of {dict(shapes)}; generate the head again")


def _names(backbone: Backbone) -> tuple[str, str]:
    return f"{backbone.head_slot}.weight", f"{backbone.head_slot}.bias"
