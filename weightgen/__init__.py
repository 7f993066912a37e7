"""weightgen learns to write classifier parameters instead of training them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weightgen.pipeline import WeightGenerationPipeline as WeightGenerationPipeline

__version__ = "0.1.0"
__all__ = ["WeightGenerationPipeline", "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: `weightgen --help` must not wait for torch.
    if name == "WeightGenerationPipeline":
        from weightgen.pipeline import WeightGenerationPipeline

        return WeightGenerationPipeline
    raise AttributeError(f"module 'weightgen' has no attribute '{name}'")
