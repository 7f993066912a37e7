"""Zero mean and unit scale for vectors of fitted parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

_LEAST = 1e-8


class VectorScale(ModelMixin, ConfigMixin):
    """v ↦ (v - mean) / scale, fitted on the local targets of all tasks together and saved with the generator.

    Every entry has its own mean; the scale is one number per tensor, the root mean square of what is left in it, for
    tensors differ in size by their nature and entries of one tensor by chance.

    Options:
        sizes: numbers of entries of the tensors that a vector holds, in order.

    Buffers: `mean` and `scale` [parameters]; `end` [parameters], the mean of the last local targets alone, which is
        the best single vector for all tasks.
    """

    mean: Tensor
    scale: Tensor
    end: Tensor

    @register_to_config
    def __init__(self, *, sizes: Sequence[int]) -> None:
        super().__init__()
        for name, value in (("mean", 0.0), ("scale", 1.0), ("end", 0.0)):
            self.register_buffer(name, torch.full((sum(sizes),), value))

    @torch.no_grad()
    def fit(self, targets: Float[Tensor, "tasks local_targets parameters"]) -> VectorScale:
        """Set the buffers; returns itself. Raises ValueError for vectors of another length."""
        if targets.shape[-1:] != self.mean.shape:
            raise ValueError(f"vectors of {targets.shape[-1]} entries given where sizes add up to {len(self.mean)}")
        vectors = targets.flatten(0, 1).double()
        mean = vectors.mean(0)
        pieces = (vectors - mean).split(list(self.config.sizes), dim=-1)
        scales = [piece.square().mean().sqrt().clamp(min=_LEAST).expand(piece.shape[-1]) for piece in pieces]
        self.mean.copy_(mean)
        self.scale.copy_(torch.cat(scales))
        self.end.copy_(targets[:, -1].double().mean(0))
        return self

    def standardize(self, vectors: Float[Tensor, "*batch parameters"]) -> Float[Tensor, "*batch parameters"]:
        """Vectors with mean 0 and unit scale over the zoo."""
        return (vectors - self.mean) / self.scale

    def restore(self, vectors: Float[Tensor, "*batch parameters"]) -> Float[Tensor, "*batch parameters"]:
        """Undoes `standardize`."""
        return vectors * self.scale + self.mean
