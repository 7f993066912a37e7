"""Modules chosen by name."""

from torch import nn

from weightgen.interfaces import Selector
from weightgen.selectors._module_names import ModuleNames, ancestors, trunk_modules, trunk_parameters


class Pattern(Selector):
    r"""All parameters of the modules outside the head whose names match, in the words and by the rules of PEFT.

    Where a matched module holds an excluded one, or the other way round, the inner one decides.

    target_modules: a regular expression for the whole name of a module (`'blocks\.5\..*'`), or a list of names
        or of their ends (`[qkv, mlp.fc1]`).
    exclude_modules: modules to leave out, in the same form.
    """

    def __init__(self, *, target_modules: str | list[str], exclude_modules: str | list[str] | None = None) -> None:
        self._target = ModuleNames(target_modules, option="target_modules")
        self._exclude = None if exclude_modules is None else ModuleNames(exclude_modules, option="exclude_modules")

    def tensors(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return {name: value for name, value in trunk_parameters(model).items() if self._selects(name)}

    def _selects(self, parameter: str) -> bool:
        for module in ancestors(parameter):
            if self._exclude is not None and module in self._exclude:
                return False
            if module in self._target:
                return True
        return False

    def refusal(self, model: nn.Module) -> str:
        if self._exclude is not None and any(name in self._target for name in trunk_modules(model)):
            return f"exclude_modules leave nothing of the target_modules in a {type(model).__name__}; exclude less"
        return self._target.refusal(model)
