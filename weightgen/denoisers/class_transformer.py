"""The default denoiser: a transformer over classes that sees inner products and answers with coefficients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from diffusers import SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from weightgen.denoisers._soft_assignment import SoftAssignment
from weightgen.features.gaussian_posterior import GaussianPosterior
from weightgen.interfaces import Denoise, Denoiser
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
    times: Tensor

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
        times = get_timestep_embedding(torch.arange(num_train_timesteps), _TIME_WIDTH)
        self.register_buffer("times", times, persistent=False)
        self.assignment = SoftAssignment(rounds=rounds)
        self.sees_coordinates = linear
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

    def _posterior(self, signal: Tensor | None, condition: Condition, *, learnt: bool) -> GaussianPosterior:
        if condition.unlabelled.shape[1] and signal is not None:
            once = self.assignment(signal[:: condition.copies], condition.once(), learnt=learnt)
            return once.repeat(condition.copies)  # draws differ in their noise, which it does not look at
        return GaussianPosterior.of(condition)

    def prepared(self, condition: Condition) -> Denoise:
        """Unlabelled images are assigned anew in every call, for how far to trust them depends on the time."""
        if condition.unlabelled.shape[1]:
            return self
        known = self._known(condition, self._posterior(None, condition, learnt=True))
        return partial(self._rows, known=replace(known, padding=None) if bool(condition.mask.all()) else known)

    def forward(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        posterior = self._posterior(self.signal[timestep][:, None, None], condition, learnt=True)
        return self._rows(noisy, timestep, condition, known=self._known(condition, posterior))

    def _rows(self, noisy: Tensor, timestep: Tensor, condition: Condition, *, known: _Known) -> Tensor:
        signal, space = self.signal[timestep][:, None, None], condition.space
        anchor = known.posterior.given_noisy(space.along_axes(noisy), signal)
        if known.padding is not None:
            anchor = anchor * condition.mask[..., None]
        rows = space.from_axes(anchor + self._correction(anchor, timestep, known))
        return rows if known.mapped is None else rows + known.mapped

    def without_network(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        """E[w | noisy row, support, unlabelled] where all are Gaussian around w, by expectation–maximisation."""
        signal, space = self.signal[timestep][:, None, None], condition.space
        posterior = self._posterior(signal, condition, learnt=False)
        return space.from_axes(posterior.given_noisy(space.along_axes(noisy), signal)) * condition.mask[..., None]

    def _known(self, condition: Condition, posterior: GaussianPosterior) -> _Known:
        mask, space = condition.mask, condition.space
        mean = posterior.mean * mask[..., None]
        pairs = _compressed(band_products(mean, mean, self.sizes))
        variances = [
            torch.stack([part.mean(-1) for part in each.split(self.sizes, -1)], -1)
            for each in (_spread(condition), posterior.variance)
        ]
        images = torch.stack([condition.counts.clamp(min=1), posterior.unlabelled], -1)
        own = pairs.diagonal(dim1=1, dim2=2).mT  # (batch, ways, bands)
        facts = torch.cat([own, torch.zeros_like(own), _compressed(torch.cat([*variances, images], -1))], -1)
        pairs = self.embed_pair[0](torch.cat([pairs, torch.zeros_like(pairs)], -1))
        apart = mask[:, None] & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        share = apart / mask.sum(-1).clamp(min=2)[:, None, None].sub(1)
        return _Known(
            posterior=posterior,
            mean=mean,
            tokens=self.embed_token(facts),
            pairs=pairs,
            share=share[..., None],
            padding=~mask[:, None, None],
            mapped=None if self.row_map is None else self.row_map(space.from_axes(mean)),
        )

    def _correction(self, anchor: Tensor, timestep: Tensor, known: _Known) -> Float[Tensor, "batch ways width"]:
        """What other vectors add to each row, along the axes."""
        bands = len(self.sizes)
        pairs = _compressed(band_products(anchor, anchor, self.sizes))
        own = pairs.diagonal(dim1=1, dim2=2).mT  # (batch, ways, bands)
        time = self.embed_time(self.times[timestep])[:, None]
        h = known.tokens + nn.functional.linear(own, self.embed_token.weight[:, bands : 2 * bands]) + time
        first: Any = self.embed_pair[0]
        p = self.embed_pair[1](nn.functional.linear(pairs, first.weight[:, bands:]).add_(known.pairs))
        for layer in self.layers:
            h = layer(h, p, known.padding)
        h = self.norm(h)
        others = nn.functional.silu((self.receive(h)[:, :, None] + self.send(h)[:, None]).add_(p))
        # (batch, vectors of the others, rows, vectors · bands)
        coefficients = self.shared(others) * known.share + torch.diag_embed(self.own(h).mT).movedim(1, -1)
        vectors = torch.cat([known.mean, anchor], 1).split(self.sizes, -1)
        coefficients = coefficients.unflatten(-1, (2, bands)).permute(4, 0, 1, 3, 2).flatten(3)  # bands batch rows both
        return torch.cat([each @ part for each, part in zip(coefficients, vectors, strict=True)], -1)


@dataclass(frozen=True)
class _Known:
    """What no noise changes.

    mean: of the posterior, 0 for padding. tokens, pairs: the part of both embeddings that is not of the noisy rows.
    share: of every other class in what is pooled over them. padding: the classes to look away from; None where it is
    known that there are none. mapped: what the linear map makes of the mean.
    """

    posterior: GaussianPosterior
    mean: Float[Tensor, "batch ways feature"]
    tokens: Float[Tensor, "batch ways width"]
    pairs: Float[Tensor, "batch ways ways width"]
    share: Float[Tensor, "batch ways ways 1"]
    padding: Bool[Tensor, "batch 1 1 ways"] | None
    mapped: Float[Tensor, "batch ways feature"] | None


def _spread(condition: Condition) -> Float[Tensor, "batch ways feature"]:
    """Variance of a class's support images along each axis; 0 at one shot, where nothing is known of it."""
    single = condition.once()  # draws differ in their noise alone
    there = single.support_mask[:, :, None].to(single.support)  # products with it take a fifth of masked sums
    images = there.sum(-1)
    mean = (there @ single.support)[:, :, 0] / images.clamp(min=1)
    away = (there @ single.support.square())[:, :, 0] - images * mean.square()
    return (away.clamp(min=0) / (images - 1).clamp(min=1)).repeat_interleave(condition.copies, 0)


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
        padding: Bool[Tensor, "batch 1 1 ways"] | None,
    ) -> Float[Tensor, "batch ways width"]:
        q, k, v = self.to_qkv(self.norm_in(tokens)).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2).chunk(3, 1)
        bias = self.pair_bias(pairs).movedim(-1, 1)  # (batch, heads, ways, ways)
        if padding is not None:
            bias = bias.masked_fill(padding, torch.finfo(bias.dtype).min)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        tokens = tokens + self._dropped(self.to_out(seen.transpose(1, 2).flatten(-2)))
        return tokens + self._dropped(self.mlp(self.norm_out(tokens)))

    def _dropped(self, values: Tensor) -> Tensor:
        return self.dropout(values) if self.training else values  # for one episode the call itself would take time


def band_products(
    left: Float[Tensor, "batch ways feature"], right: Float[Tensor, "batch ways feature"], sizes: list[int]
) -> Float[Tensor, "batch ways ways bands"]:
    """Mean product of every pair of rows over each band of neighbouring axes."""
    bands = zip(left.split(sizes, -1), right.split(sizes, -1), strict=True)
    return torch.stack([a @ b.mT for a, b in bands], -1) / left.new_tensor(sizes)
