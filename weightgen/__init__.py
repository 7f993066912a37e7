"""weightgen learns to write classifier parameters instead of training them."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weightgen.estimator import WeightGenerationClassifier as WeightGenerationClassifier
    from weightgen.heads.head import Head as Head
    from weightgen.heads.head import load_head as load_head
    from weightgen.pipeline import WeightGenerationPipeline as WeightGenerationPipeline

__version__ = "0.2.0"
__all__ = ["Head", "WeightGenerationClassifier", "WeightGenerationPipeline", "__version__", "load_head"]
_MODULES = {
    "Head": "weightgen.heads.head",
    "load_head": "weightgen.heads.head",
    "WeightGenerationClassifier": "weightgen.estimator",
    "WeightGenerationPipeline": "weightgen.pipeline",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # Loaded on first use: `weightgen --help` must not wait for torch.
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'weightgen' has no attribute '{name}'")
