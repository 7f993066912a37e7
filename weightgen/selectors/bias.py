"""The biases of the trunk."""

from torch import nn

from weightgen.interfaces import Selector
from weightgen.selectors._module_names import trunk_parameters


class Bias(Selector):
    """Every bias vector outside the head (BitFit, Ben Zaken et al., ACL 2022).

    Few numbers that shift all features; the head's own bias belongs to the selector `head`.
    """

    def tensors(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return {name: value for name, value in trunk_parameters(model).items() if name.rpartition(".")[2] == "bias"}
