"""Which classes train the backbone, train the generator, choose between generators, and test them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from weightgen import seeds
from weightgen.data.labelled import composed
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


def named_split(name: str, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """A published split: its classes that are among `names`, in the parts `base`, `validation` and `novel`.

    name: `cifar_fs`, `fc100`, `mini_imagenet` (WordNet ids) or `omniglot`; papers are cited in the functions below.
    names: the classes of the data at hand, which decide the spelling. Case, blanks and punctuation may differ
        (`aquarium fish`), and so may `cra`, as the hub's CIFAR-100 spells `crab`.

    Raises InputError for an unknown split.
    """
    if name not in NAMED_SPLITS:
        raise InputError(f"unknown class split '{name}'{nearest(name, NAMED_SPLITS)}")
    spelling = {_plain(own): own for own in names}
    if "cra" in spelling:
        spelling.setdefault("crab", spelling["cra"])
    parts = NAMED_SPLITS[name]()
    return {
        part: tuple(spelling[one] for one in map(_plain, listed) if one in spelling) for part, listed in parts.items()
    }


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


_CIFAR100 = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}

_CIFAR_FS = {
    "validation": """
        beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea shark
        television tractor""",
    "novel": """
        baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table
        telephone wardrobe whale woman worm""",
}

_FC100 = {
    "validation": "large_carnivores large_omnivores_and_herbivores non-insect_invertebrates small_mammals",
    "novel": "aquatic_mammals insects medium_mammals people",
}

_MINI_IMAGENET = {
    "base": """
        n01532829 n01558993 n01704323 n01749939 n01770081 n01843383 n01910747 n02074367 n02089867 n02091831 n02101006
        n02105505 n02108089 n02108551 n02108915 n02111277 n02113712 n02120079 n02165456 n02457408 n02606052 n02687172
        n02747177 n02795169 n02823428 n02966193 n03017168 n03047690 n03062245 n03207743 n03220513 n03337140 n03347037
        n03400231 n03476684 n03527444 n03676483 n03838899 n03854065 n03888605 n03908618 n03924679 n03998194 n04067472
        n04243546 n04251144 n04258138 n04275548 n04296562 n04389033 n04435653 n04443257 n04509417 n04515003 n04596742
        n04604644 n04612504 n06794110 n07584110 n07697537 n07747607 n09246464 n13054560 n13133613""",
    "validation": """
        n01855672 n02091244 n02114548 n02138441 n02174001 n02950826 n02971356 n02981792 n03075370 n03417042 n03535780
        n03584254 n03770439 n03773504 n03980874 n09256479""",
    "novel": """
        n01930112 n01981276 n02099601 n02110063 n02110341 n02116738 n02129165 n02219486 n02443484 n02871525 n03127925
        n03146219 n03272010 n03544143 n03775546 n04146614 n04149813 n04418357 n04522168 n07613480""",
}

# Characters per alphabet.
_OMNIGLOT = {
    "base": """
        Alphabet_of_the_Magi 20 Anglo-Saxon_Futhorc 29 Arcadian 26 Asomtavruli_(Georgian) 40 Balinese 24
        Blackfoot_(Canadian_Aboriginal_Syllabics) 14 Braille 26 Burmese_(Myanmar) 34 Cyrillic 33 Futurama 26 Grantha 43
        Greek 24 Gujarati 48 Inuktitut_(Canadian_Aboriginal_Syllabics) 16 Japanese_(hiragana) 52
        Japanese_(katakana) 47 Korean 40 Latin 26 Malay_(Jawi_-_Arabic) 40 N_Ko 33
        Ojibwe_(Canadian_Aboriginal_Syllabics) 14 Sanskrit 42 Syriac_(Estrangelo) 23 Tagalog 17 Tifinagh 55""",
    "validation": "Armenian 41 Bengali 46 Early_Aramaic 22 Hebrew 22 Mkhedruli_(Georgian) 41",
    "novel": """
        Angelic 20 Atemayar_Qelisayer 26 Atlantean 26 Aurek-Besh 26 Avesta 26 Ge_ez 26 Glagolitic 45 Gurmukhi 45
        Kannada 41 Keble 26 Malayalam 47 Manipuri 40 Mongolian 30 Old_Church_Slavonic_(Cyrillic) 45 Oriya 46
        Sylheti 28 Syriac_(Serto) 23 Tengwar 25 Tibetan 42 ULOG 26""",
}


def cifar_fs() -> dict[str, tuple[str, ...]]:
    """64 / 16 / 20 classes of CIFAR-100 (Bertinetto et al., ICLR 2019, arXiv 1805.08136)."""
    parts = {part: tuple(words.split()) for part, words in _CIFAR_FS.items()}
    every = sorted(name for words in _CIFAR100.values() for name in words.split())
    taken = {name for names in parts.values() for name in names}
    return {"base": tuple(name for name in every if name not in taken), **parts}


def fc100() -> dict[str, tuple[str, ...]]:
    """60 / 20 / 20 classes of CIFAR-100, split by superclass (Oreshkin et al., NeurIPS 2018, arXiv 1805.10123)."""
    parts: dict[str, list[str]] = {"base": [], "validation": [], "novel": []}
    for superclass, words in _CIFAR100.items():
        part = next((part for part, held in _FC100.items() if superclass in held.split()), "base")
        parts[part] += words.split()
    return {part: tuple(sorted(names)) for part, names in parts.items()}


def mini_imagenet() -> dict[str, tuple[str, ...]]:
    """64 / 16 / 20 classes of ImageNet by WordNet id (Ravi and Larochelle, ICLR 2017)."""
    return {part: tuple(words.split()) for part, words in _MINI_IMAGENET.items()}


def omniglot() -> dict[str, tuple[str, ...]]:
    """792 / 172 / 659 characters, named `Alphabet/character01` as in the original archives.

    Novel are the 20 alphabets of the evaluation set, base and validation the 30 of the background set (Lake et al.,
    Science 2015); validation are the five alphabets that Vinyals et al. (NeurIPS 2016) validate on. Their own test
    classes differ: they train on 236 characters of the evaluation set too.
    """
    parts = {}
    for part, words in _OMNIGLOT.items():
        alphabets, counts = words.split()[::2], [int(count) for count in words.split()[1::2]]
        pairs = zip(alphabets, counts, strict=True)
        parts[part] = tuple(f"{alphabet}/character{i + 1:02d}" for alphabet, n in pairs for i in range(n))
    return parts


NAMED_SPLITS = {"cifar_fs": cifar_fs, "fc100": fc100, "mini_imagenet": mini_imagenet, "omniglot": omniglot}
