"""What this installation and this machine have, and what is missing: the first thing to look at, and to report."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import constants

import weightgen
from weightgen.backbones.packaged import DEFAULT_BACKBONE, packaged_weights
from weightgen.errors import InputError
from weightgen.extras import EXTRAS, missing
from weightgen.files import cache_directory

_PACKAGES = (
    *("torch", "torchvision", "timm", "diffusers", "transformers", "datasets", "accelerate", "safetensors"),
    *("huggingface_hub", "scikit-learn", "numpy", "pillow"),
)
_NEEDS_GIB = {"generate, predict and export with the default backbone": 1.3, "train metadiff": 1.5}
"""Memory at most, as measured."""
_GIB = 2**30


def diagnosis() -> dict[str, Any]:
    """As JSON values; nothing is written, fetched or trained.

    packages: versions, None where one is not installed. extras: those with missing modules, and the command for them.
    device: cores, threads of torch, memory, and accelerators. caches: folder, size, and whether it can be written to.
    default_backbone: whether its weights are at hand, or what to do. fits: what this machine has the memory for.
    """
    memory = psutil.virtual_memory()
    return {
        "weightgen": weightgen.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "extras": [
            {"name": name, "missing": absent, "install": f"pip install 'weightgen[{name}]'"}
            for name in EXTRAS
            if (absent := missing(name))
        ],
        "device": {
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_gib": memory.total / _GIB,
            "available_gib": memory.available / _GIB,
            "accelerators": _accelerators(),
        },
        "caches": [
            _cache("weightgen", cache_directory()),
            _cache("hub", Path(constants.HF_HUB_CACHE)),
            _cache("data sets", Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")),
        ],
        "offline": constants.HF_HUB_OFFLINE,
        "default_backbone": _default_backbone(),
        "fits": [
            {"what": what, "needs_gib": needs, "fits": memory.available / _GIB > needs}
            for what, needs in _NEEDS_GIB.items()
        ],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _accelerators() -> list[dict[str, Any]]:
    """Devices that torch can compute on beside the processor; `memory_gib` is None where it is the machine's own."""
    devices: list[dict[str, Any]] = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        devices.append({"name": properties.name, "memory_gib": properties.total_memory / _GIB})
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "memory_gib": None})
    return devices


def _cache(what: str, folder: Path) -> dict[str, Any]:
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    size = sum(path.lstat().st_size for path in folder.rglob("*")) if folder.is_dir() else 0
    writable = there.is_dir() and os.access(there, os.W_OK)
    return {"what": what, "folder": str(folder), "gib": size / _GIB, "writable": writable}


def _default_backbone() -> dict[str, Any]:
    weights = packaged_weights(DEFAULT_BACKBONE)
    try:
        weights.content()
        remedy = None
    except InputError as error:
        remedy = None if weights.path().exists() else str(error)
    return {"name": DEFAULT_BACKBONE, "ready": remedy is None, "remedy": remedy}
