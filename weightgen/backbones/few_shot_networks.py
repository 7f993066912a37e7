"""The two networks of few-shot papers, registered with timm as `conv4` and `resnet12`."""

from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["Conv4", "ResNet12"]

_GREY = {"input_size": (1, 28, 28), "mean": (0.5,), "std": (0.5,), "interpolation": "bilinear", "pool_size": (1, 1)}
_COLOUR = {"input_size": (3, 84, 84), "pool_size": (5, 5)}
default_cfgs = generate_default_cfgs(
    {
        "conv4.untrained": {**_GREY, "crop_pct": 1.0, "first_conv": "blocks.0.conv", "classifier": "fc"},
        "resnet12.untrained": {**_COLOUR, "crop_pct": 1.0, "first_conv": "blocks.0.conv1", "classifier": "fc"},
    }
)


class FewShotNetwork(nn.Module):
    """Blocks that each halve the image, a global average pool, and the head's slot `fc`."""

    def __init__(
        self, blocks: Sequence[nn.Module], widths: Sequence[int], *, num_classes: int, in_chans: int, **head: Any
    ) -> None:
        """Args: `widths` are those of the blocks; `head` goes to timm's `create_classifier`."""
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = widths[-1]
        self.grad_checkpointing = False
        self.blocks = nn.Sequential(*blocks)
        self.feature_info = [
            {"num_chs": width, "reduction": 2 ** (i + 1), "module": f"blocks.{i}"} for i, width in enumerate(widths)
        ]
        self.global_pool, self.head_drop, self.fc = create_classifier(widths[-1], num_classes, **head)

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

    def _draw_convolutions(self, nonlinearity: Literal["relu", "leaky_relu"]) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity=nonlinearity)


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


class Conv4(FewShotNetwork):
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
        blocks = [Conv4Block(in_chans if i == 0 else width, width) for i in range(4)]
        head: dict[str, Any] = {"pool_type": global_pool, "drop_rate": drop_rate}
        super().__init__(blocks, (width,) * 4, num_classes=num_classes, in_chans=in_chans, **head)
        self._draw_convolutions("relu")


class ResNet12Block(nn.Module):
    """Three 3×3 convolutions with a projected shortcut, then 2×2 max pooling: halves the image."""

    def __init__(self, in_chans: int, width: int, drop_rate: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, width, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential(nn.Conv2d(in_chans, width, kernel_size=1, bias=False), nn.BatchNorm2d(width))
        self.act = nn.LeakyReLU(0.1)
        self.pool = nn.MaxPool2d(kernel_size=2)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, maps: Float[Tensor, "batch in rows columns"]) -> Tensor:
        deep = self.act(self.norm1(self.conv1(maps)))  # (batch, width, rows, columns)
        deep = self.act(self.norm2(self.conv2(deep)))
        deep = self.norm3(self.conv3(deep))
        return self.drop(self.pool(self.act(deep + self.shortcut(maps))))  # (batch, width, rows // 2, columns // 2)


class ResNet12(FewShotNetwork):
    """ResNet-12 of Lee et al., "Meta-Learning with Differentiable Convex Optimization" (CVPR 2019).

    Four blocks, a global average pool; widths of Tian et al., "Rethinking Few-Shot Image Classification"
    (ECCV 2020) are (64, 160, 320, 640) too. `drop_rate` is after every block (they use 0.1; DropBlock is left out).
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        widths: Sequence[int] = (64, 160, 320, 640),
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        inputs = (in_chans, *widths[:-1])
        blocks = [ResNet12Block(given, width, drop_rate) for given, width in zip(inputs, widths, strict=True)]
        head: dict[str, Any] = {"pool_type": global_pool, "drop_rate": 0.0}
        super().__init__(blocks, widths, num_classes=num_classes, in_chans=in_chans, **head)
        self._draw_convolutions("leaky_relu")


def _built(kind: type[FewShotNetwork], name: str, pretrained: bool, **options: Any) -> nn.Module:
    features = {"out_indices": (0, 1, 2, 3), "flatten_sequential": True}
    return build_model_with_cfg(kind, name, pretrained, feature_cfg=features, **options)


@register_model
def conv4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Conv-4; options `width` (64), `in_chans` (1), `drop_rate` (0)."""
    return _built(Conv4, "conv4", pretrained, **kwargs)


@register_model
def resnet12(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-12; options `widths` (64, 160, 320, 640), `in_chans` (3), `drop_rate` (0)."""
    return _built(ResNet12, "resnet12", pretrained, **kwargs)
