"""The default denoiser: a transformer over classes that sees inner products and answers with coefficients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from weightgen.denoisers._soft_assignment import SoftAssignment
from weightgen.errors import check_positive
from weightgen.features.gaussian_posterior import GaussianPosterior
from weightgen.interfaces import Denoise, Denoiser
from weightgen.records import Condition

_TIME_WIDTH = 32
_AT_ONCE = 2**18  # numbers of the embedded pairs of an episode, a MiB
_FEW_NUMBERS = 2**14  # below, one product of four times the numbers is quicker than four
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
    inside: Tensor
    share: Tensor

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
        check_positive(width=width, depth=depth, heads=heads, bands=bands, rounds=rounds)
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
        inside = torch.eye(bands).repeat_interleave(torch.tensor(self.sizes), 1)
        self.register_buffer("inside", inside[:, None], persistent=False)  # bands 1 feature
        self.register_buffer("share", 1 / inside.sum(1), persistent=False)  # of one axis in the mean over its band
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

    def _posterior(self, signal: Tensor | None, condition: Condition, *, learnt: bool) -> GaussianPosterior:
        if condition.unlabelled.shape[1] and signal is not None:
            once = self.assignment(signal[:: condition.copies], condition.once(), learnt=learnt)
            return once.repeat(condition.copies)  # draws differ in their noise, which it does not look at
        return GaussianPosterior.of(condition)

    def prepared(self, condition: Condition, times: Int[Tensor, " calls"]) -> Denoise:
        """Unlabelled images are assigned anew in every call, for how far to trust them depends on the time."""
        if condition.unlabelled.shape[1]:
            return self
        known = self._known(condition, self._posterior(None, condition, learnt=True))
        known = replace(known, padding=None) if bool(condition.mask.all()) else known
        signals, moments = self.signal[times].tolist(), self.embed_time(self.times[times])[:, None]
        at = dict(zip(times.tolist(), zip(signals, moments, strict=True), strict=True))

        def denoise(noisy: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
            signal, time = at[int(timestep[0])]
            return self._rows(noisy, signal, time, condition, known)

        return denoise

    def forward(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        signal, time = self.signal[timestep][:, None, None], self.embed_time(self.times[timestep])[:, None]
        known = self._known(condition, self._posterior(signal, condition, learnt=True))
        return self._rows(noisy, signal, time, condition, known)

    def _rows(
        self, noisy: Tensor, signal: Tensor | float, time: Tensor, condition: Condition, known: _Known
    ) -> Float[Tensor, "batch ways width"]:
        space = condition.space
        anchor = known.posterior.given_noisy(space.along_axes(noisy), signal)
        if known.padding is not None:
            anchor = anchor * condition.mask[..., None]
        rows = space.from_axes(anchor + self._correction(anchor, time, known))
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
        pairs = _compressed(self._band_products(mean))
        variances = [
            torch.stack([part.mean(-1) for part in each.split(self.sizes, -1)], -1)
            for each in (_spread(condition), posterior.variance)
        ]
        images = torch.stack([condition.counts.clamp(min=1), posterior.unlabelled], -1)
        own = pairs.diagonal(dim1=1, dim2=2).mT  # (batch, ways, bands)
        facts = torch.cat([own, torch.zeros_like(own), _compressed(torch.cat([*variances, images], -1))], -1)
        apart = mask[:, None] & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        share = apart / mask.sum(-1).clamp(min=2)[:, None, None].sub(1)
        bands = len(self.sizes)
        return _Known(
            posterior=posterior,
            mean=mean,
            tokens=self.embed_token(facts),
            pairs=pairs,
            embed_own=self.embed_token.weight[:, bands : 2 * bands].mT,
            share=share[..., None],
            itself=torch.eye(mask.shape[1], dtype=mean.dtype, device=mean.device)[..., None],
            padding=~mask[:, None, None],
            mapped=None if self.row_map is None else self.row_map(space.from_axes(mean)),
        )

    def _correction(self, anchor: Tensor, time: Tensor, known: _Known) -> Float[Tensor, "batch ways width"]:
        """What other vectors add to each row, along the axes; `time` is embedded."""
        products = _compressed(self._band_products(anchor))
        own = products.diagonal(dim1=1, dim2=2).mT  # (batch, ways, bands)
        h = known.tokens + time + own @ known.embed_own
        strips = self._strips(known.pairs, products)
        layers = cast("Sequence[PairAttention]", self.layers)
        biases = [[_linear(layer.pair_bias, p).movedim(-1, 1) for layer in layers] for _, p in strips()]
        for layer, bias in zip(layers, zip(*biases, strict=True), strict=True):
            h = layer(h, torch.cat(bias, 2), known.padding)
        h = _normed(self.norm, h)
        receive, send, own = _linear(self.receive, h), _linear(self.send, h), _linear(self.own, h)
        vectors, combined = torch.cat([known.mean, anchor], 1), []
        for rows, p in strips():
            others = nn.functional.silu((receive[:, rows, None] + send[:, None]).add_(p), inplace=True)
            itself = own[:, rows, None] * known.itself[rows]  # batch rows others vectors·bands
            coefficients = torch.addcmul(itself, _linear(self.shared, others), known.share[:, rows])
            combined.append(self._combined(coefficients.unflatten(-1, (2, -1)), vectors))
        return torch.cat(combined, 1)

    def _strips(
        self, known: Float[Tensor, "batch ways ways bands"], products: Float[Tensor, "batch ways ways bands"]
    ) -> Callable[[], Iterable[tuple[slice, Tensor]]]:
        """Pairs of classes, embedded, of some rows at a time; what does not fit into a cache is made in every call.

        Where a gradient is asked for it has to know every pair anyway.
        """
        ways, width = products.shape[1], self.norm.weight.shape[0]
        number = ways if torch.is_grad_enabled() else max(1, _AT_ONCE // (ways * width))

        def each() -> Iterator[tuple[slice, Tensor]]:
            for rows in (slice(start, start + number) for start in range(0, ways, number)):
                facts = torch.cat([known[:, rows], products[:, rows]], -1)
                yield rows, nn.functional.silu(_linear(self.embed_pair[0], facts), inplace=True)

        if number < ways:
            return each
        whole = list(each())
        return lambda: whole

    def _band_products(self, rows: Float[Tensor, "batch ways feature"]) -> Float[Tensor, "batch ways ways bands"]:
        """Mean product of every pair of rows over each band of neighbouring axes."""
        if rows.numel() < _FEW_NUMBERS:
            products = (rows[:, None] * self.inside).flatten(1, 2) @ rows.mT
            products = products.unflatten(1, (len(self.sizes), -1)).movedim(1, -1)
        else:
            products = torch.stack([part @ part.mT for part in rows.split(self.sizes, -1)], -1)
        return products * self.share

    def _combined(
        self, coefficients: Float[Tensor, "batch rows others 2 bands"], vectors: Float[Tensor, "batch both feature"]
    ) -> Float[Tensor, "batch rows feature"]:
        """Vectors of both kinds by their coefficients, which every band has of its own."""
        if vectors.numel() < _FEW_NUMBERS:
            whole = (vectors[:, None] * self.inside).flatten(1, 2)
            return coefficients.permute(0, 1, 4, 3, 2).flatten(2) @ whole
        each = zip(coefficients.permute(4, 0, 1, 3, 2).flatten(3), vectors.split(self.sizes, -1), strict=True)
        return torch.cat([own @ part for own, part in each], -1)


@dataclass(frozen=True)
class _Known:
    """What no noise changes.

    mean: of the posterior, 0 for padding. pairs: its products, compressed.
    tokens: the part of their embedding that is not of the noisy rows. embed_own: the weights of that part which is.
    share: of every other class in what is pooled over them. itself: where a class is the other one.
    padding: the classes to look away from; None where it is known that there are none.
    mapped: what the linear map makes of the mean.
    """

    posterior: GaussianPosterior
    mean: Float[Tensor, "batch ways feature"]
    tokens: Float[Tensor, "batch ways width"]
    pairs: Float[Tensor, "batch ways ways bands"]
    embed_own: Float[Tensor, "bands width"]
    share: Float[Tensor, "batch ways ways 1"]
    itself: Float[Tensor, "ways ways 1"]
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
    return facts.abs().log1p().copysign(facts)


# A call of a module takes as long as what it does for the few tokens of one episode.
def _linear(layer: nn.Module, values: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return nn.functional.linear(values, layer.weight, layer.bias)


def _normed(layer: nn.LayerNorm, values: Tensor) -> Tensor:
    return torch.layer_norm(values, layer.normalized_shape, layer.weight, layer.bias)


def _band_sizes(width: int, bands: int) -> list[int]:
    """Sizes that double from band to band and sum to `width`; fewer bands when the width is small."""
    ends = sorted({max(1, round(width / 2**i)) for i in range(bands)})
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


class PairAttention(nn.Module):
    """A pre-norm transformer layer whose attention logits get a bias per pair and head (cf. Graphormer, 2021)."""

    def __init__(self, *, width: int, heads: int, dropout: float) -> None:
        super().__init__()
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
        bias: Float[Tensor, "batch heads ways ways"],
        padding: Bool[Tensor, "batch 1 1 ways"] | None,
    ) -> Float[Tensor, "batch ways width"]:
        qkv = _linear(self.to_qkv, _normed(self.norm_in, tokens))
        q, k, v = qkv.unflatten(-1, (3 * self.heads, -1)).transpose(1, 2).chunk(3, 1)
        if padding is not None:
            bias = bias.masked_fill(padding, torch.finfo(bias.dtype).min)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        tokens = tokens + self._dropped(_linear(self.to_out, seen.transpose(1, 2).flatten(-2)))
        widen, _, narrow = self.mlp
        hidden = _linear(widen, _normed(self.norm_out, tokens))
        hidden = nn.functional.gelu(hidden.mT).mT  # as it lies in memory oneDNN would take it, which is slow to begin
        return tokens + self._dropped(_linear(narrow, hidden))

    def _dropped(self, values: Tensor) -> Tensor:
        return self.dropout(values) if self.training else values  # for one episode the call itself would take time
