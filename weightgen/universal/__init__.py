"""The generator that ships with the package: heads on any backbone, with nothing trained by its user."""

from weightgen.universal.generator import universal_generator

__all__ = ["universal_generator"]
