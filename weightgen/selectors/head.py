"""The classification head."""

from torch import nn

from weightgen.interfaces import Selector
from weightgen.selectors._module_names import head_slot


class Head(Selector):
    """Weight and bias of the last layer, one row per class in the space `class_rows`; all at once in `network`."""

    def tensors(self, model: nn.Module) -> dict[str, nn.Parameter]:
        prefix = f"{head_slot(model)}."
        return {name: value for name, value in model.named_parameters() if name.startswith(prefix)}
