"""A plain transformer over parameter tokens."""

from __future__ import annotations

import torch
from diffusers import SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightgen.denoisers._encoder_layer import EncoderLayer
from weightgen.errors import check_positive
from weightgen.features.gaussian_posterior import mean_given_noisy
from weightgen.interfaces import Denoiser
from weightgen.records import Condition
from weightgen.schedulers.schedulers import segments_of

_TIME_WIDTH = 32


class TokenTransformer(Denoiser):
    """Noisy row and condition of every class, as they are, through attention over the classes.

    What the noisy row and the condition say together in a linear-Gaussian model is where it starts; the network adds to
    it. It sees coordinates and can store base classes: for many base classes of few features, where it may learn
    more than inner products tell. Equivariant to the order of classes, for any ways.

    Options:
        width: of a token inside. depth: layers. heads: attention heads. dropout: share of entries set to 0 in training.
        knows_segment: give the number of the local target (Mc-Di). The paper's denoiser must infer it from the time.
        token_width: of tokens that are no class rows, given by their parameter space. It then starts at what is to be
            expected of unit Gaussians.
    """

    prediction_type = "sample"
    needs_variance = True
    signal: Tensor
    segment: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        feature_width: int,
        token_width: int | None = None,
        num_train_timesteps: int = 1000,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        knows_segment: bool = False,
    ) -> None:
        super().__init__()
        check_positive(width=width, depth=depth, heads=heads)
        self.register_buffer("signal", torch.ones(num_train_timesteps))
        self.embed_segment = nn.Linear(_TIME_WIDTH, width) if knows_segment else None
        if knows_segment:
            self.register_buffer("segment", torch.zeros(num_train_timesteps, dtype=torch.int64))
        own_width = feature_width if token_width is None else token_width
        self.embed_token = nn.Linear(own_width + feature_width + 1, width)
        self.embed_time = nn.Sequential(nn.Linear(_TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(EncoderLayer(width, heads, dropout) for _ in range(depth))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, own_width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def set_noise_levels(self, scheduler: SchedulerMixin) -> None:
        super().set_noise_levels(scheduler)
        if self.embed_segment is not None:
            self.segment.copy_(segments_of(scheduler))

    def forward(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        shots = condition.counts.clamp(min=1).log()[..., None]
        time = get_timestep_embedding(timestep, _TIME_WIDTH).to(noisy)
        h = self.embed_token(torch.cat([noisy, condition.tokens, shots], -1)) + self.embed_time(time)[:, None]
        if self.embed_segment is not None:
            segment = self.segment[timestep] if condition.segment is None else condition.segment
            h = h + self.embed_segment(get_timestep_embedding(segment, _TIME_WIDTH).to(noisy))[:, None]
        for layer in self.layers:
            h = layer(h, condition.mask)
        correction = self.out(self.norm(h)) * condition.mask[..., None]
        return self.without_network(noisy, timestep, condition) + correction

    def without_network(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        """E[w | noisy row, support] where all are Gaussian around w."""
        if self.config.token_width is not None:
            return self.signal[timestep].sqrt()[:, None, None] * noisy * condition.mask[..., None]
        mean = mean_given_noisy(condition, noisy, self.signal[timestep][:, None, None])
        return condition.space.from_axes(mean)
