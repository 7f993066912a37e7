"""The published class splits of four few-shot data sets, by class name."""

from __future__ import annotations

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
