"""Checkpoints of the user's own as targets."""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from weightgen.errors import InputError
from weightgen.files import is_litter, read_tensors, tensors_hash
from weightgen.interfaces import ZooTargets
from weightgen.seeds import generator
from weightgen.zoo.build import ZooPlan, task_problem
from weightgen.zoo.members import Shard

_PICKLED = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar"}
_JUDGED = 1000  # images that a checkpoint's accuracy is measured on


class Folder(ZooTargets):
    """The selected parameters of checkpoints in a directory, each a member for all classes of the data.

    All are of one architecture, the backbone's, in timm's names or below one prefix such as `module.`; what is not
    selected is the backbone's own.

    Options:
        path: the directory; every .safetensors file in it is a checkpoint.
    """

    def __init__(self, *, path: str) -> None:
        self.path = Path(path)

    @cached_property
    def checkpoints(self) -> dict[str, dict[str, Tensor]]:
        """Tensors by file, sorted by name. Raises InputError, naming file and tensor, where one does not serve."""
        if not self.path.is_dir():
            raise InputError(f"zoo.path: {self.path} is not a directory; give one that holds .safetensors checkpoints")
        names = sorted(path.name for path in self.path.iterdir() if path.is_file() and not is_litter(path.name))
        pickled = [name for name in names if Path(name).suffix.lower() in _PICKLED]
        if pickled:
            raise InputError(
                f"{self.path / pickled[0]}: may be a pickle, and pickles are not read; save its tensors with "
                "safetensors.torch.save_file"
            )
        kept = [name for name in names if name.endswith(".safetensors")]
        if len(kept) < 2:
            raise InputError(
                f"{self.path}: holds {len(kept)} .safetensors checkpoints, which leave nothing to tell apart; give 2 "
                "or more"
            )
        read = {name: read_tensors(self.path / name) for name in kept}
        for name in kept[1:]:
            self._check_alike(name, read[name], kept[0], read[kept[0]])
        return read

    def check(self) -> None:
        _ = self.checkpoints

    def shards(self, plan: ZooPlan) -> int:
        return 1

    def shard(self, plan: ZooPlan, number: int) -> Shard:
        if len(plan.sources) > 1:
            raise InputError("training.folds: the checkpoints of a folder are for all classes at once, set it to 1")
        source, draw = plan.sources[0], generator(plan.seed, "folder")
        values = torch.stack([
            plan.space.read(tensors, source=str(self.path / name)) for name, tensors in self.checkpoints.items()
        ])  # fmt: skip
        classes = torch.arange(len(source.inputs.class_names))
        judge = task_problem(source, classes[None], most_images=max(1, _JUDGED // len(classes)), draw=draw)
        accuracy = torch.cat([judge.judged(one[None])[0] for one in values])
        return Shard(
            fold=0,
            classes=classes.expand(len(values), -1).contiguous(),
            targets=values[:, None].cpu(),
            accuracy=accuracy.cpu(),
        )

    def key(self, plan: ZooPlan) -> tuple[str, ...]:
        return ("folder", *(name + tensors_hash(tensors) for name, tensors in self.checkpoints.items()))

    def _check_alike(self, name: str, tensors: dict[str, Tensor], first: str, firsts: dict[str, Tensor]) -> None:
        one = "; all checkpoints must be of one architecture"
        if differing := sorted(tensors.keys() ^ firsts.keys()):
            lacking, other = (name, first) if differing[0] in firsts else (first, name)
            raise InputError(f"{self.path / lacking}: has no tensor '{differing[0]}', which {other} has{one}")
        for key, tensor in tensors.items():
            if tensor.shape != firsts[key].shape:
                shapes = f"shape {list(tensor.shape)}, and in {first} {list(firsts[key].shape)}"
                raise InputError(f"{self.path / name}: tensor '{key}' has {shapes}{one}")
