"""The end of the trunk."""

import math
from typing import Any

from timm.models._manipulate import group_with_matcher
from torch import nn

from weightgen.interfaces import Selector
from weightgen.selectors._module_names import head_slot, trunk_parameters


class LastBlock(Selector):
    """Every parameter from the trunk's last block on, up to the head: what partial fine-tuning trains first.

    A block is the last of timm's layer groups, as for learning rates that decay by layer; models without groups give
    their last feature stage. What stands between block and head (a final norm, a 1×1 convolution) belongs to it.
    """

    def tensors(self, model: nn.Module) -> dict[str, nn.Parameter]:
        last = _last_group(model, head_slot(model)) if hasattr(model, "group_matcher") else _last_stage(model)
        return {name: value for name, value in trunk_parameters(model).items() if name in last}


def _last_group(model: Any, head: str) -> set[str]:
    # The slot is named even where it is empty: what timm leaves without a group gets the head's number, the highest,
    # and must not pass for a block.
    slot = f"{head}.weight"
    numbers = group_with_matcher(
        [*model.named_parameters(), (slot, None)], model.group_matcher(coarse=False), reverse=True
    )
    last = max((number for number in numbers.values() if number < numbers[slot]), default=math.inf)
    return {name for name, number in numbers.items() if number >= last}


def _last_stage(model: nn.Module) -> set[str]:
    stages = getattr(model, "feature_info", None)
    if not stages:
        return set()
    names = [name for name, _ in model.named_parameters()]
    inside = [index for index, name in enumerate(names) if name.startswith(f"{stages[-1]['module']}.")]
    return set(names[inside[0] :]) if inside else set()
