"""Attention between classes that also sees what pairs of classes have in common."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


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
