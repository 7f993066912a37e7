"""What a head folder holds, for people and programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weightgen.heads.head_folder import load_head


@dataclass(frozen=True)
class ClassSummary:
    """A class of a head.

    images: how many the head was written from; None where the head does not remember.
    """

    name: str
    images: int | None


@dataclass(frozen=True)
class HeadSummary:
    """A head without its numbers.

    classes: in the order of the logits.
    backbone: timm's name. samples: draws that are kept. parts: generated tensors inside the backbone.
    generator: name of the run that it is of. memory: hash of the generator that may add classes; None where the head
        does not remember its images.
    provenance: how it was made, with versions.
    """

    head: str
    classes: list[ClassSummary]
    backbone: str
    samples: int
    parts: list[str]
    generator: str | None
    memory: str | None
    provenance: dict[str, str]

    @classmethod
    def of(cls, folder: Path) -> HeadSummary:
        """Read a head folder. Raises InputError as `load_head` does."""
        saved = load_head(folder)
        known = saved.memory is not None
        counts = saved.memory.statistics.counts.long().tolist() if saved.memory is not None else []
        return cls(
            head=str(folder),
            classes=[ClassSummary(name, counts[i] if known else None) for i, name in enumerate(saved.class_names)],
            backbone=saved.backbone.architecture,
            samples=saved.head.weight.shape[1],
            parts=list(saved.parts),
            generator=saved.provenance.get("generator"),
            memory=None if saved.memory is None else saved.memory.generator,
            provenance=dict(sorted(saved.provenance.items())),
        )

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON output has them."""
        return asdict(self)
