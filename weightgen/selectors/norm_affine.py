"""The affine parameters of normalisation layers."""

from timm.layers import RmsNorm
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from weightgen.interfaces import Selector

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, RmsNorm)  # _NormBase: batch and instance norms


class NormAffine(Selector):
    """Scale and shift of every normalisation layer (Frankle et al., ICLR 2021).

    They reweight the channels of a frozen network; running statistics are left alone.
    """

    def tensors(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Weight and bias of batch, instance, layer, group and RMS norms that have them."""
        prefixes = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, _NORMS))
        return {name: value for name, value in model.named_parameters() if name.startswith(prefixes)}
