"""A generator on disk, in diffusers' layout: one folder per component, safetensors and JSON only."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from huggingface_hub import HfApi

from weightgen.backbones.backbone import Backbone
from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.files import is_litter, new_folder, read_json, read_tensors, write_json, write_tensors
from weightgen.interfaces import Conditioner, Denoiser
from weightgen.schedulers.schedulers import scheduler_class

Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], dict[str, torch.Tensor]]
_INDEX = "model_index.json"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_KINDS: dict[str, type] = {"denoiser": Denoiser, "conditioner": Conditioner, "standardizer": Standardizer}
_OTHERS = ("scheduler", "backbone")
_NOTHING: Mapping[str, type] = {}
# Before 0.2 whitened features were turned to the axes of their own base classes, a system that every fold had anew.
_STANDARDIZER_OF_0_1 = "weightgen.parameters.standardizer"
_SEE_COORDINATES = {"TokenTransformer", "PartTransformer", "GradientMlp", "LocalTargets"}


def save_components(pipeline: DiffusionPipeline, folder: Path, *, further: Mapping[str, type] = _NOTHING) -> None:
    """Write every component and the index; the folder appears whole or not at all.

    further: kinds of the components, by name, that not every generator has.
    """
    others = folder.exists() and any(not is_litter(path.name) for path in folder.iterdir())
    if others and not (folder / _INDEX).exists():
        raise InputError(f"{folder}: holds something else than a generator; choose another folder")
    index: dict[str, Any] = {key: value for key, value in pipeline.config.items() if not key.startswith("_")}
    with new_folder(folder) as path:
        for name in (*_KINDS, *further, *_OTHERS):
            component = getattr(pipeline, name)
            place = path / name
            place.mkdir()
            index[name] = [type(component).__module__, type(component).__name__]
            if isinstance(component, ModelMixin):
                component.save_config(place)
                write_tensors(place / _WEIGHTS, component.state_dict(), {"format": "pt"})
            else:
                component.save_pretrained(place)
        index["scheduler"][0] = index["scheduler"][0].partition(".")[0]
        write_json(path / _INDEX, {"_class_name": type(pipeline).__name__, **index})


def pipeline_name(folder: Path) -> str:
    """Name of the pipeline class that a generator's folder was saved by. Raises InputError when it is no generator."""
    return str(_index(folder).get("_class_name"))


def load_components(folder: Path, *, further: Mapping[str, type] = _NOTHING) -> tuple[dict[str, Any], dict[str, Any]]:
    """Components and config values of a generator's folder; `further` is as in `save_components`.

    Raises InputError: no generator there, a component of a module that is not ours, or tensors that do not fit.
    """
    index, kinds = _index(folder), {**_KINDS, **further}
    for name in (*kinds, *_OTHERS):
        named = index.get(name)
        if not isinstance(named, list) or [type(word) for word in named] != [str, str]:
            wrong = f"component '{name}' is missing or not [module, class]"
            raise InputError(f"{folder / _INDEX}: {wrong}; save the generator again")
    components: dict[str, Any] = {}
    of_0_1 = index["standardizer"][0] == _STANDARDIZER_OF_0_1
    if of_0_1:
        _check_no_coordinates(index, folder)
    for name, kind in kinds.items():
        module, class_name = index[name]
        if of_0_1 and name == "standardizer":
            components[name] = _load_module(Standardizer, folder / name, change=_without_turn)
        else:
            components[name] = _load_module(_class_of(module, class_name, kind, folder / _INDEX), folder / name)
    components["scheduler"] = _load_scheduler(index["scheduler"][1], folder / "scheduler")
    components["backbone"] = Backbone.from_pretrained(folder / "backbone")
    _check_sizes(components, folder)
    config = {key: value for key, value in index.items() if key not in components and not key.startswith("_")}
    return components, config


def _without_turn(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A standardizer of 0.1 in the coordinates of today: what was turned into the map is carried beside it."""
    tensors = dict(tensors)
    turn = tensors.pop("axes")
    if config.get("map") == "whiten":
        tensors.update(matrix=turn.mT @ tensors["matrix"], axes=turn.mT.contiguous())
    return tensors


def _check_no_coordinates(index: dict[str, Any], folder: Path) -> None:
    """Refuse networks of 0.1 that learnt what coordinates mean, where these are no longer the same."""
    whitened = _config(folder / "standardizer" / "config.json").get("map") == "whiten"
    for name in ("denoiser", "conditioner"):
        kind = index[name][1]
        if whitened and kind in _SEE_COORDINATES:
            raise InputError(
                f"{folder}: was written by weightgen 0.1, whose {kind} learnt in coordinates that later versions do "
                "not use; train it again"
            )


def _index(folder: Path) -> dict[str, Any]:
    if not (folder / _INDEX).exists():
        raise InputError(f"{folder}: is no generator (no {_INDEX}); give the folder generator/ of a finished run")
    return _config(folder / _INDEX)


def _check_sizes(components: dict[str, Any], folder: Path) -> None:
    """Refuse components that do not belong together; not every size shows in the shape of a tensor."""
    sizes = {
        "feature_width": components["backbone"].feature_width,
        "num_train_timesteps": components["scheduler"].config.num_train_timesteps,
    }
    for name in _KINDS:
        for key, size in sizes.items():
            own = components[name].config.get(key, size)
            if own != size:
                raise InputError(
                    f"{folder / name / 'config.json'}: {key} is {own}, but backbone and scheduler have {size}; "
                    "these parts are not of one generator, save it again"
                )


def push_folder(save: Callable[[Path], None], repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Save into a temporary folder and upload it to a hub repository; returns its address."""
    api = HfApi(token=token)
    address = api.create_repo(repo_id, private=private, exist_ok=True)
    with TemporaryDirectory() as folder:
        save(Path(folder) / "generator")
        api.upload_folder(repo_id=address.repo_id, folder_path=Path(folder) / "generator")
    return str(address)


def _class_of(module: str, class_name: str, kind: type, index: Path) -> type:
    """The class a folder names. A folder may not make us import code that the user did not, nor call any other."""
    if not module.startswith("weightgen.") and module not in sys.modules:
        raise InputError(f"{index}: '{class_name}' comes from '{module}'; import that module first if you trust it")
    try:
        found = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{index}: this weightgen has no {module}.{class_name}; update it") from error
    if not isinstance(found, type) or not issubclass(found, kind):
        raise InputError(f"{index}: {module}.{class_name} is no {kind.__name__}; save the generator again")
    return found


def _load_scheduler(class_name: str, place: Path) -> SchedulerMixin:
    path = place / "scheduler_config.json"
    made, config = scheduler_class(class_name), _config(path)
    try:
        return made.from_config(config)
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: does not fit {class_name} ({error}); save the generator again") from error


def _load_module(made: type, place: Path, *, change: Change | None = None) -> torch.nn.Module:
    """`change` makes tensors of an earlier version into those of this one."""
    config = {key: value for key, value in _config(place / "config.json").items() if not key.startswith("_")}
    try:
        module = made(**config)
    except (TypeError, ValueError) as error:
        raise InputError(f"{place / 'config.json'}: does not fit {made.__name__} ({error})") from error
    tensors, wanted = read_tensors(place / _WEIGHTS), module.state_dict()
    if change is not None:
        tensors = change(config, tensors)
    for key in sorted(tensors.keys() ^ wanted.keys()):
        state = "is missing" if key in wanted else "is not one of its tensors"
        raise InputError(f"{place / _WEIGHTS}: '{key}' {state}; save the generator again")
    for key, tensor in tensors.items():
        if tensor.shape != wanted[key].shape or tensor.dtype != wanted[key].dtype:
            raise InputError(
                f"{place / _WEIGHTS}: '{key}' has shape {list(tensor.shape)} {tensor.dtype}, not "
                f"{list(wanted[key].shape)} {wanted[key].dtype}; save the generator again"
            )
    module.load_state_dict(tensors)
    return module


def _config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path}: is not a JSON object; save the generator again")
    return config
