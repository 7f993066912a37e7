"""The default denoiser: a transformer over classes that sees inner products and answers with coefficients."""

from __future__ import annotations

import torch
from diffusers import SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightgen.dataflow import Condition
from weightgen.denoisers._pair_attention import PairAttention, band_products
from weightgen.errors import InputError
from weightgen.interfaces import Denoiser

_TIME_WIDTH = 32


class ClassTransformer(Denoiser):
    """Any ways, any shots, no memory for base classes: rows are combinations of what the episode holds.

    It starts from the exact denoiser of a linear-Gaussian model: noisy row and condition, weighted by their
    precisions. A transformer over class tokens adds a correction. It sees vectors only through inner products, taken
    in bands of neighbouring axes, and can only answer with coefficients for the vectors at hand, so there is no weight
    in which the prototype of a base class could be stored.

    Options:
        width: width of a class token. depth: attention layers. heads: attention heads.
        bands: groups of axes, the first ones smallest, with coefficients of their own; 1 makes the network
            equivariant to every rotation of the feature space.
        dropout: share of token entries set to 0 while training.
    """

    prediction_type = "sample"
    signal: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        feature_width: int,
        num_train_timesteps: int = 1000,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        bands: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if bands < 1:
            raise ValueError(f"bands is {bands}; it must be 1 or more")
        self.register_buffer("signal", torch.ones(num_train_timesteps))
        self.sizes = _band_sizes(feature_width, bands)
        bands = len(self.sizes)
        self.embed_token = nn.Linear(4 * bands + 1, width)
        self.embed_time = nn.Sequential(nn.Linear(_TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_pair = nn.Sequential(nn.Linear(2 * bands, width), nn.SiLU())
        self.layers = nn.ModuleList(PairAttention(width=width, heads=heads, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.own = nn.Linear(width, 2 * bands)
        self.receive, self.send = nn.Linear(width, width), nn.Linear(width, width)
        self.shared = nn.Linear(width, 2 * bands)
        for layer in (self.own, self.shared):  # the correction starts near zero
            nn.init.normal_(layer.weight, std=1e-3)
            nn.init.zeros_(layer.bias)

    def attune(self, scheduler: SchedulerMixin) -> None:
        self.signal.copy_(scheduler.alphas_cumprod)

    def forward(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        anchor = self.without_network(noisy, timestep, condition)
        vectors = (condition.tokens * condition.mask[..., None], anchor)
        own, shared = self._coefficients(vectors, timestep, condition)
        rows = anchor
        for i, vector in enumerate(vectors):
            rows = rows + self._mix(vector, own[i], shared[i])
        return rows

    def without_network(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        """E[w | noisy row, support] where both are Gaussian around w: the precision-weighted mean."""
        signal, unknown = self.signal[timestep][:, None, None], _variance(condition)
        # multiplied out by the variance, which may be 0, and by √signal, which may be too
        mean = condition.tokens + unknown * signal.sqrt() / (1 - signal) * noisy
        mean = mean / (1 + unknown * signal / (1 - signal))
        return mean * condition.mask[..., None]

    def _coefficients(
        self, vectors: tuple[Tensor, Tensor], timestep: Tensor, condition: Condition
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Per vector and band: each class's own coefficients, and those of other classes' vectors."""
        mask = condition.mask
        pairs = torch.cat([band_products(v, v, self.sizes) for v in vectors], -1)
        diagonal = pairs.diagonal(dim1=1, dim2=2).mT  # (batch, ways, 2 bands)
        spread = torch.stack([part.mean(-1) for part in self._spread(condition).split(self.sizes, -1)], -1)
        unknown = torch.stack([part.mean(-1) for part in _variance(condition).split(self.sizes, -1)], -1)
        facts = torch.cat([diagonal, spread, unknown, condition.counts[..., None].clamp(min=1)], -1)
        time = get_timestep_embedding(timestep, _TIME_WIDTH).to(facts)
        h = self.embed_token(_compressed(facts)) + self.embed_time(time)[:, None]
        p = self.embed_pair(_compressed(pairs))
        for layer in self.layers:
            h = layer(h, p, mask)
        h = self.norm(h)
        own = self.own(h).chunk(2, -1)
        others = torch.nn.functional.silu(self.receive(h)[:, :, None] + self.send(h)[:, None] + p)
        apart = mask[:, None] & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        share = apart / mask.sum(-1).clamp(min=2)[:, None, None].sub(1)
        shared = (self.shared(others) * share[..., None]).chunk(2, -1)
        return own, shared

    def _spread(self, condition: Condition) -> Float[Tensor, "batch ways feature"]:
        """Variance of a class's support images; 0 at one shot, where nothing is known of it."""
        centre = condition.support_mask[..., None] * condition.support
        mean = centre.sum(2, keepdim=True) / condition.counts.clamp(min=1)[..., None, None]
        away = (condition.support - mean).square() * condition.support_mask[..., None]
        return away.sum(2) / (condition.counts - 1).clamp(min=1)[..., None]

    def _mix(self, vector: Tensor, own: Tensor, shared: Tensor) -> Float[Tensor, "batch ways width"]:
        parts = [
            own[..., i, None] * part + shared[..., i] @ part for i, part in enumerate(vector.split(self.sizes, -1))
        ]
        return torch.cat(parts, -1)


def _compressed(facts: Tensor) -> Tensor:
    """Linear near 0, logarithmic far out; torch's asinh loses large negative numbers."""
    return facts.sign() * facts.abs().log1p()


def _variance(condition: Condition) -> Float[Tensor, "batch ways width"]:
    if condition.variance is None:
        raise InputError("class_transformer needs a conditioner that gives a variance: task_prototypes with shrink")
    return condition.variance


def _band_sizes(width: int, bands: int) -> list[int]:
    """Sizes that double from band to band and sum to `width`; fewer bands when the width is small."""
    ends = sorted({max(1, round(width / 2**i)) for i in range(bands)})
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
