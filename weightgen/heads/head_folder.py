"""A generated head on disk, as a folder that timm and transformers load too."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.construction import read_checkpoint
from weightgen.errors import InputError
from weightgen.files import new_folder, read_tensors, write_json, write_tensors, write_text
from weightgen.heads.class_names import check_class_names
from weightgen.heads.head_memory import HeadMemory, check_memory
from weightgen.heads.head_place import check_is_head, check_target
from weightgen.heads.memory_file import read_memory, write_memory
from weightgen.heads.model_card import model_card
from weightgen.heads.model_config import build_backbone, model_config, read_model_config
from weightgen.records import LinearHeads

_PACKAGES = ("weightgen", "timm", "diffusers")


@dataclass(frozen=True)
class SavedHead:
    """What a head folder holds.

    head: a batch of one; all draws where the folder keeps them, else their mean.
    mean: the single head that stands for the draws, as it was saved.
    model: the timm model with the mean head, in evaluation mode.
    provenance: recipe hash, generator, scheduler, steps, seed, versions …, whatever was saved.
    parts: names of the tensors inside `backbone` that were generated too.
    memory: what the head was written from, where the folder keeps it.
    """

    head: LinearHeads
    mean: LinearHeads
    class_names: tuple[str, ...]
    backbone: Backbone
    model: nn.Module
    provenance: dict[str, str]
    parts: tuple[str, ...] = ()
    memory: HeadMemory | None = None


def save_head(
    folder: Path,
    *,
    head: LinearHeads,
    backbone: Backbone,
    class_names: Sequence[str],
    provenance: Mapping[str, str],
    parts: Sequence[str] = (),
    memory: HeadMemory | None = None,
    mean: LinearHeads | None = None,
) -> None:
    """Write a head folder, whole or not at all; an older head folder there is replaced.

    `mean` is given where the mean of the draws was taken before: computed again, it may differ in the last bits.

    model.safetensors, config.json: the timm model with the mean head.
    head.safetensors: the mean head alone, [ways feature] and [ways], and the `parts` of the backbone that were
        generated with it, named as in the model; class names and `provenance` are its metadata, with the backbone's
        name and weights hash and the versions of libraries.
    samples.safetensors: all draws, [samples ways feature] and [samples ways], where there is more than one.
    statistics.safetensors: the `memory`, where there is one; see `write_memory`.

    Raises InputError when head, backbone, names and memory do not fit each other, or the folder holds other files.
    """
    folder = Path(folder).resolve()
    check_target(folder)
    check_class_names(class_names, place="class names")
    sizes = {"ways": len(class_names), "feature_width": backbone.feature_width}
    check_head(head, **sizes)
    if memory is not None:
        check_memory(memory, **sizes)
    head = LinearHeads(head.weight.detach().float(), head.bias.detach().float())  # the type that the model holds
    mean = head.mean() if mean is None else mean
    model = backbone.with_head(mean.weight[0, 0], mean.bias[0, 0])
    provenance = {
        **{f"{name}_version": _version(name) for name in _PACKAGES},
        "torch_version": torch.__version__,  # with its build, which the package's metadata leaves out
        **{key: str(value) for key, value in provenance.items()},
        "backbone": backbone.architecture,
        "backbone_weights": backbone.weights_hash(),
    }
    tensors = dict(zip(_names(backbone), (mean.weight[0, 0], mean.bias[0, 0]), strict=True))
    tensors |= {name: backbone.trunk.state_dict()[name] for name in parts}
    metadata = {**provenance, "class_names": json.dumps(list(class_names), ensure_ascii=False)}
    samples = head.weight.shape[1]
    with new_folder(folder) as new:
        write_tensors(new / "model.safetensors", model.state_dict(), {"format": "pt"})
        write_json(new / "config.json", model_config(backbone, class_names))
        write_tensors(new / "head.safetensors", tensors, metadata)
        if samples > 1:
            write_tensors(new / "samples.safetensors", {"weight": head.weight[0], "bias": head.bias[0]})
        if memory is not None:
            write_memory(new, memory, class_names)
        remembers = memory is not None
        card = model_card(
            backbone, class_names, samples=samples, provenance=provenance, parts=parts, remembers=remembers
        )
        write_text(new / "README.md", card)


def load_head(folder: Path) -> SavedHead:
    """Read a head folder.

    Raises InputError for another kind of folder, missing or damaged files, NaN, and files that contradict each
    other: shapes, class names, draws, memory, or the backbone's weights.
    """
    folder = Path(folder)
    check_is_head(folder)
    config = read_model_config(folder / "config.json")
    tensors = read_tensors(folder / "model.safetensors")
    backbone = build_backbone(config, tensors, source=folder / "model.safetensors")
    parts, metadata = read_checkpoint(folder / "head.safetensors")
    names = _names(backbone)
    ways, width = len(config["label_names"]), backbone.feature_width
    own = {name: parts.pop(name) for name in sorted(parts.keys() - set(names))}  # of the backbone
    _check_tensors(folder / "head.safetensors", parts, dict(zip(names, [(ways, width), (ways,)], strict=True)))
    if metadata.get("class_names") != json.dumps(config["label_names"], ensure_ascii=False):
        raise InputError(f"{folder}: class names differ between head.safetensors and config.json; generate it again")
    in_model = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{backbone.head_slot}.")}
    if set(in_model) != set(names) or any(not torch.equal(in_model[name], parts[name]) for name in names):
        raise InputError(f"{folder}: the head in model.safetensors is not that of head.safetensors; generate it again")
    if any(name not in tensors or not torch.equal(tensors[name], tensor) for name, tensor in own.items()):
        raise InputError(f"{folder / 'head.safetensors'}: holds parts that model.safetensors lacks; generate it again")
    if metadata.get("backbone_weights") != backbone.weights_hash():
        raise InputError(f"{folder}: model.safetensors is not the backbone the head was made for; generate it again")
    mean = LinearHeads(*(parts[name][None, None] for name in names))
    draws = folder / "samples.safetensors"
    return SavedHead(
        head=_read_samples(draws, mean) if draws.exists() else mean,
        mean=mean,
        class_names=tuple(config["label_names"]),
        backbone=backbone,
        model=backbone.with_head(*(parts[name] for name in names)),
        provenance={key: value for key, value in metadata.items() if key != "class_names"},
        parts=tuple(own),
        memory=read_memory(folder, config["label_names"], feature_width=width),
    )


def check_head(head: LinearHeads, *, ways: int, feature_width: int) -> None:
    """Raise InputError unless this is a batch of one finite head of these sizes."""
    samples = head.weight.shape[1] if head.weight.dim() > 1 else 0
    if not samples or head.weight.shape != (1, samples, ways, feature_width) or head.bias.shape != (1, samples, ways):
        raise InputError(
            f"head: weight {list(head.weight.shape)} and bias {list(head.bias.shape)} are not one head for"
            f" {ways} classes of {feature_width} features; give a batch of 1 made for this backbone"
        )
    if not bool(torch.isfinite(head.weight).all() and torch.isfinite(head.bias).all()):
        raise InputError(
            "head: its weights hold NaN or infinite values; generate it again with another seed or scheduler"
        )


def _read_samples(path: Path, mean: LinearHeads) -> LinearHeads:
    samples = read_tensors(path)
    count = samples["weight"].shape[0] if "weight" in samples and samples["weight"].dim() else 0
    _check_tensors(path, samples, {"weight": (count, *mean.weight.shape[2:]), "bias": (count, *mean.bias.shape[2:])})
    head = LinearHeads(samples["weight"][None], samples["bias"][None])
    drawn = head.mean() if count else head
    if not count or not all(
        torch.allclose(getattr(drawn, name), getattr(mean, name), rtol=1e-4, atol=1e-5) for name in ("weight", "bias")
    ):
        raise InputError(f"{path}: the mean of its draws is not the head in head.safetensors; generate it again")
    return head


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if given != shapes:
        raise InputError(f"{path}: holds {given} where {dict(shapes)} belongs; generate the head again")


def _names(backbone: Backbone) -> tuple[str, str]:
    return f"{backbone.head_slot}.weight", f"{backbone.head_slot}.bias"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # a checkout on PYTHONPATH
