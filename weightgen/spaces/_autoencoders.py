"""Networks that make codes of parameter tokens, and tokens of codes."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

_KERNEL = 5
_START = 0.02


class Autoencoder(nn.Module, ABC):
    """Tokens to codes and back; what learns in a `latent` space.

    A variational encoder gives the mean and the logarithm of the variance of every entry of a code, side by side along
    the last axis; any other gives the code.
    """

    @abstractmethod
    def encode(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch codes code_width"]:
        """Codes; of a variational encoder twice as wide."""

    @abstractmethod
    def decode(self, codes: Float[Tensor, "batch codes code_width"]) -> Float[Tensor, "batch tokens width"]:
        """Tokens of codes."""


class ConvAutoencoder(Autoencoder):
    """One-dimensional convolutions along all tokens of a vector (p-diff, arXiv 2402.13144).

    Every layer of the encoder halves the length. A learnt value for every place is added to input and output, for
    convolutions know no places.

    Args:
        tokens, token_width: of a vector. width: channels of the code. hidden: of the layers between.
        depth: layers of either half.
    """

    def __init__(
        self, *, tokens: int, token_width: int, width: int, hidden: int, depth: int, variational: bool
    ) -> None:
        super().__init__()
        self.token_width, self.length = token_width, tokens * token_width
        self.codes = -(-self.length // 2**depth)
        padded = self.codes * 2**depth
        self.place_in, self.place_out = (nn.Parameter(torch.zeros(1, 1, padded)) for _ in range(2))
        nn.init.normal_(self.place_in, std=_START)
        channels = [1, *(hidden for _ in range(depth - 1)), width * (1 + variational)]
        down: list[nn.Module] = []
        for i in range(depth):
            down += [nn.GELU()] * (i > 0)
            down += [nn.Conv1d(channels[i], channels[i + 1], _KERNEL, stride=2, padding=_KERNEL // 2)]
        channels = [width, *(hidden for _ in range(depth - 1)), 1]
        up: list[nn.Module] = []
        for i in range(depth):
            up += [nn.GELU()] * (i > 0)
            up += [nn.Upsample(scale_factor=2), nn.Conv1d(channels[i], channels[i + 1], _KERNEL, padding=_KERNEL // 2)]
        self.down, self.up = nn.Sequential(*down), nn.Sequential(*up)

    def encode(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch codes code_width"]:
        vector = tokens.flatten(1)[:, None]  # batch 1 length
        padded = nn.functional.pad(vector, (0, self.place_in.shape[-1] - self.length))
        return self.down(padded + self.place_in).mT

    def decode(self, codes: Float[Tensor, "batch codes code_width"]) -> Float[Tensor, "batch tokens width"]:
        vector = (self.up(codes.mT) + self.place_out)[:, 0, : self.length]
        return vector.unflatten(-1, (-1, self.token_width))


class RowAutoencoder(Autoencoder):
    """Every token by itself, where tokens have no places: class rows.

    Args: as of `ConvAutoencoder`; `depth` hidden layers in either half.
    """

    codes = 1

    def __init__(self, *, token_width: int, width: int, hidden: int, depth: int, variational: bool) -> None:
        super().__init__()
        self.inward = _perceptron(token_width, width * (1 + variational), hidden, depth)
        self.outward = _perceptron(width, token_width, hidden, depth)

    def encode(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens code_width"]:
        return self.inward(tokens)

    def decode(self, codes: Float[Tensor, "batch tokens code_width"]) -> Float[Tensor, "batch tokens width"]:
        return self.outward(codes)


def _perceptron(inside: int, outside: int, hidden: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(inside, hidden), nn.GELU()]
        inside = hidden
    return nn.Sequential(*layers, nn.Linear(inside, outside))
