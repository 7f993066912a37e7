"""The four-block convolutional network of few-shot papers, registered with timm as `conv4`."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["Conv4"]

default_cfgs = generate_default_cfgs(
    {
        "conv4.untrained": {
            "input_size": (1, 28, 28),
            "mean": (0.5,),
            "std": (0.5,),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "pool_size": (1, 1),
            "first_conv": "blocks.0.conv",
            "classifier": "fc",
        }
    }
)


class Conv4Block(nn.Sequential):
    """3×3 convolution, batch norm, 2×2 max pooling, ReLU: halves the image.

    The papers write ReLU before the pooling; the result is the same, at four times the work.
    """

    def __init__(self, in_chans: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, width, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(kernel_size=2)
        self.act = nn.ReLU(inplace=True)


class Conv4(nn.Module):
    """Conv-4 of Vinyals et al., "Matching Networks for One Shot Learning" (NeurIPS 2016).

    Four equal blocks; a global average pool makes the features independent of the image's size
    (16 pixels at least). Grey images of 28 pixels by default.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_chans: int = 1,
        width: int = 64,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = width
        self.grad_checkpointing = False
        self.blocks = nn.Sequential(*[Conv4Block(in_chans if i == 0 else width, width) for i in range(4)])
        self.feature_info = [{"num_chs": width, "reduction": 2 ** (i + 1), "module": f"blocks.{i}"} for i in range(4)]
        self.global_pool, self.head_drop, self.fc = create_classifier(
            width, num_classes, pool_type=global_pool, drop_rate=drop_rate
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        """The linear layer in the head slot."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new random head into the slot; 0 classes leave it empty."""
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=global_pool or self.global_pool.pool_type
        )

    def forward_features(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch feature rows columns"]:
        """The map before pooling, 16 times smaller than the image."""
        return self.blocks(images)  # rows = height // 16

    def forward_head(self, maps: Float[Tensor, "batch feature rows columns"], pre_logits: bool = False) -> Tensor:
        """Logits, or with `pre_logits` the features that the head sees."""
        pooled = self.head_drop(self.global_pool(maps))  # (batch, feature)
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of images."""
        return self.forward_head(self.forward_features(images))


@register_model
def conv4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Conv-4; options `width` (64), `in_chans` (1), `drop_rate` (0)."""
    return build_model_with_cfg(
        Conv4, "conv4", pretrained, feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True}, **kwargs
    )
