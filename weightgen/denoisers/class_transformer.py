"""The default denoiser: a transformer over classes that sees inner products and answers with coefficients."""

from __future__ import annotations

import torch
from diffusers import SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from weightgen.denoisers._soft_assignment import SoftAssignment
from weightgen.features.gaussian_posterior import GaussianPosterior
from weightgen.interfaces import Denoiser
from weightgen.records import Condition
from weightgen.schedulers.schedulers import input_signal

_TIME_WIDTH = 32
_CLASSES_PER_FEATURE = 4


class ClassTransformer(Denoiser):
    """Any ways, any shots, no memory for base classes: rows are combinations of what the episode holds.

    It starts from the exact denoiser of a linear-Gaussian model: noisy row and condition, weighted by their
    precisions, after rounds of expectation–maximisation on the unlabelled images, if there are any. A transformer
    over class tokens adds a correction. It sees vectors only through inner products, taken in bands of neighbouring
    axes of the space, and can only answer with coefficients for the vectors at hand, so there is no weight in which
    the prototype of a base class could be stored. Where base classes abound, a linear map of the rows is learnt as
    well: it tells features apart, but not classes.

    Options:
        width: width of a class token. depth: attention layers. heads: attention heads.
        bands: groups of axes, the first ones smallest, with coefficients of their own; 1 makes the network
            equivariant to every rotation of the feature space.
        dropout: share of token entries set to 0 while training.
        rounds: of expectation–maximisation, where there are unlabelled images.
        linear: learn a linear map of the rows; None does so where the base classes are four times the features,
            for with fewer it learns the classes by heart.
    """

    prediction_type = "sample"
    needs_variance = True
    uses_unlabelled = True
    signal: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        feature_width: int,
        num_train_timesteps: int = 1000,
        base_classes: int = 0,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        bands: int = 4,
        dropout: float = 0.0,
        rounds: int = 5,
        linear: bool | None = None,
    ) -> None:
        super().__init__()
        if bands < 1:
            raise ValueError(f"bands is {bands}; it must be 1 or more")
        if rounds < 1:
            raise ValueError(f"rounds is {rounds}; it must be 1 or more")
        if linear is None:
            linear = base_classes >= _CLASSES_PER_FEATURE * feature_width
            self.register_to_config(linear=linear)
        self.register_buffer("signal", torch.ones(num_train_timesteps))
        self.assignment = SoftAssignment(rounds=rounds)
        self.row_map = nn.Linear(feature_width, feature_width, bias=False) if linear else None
        if self.row_map is not None:
            nn.init.zeros_(self.row_map.weight)
        self.sizes = _band_sizes(feature_width, bands)
        bands = len(self.sizes)
        self.embed_token = nn.Linear(4 * bands + 2, width)
        self.embed_time = nn.Sequential(nn.Linear(_TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_pair = nn.Sequential(nn.Linear(2 * bands, width), nn.SiLU())
        self.layers = nn.ModuleList(PairAttention(width=width, heads=heads, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.own = nn.Linear(width, 2 * bands)
        self.receive, self.send = nn.Linear(width, width), nn.Linear(width, width)
        self.shared = nn.Linear(width, 2 * bands)
        for layer in (self.own, self.shared):  # untrained, it is the form alone
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def set_noise_levels(self, scheduler: SchedulerMixin) -> None:
        self.signal.copy_(input_signal(scheduler))

    def _posterior(
        self, signal: Float[Tensor, "batch 1 1"], condition: Condition, *, learnt: bool
    ) -> GaussianPosterior:
        if condition.unlabelled.shape[1]:
            once = self.assignment(signal[:: condition.copies], condition.once(), learnt=learnt)
            return once.repeat(condition.copies)  # draws differ in their noise, which it does not look at
        return GaussianPosterior.of(condition)

    def forward(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        signal, mask, space = self.signal[timestep][:, None, None], condition.mask[..., None], condition.space
        posterior = self._posterior(signal, condition, learnt=True)
        anchor = posterior.given_noisy(space.along_axes(noisy), signal) * mask
        vectors = (posterior.mean * mask, anchor)
        own, shared = self._coefficients(vectors, timestep, condition, posterior)
        rows = anchor
        for i, vector in enumerate(vectors):
            rows = rows + self._mix(vector, own[i], shared[i])
        rows = space.from_axes(rows)
        if self.row_map is not None:
            rows = rows + self.row_map(space.from_axes(vectors[0]))
        return rows

    def without_network(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        """E[w | noisy row, support, unlabelled] where all are Gaussian around w, by expectation–maximisation."""
        signal, space = self.signal[timestep][:, None, None], condition.space
        posterior = self._posterior(signal, condition, learnt=False)
        return space.from_axes(posterior.given_noisy(space.along_axes(noisy), signal)) * condition.mask[..., None]

    def _coefficients(
        self, vectors: tuple[Tensor, Tensor], timestep: Tensor, condition: Condition, posterior: GaussianPosterior
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Per vector and band: each class's own coefficients, and those of other classes' vectors."""
        mask = condition.mask
        pairs = torch.cat([band_products(v, v, self.sizes) for v in vectors], -1)
        diagonal = pairs.diagonal(dim1=1, dim2=2).mT  # (batch, ways, 2 bands)
        spread = torch.stack([part.mean(-1) for part in self._spread(condition).split(self.sizes, -1)], -1)
        unknown = torch.stack([part.mean(-1) for part in posterior.variance.split(self.sizes, -1)], -1)
        images = torch.stack([condition.counts.clamp(min=1), posterior.unlabelled], -1)
        facts = torch.cat([diagonal, spread, unknown, images], -1)
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
        """Variance of a class's support images along each axis; 0 at one shot, where nothing is known of it."""
        there = condition.support_mask[..., None]
        mean = (condition.support * there).sum(2, keepdim=True) / there.sum(2, keepdim=True).clamp(min=1)
        away = (condition.support - mean).square() * there
        return away.sum(2) / (there.sum(2) - 1).clamp(min=1)

    def _mix(self, vector: Tensor, own: Tensor, shared: Tensor) -> Float[Tensor, "batch ways width"]:
        parts = [
            own[..., i, None] * part + shared[..., i] @ part for i, part in enumerate(vector.split(self.sizes, -1))
        ]
        return torch.cat(parts, -1)


def _compressed(facts: Tensor) -> Tensor:
    """Linear near 0, logarithmic far out; torch's asinh loses large negative numbers."""
    return facts.sign() * facts.abs().log1p()


def _band_sizes(width: int, bands: int) -> list[int]:
    """Sizes that double from band to band and sum to `width`; fewer bands when the width is small."""
    ends = sorted({max(1, round(width / 2**i)) for i in range(bands)})
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


class PairAttention(nn.Module):
    """A pre-norm transformer layer whose attention logits get a bias per pair and head (cf. Graphormer, 2021)."""

    def __init__(self, *, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if heads < 1:
            raise ValueError(f"heads is {heads}; it must be 1 or more")
        if width % heads:
            raise ValueError(f"width {width} is no multiple of heads {heads}")
        self.heads = heads
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.pair_bias = nn.Linear(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        tokens: Float[Tensor, "batch ways width"],
        pairs: Float[Tensor, "batch ways ways width"],
        mask: Bool[Tensor, "batch ways"],
    ) -> Float[Tensor, "batch ways width"]:
        q, k, v = self.to_qkv(self.norm_in(tokens)).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2).chunk(3, 1)
        bias = self.pair_bias(pairs).movedim(-1, 1)  # (batch, heads, ways, ways)
        bias = bias.masked_fill(~mask[:, None, None], torch.finfo(bias.dtype).min)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        tokens = tokens + self.dropout(self.to_out(seen.transpose(1, 2).flatten(-2)))
        return tokens + self.dropout(self.mlp(self.norm_out(tokens)))


def band_products(
    left: Float[Tensor, "batch ways feature"], right: Float[Tensor, "batch ways feature"], sizes: list[int]
) -> Float[Tensor, "batch ways ways bands"]:
    """Mean product of every pair of rows over each band of neighbouring axes."""
    bands = zip(left.split(sizes, -1), right.split(sizes, -1), sizes, strict=True)
    return torch.stack([a @ b.mT / size for a, b, size in bands], -1)
