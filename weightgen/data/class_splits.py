"""Which classes train the backbone, train the generator, choose between generators, and test them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from weightgen import seeds
from weightgen.data.labelled import composed
from weightgen.data.named_splits import NAMED_SPLITS
from weightgen.errors import InputError
from weightgen.registry import nearest

Part = int | float | Sequence[str]


@dataclass(frozen=True)
class ClassSplit:
    """Four sets of class names without any overlap, each in the order of the data.

    backbone: pretrain the backbone. base: train the generator. validation: choose its options and when to stop.
    novel: seen by nothing before the test.
    """

    backbone: tuple[str, ...]
    base: tuple[str, ...]
    validation: tuple[str, ...]
    novel: tuple[str, ...]

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        for field in fields(self):
            for name in getattr(self, field.name):
                if name in owner:
                    raise InputError(
                        f"class '{name}' is in {owner[name]} and in {field.name}; name each class in one part only"
                    )
                owner[name] = field.name


def split_classes(
    names: Sequence[str], *, backbone_classes: Part, validation: Part, novel: Part, seed: int
) -> ClassSplit:
    """Split class names into disjoint parts; base is what the others leave.

    Each part is a number of classes (int), a share of all classes (float from 0 to 1; at least one class unless it
    is 0), or a list of names. Numbers and shares are drawn with `seed` from the classes that no list names. The novel
    classes do not depend on how large the other parts are.

    Raises InputError for an unknown or repeated name, overlapping lists, a share outside 0..1, or when no class is
    left for base.
    """
    wanted = {"backbone_classes": backbone_classes, "validation": validation, "novel": novel}
    parts = {part: _listed(what, names, part) for part, what in wanted.items() if not isinstance(what, int | float)}
    listed = {name for part in parts.values() for name in part}
    free = [name for name in names if name not in listed]
    order = torch.randperm(len(free), generator=seeds.generator(seed, "class split")).tolist()
    counts = {part: _count(what, len(names), part) for part, what in wanted.items() if isinstance(what, int | float)}
    if sum(counts.values()) >= len(free):
        raise InputError(
            f"no class is left to train the generator: of {len(names)} classes the parts take "
            f"{len(listed) + sum(counts.values())}; make backbone_classes, validation or novel smaller"
        )
    for part in ("novel", "validation", "backbone_classes"):  # novel first: the others' sizes must not change it
        if part in counts:
            drawn, order = order[: counts[part]], order[counts[part] :]
            parts[part] = [free[i] for i in drawn]
    parts["base"] = [free[i] for i in order]
    position = {name: i for i, name in enumerate(names)}
    sorted_parts = {part: tuple(sorted(of_part, key=position.__getitem__)) for part, of_part in parts.items()}
    return ClassSplit(backbone=sorted_parts.pop("backbone_classes"), **sorted_parts)


def named_split(name: str, names: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
    """A published split: class names of the parts `base`, `validation` and `novel`.

    name: `cifar_fs` or `fc100` (names as in CIFAR-100: `aquarium_fish`), `mini_imagenet` (WordNet ids), or `omniglot`
        (`Alphabet/character01`). Papers are cited in `weightgen.data.named_splits`.
    names: the classes of the data at hand; the parts are then spelled as they are there. Case, blanks and punctuation
        may differ (`aquarium fish`), and so may `cra`, as the hub's CIFAR-100 spells `crab`.

    Raises InputError for an unknown split, or when a class is missing from `names`.
    """
    if name not in NAMED_SPLITS:
        raise InputError(f"unknown class split '{name}'{nearest(name, NAMED_SPLITS)}")
    parts = NAMED_SPLITS[name]()
    if names is None:
        return parts
    spelling = {_plain(own): own for own in names}
    if "cra" in spelling:
        spelling.setdefault("crab", spelling["cra"])
    missing = [each for part in parts.values() for each in part if _plain(each) not in spelling]
    if missing:
        raise InputError(
            f"class split '{name}': {len(missing)} of its classes are not in the data, such as '{missing[0]}';"
            " give the whole data set or list the classes of each part"
        )
    return {part: tuple(spelling[_plain(each)] for each in listed) for part, listed in parts.items()}


def _listed(given: Sequence[str], names: Sequence[str], part: str) -> list[str]:
    if isinstance(given, str):
        raise InputError(f"{part}: '{given}' is one name; give a number, a share or a list of names")
    known, given = set(names), [composed(name) if isinstance(name, str) else name for name in given]
    for i, name in enumerate(given):
        if name not in known:
            raise InputError(f"{part}: the data has no class '{name}'{nearest(str(name), known)}")
        if name in given[:i]:
            raise InputError(f"{part}: class '{name}' is named twice; name it once")
    return given


def _count(given: int | float, classes: int, part: str) -> int:
    if isinstance(given, bool) or not 0 <= given <= (classes if isinstance(given, int) else 1):
        raise InputError(
            f"{part}: {given} is neither a number of classes (0 to {classes}, whole) nor a share of them (0.0 to 1.0)"
        )
    if isinstance(given, int):
        return given
    return max(round(given * classes), 1 if given else 0)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
