"""The biases of the trunk."""

from __future__ import annotations

from torch import nn

from weightgen.interfaces import Selector
from weightgen.selectors._module_names import head_slot


class Bias(Selector):
    """Every bias vector outside the head (BitFit, Ben Zaken et al., ACL 2022).

    Few numbers that shift all features; the head's own bias belongs to the selector `head`.
    """

    def tensors(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Parameters called `bias`, those of normalisation layers included."""
        head = f"{head_slot(model)}."
        return {
            name: value
            for name, value in model.named_parameters()
            if name.rpartition(".")[2] == "bias" and not name.startswith(head)
        }
