"""A transformer layer for few tokens."""

from jaxtyping import Bool, Float
from torch import Tensor, nn


class EncoderLayer(nn.TransformerEncoderLayer):
    """torch's pre-norm layer: its weights and its mathematics, without its checks.

    On the handful of tokens of a head those take longer than the work itself, and a chain calls many layers in a row.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        if width % heads:
            raise ValueError(f"width {width} is no multiple of heads {heads}")
        super().__init__(width, heads, 2 * width, dropout, activation="gelu", batch_first=True, norm_first=True)

    def forward(  # type: ignore[override]
        self, tokens: Float[Tensor, "batch tokens width"], mask: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens width"]:
        """`mask` is True for tokens that others may look at."""
        attention = self.self_attn
        qkv = nn.functional.linear(self.norm1(tokens), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3 * attention.num_heads, -1)).transpose(1, 2).chunk(3, 1)
        dropped = attention.dropout if self.training else 0.0
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None], dropout_p=dropped)
        tokens = tokens + self.dropout1(attention.out_proj(seen.transpose(1, 2).flatten(-2)))
        inner = self.dropout(nn.functional.gelu(self.linear1(self.norm2(tokens))))
        return tokens + self.dropout2(self.linear2(inner))
