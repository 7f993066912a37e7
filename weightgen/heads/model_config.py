"""The `config.json` that timm and transformers both read: a backbone and its classes as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from weightgen.backbones import construction
from weightgen.backbones.backbone import Backbone
from weightgen.errors import InputError
from weightgen.files import read_json
from weightgen.heads.class_names import check_class_names

# Where a source model came from, and its classes: no longer true of a model with another head.
_OF_THE_SOURCE = (
    "architecture", "state_dict", "url", "file", "source", "hf_hub_id", "hf_hub_filename",
    "label_names", "label_descriptions", "label_offset",
)  # fmt: skip
_KEYS = {"architecture": str, "num_classes": int, "label_names": list, "pretrained_cfg": dict}


def model_config(backbone: Backbone, class_names: Sequence[str]) -> dict[str, Any]:
    """What timm's own export writes, but `model_args` without `num_classes`, which transformers sets itself.

    All of `pretrained_cfg` goes along, so that images are resized, cropped and normalised as they were here.
    """
    pretrained_cfg = {
        key: value for key, value in backbone.pretrained_cfg.items() if key not in _OF_THE_SOURCE and value is not None
    }
    config = {
        "architecture": backbone.architecture,
        "num_classes": len(class_names),
        "num_features": backbone.feature_width,
        "label_names": list(class_names),
        "pretrained_cfg": {**pretrained_cfg, "num_classes": len(class_names), "custom_load": False},
    }
    if backbone.options:
        config["model_args"] = dict(backbone.options)
    return config


def read_model_config(path: Path) -> dict[str, Any]:
    """Inverse of `model_config`, `model_args` always present. Raises InputError for anything else."""
    config = read_json(path)
    for key, kind in _KEYS.items():
        if not isinstance(config, dict) or not isinstance(config.get(key), kind):
            raise InputError(f"{path}: '{key}' is missing or no {kind.__name__}; generate the head again")
    names = config["label_names"]
    check_class_names(names, place=f"{path}: label_names")
    if len(names) != config["num_classes"]:
        raise InputError(
            f"{path}: num_classes is {config['num_classes']}, but label_names holds {len(names)}; generate it again"
        )
    config.setdefault("model_args", {})
    if not isinstance(config["model_args"], dict):
        raise InputError(f"{path}: 'model_args' is no dict; generate the head again")
    return config


def build_backbone(config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, source: Path) -> Backbone:
    """The backbone that a config describes, with these tensors, of which the head's own are left out.

    Raises InputError where they do not fit each other.
    """
    architecture, options, pretrained_cfg = config["architecture"], config["model_args"], config["pretrained_cfg"]
    path = source.parent / "config.json"
    try:
        construction.check_name(architecture)
        model = construction.build(architecture, options, config=pretrained_cfg)
        backbone = Backbone(model, architecture=architecture, options=options, pretrained_cfg=pretrained_cfg)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, AssertionError) as error:
        raise InputError(f"{path}: pretrained_cfg describes no model ({error}); generate the head again") from error
    trunk = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{backbone.head_slot}.")}
    construction.load_strictly(backbone.trunk, trunk, source=str(source))
    return backbone
