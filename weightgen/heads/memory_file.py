"""The file of a head's memory, in the head's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from weightgen.backbones.construction import read_checkpoint
from weightgen.errors import InputError
from weightgen.files import write_tensors
from weightgen.heads.head_memory import SPACE, HeadMemory, Origin, check_memory, memory_shapes
from weightgen.records import Statistics

MEMORY_FILE = "statistics.safetensors"


def write_memory(folder: Path, memory: HeadMemory, class_names: Sequence[str]) -> None:
    """Write the file: float32, the sample float16; class names and generator are its metadata.

    Raises InputError when the sample does not fit float16.
    """
    own = memory.tensors()
    tensors = {name: tensor if tensor.dtype == torch.bool else tensor.float() for name, tensor in own.items()}
    tensors["sample"] = memory.sample.half()
    if not bool(torch.isfinite(tensors["sample"]).all()):
        raise InputError("memory: the sample holds values beyond 65504; standardise the images before")
    metadata = {"class_names": json.dumps(list(class_names), ensure_ascii=False), "generator": memory.generator}
    write_tensors(folder / MEMORY_FILE, tensors, metadata)


def read_memory(folder: Path, class_names: Sequence[str], *, feature_width: int) -> HeadMemory | None:
    """The memory of a head with these classes, in float32; None where the folder keeps none.

    Raises InputError for a damaged file, NaN, and one of other classes or sizes.
    """
    path = folder / MEMORY_FILE
    if not path.exists():
        return None
    tensors, metadata = read_checkpoint(path)
    try:
        if metadata.get("class_names") != json.dumps(list(class_names), ensure_ascii=False):
            raise InputError("memory: its class names differ from those in config.json")
        memory = _of_tensors(tensors, metadata.get("generator", ""))
        check_memory(memory, ways=len(class_names), feature_width=feature_width)
    except InputError as error:
        raise InputError(f"{path}: {error}; delete it to use the head without, or generate the head again") from error
    return memory


def _of_tensors(tensors: Mapping[str, Tensor], generator: str) -> HeadMemory:
    own = {name: tensor if tensor.dtype == torch.bool else tensor.float() for name, tensor in tensors.items()}
    space = {name.removeprefix(SPACE): own.pop(name) for name in tensors if name.startswith(SPACE)}
    names = memory_shapes(0, 0, 0).keys()
    if own.keys() != names:
        raise InputError(f"memory: holds {', '.join(sorted(own))} where {', '.join(sorted(names))} belong")
    statistics = Statistics(own["counts"], own["means"], own["scatter"])
    origin = Origin(space, own["shots"], own["founding"])
    return HeadMemory(statistics, own["sample"], own["sample_mask"], origin, generator)
