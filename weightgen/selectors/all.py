"""The whole network."""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from weightgen.interfaces import Selector

_LEAST_VARIANCE = 1e-6


class All(Selector):
    """Every parameter of a small network, and the running statistics of its batch norms (p-diff, arXiv 2402.13144).

    In the space `network` the head is among them; in `chunks` the model has none.

    renew_statistics: leave the running statistics out, and estimate them anew on training images whenever parameters
        are written: as generated numbers they have to fit the generated weights.
    """

    def __init__(self, *, renew_statistics: bool = False) -> None:
        self.statistics = "renewed" if renew_statistics else "selected"

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """All parameters, then the means and variances of batch norms unless they are renewed."""
        tensors: dict[str, Tensor] = dict(model.named_parameters())
        norms = [] if self.statistics == "renewed" else list(model.named_modules())
        for name, module in norms:
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
                tensors |= {f"{name}.running_mean": module.running_mean, f"{name}.running_var": module.running_var}
        return tensors

    def admissible(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """No variance below a millionth: the denoiser may write a negative number."""
        return {
            name: value.clamp(min=_LEAST_VARIANCE) if name.endswith(".running_var") else value
            for name, value in tensors.items()
        }
