from pathlib import Path

import pytest

from weightgen.data.class_splits import NAMED_SPLITS, ClassSplit, named_split, split_classes
from weightgen.data.labelled import class_names
from weightgen.data.sources import open_data
from weightgen.errors import InputError

NAMES = tuple(f"class {i:02d}" for i in range(41))
SHARED = Path(__file__).parents[2].parent / "shared" / "data"
SIZES = {
    "cifar_fs": (64, 16, 20),
    "fc100": (60, 20, 20),
    "mini_imagenet": (64, 16, 20),
    "omniglot": (792, 172, 659),
}


def split(**parts):
    return split_classes(NAMES, **{"backbone_classes": 7, "validation": 0.1, "novel": 0.2, "seed": 0, **parts})


def test_parts_are_disjoint_complete_and_in_the_order_of_the_data():
    parts = split()
    assert (len(parts.backbone), len(parts.base), len(parts.validation), len(parts.novel)) == (7, 22, 4, 8)
    every = parts.backbone + parts.base + parts.validation + parts.novel
    assert sorted(every) == list(NAMES)
    assert all(list(part) == sorted(part) for part in (parts.backbone, parts.base, parts.validation, parts.novel))


def test_seed_decides_the_draw():
    assert split() == split()
    assert split(seed=1).novel != split().novel


def test_novel_classes_do_not_depend_on_the_other_parts():
    assert split(backbone_classes=20, validation=3).novel == split().novel


def test_lists_are_kept_and_the_rest_is_drawn_around_them():
    parts = split(novel=[NAMES[9], NAMES[3]], validation=[NAMES[5]], backbone_classes=0)
    assert (parts.novel, parts.validation, parts.backbone) == ((NAMES[3], NAMES[9]), (NAMES[5],), ())
    assert len(parts.base) == 38


def test_a_small_share_is_at_least_one_class():
    parts = split(validation=0.001, novel=0.0)
    assert len(parts.validation) == 1 and parts.novel == ()


def test_all_lists():
    parts = split(backbone_classes=NAMES[:2], validation=NAMES[2:5], novel=list(NAMES[5:40]))
    assert parts.base == (NAMES[40],)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"novel": ["class 1"]}, "novel: the data has no class 'class 1'; did you mean"),
        ({"novel": [NAMES[3]], "validation": [NAMES[3]]}, "is in validation and in novel"),
        ({"novel": [NAMES[3], NAMES[3]]}, "named twice"),
        ({"novel": 1.2}, "novel: 1.2"),
        ({"novel": -1}, "novel: -1"),
        ({"novel": 42}, "novel: 42"),
        ({"novel": True}, "novel: True"),
        ({"novel": float("nan")}, "novel: nan"),
        ({"novel": "class 03"}, "is one name"),
        ({"novel": 34, "validation": 0}, "no class is left"),
        ({"novel": NAMES, "validation": 0, "backbone_classes": 0}, "no class is left"),
    ],
)
def test_wrong_parts_are_refused(wrong, message):
    with pytest.raises(InputError, match=message) as error:
        split(**wrong)
    assert "\n" not in str(error.value)


def test_a_class_split_cannot_overlap():
    with pytest.raises(InputError, match="'b' is in base and in novel"):
        ClassSplit(backbone=("a",), base=("b",), validation=(), novel=("b",))


@pytest.mark.parametrize("name", SIZES)
def test_named_splits_have_their_published_sizes(name):
    parts = NAMED_SPLITS[name]()
    assert tuple(parts) == ("base", "validation", "novel")
    assert tuple(len(part) for part in parts.values()) == SIZES[name]
    every = [each for part in parts.values() for each in part]
    assert len(set(every)) == len(every)
    assert named_split(name, every) == parts


def test_the_two_cifar_splits_share_their_classes():
    cifar_fs, fc100 = (set().union(*NAMED_SPLITS[name]().values()) for name in ("cifar_fs", "fc100"))
    assert cifar_fs == fc100 and len(fc100) == 100


def test_fc100_keeps_superclasses_whole():
    assert {"baby", "boy", "girl", "man", "woman"} <= set(NAMED_SPLITS["fc100"]()["novel"])


def test_names_are_spelled_as_in_the_data():
    every = [each for part in NAMED_SPLITS["cifar_fs"]().values() for each in part]
    theirs = ["cra" if each == "crab" else each.replace("_", " ").title() for each in every]
    parts = named_split("cifar_fs", theirs)
    assert "cra" in parts["validation"] and "Sweet Pepper" in parts["novel"]
    assert sorted(each for part in parts.values() for each in part) == sorted(theirs)


def test_classes_that_the_data_lack_are_left_out():
    assert named_split("cifar_fs", ["Baby", "no such class"]) == {"base": (), "validation": (), "novel": ("Baby",)}


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="did you mean 'cifar_fs'"):
        named_split("cifar-fs", NAMES)


@pytest.mark.parametrize(
    "name, parts, files",
    [
        ("cifar_fs", ["base"], ["cifar_fs_base"]),
        ("cifar_fs", ["validation"], ["cifar_fs_val"]),
        ("omniglot", ["base", "validation"], ["omniglot_background"]),
    ],
)
def test_named_splits_agree_with_real_data(name, parts, files):
    paths = [SHARED / f"{file}.parquet" for file in files]
    if not all(path.exists() for path in paths):
        pytest.skip("the shared data are not beside this checkout")
    names = {each for path in paths for each in class_names(open_data(str(path)))}
    assert names == {each for part in parts for each in NAMED_SPLITS[name]()[part]}
