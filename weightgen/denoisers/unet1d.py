"""diffusers' one-dimensional U-Net over the tokens of a vector of parameters."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import UNet1DModel
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightgen.denoisers._ordered import OrderedDenoiser
from weightgen.errors import check_positive
from weightgen.records import Condition

_CHANNELS_OF_A_HEAD = 32  # fixed in diffusers' attention
_SHORTEST = 3  # tokens at the bottom; its reflected padding needs so many


class Unet1d(OrderedDenoiser):
    """Parameters as a sequence of tokens under convolutions and attention, as p-diff has it (arXiv 2402.13144).

    diffusers' `UNet1DModel`, which halves the sequence `depth` times, and once more in its middle; the sequence is
    padded to a length that can be halved so often. The classes of the condition join every token as their mean, so that
    the prediction does not depend on their order.

    Options:
        width: channels; a multiple of 32, for attention has 32 channels a head. depth: halvings of the sequence.
        sizes: numbers of entries of the tensors that a vector holds, in order; given by the selector.
        token_width: parameters in a token; given by the parameter space.
    """

    @register_to_config
    def __init__(
        self,
        *,
        feature_width: int,
        sizes: Sequence[int],
        token_width: int,
        num_train_timesteps: int = 1000,
        width: int = 64,
        depth: int = 2,
    ) -> None:
        if width < 1 or width % _CHANNELS_OF_A_HEAD:
            raise ValueError(f"width is {width}; it must be a multiple of {_CHANNELS_OF_A_HEAD}")
        check_positive(depth=depth)
        super().__init__(feature_width, sizes, token_width, num_train_timesteps, width)
        multiple = 2 ** (depth + 1)
        self.length = multiple * max(_SHORTEST, -(-len(self.place) // multiple))
        self.unet = UNet1DModel(
            sample_size=self.length,
            in_channels=width,
            out_channels=width,
            extra_in_channels=width,  # of the embedded time
            time_embedding_type="positional",
            block_out_channels=(width,) * (depth + 1),
            down_block_types=("DownBlock1DNoSkip", *["AttnDownBlock1D"] * depth),
            up_block_types=(*["AttnUpBlock1D"] * depth, "UpBlock1DNoSkip"),
        )
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, token_width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, noisy: Float[Tensor, "batch tokens width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch tokens width"]:
        tokens, classes = self.embedded(noisy, timestep, condition)
        there = condition.mask[..., None]
        pooled = (nn.functional.silu(classes) * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
        sequence = nn.functional.pad((tokens + pooled).mT, (0, self.length - tokens.shape[1]))  # batch width length
        h = self.unet(sequence, timestep).sample.mT[:, : tokens.shape[1]]
        return self.without_network(noisy, timestep, condition) + self.out(self.norm(h))
