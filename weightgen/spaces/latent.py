"""Codes of another space's tokens, by an autoencoder that learns from the zoo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor

from weightgen.backbones.backbone import Backbone
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import (
    AdaptsBackbone,
    ClassifiesFeatures,
    FeatureSpace,
    FitProblem,
    GeneratedHeads,
    LearntSpace,
    ParameterSpace,
)
from weightgen.parameter_spaces import ChainEnd
from weightgen.records import Calibration, Condition, Episode, Features
from weightgen.registry import create
from weightgen.spaces._autoencoders import Autoencoder, ConvAutoencoder, RowAutoencoder

if TYPE_CHECKING:
    from weightgen.zoo.build import Source

_LEAST_SCALE = 1e-8


class Latent(LearntSpace, AdaptsBackbone, ClassifiesFeatures):
    """Tokens are codes of an autoencoder over the tokens of another space, which all else is left to.

    Ordered tokens are encoded together, by one-dimensional convolutions (p-diff, arXiv 2402.13144); class rows one by
    one, so that the order and the number of classes stay open. It learns from the zoo before the denoiser does:
    the squared error of reconstructed tokens, with noise on input and code, as p-diff has it; or as a variational one
    (D2NWG, arXiv 2402.18153). Codes are brought to mean 0 and unit variance over the zoo.

    Options:
        of: name and options of the other space.
        feature_width: width of class rows; given by the backbone.
        width: entries of a code token. hidden: width of the layers between. depth: layers of either half; where tokens
            are ordered each halves the length.
        input_noise, latent_noise: standard deviations of what is added in training.
        variational: learn a mean and a variance of every code; kl_weight: of its divergence from the unit Gaussian.
        steps, batch, learning_rate: of its training.
    """

    code_mean: Tensor
    code_scale: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        of: Mapping[str, Any],
        feature_width: int,
        width: int = 4,
        hidden: int = 16,
        depth: int = 3,
        input_noise: float = 0.001,
        latent_noise: float = 0.1,
        variational: bool = False,
        kl_weight: float = 1e-3,
        steps: int = 2000,
        batch: int = 50,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__()
        positive = {"width": width, "hidden": hidden, "depth": depth, "steps": steps, "batch": batch}
        for name, value in {**positive, "learning_rate": learning_rate}.items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        for name, noise in (("input_noise", input_noise), ("latent_noise", latent_noise), ("kl_weight", kl_weight)):
            if noise < 0:
                raise ValueError(f"{name} is {noise}; it must be 0 or more")
        inner = dict(of)
        if inner.get("name") in (None, "latent"):
            raise ValueError("of names no space with values of its own; give {name: network}, {name: class_rows} …")
        self.inner: ParameterSpace = create("spaces", inner.pop("name"), inner)
        self.takes_images, self.ordered, self.draws = self.inner.takes_images, self.inner.ordered, self.inner.draws
        self.tasks_in_shard = self.inner.tasks_in_shard
        shape: dict[str, Any] = {"width": width, "hidden": hidden, "depth": depth, "variational": variational}
        options = self.inner.shape_options
        self.autoencoder: Autoencoder
        if self.ordered:
            token_width = int(options["token_width"])
            tokens = -(-sum(options["sizes"]) // token_width)
            self.autoencoder = ConvAutoencoder(tokens=tokens, token_width=token_width, **shape)
        else:
            self.autoencoder = RowAutoencoder(token_width=feature_width, **shape)
        codes = self.autoencoder.codes
        self.register_buffer("code_mean", torch.zeros(codes, width))
        self.register_buffer("code_scale", torch.ones(1))

    @property
    def shape_options(self) -> dict[str, Any]:
        codes, width = self.code_mean.shape
        return {"sizes": [codes * width], "token_width": width}

    @property
    def of_values(self) -> ParameterSpace:
        return self.inner

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.inner.class_names

    @property
    def end(self) -> Tensor:
        """Of the other space: the best single value for all tasks."""
        end = self.inner.end
        assert isinstance(end, Tensor)
        return end

    def attach(self, backbone: Backbone) -> None:
        self.inner.attach(backbone)

    def features(self, inputs: Episode) -> Episode:
        return self.inner.features(inputs)

    def real(self, condition: Condition) -> Bool[Tensor, "batch tokens"]:
        """All codes of ordered tokens; those of classes that have support images."""
        if not self.ordered:
            return self.inner.real(condition)
        return torch.ones(len(condition.counts), len(self.code_mean), dtype=torch.bool, device=condition.counts.device)

    def like(self, condition: Condition) -> Float[Tensor, "batch tokens width"]:
        batch, ways = condition.counts.shape
        codes, width = self.code_mean.shape
        return condition.tokens.new_zeros(batch, codes if self.ordered else ways, width)

    def heads(self, end: ChainEnd) -> GeneratedHeads:
        return self.inner.heads(replace(end, tokens=self.uncoded(end.tokens)))

    def backbone(
        self, tokens: Float[Tensor, "tokens width"], inputs: Callable[[], Episode]
    ) -> tuple[Backbone, tuple[str, ...]]:
        """Of the decoded tokens; only where these lie inside the backbone."""
        assert isinstance(self.inner, AdaptsBackbone)
        return self.inner.backbone(self.uncoded(tokens), inputs)

    def query_logits(
        self, tokens: Float[Tensor, "batch tokens width"], episode: Episode, features: FeatureSpace, scale: Calibration
    ) -> Float[Tensor, "batch queries ways"]:
        """Of the decoded tokens; only where classifiers act on features."""
        assert isinstance(self.inner, ClassifiesFeatures)
        return self.inner.query_logits(self.uncoded(tokens), episode, features, scale)

    def start(self, generator: torch.Generator, *, feature_width: int) -> Float[Tensor, " width"]:
        return self.inner.start(generator, feature_width=feature_width)

    def fit_inputs(self, inputs: Features, standardizer: Standardizer) -> Features:
        return self.inner.fit_inputs(inputs, standardizer)

    def problem(self, support: Episode, source: Source, *, noise: float, generator: torch.Generator) -> FitProblem:
        return self.inner.problem(support, source, noise=noise, generator=generator)

    def fit(self, targets: Sequence[Float[Tensor, "_ local_targets ..."]]) -> None:
        """Of the other space; the codes are another matter (`settle`)."""
        self.inner.fit(targets)

    def read(self, tensors: Mapping[str, Tensor], *, source: str) -> Float[Tensor, " parameters"]:
        return self.inner.read(tensors, source=source)

    def items(self, values: Float[Tensor, "..."]) -> Float[Tensor, "items tokens width"]:
        """What is encoded by itself: the tokens of a vector, or each class row."""
        return self._apart(self.inner.encode(values))

    def losses(self, items: Float[Tensor, "items tokens width"], generator: torch.Generator) -> dict[str, Tensor]:
        """Squared error of the tokens without their noise, and of a variational one the divergence."""

        def noise(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator).to(like)

        noisy = items + self.config.input_noise * noise(items)
        codes, divergence = self.autoencoder.encode(noisy), items.new_zeros(())
        if self.config.variational:
            codes, logarithm = codes.chunk(2, -1)
            divergence = (codes.square() + logarithm.exp() - logarithm - 1).mean() / 2
            codes = codes + (logarithm / 2).exp() * noise(codes)
        codes = codes + self.config.latent_noise * noise(codes)
        error = (self.autoencoder.decode(codes) - items).square().mean()
        weighted = self.config.kl_weight * divergence if self.config.variational else divergence
        return {"loss": error + weighted, "reconstruction_error": error}

    @torch.no_grad()
    def settle(self, items: Float[Tensor, "items tokens width"]) -> None:
        """Bring the codes of the zoo to mean 0 and unit variance."""
        codes = self._codes(items)
        mean = codes.mean(0)
        self.code_mean.copy_(mean)
        self.code_scale.copy_((codes - mean).square().mean().sqrt().clamp(min=_LEAST_SCALE))

    @torch.no_grad()
    def encode(self, values: Float[Tensor, "..."]) -> Float[Tensor, "... tokens width"]:
        tokens = self.inner.encode(values).to(self.code_mean)
        codes = (self._codes(self._apart(tokens)) - self.code_mean) / self.code_scale
        if self.ordered:
            return codes.reshape(*tokens.shape[:-2], *codes.shape[1:])
        return codes.reshape(*tokens.shape[:-1], codes.shape[-1])

    def decode(self, tokens: Float[Tensor, "... tokens width"]) -> Float[Tensor, "..."]:
        return self.inner.decode(self.uncoded(tokens))

    def _apart(self, tokens: Float[Tensor, "... width"]) -> Float[Tensor, "items together width"]:
        """Ordered tokens of each vector together, others one by one."""
        return tokens.reshape(-1, *tokens.shape[-2:]) if self.ordered else tokens.reshape(-1, 1, tokens.shape[-1])

    def _codes(self, items: Float[Tensor, "items tokens width"]) -> Float[Tensor, "items codes code_width"]:
        codes = self.autoencoder.encode(items)
        return codes.chunk(2, -1)[0] if self.config.variational else codes

    def uncoded(self, tokens: Float[Tensor, "... codes code_width"]) -> Float[Tensor, "... tokens width"]:
        """What the autoencoder makes of codes."""
        decoded = self.autoencoder.decode(self._apart(tokens) * self.code_scale + self.code_mean)
        if self.ordered:
            return decoded.reshape(*tokens.shape[:-2], *decoded.shape[1:])
        return decoded.reshape(*tokens.shape[:-1], decoded.shape[-1])
