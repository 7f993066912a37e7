"""Building timm models with one linear head slot, and filling them from safetensors files, strictly."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import Tensor, nn

from weightgen.backbones import preprocessing
from weightgen.errors import InputError, reason
from weightgen.files import read_json, read_tensors
from weightgen.registry import nearest
from weightgen.seeds import building_networks, derive
from weightgen.specs import HUB, LOCAL_DIR

_RESERVED = (
    *("num_classes", "features_only", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"),
)
_REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_LARGEST_SIDE = 65_535
HEAD = "head.safetensors"
"""Lies beside a model whose classifier a generator wrote; one that knows its support images tells nothing of others."""


def timm_name(model: str) -> str:
    """A model's name in timm, where it is one of timm's own on the hub (`timm/NAME`, `hf-hub:timm/NAME`)."""
    return model.removeprefix(HUB).removeprefix("timm/") if model.startswith(("timm/", f"{HUB}timm/")) else model


def check_name(model: str) -> None:
    """Raise InputError, with the nearest right names, for a name that timm does not know."""
    architecture, _, tag = model.partition(".")
    place = Path(model).expanduser()
    if not timm.is_model(architecture) and place.exists():
        is_what = f"a directory; write {LOCAL_DIR}{model}" if place.is_dir() else "a file; give one in safetensors"
        raise InputError(f"backbone: '{model}' is not a name of timm's, but {is_what}")
    if set(model) & set(":/\\"):
        raise InputError(
            f"backbone: '{model}' is not a name of timm's; write {HUB}OWNER/NAME for a model on the hub, "
            f"{LOCAL_DIR}DIR for one in a folder, or pypi:efficientnet-lite0 for the one that comes with weightgen"
        )
    if not timm.is_model(architecture):
        raise InputError(f"backbone: timm has no model '{architecture}'{nearest(architecture, timm.list_models())}")
    tagged = timm.list_pretrained(f"{architecture}.*") if tag else []
    if tag and model not in tagged:
        raise InputError(f"backbone: timm has no weights '{model}'{nearest(model, tagged)}")


def head_slot(architecture: str) -> str:
    """Dotted name of the one layer that the head goes into. Raises InputError for several heads or none."""
    config = timm.get_pretrained_cfg(architecture)
    slot = config.classifier if config is not None else None
    if isinstance(slot, (tuple, list)):
        raise InputError(
            f"backbone: '{architecture}' has {len(slot)} heads ({', '.join(slot)}); choose a model with one"
        )
    if not slot:
        raise InputError(f"backbone: '{architecture}' has no classifier to replace; choose another model")
    return slot


def split_options(architecture: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options as keyword arguments of timm's model, and as changes to its preprocessing.

    `input_size`, `mean`, `std`, `interpolation`, `crop_pct` and `crop_mode` are preprocessing. So is `img_size`,
    except for models built for one size, which must know it too.
    """
    _check_options(options)
    arguments = {key: value for key, value in options.items() if key not in preprocessing.KEYS}
    changes = {key: value for key, value in options.items() if key in preprocessing.KEYS}
    fixed = timm.get_pretrained_cfg(architecture).fixed_input_size
    if "input_size" in changes:
        channels, *size = changes["input_size"]
        arguments.setdefault("in_chans", channels)
        if fixed:
            arguments.setdefault("img_size", tuple(size))
    elif "img_size" in arguments:
        size = arguments["img_size"]
        height, width = (size, size) if isinstance(size, int) else (*size, size[-1])[:2]
        changes["input_size"] = (arguments.get("in_chans", 0), height, width)  # `adapted_config` sets the channels
        if not fixed:
            del arguments["img_size"]
    return arguments, changes


def adapted_config(config: Mapping[str, Any], changes: Mapping[str, Any], in_chans: int | None) -> dict[str, Any]:
    """A `pretrained_cfg` with other preprocessing, its input size, mean and deviation brought to `in_chans`."""
    adapted = {**config, **changes}
    channels = in_chans or config["input_size"][0]
    adapted["input_size"] = (channels, *adapted["input_size"][1:])
    for key in ("mean", "std"):
        values = adapted[key]
        adapted[key] = tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
    return json.loads(json.dumps(adapted))  # as it will be read back: lists, no tuples


def build(
    architecture: str,
    arguments: Mapping[str, Any],
    *,
    num_classes: int = 2,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    weights: Path | None = None,
) -> nn.Module:
    """A timm model with random weights, the same for the same seed, or with weights of timm's own from a file.

    Raises InputError when timm refuses an argument.
    """
    _check_options(arguments)
    overlay = {} if weights is None else {"pretrained_cfg_overlay": {"file": str(weights), "custom_load": False}}
    with building_networks():
        torch.manual_seed(derive(seed, "backbone"))
        try:
            return timm.create_model(
                architecture,
                pretrained=weights is not None,
                num_classes=num_classes,
                pretrained_cfg=None if config is None else dict(config),
                **overlay,
                **arguments,
            )
        except _REFUSALS as error:
            raise InputError(f"backbone.options: timm cannot build '{architecture}' so: {reason(error)}") from error


def check_slot(model: nn.Module, architecture: str, slot: str) -> int:
    """Width of the features that go into the head slot. Raises InputError unless a linear layer sits there."""
    layer = model.get_submodule(slot)
    if not isinstance(layer, nn.Linear) or layer.bias is None:
        kind = type(layer).__name__
        raise InputError(f"backbone: the head '{slot}' of '{architecture}' is a {kind}, not a linear layer with bias")
    return layer.in_features


def download(model: str) -> Path:
    """The weights of timm as safetensors, from the hub's cache or the network. Raises InputError otherwise.

    timm itself falls back to pickled files where the hub holds no safetensors, and for models that are
    served from a plain address; so the file is fetched here.
    """
    repository, given = published(model)
    names = [str(Path(given).with_suffix(".safetensors")), "open_clip_model.safetensors", "model.safetensors"]
    return _fetched(repository, names, model=model)


def published(model: str) -> tuple[str, str]:
    """Hub repository and file of timm's own weights. Raises InputError when there are none that can be read safely."""
    config = timm.get_pretrained_cfg(model)
    if config is None or not config.hf_hub_id:
        raise InputError(
            f"backbone: timm offers no safetensors weights for '{model}'; name a model with weights, or pretrain this "
            f"one in a run: weightgen train metadiff backbone.model={model.partition('.')[0]} "
            "backbone.pretraining.steps=500"
        )
    return config.hf_hub_id, config.hf_hub_filename or "model.safetensors"


def read_model(model: str) -> tuple[Path, dict[str, Tensor], dict[str, str]]:
    """A model in timm's layout, in a folder or on the hub: file, tensors, and metadata as a checkpoint would have it.

    Of a head that weightgen wrote the metadata have the key `HEAD`.

    Raises InputError when there is none, or it names no architecture.
    """
    place = model.removeprefix(LOCAL_DIR).removeprefix(HUB)
    if model.startswith(LOCAL_DIR):
        folder = Path(place).expanduser()
        if not folder.is_dir():
            raise InputError(f"{folder}: is not a directory; give one with config.json and model.safetensors")
        described, weights = folder / "config.json", folder / "model.safetensors"
    else:
        described, weights = (_fetched(place, [name], model=model) for name in ("config.json", "model.safetensors"))
    config = read_json(described)
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise InputError(f"{described}: names no architecture; give a model that timm or weightgen has written")
    arguments = config.get("model_args", config.get("options", {}))  # of timm, and of weightgen's own backbones
    if isinstance(arguments, dict):  # else refused by whoever reads it
        arguments = {key: value for key, value in arguments.items() if key != "num_classes"}
    kept = {"kwargs": arguments, "pretrained_cfg": config.get("pretrained_cfg", {})}
    metadata = {"architecture": config["architecture"], **{key: json.dumps(value) for key, value in kept.items()}}
    if model.startswith(LOCAL_DIR):
        written = (folder / HEAD).exists()
    else:
        try:
            written = _fetched(place, [HEAD], model=model).exists()
        except InputError:  # weightgen did not write it
            written = False
    return weights, read_tensors(weights), metadata | ({HEAD: "true"} if written else {})


def _fetched(repository: str, names: Iterable[str], *, model: str) -> Path:
    """The first of some files of a hub repository (`OWNER/NAME` or `OWNER/NAME@REVISION`) that is there."""
    owner_name, _, revision = repository.partition("@")
    chosen: dict[str, Any] = {"revision": revision} if revision else {}
    for name in dict.fromkeys(names):
        try:
            return Path(hf_hub_download(owner_name, name, **chosen))
        except Exception as error:  # the hub raises a dozen unrelated types, other ones in every version
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue
            raise InputError(f"backbone: cannot download '{model}' ({reason(error)}); is there a network?") from error
    what = "safetensors weights" if name.endswith(".safetensors") else name
    raise InputError(f"backbone: the hub holds no {what} for '{model}'; name other weights")


def without_prefix(
    tensors: Mapping[str, Tensor], wanted: Iterable[str], *, source: str
) -> tuple[Mapping[str, Tensor], str]:
    """Tensors named as a model names its own, without what a wrapper (`module.`, `_orig_mod.`) put before all names.

    Returns them, and `source` with the prefix that was taken off. Raises InputError, which names the prefix, when other
    tensors lie beside those that would fit.
    """
    wanted = set(wanted)

    def below(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}

    longest = max(wanted, key=len)
    prefixes = {"", *(name.removesuffix(longest) for name in tensors if name.endswith(f".{longest}"))}
    leading = next(iter(tensors), "").split(".")[:-1]
    prefixes |= {"".join(f"{part}." for part in leading[:depth]) for depth in range(len(leading) + 1)}
    best = max(sorted(prefixes), key=lambda prefix: len(wanted & below(prefix).keys()))
    other = next((name for name in tensors if not name.startswith(best)), None)
    if not best or (other is not None and not wanted <= below(best).keys()):
        return tensors, source
    if other is not None:
        raise InputError(
            f"{source}: the model's tensors are named '{best}…', and others such as '{other}' lie beside them; save "
            f"those below '{best}' alone"
        )
    return below(best), f"{source} (below '{best}')"


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a model. Raises InputError naming the first that is missing, unknown, or of another shape."""
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors:
            raise InputError(f"{source}: tensor '{name}' is missing; is this a checkpoint of another model?")
        if tensor.shape != tensors[name].shape:
            shapes = f"{list(tensors[name].shape)} instead of {list(tensor.shape)}"
            raise InputError(f"{source}: tensor '{name}' has shape {shapes}; are the backbone's options right?")
    for name in tensors:
        if name not in wanted:
            raise InputError(
                f"{source}: tensor '{name}' is unknown to the model; is this a checkpoint of another model?"
            )
    model.load_state_dict(dict(tensors), strict=True)


def _check_options(options: Mapping[str, Any]) -> None:
    for key in _RESERVED:
        if key in options:
            raise InputError(f"backbone.options: '{key}' is not yours to set; remove it")
    for key, numbers in (("img_size", (1, 2)), ("input_size", (3,))):
        if key in options:
            size = options[key] if isinstance(options[key], Sequence) else [options[key]]
            whole = all(type(number) is int and 0 < number <= _LARGEST_SIDE for number in size)
            if isinstance(size, str) or len(size) not in numbers or not whole:
                wanted = "pixels, or [height, width]" if key == "img_size" else "[channels, height, width]"
                raise InputError(
                    f"backbone.options.{key}: must be {wanted}, of 1 to {_LARGEST_SIDE} (got {options[key]!r})"
                )
