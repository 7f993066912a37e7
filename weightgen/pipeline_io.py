"""A generator on disk, in diffusers' layout: one folder per component, safetensors and JSON only."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from torch import Tensor

from weightgen.backbones.backbone import Backbone
from weightgen.errors import InputError, reason
from weightgen.features.standardizer import Standardizer
from weightgen.files import is_litter, new_folder, read_json, read_tensors, write_json, write_tensors
from weightgen.hub import local_folder, push_folder
from weightgen.interfaces import Conditioner, Denoise, Denoiser, ParameterSpace
from weightgen.registry import nearest
from weightgen.schedulers.schedulers import chain_of, check_scheduler, is_noiseless, scheduler_class
from weightgen.seeds import building_networks
from weightgen.spaces.class_rows import ClassRows

Own = TypeVar("Own", bound="GeneratorPipeline")
Module = TypeVar("Module", bound=torch.nn.Module)
Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], dict[str, torch.Tensor]]
_INDEX = "model_index.json"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_KINDS: dict[str, type] = {
    "denoiser": Denoiser, "conditioner": Conditioner, "standardizer": Standardizer, "space": ParameterSpace
}  # fmt: skip
_OTHERS = ("scheduler", "backbone")
# Before 0.2 whitened features were turned to the axes of their own base classes, a system that every fold had anew.
_MOVED_SINCE_0_1 = ("weightgen.parameters.", "weightgen.features.")
_STANDARDIZER_OF_0_1 = "weightgen.parameters.standardizer"
_SEE_COORDINATES = {"TokenTransformer", "GradientMlp", "LocalTargets"}
_RENAMED_SINCE_0_1 = {
    "sharpness": "likelihood_scale",
    "log_sharpness": "log_scale",
    "strangers": "distractors",
    "told": "knows_segment",
    **{f"bent_{what}": f"power_{what}" for what in ("mean", "slope", "target")},
}
"""Tensors and options, by the words of their names between dots."""
_OF_PARTS = "PartPipeline"
"""Class of the generators of 0.1 that wrote parameters inside the backbone."""


class Chosen(TypedDict, total=False):
    """How a chain is run, where not as the generator's config says.

    steps: denoiser calls in a row. samples: draws per episode.
    denoiser: used instead of the generator's own (what would another one have done?).
    watch: is shown the chain's tokens on the way (`reverse_chain`), the samples of an episode next to each other.
    """

    steps: int | None
    samples: int | None
    denoiser: Denoise | None
    watch: Callable[[Tensor], None] | None


class GeneratorPipeline(DiffusionPipeline):
    """A diffusers pipeline that is saved as safetensors and JSON alone."""

    denoiser: Denoiser
    conditioner: Conditioner
    standardizer: Standardizer
    space: ParameterSpace
    scheduler: SchedulerMixin
    backbone: Backbone

    def __setattr__(self, name: str, value: Any) -> None:
        chain = self._trained_chain if name == "scheduler" else None
        if chain is not None:
            check_scheduler(value, chain)
        super().__setattr__(name, value)

    @property
    def _trained_chain(self) -> Mapping[str, Any] | None:
        """What the denoiser learnt of its chain (`chain_of`); None before the components are there."""
        return getattr(self, "_internal_dict", {}).get("chain")

    def _keep_chain(self) -> None:
        """Take the scheduler for the one of training, unless a folder says which that was."""
        self.register_to_config(chain=dict(self._trained_chain or chain_of(self.scheduler)))

    def to(self, *args: Any, **kwargs: Any) -> GeneratorPipeline:
        """Move all components to a device, in diffusers' notations. They work in float32 alone.

        Raises InputError for another type of numbers, and for a device that torch does not have here.
        """
        given = [*args, *(kwargs.get(key) for key in ("device", "dtype", "torch_dtype"))]
        check_dtype(*(one for one in given if isinstance(one, torch.dtype)))
        for device in (one for one in given if one is not None and not isinstance(one, torch.dtype)):
            try:
                for module in self._modules():
                    module.to(torch.device(device))
            except (AssertionError, RuntimeError, TypeError) as error:
                raise InputError(f"device {device}: torch cannot use it here ({reason(error)}); take cpu") from error
        return self

    def enable_model_cpu_offload(self, *_: Any, **__: Any) -> None:
        """Refused: a generator is moved whole."""
        raise InputError("a generator is too small to be offloaded in parts; move it whole, with pipeline.to(device)")

    enable_sequential_cpu_offload = enable_model_cpu_offload
    enable_group_offload = enable_model_cpu_offload

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write the generator's folder, whole or not at all; safetensors and JSON only."""
        save_components(self, Path(save_directory))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the generator's folder to a hub repository; returns its address. See `hub.push_folder`."""
        return push_folder(self.save_pretrained, repo_id, **options)

    @classmethod
    def from_pretrained(cls: type[Own], folder: str | Path, **changes: Any) -> Own:
        """Read a generator's folder, or `hf-hub:OWNER/NAME`.

        Imports `weightgen` and diffusers schedulers only, and reads safetensors only.

        Args:
            changes: options of the class that are wanted otherwise than the folder has them.

        Raises:
            InputError: a missing file, any difference in keys, shapes or kinds, a folder of another class, an unknown
                option, or another type of numbers than float32.
        """
        folder = local_folder(folder)
        check_dtype(changes.pop("torch_dtype", None), changes.pop("dtype", None))
        known = set(inspect.signature(cls.__init__).parameters) - {"self"}
        for key in changes:
            if key not in known:
                raise InputError(f"from_pretrained takes no '{key}'{nearest(key, known)}")
        name = str(_index(folder).get("_class_name"))
        if name == _OF_PARTS:
            raise InputError(f"{folder}: was written by weightgen 0.1, in a form no longer read; train it again")
        if name != cls.__name__:
            raise InputError(f"{folder}: holds a {name}, not a {cls.__name__}; load it by that class")
        components, config = load_components(folder)
        try:
            pipeline = cls(**{**components, **config, **changes})
            check_scheduler(pipeline.scheduler, pipeline.config.chain)
            for samples in (1, 2):
                pipeline.scale(samples)  # a calibration that is none is refused here, not in the middle of work
        except (TypeError, ValueError) as error:
            raise InputError(f"{folder}: does not fit this weightgen ({error}); save the generator again") from error
        for module in pipeline._modules():
            module.eval()
        return pipeline

    @property
    def can_draw(self) -> bool:
        """Whether there can be several draws: not every chain has noise, and not every space keeps them."""
        return self.space.draws and not is_noiseless(self.scheduler)

    @property
    def sees_coordinates(self) -> bool:
        """Whether a network learns what coordinates mean, so that they must be the same in every space."""
        return self.denoiser.sees_coordinates or self.conditioner.sees_coordinates

    @property
    def costly(self) -> bool:
        """Whether every episode takes a feature space or a backbone of its own, so that few are judged on the way."""
        return self.conditioner.adapts or self.space.takes_images

    def _modules(self) -> list[torch.nn.Module]:
        return [getattr(self, name) for name in (*_KINDS, "backbone")]


def check_dtype(*dtypes: Any) -> None:
    """Raise InputError for a type of numbers that a generator does not work in."""
    for dtype in dtypes:
        if dtype not in (None, "auto", torch.float32, "float32"):
            raise InputError(
                f"{dtype}: a generator works in float32, for heads follow small differences of features; leave it out"
            )


def save_components(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write every component and the index; the folder appears whole or not at all."""
    others = folder.exists() and any(not is_litter(path.name) for path in folder.iterdir())
    if others and not (folder / _INDEX).exists():
        raise InputError(f"{folder}: holds something else than a generator; choose another folder")
    index: dict[str, Any] = {key: value for key, value in pipeline.config.items() if not key.startswith("_")}
    with new_folder(folder) as path:
        for name in (*_KINDS, *_OTHERS):
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


def load_components(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Components and config values of a generator's folder.

    Raises InputError: no generator there, a component of a module that is not ours, or tensors that do not fit.
    """
    index, components, kinds = _index(folder), {}, dict(_KINDS)
    if "space" not in index and "readout" in index:  # before 0.2 there were class rows alone
        del kinds["space"]
        components["space"] = ClassRows(readout=index.pop("readout"))
    for name in (*kinds, *_OTHERS):
        named = index.get(name)
        if not isinstance(named, list) or [type(word) for word in named] != [str, str]:
            wrong = f"component '{name}' is missing or not [module, class]"
            raise InputError(f"{folder / _INDEX}: {wrong}; save the generator again")
    of_0_1 = index["standardizer"][0] == _STANDARDIZER_OF_0_1
    if of_0_1:
        _check_no_coordinates(index, folder)
    for name, kind in kinds.items():
        module, class_name = index[name]
        if of_0_1 and name == "standardizer":
            components[name] = load_component(folder / name, Standardizer, change=_without_turn)
        else:
            module = module.replace(*_MOVED_SINCE_0_1) if of_0_1 else module
            components[name] = load_component(folder / name, _class_of(module, class_name, kind, folder / _INDEX))
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
        raise InputError(
            f"{folder}: is not a generator folder (no {_INDEX}); give the folder generator/ of a finished run"
        )
    return _config(folder / _INDEX)


def _check_sizes(components: dict[str, Any], folder: Path) -> None:
    """Refuse components that do not belong together; not every size shows in the shape of a tensor."""
    sizes = {
        "feature_width": components["backbone"].feature_width,
        "num_train_timesteps": components["scheduler"].config.num_train_timesteps,
    }
    sizes |= components["space"].shape_options
    for name in (name for name in _KINDS if name != "space"):
        for key, size in sizes.items():
            own = components[name].config.get(key, size)
            if own != size:
                raise InputError(
                    f"{folder / name / 'config.json'}: {key} is {own}, but the other components have {size}; "
                    "these components are not of one generator, save it again"
                )


def _class_of(module: str, class_name: str, kind: type, index: Path) -> type:
    """The class a folder names. A folder may not make us import code that the user did not, nor call any other."""
    if not module.startswith("weightgen.") and module not in sys.modules:
        raise InputError(f"{index}: '{class_name}' comes from '{module}'; import that module first if you trust it")
    try:
        named = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{index}: this weightgen has no {module}.{class_name}; update it") from error
    if not isinstance(named, type) or not issubclass(named, kind):
        raise InputError(f"{index}: {module}.{class_name} is not a {kind.__name__}; save the generator again")
    return named


def _load_scheduler(class_name: str, place: Path) -> SchedulerMixin:
    path = place / "scheduler_config.json"
    kind, config = scheduler_class(class_name), _config(path)
    try:
        return kind.from_config(config)
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{path}: does not fit {class_name} ({reason}); save the generator again") from error


def load_component(place: Path, kind: type[Module], *, change: Change | None = None) -> Module:
    """A component from its own folder, `config.json` and one safetensors file.

    Args:
        change: makes tensors of an earlier version into those of this one.

    Raises InputError for a missing file, and for any difference in keys, shapes or types.
    """
    config = {key: value for key, value in _config(place / "config.json").items() if not key.startswith("_")}
    config = {_renamed(key): value for key, value in config.items()}
    with building_networks():
        try:
            module = kind(**config)
        except (TypeError, ValueError) as error:
            reason = f"does not fit {kind.__name__} of this version ({error}); train the generator again"
            raise InputError(f"{place / 'config.json'}: {reason}") from error
    tensors = {_renamed(key): tensor for key, tensor in read_tensors(place / _WEIGHTS).items()}
    wanted = module.state_dict()
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


def _renamed(key: str) -> str:
    return ".".join(_RENAMED_SINCE_0_1.get(word, word) for word in key.split("."))


def _config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path}: is not a JSON object; save the generator again")
    return config
