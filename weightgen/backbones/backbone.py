"""Any timm model as a frozen trunk with an empty head slot."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightgen.backbones import construction
from weightgen.backbones.preprocessing import Preprocessing
from weightgen.errors import InputError
from weightgen.files import read_json, read_tensors, tensors_hash, text_hash, write_json, write_tensors


class Backbone(nn.Module):
    """A timm model whose classifier has been taken out; frozen, in evaluation mode.

    architecture: timm's name, without the tag of its weights.
    options: keyword arguments of timm's `create_model`; they rebuild the model.
    pretrained_cfg: timm's description, with this model's preprocessing in it.
    head_slot: dotted name of the layer that the head goes into ("fc", "classifier", "head.fc" …).
    feature_width: numbers per image that the head sees.
    trunk: the timm model with an empty slot.
    preprocess: a `Preprocessing`: PIL image of any size → Float[Tensor, "channels height width"].
    """

    def __init__(
        self, model: Any, *, architecture: str, options: Mapping[str, Any], pretrained_cfg: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.options = dict(options)
        self.pretrained_cfg = dict(pretrained_cfg)
        self.head_slot = construction.head_slot(architecture)
        self.feature_width = construction.check_slot(model, architecture, self.head_slot)
        self.preprocess = Preprocessing(pretrained_cfg)
        # not `reset_classifier(0)`: on some models that also resets the pooling or drops the norm before the head
        model.set_submodule(self.head_slot, nn.Identity())
        model.num_classes = 0
        model.pretrained_cfg = model.default_cfg = {**self.pretrained_cfg, "num_classes": 0}
        self.trunk = model.to(memory_format=torch.channels_last)  # convolutions on CPUs run 1.5 to 2 times as fast
        self.requires_grad_(False).eval()

    @classmethod
    def create(
        cls,
        *,
        model: str | None = None,
        pretrained: bool = False,
        checkpoint: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> Backbone:
        """A backbone from timm's name, with random, timm's own, or a file's weights.

        model: a timm name, with the tag of its weights if wanted (`resnet50.a1_in1k`), or in timm's notation a model
            on the hub (`hf-hub:OWNER/NAME`, `timm/NAME`) or in a folder (`local-dir:DIR`). A checkpoint whose
            metadata names `architecture` (and `kwargs`, `pretrained_cfg` as JSON) needs none.
        pretrained: take timm's weights from the hub, or those of the folder (safetensors only).
        checkpoint: a safetensors file in timm's own naming, perhaps all below one prefix such as `module.`; its
            classifier, if any, is left out.
        options: keyword arguments of the timm model (`in_chans`, `width` …), and of its preprocessing
            (`input_size`, `img_size`, `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`).
        seed: of the random weights.

        Raises InputError for unknown names and options, several heads, and files that do not fit.
        """
        if pretrained and checkpoint is not None:
            raise InputError("backbone: pretrained: true and checkpoint exclude each other; remove one")
        options, config, tensors = dict(options or {}), None, None
        model = None if model is None else construction.timm_name(model)
        if model is not None and model.startswith((construction.HUB, construction.LOCAL_DIR)):
            if not pretrained:
                raise InputError(f"backbone: '{model}' brings its weights; set pretrained: true")
            checkpoint, tensors, metadata = construction.read_model(model)
            model, pretrained = None, False  # not timm's own
        elif checkpoint is not None:
            tensors, metadata = construction.read_checkpoint(Path(checkpoint).expanduser())
        if checkpoint is not None:
            model = _architecture_of(Path(checkpoint), metadata, model)
            options = {**_json(Path(checkpoint), metadata, "kwargs"), **options}
            config = _json(Path(checkpoint), metadata, "pretrained_cfg")
        if model is None:
            raise InputError("backbone: neither a model nor a checkpoint is named; add model: NAME, e.g. conv4")
        construction.check_name(model)
        architecture = model.partition(".")[0]
        construction.head_slot(architecture)  # refused before anything is downloaded
        arguments, changes = construction.split_options(architecture, options)
        config = {**timm.get_pretrained_cfg(model).to_dict(remove_source=True), **(config or {}), "custom_load": False}
        if not pretrained:
            config.pop("tag", None)  # names weights of timm's that are not these
        config = construction.adapted_config(config, changes, arguments.get("in_chans"))
        if pretrained:
            built = construction.build(model, arguments, seed=seed, weights=construction.download(model))
        else:
            built = construction.build(architecture, arguments, seed=seed, config=config)
        backbone = cls(built, architecture=architecture, options=arguments, pretrained_cfg=config)
        if tensors is not None:
            wanted = backbone.trunk.state_dict()
            named, source = construction.without_prefix(tensors, wanted, source=str(checkpoint))
            kept = {name: tensor for name, tensor in named.items() if not name.startswith(f"{backbone.head_slot}.")}
            construction.load_strictly(backbone.trunk, kept, source=source)
        return backbone

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch feature"]:
        """Features of preprocessed images, on the device of the weights."""
        features = self.trunk(images)
        if features.ndim != 2 or features.shape[1] != self.feature_width:
            got = list(features.shape[1:])
            raise InputError(f"backbone.options: '{self.architecture}' gives {got} per image; leave its pooling on")
        return features

    def weights_hash(self) -> str:
        """16 hex digits of everything that decides the features of a preprocessed image."""
        options = json.dumps(self.options, sort_keys=True)
        return text_hash(self.architecture, options, tensors_hash(self.trunk.state_dict()))

    def preprocessing_key(self) -> str:
        """16 hex digits of how images are resized, cropped and normalised."""
        return self.preprocess.key()

    def with_head(self, weight: Float[Tensor, "ways feature"], bias: Float[Tensor, " ways"]) -> nn.Module:
        """A copy of the timm model, in evaluation mode, whose logits are features · weightᵀ + bias."""
        ways, width = weight.shape
        if width != self.feature_width or bias.shape != (ways,):
            shapes = f"weight {list(weight.shape)} and bias {list(bias.shape)}"
            raise InputError(f"head: {shapes} do not fit a backbone with {self.feature_width} features")
        model: Any = copy.deepcopy(self.trunk)
        device = next(model.parameters()).device
        layer = nn.Linear(width, ways, device=device)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        model.set_submodule(self.head_slot, layer)
        model.num_classes = ways
        model.pretrained_cfg["num_classes"] = ways
        return model.requires_grad_(True).eval()

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors into a folder."""
        config = {key: getattr(self, key) for key in _CONFIG}
        write_tensors(Path(folder) / "model.safetensors", self.trunk.state_dict(), {"format": "pt"})
        write_json(Path(folder) / "config.json", config)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Backbone:
        """Read what `save_pretrained` wrote. Raises InputError for any difference in keys, shapes or values."""
        folder = Path(folder)
        config = read_json(folder / "config.json")
        for key, kind in _CONFIG.items():
            if not isinstance(config, dict) or not isinstance(config.get(key), kind):
                wrong = f"key '{key}' is missing or not of type {kind.__name__}"
                raise InputError(f"{folder / 'config.json'}: {wrong}; save the backbone again")
        construction.check_name(config["architecture"])
        built = construction.build(config["architecture"], config["options"], config=config["pretrained_cfg"])
        backbone = cls(built, **{key: config[key] for key in ("architecture", "options", "pretrained_cfg")})
        for key in ("head_slot", "feature_width"):
            if getattr(backbone, key) != config[key]:
                raise InputError(
                    f"{folder / 'config.json'}: {key} is {config[key]}, the model's {getattr(backbone, key)}"
                )
        source = folder / "model.safetensors"
        construction.load_strictly(backbone.trunk, read_tensors(source), source=str(source))
        return backbone


_CONFIG = {"architecture": str, "options": dict, "pretrained_cfg": dict, "head_slot": str, "feature_width": int}


def _architecture_of(path: Path, metadata: Mapping[str, str], model: str | None) -> str:
    named = metadata.get("architecture")
    if named is None and model is None:
        raise InputError(f"{path}: its metadata names no architecture; add model: NAME next to checkpoint")
    if named is not None and model is not None and model.partition(".")[0] != named.partition(".")[0]:
        raise InputError(f"{path}: is a '{named}', not a '{model}'; remove model")
    return model or str(named)


def _json(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(metadata.get(key, "{}"))
    except ValueError as error:
        raise InputError(f"{path}: metadata '{key}' is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: metadata '{key}' is not a JSON object")
    return value
