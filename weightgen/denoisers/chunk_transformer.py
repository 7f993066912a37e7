"""A transformer over chunks of a vector of parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightgen.denoisers._encoder_layer import EncoderLayer
from weightgen.denoisers._ordered import OrderedDenoiser
from weightgen.errors import check_positive
from weightgen.records import Condition


class ChunkTransformer(OrderedDenoiser):
    """Parameters in chunks attend to each other and to the classes of the condition.

    Classes have no place, so that the prediction does not depend on their order.

    Options:
        width: of a token inside. depth: layers. heads: attention heads.
        dropout: share of entries set to 0 in training.
        sizes: numbers of entries of the tensors that a vector holds, in order; given by the selector.
        token_width: parameters in a chunk; given by the parameter space.
    """

    @register_to_config
    def __init__(
        self,
        *,
        feature_width: int,
        sizes: Sequence[int],
        token_width: int,
        num_train_timesteps: int = 1000,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        check_positive(width=width, depth=depth, heads=heads)
        super().__init__(feature_width, sizes, token_width, num_train_timesteps, width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, dropout) for _ in range(depth))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, token_width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, noisy: Float[Tensor, "batch tokens width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch tokens width"]:
        chunks, classes = self.embedded(noisy, timestep, condition)
        h = torch.cat([chunks, classes], 1)  # batch tokens+ways width
        every_chunk = condition.mask.new_ones(chunks.shape[:2])
        there = torch.cat([every_chunk, condition.mask], 1)
        for layer in self.layers:
            h = layer(h, there)
        correction = self.out(self.norm(h[:, : noisy.shape[1]]))  # batch tokens width
        return self.without_network(noisy, timestep, condition) + correction
