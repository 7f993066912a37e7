"""Classes from further places: they join those that are learnt from, and nothing that is kept for later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_runs import IMAGES_PER_CLASS, TINY, files_below, refuse, succeed

from weightgen.config.loading import load_recipe
from weightgen.config.recipe import DataOptions
from weightgen.data.labelled import class_names, select_classes
from weightgen.data.sources import open_data
from weightgen.errors import InputError
from weightgen.files import read_tensors
from weightgen.runs.data_parts import DataParts, open_parts
from weightgen.runs.folder import RunFolder

SPLIT = {"backbone_classes": 6, "validation": 2, "novel": 5}
"""That of `TINY`."""


@pytest.fixture(scope="module")
def split(images: Path) -> DataParts:
    return parts_of(images)


@pytest.fixture(scope="module")
def places(images: Path, split: DataParts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Parquet files of some classes of `images`, by what those serve for in `images`."""
    folder, folders = tmp_path_factory.mktemp("places"), {}
    names = {part: class_names(getattr(split, part)) for part in ("backbone", "base", "validation", "novel")}
    chosen = {
        "base": names["base"][:3],
        "backbone": names["backbone"][:4],
        "novel": (names["backbone"][0], names["novel"][2]),
        "validation": (names["validation"][1], names["backbone"][1]),
    }
    for part, some in chosen.items():
        folders[part] = folder / f"{part}.parquet"
        select_classes(open_data(str(images)), some).to_parquet(folders[part])
    return folders


def parts_of(images: Path, *further: Path) -> DataParts:
    options = DataOptions.model_validate({"source": str(images), "further": list(map(str, further)), **SPLIT})
    return open_parts(options, seed=0, pretraining=True)


def test_all_classes_of_further_places_are_learnt_from(images: Path, split: DataParts, places: dict[str, Path]) -> None:
    """And the split of the source stays as it is."""
    parts = parts_of(images, places["base"], places["backbone"])
    for name in ("backbone", "base", "validation", "novel"):
        assert class_names(getattr(parts, name)) == class_names(getattr(split, name))
    assert [len(class_names(one)) for one in parts.further] == [3, 4]
    assert len(split.learnt_counts()) == 13
    assert parts.learnt_counts() == {
        **split.learnt_counts(),
        **{f"{name} (2)": IMAGES_PER_CLASS for name in class_names(split.base)[:3]},
        **{name: IMAGES_PER_CLASS for name in class_names(split.backbone)[:4]},
    }


def test_a_name_that_is_taken_gets_the_next_number(images: Path, split: DataParts, places: dict[str, Path]) -> None:
    names = parts_of(images, places["base"], places["base"]).learnt_counts()
    first = class_names(split.base)[0]
    assert {first, f"{first} (2)", f"{first} (3)"} <= set(names)
    assert len(names) == 13 + 3 + 3


@pytest.mark.parametrize("part", ["novel", "validation"])
def test_a_class_that_is_kept_for_later_is_refused(
    images: Path, split: DataParts, places: dict[str, Path], part: str
) -> None:
    shared = class_names(getattr(split, part))[{"novel": 2, "validation": 1}[part]]
    with pytest.raises(InputError) as caught:
        parts_of(images, places["base"], places[part])
    assert str(caught.value) == (
        f"class '{shared}' is in data.further[1] and kept for validation or novel; take it out of one"
    )


def test_it_is_refused_before_anything_is_written(images: Path, places: dict[str, Path], tmp_path: Path) -> None:
    further = f"data.further=[{places['novel']}]"
    complaint = refuse("train", "metadiff", f"data={images}", *TINY, further, "--out", tmp_path / "runs")
    assert "is in data.further[0] and kept for validation or novel" in complaint
    missing = refuse(
        "train", "metadiff", f"data={images}", *TINY, "data.further=[no.parquet]", "--out", tmp_path / "runs"
    )
    assert "no.parquet: does not exist" in missing
    assert files_below(tmp_path) == set()


@pytest.mark.slow
def test_a_run_learns_from_them_and_is_found_again(
    images: Path, trained: Path, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another folder too, for its recipe keeps the paths in full."""
    monkeypatch.setattr("weightgen.runs.evaluation_run.evaluate_run", lambda *_, **__: [])
    monkeypatch.chdir(places["base"].parent)
    further = "data.further=[base.parquet, backbone.parquet]"
    command = ("train", "metadiff", f"data={images}", *TINY, further, "--out", tmp_path, "--format", "json", "--quiet")
    run = Path(json.loads(succeed(*command).stdout)["run"])
    assert RunFolder(run).recipe().data.further == [str(places["base"]), str(places["backbone"])]
    assert RunFolder(run).recipe().data.novel == load_recipe("metadiff", TINY).data.novel
    maps = [
        read_tensors(one / "generator" / "standardizer" / "diffusion_pytorch_model.safetensors")["mean"]
        for one in (run, trained)
    ]
    assert (maps[0] - maps[1]).abs().max() > 1e-4  # the space knows more classes
    weights = [sorted((one / "backbone").rglob("*.safetensors")) for one in (run, trained)]
    assert weights[0]
    assert [path.read_bytes() for path in weights[0]] == [path.read_bytes() for path in weights[1]]
    monkeypatch.chdir(tmp_path)
    again = json.loads(succeed("train", run / "recipe.yaml", "--format", "json", "--quiet").stdout)
    assert (Path(again["run"]).name, again["trained"]) == (run.name, False)
