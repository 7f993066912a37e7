"""Which classes serve for what."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_runs import CLASSES

from weightgen.config.recipe import DataOptions
from weightgen.data.class_splits import NAMED_SPLITS
from weightgen.data.labelled import class_counts, class_names, data_fingerprint
from weightgen.errors import InputError
from weightgen.runs.data_parts import DataParts, open_parts

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c6360000000020001"
    "48afa4710000000049454e44ae426082"
)


def write(path: Path, *names: str) -> str:
    """A Parquet file with two one-pixel images of each class."""
    labels = [name for name in names for _ in range(2)]
    pq.write_table(pa.table({"image": pa.array([PNG] * len(labels)), "label": labels}), path)
    return str(path)


def parts_of(pretraining: bool = True, seed: int = 0, **options: object) -> DataParts:
    return open_parts(DataOptions.model_validate(options), seed=seed, pretraining=pretraining)


def names_of(parts: DataParts) -> dict[str, set[str]]:
    return {part: set(class_names(getattr(parts, part))) for part in ("backbone", "base", "validation", "novel")}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "options", [{"backbone_classes": 7, "validation": 3, "novel": 5}, {"backbone_classes": 0.25, "validation": 0.2}]
)
def test_no_class_serves_twice_and_none_is_lost(images: Path, seed: int, options: dict[str, object]) -> None:
    names = names_of(parts_of(source=str(images), seed=seed, **options))
    for one, other in combinations(names.values(), 2):
        assert one
        assert one.isdisjoint(other)
    assert sum(map(len, names.values())) == len(set.union(*names.values())) == CLASSES


def test_the_split_is_the_seeds(images: Path) -> None:
    first, again, other = (names_of(parts_of(source=str(images), novel=5, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_the_backbone_shares_the_base_classes_where_none_are_set_aside(images: Path) -> None:
    for options in ({"backbone_classes": 0}, {"backbone_classes": 7, "pretraining": False}):
        names = names_of(parts_of(source=str(images), validation=3, novel=5, **options))  # type: ignore[arg-type]
        assert names["backbone"] == names["base"]
        assert len(names["base"]) == CLASSES - 8


def test_classes_by_name(tmp_path: Path) -> None:
    source = write(tmp_path / "all.parquet", *"abcdefg")
    names = names_of(parts_of(source=source, backbone_classes=["c"], validation=["b", "g"], novel=["a"]))
    assert names == {"backbone": {"c"}, "base": set("def"), "validation": set("bg"), "novel": {"a"}}


def test_a_part_with_data_of_its_own(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.parquet", *names) for i, names in enumerate(("abcd", "ef", "ghi"))]
    names = names_of(parts_of(source=files[0], validation=files[1], novel=files[2], pretraining=False))
    assert names == {"backbone": set("abcd"), "base": set("abcd"), "validation": set("ef"), "novel": set("ghi")}


@pytest.mark.parametrize("part", ["validation", "novel"])
def test_a_class_in_two_files_is_refused(tmp_path: Path, part: str) -> None:
    source, other = write(tmp_path / "a.parquet", *"abcdefgh"), write(tmp_path / "b.parquet", "x", "c")
    rest = {"validation": 0, "novel": 0} | {part: other}
    with pytest.raises(InputError, match=f"class 'c' is in both data.source and data.{part}; take it out of one"):
        parts_of(source=source, pretraining=False, **rest)


def test_classes_of_the_backbone_are_refused_as_novel(tmp_path: Path) -> None:
    source, other = write(tmp_path / "a.parquet", *"abcdef"), write(tmp_path / "b.parquet", "x", "c")
    with pytest.raises(InputError, match=r"class 'c' is in both data\.backbone_classes and data.novel"):
        parts_of(source=source, backbone_classes=["c", "d"], validation=0, novel=other)


def test_a_published_split(tmp_path: Path) -> None:
    published = NAMED_SPLITS["cifar_fs"]()
    present = [name for part in published.values() for name in part[:3]]
    names = names_of(parts_of(source=write(tmp_path / "c.parquet", *present, "stranger"), split="cifar_fs"))
    for part in ("base", "validation", "novel"):
        assert names[part] == set(published[part][:3])
    assert names["backbone"] == names["base"]


def test_a_published_split_of_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.split 'cifar_fs' names none of the classes"):
        parts_of(source=write(tmp_path / "a.parquet", *"abc"), split="cifar_fs")


def test_too_many_classes_for_the_backbone(images: Path) -> None:
    with pytest.raises(InputError, match=f"has {CLASSES} classes; lower it to {CLASSES // 2} or less, or set 0"):
        parts_of(source=str(images), backbone_classes=CLASSES // 2 + 1)
    assert len(names_of(parts_of(source=str(images), backbone_classes=CLASSES // 2))["backbone"]) == CLASSES // 2


def test_more_classes_than_there_are(images: Path) -> None:
    with pytest.raises(InputError, match=str(CLASSES)):
        parts_of(source=str(images), validation=14, novel=14)


def test_an_unknown_class(images: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        parts_of(source=str(images), novel=["nowhere"])


def test_test_images_are_of_every_base_class_and_in_no_other_part(images: Path) -> None:
    options = {"source": str(images), "classes": 7, "validation": 0, "novel": 0, "test_images": 0.3}
    parts, again = parts_of(**options), parts_of(**options)  # type: ignore[arg-type]
    assert class_names(parts.base) == class_names(parts.novel) == class_names(parts.backbone)
    assert len(class_names(parts.base)) == 7
    assert set(class_counts(parts.novel)) == {4}
    assert set(class_counts(parts.base)) == {9}
    first, second = (
        {row["bytes"] for row in part.with_format("arrow")[:]["image"].to_pylist()}
        for part in (parts.base, parts.novel)
    )
    assert first.isdisjoint(second)
    assert data_fingerprint(again.novel) == data_fingerprint(parts.novel)


def test_some_classes_are_drawn_by_the_seed_and_too_many_are_refused(images: Path) -> None:
    first, other = (class_names(parts_of(source=str(images), classes=9, seed=seed).base) for seed in (0, 1))
    assert first != other
    with pytest.raises(InputError, match=r"data.classes is 27 and .* has 26 classes; lower it"):
        parts_of(source=str(images), classes=27)
