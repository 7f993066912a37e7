"""What denoisers of ordered tokens have in common: how tokens, classes and time are embedded, and where they start."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightgen.interfaces import Denoiser
from weightgen.records import Condition

_TIME_WIDTH = 32
_START = 0.02


class OrderedDenoiser(Denoiser):
    """A token knows its place and the tensors that it comes from; classes have no place.

    Where all parameters are independent unit Gaussians, √ᾱ times the noisy value is what is to be expected of them;
    there it starts, and the network adds to it.

    Args:
        width: of a token inside.
    """

    prediction_type = "sample"
    ordered = True
    signal: Tensor
    shares: Tensor

    def __init__(
        self, feature_width: int, sizes: Sequence[int], token_width: int, num_train_timesteps: int, width: int
    ) -> None:
        super().__init__()
        tokens = -(-sum(sizes) // token_width)
        tensor = torch.arange(len(sizes)).repeat_interleave(torch.tensor(list(sizes)))
        chunk = torch.arange(sum(sizes)) // token_width
        shares = torch.zeros(tokens, len(sizes)).index_put_((chunk, tensor), torch.tensor(1.0), accumulate=True)
        self.register_buffer("signal", torch.ones(num_train_timesteps))
        self.register_buffer("shares", shares / shares.sum(-1, keepdim=True))  # of each tensor in every chunk
        self.place = nn.Parameter(_START * torch.randn(tokens, width))
        self.tensor = nn.Parameter(_START * torch.randn(len(sizes), width))
        self.embed_token = nn.Linear(token_width, width)
        self.embed_class = nn.Linear(feature_width + 1, width)
        self.embed_time = nn.Sequential(nn.Linear(_TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))

    def embedded(
        self, noisy: Float[Tensor, "batch tokens width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> tuple[Float[Tensor, "batch tokens inner"], Float[Tensor, "batch ways inner"]]:
        """Tokens, and classes with their numbers of images."""
        time = self.embed_time(get_timestep_embedding(timestep, _TIME_WIDTH).to(noisy))[:, None]
        tokens = self.embed_token(noisy) + self.place + self.shares @ self.tensor + time
        shots = condition.counts.clamp(min=1).log()[..., None]
        return tokens, self.embed_class(torch.cat([condition.tokens, shots], -1)) + time

    def without_network(
        self, noisy: Float[Tensor, "batch tokens width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch tokens width"]:
        """E[v | noisy v] where v is unit Gaussian."""
        return self.signal[timestep].sqrt()[:, None, None] * noisy
