"""The classification head."""

from __future__ import annotations

from torch import nn

from weightgen.errors import InputError
from weightgen.features.layout import Layout
from weightgen.selectors._selector import Selector, head_slot


class Head(Selector):
    """Weight and bias of the last layer, one row per class.

    Its layout has rows: the vector is ordered class by class, and `ways` sets their number.
    """

    def tensors(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Parameters of the layer in the model's head slot."""
        prefix = f"{head_slot(model)}."
        return {name: value for name, value in model.named_parameters() if name.startswith(prefix)}

    def layout(self, model: nn.Module, *, ways: int | None = None) -> Layout:
        """Layout with one row per class; `ways` classes, or as many as the model has now."""
        found = self._found(model)
        sizes = {parameter.shape[0] for parameter in found.values()}
        if len(sizes) > 1:
            raise InputError(
                f"selector 'head': {', '.join(found)} differ in their first dimension, which must be the class;"
                " choose a model with a linear head"
            )
        ways = sizes.pop() if ways is None else ways
        return Layout(tuple((name, (ways, *value.shape[1:])) for name, value in found.items()), rows=ways)
