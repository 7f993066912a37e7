"""Low-rank updates of layers."""

import re
import textwrap

import torch
from torch import nn

from weightgen.errors import InputError
from weightgen.extras import require
from weightgen.interfaces import Selector
from weightgen.seeds import derive
from weightgen.selectors._module_names import ModuleNames, ancestors, trunk_modules

require("lora", what="selector 'lora'")
from peft import LoraConfig, inject_adapter_in_model  # noqa: E402 - named in one line where it is missing
from peft.tuners.lora import LoraLayer  # noqa: E402

_ADAPTER = "default"


class Lora(Selector):
    """Low-rank matrices A and B of layers W, which then compute W + alpha / rank · B A (Hu et al., ICLR 2022).

    A plain model has none: `prepare` and `write` put them in through PEFT, which renames the layers' own parameters
    (`qkv.weight` becomes `qkv.base_layer.weight`); `read` and `layout` refuse a model without them, for asking must
    not rename. A starts from a fixed seed, so that all vectors share an origin; B starts at 0.

    target_modules: the linear and convolution layers to update: a regular expression for the whole name, or a list
        of names or of their ends (`[qkv, mlp.fc1]`). The head is never among them.
    rank: rows of A and columns of B.
    alpha: scale of the update; the rank unless given, which makes the factor 1.
    """

    def __init__(self, *, target_modules: str | list[str], rank: int = 8, alpha: int | None = None) -> None:
        self._target = ModuleNames(target_modules, option="target_modules")
        self._rank = rank
        self._alpha = rank if alpha is None else alpha
        if min(self._rank, self._alpha) < 1:
            raise InputError(f"selector 'lora': rank {rank} and alpha {alpha} must be 1 or more")

    def prepare(self, model: nn.Module) -> None:
        """Put fresh A and B into every target; what is trainable stays so, and A and B are.

        Raises InputError when no module matches, PEFT cannot adapt one, or the model has other adapters.
        """
        targets = self._targets(model)
        if not targets:
            raise InputError(f"selector 'lora': {self.refusal(model)}")
        if self._adapted(model):
            return
        config = LoraConfig(r=self._rank, lora_alpha=self._alpha, target_modules="|".join(map(re.escape, targets)))
        trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        try:
            with torch.random.fork_rng(devices=[]):  # PEFT draws on the CPU, wherever the model is
                torch.default_generator.manual_seed(derive(0, "lora"))
                inject_adapter_in_model(config, model, _ADAPTER)
            for layer in _lora_layers(model).values():
                layer.train(layer.get_base_layer().training)
        except (ValueError, TypeError) as error:
            done = _lora_layers(model)
            failed = next((name for name in targets if name not in done), targets[-1])
            for name, layer in reversed(done.items()):  # inner before outer, so that the model is plain again
                model.set_submodule(name, layer.get_base_layer())
            reason = textwrap.shorten(str(error), 120, placeholder=" …")
            raise InputError(
                f"selector 'lora': target_modules match '{failed}', which PEFT refuses ({reason});"
                " name linear or convolution layers only, with a rank that suits them"
            ) from error
        finally:
            for parameter, before in trainable:  # PEFT freezes the whole model
                parameter.requires_grad_(before)

    def tensors(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """A and B of every target; empty for a model that is not prepared."""
        adapted = self._adapted(model)
        return {
            name: value
            for name, value in model.named_parameters()
            if _ADAPTER in name.split(".") and any(module in adapted for module in ancestors(name))
        }

    def settle(self, model: nn.Module) -> tuple[str, ...]:
        """Add every update to the weight of its layer, and take A and B out again."""
        self.selected(model)
        layers = self._adapted(model)
        for name, layer in layers.items():
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())
        return tuple(f"{name}.weight" for name in layers)

    def _targets(self, model: nn.Module) -> list[str]:
        adapted = _lora_layers(model)
        return [
            name
            for name in trunk_modules(model)
            if name in self._target and not any(module in adapted for module in ancestors(name))
        ]

    def _adapted(self, model: nn.Module) -> dict[str, LoraLayer]:
        """The targets as PEFT's layers, none in a plain model. Raises InputError for other adapters."""
        layers = _lora_layers(model)
        outer = {
            name: layer for name, layer in layers.items() if not any(module in layers for module in ancestors(name))
        }
        own = all(layer.r.get(_ADAPTER) == self._rank for layer in outer.values()) and all(
            layer.lora_alpha.get(_ADAPTER) == self._alpha for layer in outer.values()
        )
        if outer and not (own and set(outer) == set(self._targets(model))):
            raise InputError(
                f"selector 'lora': the {type(model).__name__} has LoRA adapters of other options; build it anew"
            )
        return outer

    def refusal(self, model: nn.Module) -> str:
        if not self._targets(model):
            return self._target.refusal(model)
        return f"a plain {type(model).__name__} has no adapters; call prepare(model) first"


def _lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
