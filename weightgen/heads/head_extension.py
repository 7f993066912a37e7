"""A head with further classes: which head may have them, and their rows behind the old ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from weightgen.data.labelled import composed
from weightgen.errors import InputError
from weightgen.heads.generated_head import GeneratedHead
from weightgen.heads.head_folder import SavedHead
from weightgen.heads.head_memory import HeadMemory
from weightgen.records import Head

_MOST_NAMED = 20


def extensible_memory(head: SavedHead, *, backbone: str, generator: str) -> HeadMemory:
    """The memory that a generator may go on from.

    backbone, generator: hashes of the generator's.

    Raises InputError when the head remembers nothing, or was written by another generator or for another backbone.
    """
    if head.memory is None:
        raise InputError(
            "the head does not remember its images (no statistics.safetensors); generate it again from all of them"
        )
    own = head.backbone.weights_hash()
    if own != backbone:
        raise InputError(
            f"the head is for a {head.backbone.architecture} with weights {own}, and the generator's have {backbone}; "
            "name the generator that wrote it"
        )
    if head.memory.generator != generator:
        name = head.provenance.get("generator", "another generator")
        raise InputError(
            f"the head was written by {name} ({head.memory.generator}), and this generator is {generator}; "
            "name the one that wrote it, or generate the head again from all images"
        )
    return head.memory


def check_new_classes(names: Sequence[str], present: Sequence[str]) -> None:
    """Raise InputError when a head has a class of one of these names, or of one that looks like it (NFC)."""
    known = {composed(name) for name in present}
    for name in names:
        if composed(name) in known:
            raise InputError(
                f"the head has a class {name!r} already; rename its new folder, or take the old class out "
                "(weightgen head remove)"
            )


def extension_note(names: Sequence[str], before: Mapping[str, str], *, how: str) -> dict[str, str]:
    """What a head's provenance tells of how it was changed, behind earlier extensions.

    before: the provenance of the head that was extended. how: in which way the rows were written.
    """
    told = ", ".join(map(repr, names)) if len(names) <= _MOST_NAMED else f"{len(names)} classes"
    earlier = [before["extended"]] if "extended" in before else []
    edited = {"edited": before["edited"]} if "edited" in before else {}
    return {**edited, "extended": "; ".join([*earlier, f"added {told} ({how})"])}


def with_rows(
    head: SavedHead, new: Head, *, class_names: tuple[str, ...], memory: HeadMemory, note: Mapping[str, str]
) -> GeneratedHead:
    """The head with new rows behind its own, which stay as they are, bit for bit.

    new: as many draws as the head has. class_names, memory: of all classes. note: changes of the provenance.
    """
    new = Head(new.weight.float().cpu(), new.bias.float().cpu())
    images = str(int(memory.statistics.counts.sum()))
    return GeneratedHead(
        _behind(head.head, new),
        class_names,
        head.backbone,
        provenance={**head.provenance, "support_images": images, **note},
        parts=head.parts,
        memory=memory,
        mean=_behind(head.mean, new.mean()),
    )


def _behind(old: Head, new: Head) -> Head:
    return Head(torch.cat([old.weight, new.weight], 2), torch.cat([old.bias, new.bias], 2))
