"""A transformer over chunks of a vector of parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightgen.denoisers._encoder_layer import EncoderLayer
from weightgen.interfaces import Denoiser
from weightgen.records import Condition
from weightgen.schedulers.schedulers import input_signal

_TIME_WIDTH = 32
_START = 0.02


class ChunkTransformer(Denoiser):
    """Parameters in chunks attend to each other and to the classes of the condition.

    A chunk knows its place and the tensors that it comes from; classes have no place, so that the prediction does not
    depend on their order. Where all parameters are independent unit Gaussians, √ᾱ times the noisy value is what is to
    be expected of them; there it starts, and the network adds to it.

    Options:
        width: of a token inside. depth: layers. heads: attention heads.
        dropout: share of entries set to 0 in training.
        sizes: numbers of entries of the tensors that a vector holds, in order; given by the selector.
        token_width: parameters in a chunk; given by the parameter space.
    """

    prediction_type = "sample"
    ordered = True
    signal: Tensor
    shares: Tensor

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
        self.layers = nn.ModuleList(EncoderLayer(width, heads, dropout) for _ in range(depth))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, token_width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def set_noise_levels(self, scheduler: SchedulerMixin) -> None:
        self.signal.copy_(input_signal(scheduler))

    def forward(
        self, noisy: Float[Tensor, "batch tokens width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch tokens width"]:
        time = self.embed_time(get_timestep_embedding(timestep, _TIME_WIDTH).to(noisy))[:, None]
        chunks = self.embed_token(noisy) + self.place + self.shares @ self.tensor + time
        shots = condition.counts.clamp(min=1).log()[..., None]
        classes = self.embed_class(torch.cat([condition.tokens, shots], -1)) + time
        h = torch.cat([chunks, classes], 1)  # batch tokens+ways width
        every_chunk = condition.mask.new_ones(chunks.shape[:2])
        there = torch.cat([every_chunk, condition.mask], 1)
        for layer in self.layers:
            h = layer(h, there)
        correction = self.out(self.norm(h[:, : noisy.shape[1]]))  # batch tokens width
        return self.without_network(noisy, timestep, condition) + correction

    def without_network(
        self, noisy: Float[Tensor, "batch tokens width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch tokens width"]:
        """E[v | noisy v] where v is unit Gaussian."""
        return self.signal[timestep].sqrt()[:, None, None] * noisy
