"""What goes to stdout and what to stderr, in which format."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from generator_doubles import generator_double
from tiny_runs import CLASSES, IMAGES_PER_CLASS, SHARED, files_below, invoke, refuse, succeed
from weightgen.cli.generate import written_sentence
from weightgen.cli.output import Output

import weightgen
from weightgen import registry
from weightgen.files import read_tensors, tensors_hash
from weightgen.runs.methods import chosen_methods

EVALUATION_KEYS = {
    *("data", "ways", "shots", "queries", "episodes", "seed", "backbone", "generator", "methods", "verdict", "chain"),
    "unlabelled",
}
METHOD_KEYS = {
    *("name", "kind", "accuracy", "ci95", "delta", "delta_ci95", "delta_ci95_classes"),
    *("ms_per_episode", "ece", "norm_ratio", "novelty", "ece_floor", "ood_auroc", "drift"),
}
FEW = ("--methods", "generator,cosine_centroid", "--shots", "1", "--episodes", "4")


def commands(trained: Path, pictures: Path, head: Path, images: Path, out: Path) -> dict[str, tuple[object, ...]]:
    return {
        "generate": ("generate", "--support", pictures / "support", "--generator", trained, "--out", out / "head"),
        "predict": ("predict", pictures / "query", "--head", head),
        "evaluate": ("evaluate", trained, *FEW),
        "ls": ("recipes", "ls"),
        "validate": ("recipes", "validate", "metadiff", f"data={images}", *SHARED),
        "components": ("components",),
        "info": ("data", "info", images),
        "sample": ("data", "sample", images, "--queries", "3", "--out", out / "sample"),
    }


NAMES = ("generate", "predict", "evaluate", "ls", "validate", "components", "info", "sample")


@pytest.mark.parametrize("name", NAMES)
def test_json_alone_on_stdout(
    name: str, trained: Path, pictures: Path, head: Path, images: Path, tmp_path: Path
) -> None:
    command = commands(trained, pictures, head, images, tmp_path)[name]
    assert json.loads(succeed(*map(str, command), "--format", "json").stdout)


@pytest.mark.parametrize("name", NAMES)
def test_quiet_says_nothing_beside_the_result(
    name: str, trained: Path, pictures: Path, head: Path, images: Path, tmp_path: Path
) -> None:
    result = succeed(*map(str, commands(trained, pictures, head, images, tmp_path)[name]), "--quiet")
    assert result.stderr == ""
    assert result.stdout.strip()


@pytest.mark.parametrize("name", NAMES)
def test_no_colours_where_nobody_sees_them(
    name: str, trained: Path, pictures: Path, head: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "")
    result = succeed(*map(str, commands(trained, pictures, head, images, tmp_path)[name]))
    assert "\x1b[" not in result.stdout + result.stderr


def test_shots_may_differ_between_the_classes_of_an_episode(trained: Path) -> None:
    asked = ("evaluate", trained, "--methods", "generator,cosine_centroid", "--episodes", "6", "--shots", "1-4")
    (ragged,) = json.loads(succeed(*asked, "--format", "json").stdout)
    assert ragged["shots"] == "1-4"
    assert all(method["drift"] is not None for method in ragged["methods"])
    assert "ragged 1\N{EN DASH}4" in succeed(*asked).stdout


def test_evaluations_keep_their_keys(trained: Path) -> None:
    evaluations = json.loads(
        succeed("evaluate", trained, *FEW, "--shots", "3", "--ways", "4", "--seed", "9", "--format", "json").stdout
    )
    assert [one["shots"] for one in evaluations] == [1, 3]
    for one in evaluations:
        assert set(one) == EVALUATION_KEYS
        assert (one["ways"], one["queries"], one["episodes"], one["seed"]) == (4, 4, 4, 9)
        assert one["generator"] == trained.name
        assert [method["name"] for method in one["methods"]] == ["generator", "cosine_centroid", "raw_centroid"]
        assert [method["kind"] for method in one["methods"]] == ["generator", "baseline", "baseline"]
        for method in one["methods"]:
            assert set(method) == METHOD_KEYS
            assert 0 <= method["accuracy"] <= 100
            assert 0 <= method["ood_auroc"] <= 100
        assert one["unlabelled"] is None
        assert max(method["delta"] for method in one["methods"][1:]) == 0


def test_the_same_seed_gives_the_same_numbers(trained: Path) -> None:
    def accuracies(seed: str) -> list[float]:
        arguments = ("evaluate", trained, *FEW, "--episodes", "40", "--seed", seed, "--format", "json")
        (one,) = json.loads(succeed(*arguments).stdout)
        return [method["accuracy"] for method in one["methods"]]

    assert accuracies("3") == accuracies("3") != accuracies("4")


def test_training_data_given_again_means_its_novel_classes(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images.parent)
    (tmp_path / "copy.parquet").write_bytes(images.read_bytes())
    for data in (images, images.name, tmp_path / "copy.parquet"):
        assert "there are 5; lower the ways" in refuse("evaluate", trained, "--data", data, "--ways", "6")


def test_other_data_count_in_full(trained: Path, pictures: Path) -> None:
    (one,) = json.loads(
        succeed("evaluate", trained, *FEW, "--data", pictures / "query", "--queries", "2", "--format", "json").stdout
    )
    assert one["data"] == str(pictures / "query")
    assert "there are 3; lower" in refuse("evaluate", trained, "--data", pictures / "query", "--ways", "4")


def test_a_report_on_request(trained: Path, tmp_path: Path) -> None:
    succeed("evaluate", trained, *FEW, "--report", tmp_path / "report")
    assert files_below(tmp_path / "report") == {"report.html", "report.md", "results.json", "steps_accuracy.png"}


def test_no_classes_beyond_the_episodes_own(trained: Path) -> None:
    (one,) = json.loads(succeed("evaluate", trained, *FEW, "--ways", "5", "--format", "json").stdout)
    assert [method["ood_auroc"] for method in one["methods"]] == [None] * 3


@pytest.mark.parametrize("columns", ["80", "35"])
def test_the_table_names_every_method_and_the_verdict(
    trained: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """Every cell whole, within 80 characters; on a narrower terminal the terminal breaks the lines."""
    monkeypatch.setenv("COLUMNS", columns)
    lines = succeed("evaluate", trained, "--shots", "2", "--episodes", "4", "--quiet").stdout.splitlines()
    names = chosen_methods(None, protocol="episodes", pipeline=generator_double())
    assert lines[0].startswith("3-way 2-shot, 4 episodes of ")
    (header,) = (i for i, line in enumerate(lines) if "accuracy" in line)
    assert re.split(r" {2,}", lines[header].strip()) == [
        *("method", "accuracy", "vs best", "± classes", "ECE", "OOD", "ms")
    ]
    rows = lines[header + 2 : header + 2 + len(names)]
    assert [row.split()[0] for row in rows] == names
    number = r"\d+\.\d"
    cells = (rf"{number} ± {number}", rf"[+-]{number} ± {number}", number, number, number, r"\d+\.\d\d")
    for row in rows:
        assert re.fullmatch(r" +".join((r" \w+", *cells)) + " *", row), row
        assert len(row) <= 80
    assert any(line.startswith("The generator is") for line in lines)
    assert any(line.startswith("The chain adds") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--unlabelled", "5", "--shares", "balanced", "--distractors", "0"),
            {"images": 5, "fewest": 5, "concentration": None, "distractors": 0.0, "transductive": False},
        ),
        (
            ("--unlabelled", "5", "--shares", "0.5", "--distractors", "0.4"),
            {"images": 5, "fewest": 5, "concentration": 0.5, "distractors": 0.4, "transductive": False},
        ),
        (
            ("--unlabelled", "7"),
            {"images": 7, "fewest": 7, "concentration": 2.0, "distractors": 0.2, "transductive": False},
        ),
        (
            ("--transductive",),
            {"images": 8, "fewest": 8, "concentration": None, "distractors": 0.0, "transductive": True},
        ),
    ],
    ids=["balanced", "far from balanced", "unbalanced", "transductive"],
)
def test_unlabelled_images_on_request(trained: Path, arguments: tuple[str, ...], expected: dict[str, object]) -> None:
    few = ("--ways", "2", "--shots", "1", "--episodes", "4", "--methods", "generator,inductive", "--format", "json")
    (one,) = json.loads(succeed("evaluate", trained, *few, *arguments).stdout)
    assert one["unlabelled"] == expected
    assert "the unlabelled images add " in one["chain"]


def test_every_method_sees_the_unlabelled_images(trained: Path, tmp_path: Path) -> None:
    few = ("--ways", "2", "--shots", "1", "--episodes", "4", "--report", tmp_path)
    (one,) = json.loads(succeed("evaluate", trained, *few, "--unlabelled", "7", "--format", "json").stdout)
    assert set(one) == EVALUATION_KEYS
    names = [method["name"] for method in one["methods"]]
    assert names == chosen_methods(None, protocol="episodes", unlabelled=True, pipeline=generator_double())
    kinds = {method["name"]: method["kind"] for method in one["methods"]}
    own = {"inductive", "no_denoiser", "one_step", "random_denoiser"}
    assert {name for name, kind in kinds.items() if kind == "ablation"} == own
    assert all(set(method) == METHOD_KEYS for method in one["methods"])
    assert "; the unlabelled images add " in one["chain"]
    assert "unlabelled images" in (tmp_path / "report.md").read_text()


def test_inductive_is_the_generator_of_the_plain_setting_on_the_same_episodes(trained: Path) -> None:
    def numbers(*arguments: str) -> tuple[float, ...]:
        sizes = ("--ways", "2", "--shots", "1", "--format", "json")
        (one,) = json.loads(succeed("evaluate", trained, *sizes, *arguments).stdout)
        return tuple(one["methods"][0][key] for key in ("accuracy", "ci95", "ece"))

    plain = numbers("--methods", "generator")
    assert numbers("--methods", "inductive", "--unlabelled", "7") == plain
    assert numbers("--methods", "generator", "--unlabelled", "7") != plain


def test_predictions_as_csv(head: Path, pictures: Path) -> None:
    rows = list(
        csv.DictReader(io.StringIO(succeed("predict", pictures / "query", "--head", head, "--format", "csv").stdout))
    )
    assert list(rows[0]) == ["path", "class_name", "probability", "uncertainty", "disagreement"]
    assert len(rows) == 9
    for row in rows:
        assert Path(row["path"]).is_file()
        assert 1 / 3 - 1e-6 <= float(row["probability"]) <= 1


def test_predictions_agree_between_formats(head: Path, pictures: Path) -> None:
    def printed(form: str) -> str:
        return succeed("predict", pictures / "query", "--head", head, "--format", form).stdout

    rows, objects, text = (
        list(csv.DictReader(io.StringIO(printed("csv")))),
        json.loads(printed("json")),
        printed("text"),
    )
    assert [row["path"] for row in rows] == [one["path"] for one in objects]
    for row, one in zip(rows, objects, strict=True):
        assert float(row["probability"]) == one["probability"] == max(one["probabilities"].values())
        assert f"{one['probability']:.3f}" in text


def test_the_table_shows_file_names_whole(head: Path, pictures: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    name = "a_name_long_enough_to_need_its_own_lines_" + "0123456789" * 4 + ".png"
    (source, *_) = sorted((pictures / "query").rglob("*.png"))
    (deep / name).write_bytes(source.read_bytes())

    def cells(*given: Path) -> str:
        lines = succeed("predict", *given, "--head", head).stdout.splitlines()
        return "".join(line.split("│")[1].strip() for line in lines if line.startswith("│"))

    assert cells(deep) == name
    assert cells(tmp_path) == str((deep / name).relative_to(tmp_path))
    assert cells(deep / name) == str(deep / name)


def test_a_sentence_counts_properly() -> None:
    values = {"head": "h", "generator": "g", "classes": ["a", "b"], "backbone": "conv4", "seconds": 1.0}
    numbers = {"support_images": 1, "unlabelled_images": 0, "steps": 1, "samples": 1}
    one = written_sentence({**values, **numbers})
    many = written_sentence({**values, "support_images": 5, "unlabelled_images": 4, "steps": 3, "samples": 2})
    assert "from 1 image," in one
    assert "(1 step, 1 sample)" in one
    assert "from 5 images and 4 unlabelled," in many
    assert "with the features of conv4 (3 steps, 2 samples)" in many
    assert "with the given features (" in written_sentence({**values, **numbers, "backbone": "features"})


def test_generate_says_what_it_wrote_and_what_comes_next(trained: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / ("long" * 20 + " name")
    arguments = ("generate", "--support", pictures / "support", "--generator", trained, "--out", out, "--samples", "2")
    result = succeed(*arguments)
    assert result.stdout.splitlines()[1].startswith("leave-one-out: ")
    assert result.stdout.startswith(f"{out}: a head with 3 classes from 6 images")
    assert f"weightgen predict --head '{out}' IMAGE" in result.stderr  # to be pasted into a shell
    assert (out / "samples.safetensors").exists()


def test_generate_takes_a_run_or_its_generator(trained: Path, pictures: Path, tmp_path: Path) -> None:
    for name, given in (("a", trained), ("b", trained / "generator")):
        succeed("generate", "--support", pictures / "support", "--generator", given, "--out", tmp_path / name)
    for file in ("head.safetensors", "model.safetensors"):
        first, second = (tensors_hash(read_tensors(tmp_path / name / file)) for name in "ab")
        assert first == second


def test_recipes_are_listed_shown_copied_and_checked(images: Path, tmp_path: Path) -> None:
    listed = json.loads(succeed("recipes", "ls", "--format", "json").stdout)
    assert {"metadiff", "paper/metadiff"} <= set(listed)
    assert all(listed.values())
    shown = succeed("recipes", "cat", "metadiff").stdout
    assert "weightgen train metadiff" in shown
    succeed("recipes", "cp", "metadiff", tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text().partition("\n")[2] == shown.partition("\n")[2]  # below the schema
    assert "exists already" in refuse("recipes", "cp", "paper/metadiff", tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text().partition("\n")[2] == shown.partition("\n")[2]  # below the schema
    succeed("recipes", "cp", "metadiff", tmp_path)
    mine = (tmp_path / "mine.yaml", f"data={images}", *SHARED)
    assert "is valid" in succeed("recipes", "validate", *mine, "training.steps=3").stdout
    resolved = json.loads(succeed("recipes", "validate", *mine, "seed=7", "--format", "json").stdout)
    assert resolved["seed"] == 7
    assert resolved["training"]["queries"] > 0
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(resolved))
    again = succeed("recipes", "validate", tmp_path / "again.yaml", "--format", "json").stdout
    assert json.loads(again) == resolved


def test_the_schema_tells_what_every_option_means() -> None:
    schema = json.loads(succeed("recipes", "schema").stdout)
    assert "backbone" in schema["required"]
    training = schema["$defs"]["TrainingOptions"]["properties"]
    assert training["steps"]["description"] == "Optimiser steps."
    for name, section in schema["$defs"].items():
        for option, described in section["properties"].items():
            assert described.get("description"), f"{name}.{option}"


def test_components_are_listed_with_a_line_each() -> None:
    listed = json.loads(succeed("components", "--format", "json").stdout)
    assert set(listed) == set(registry.KINDS)
    for members in listed.values():
        assert members
        assert all(members.values())
    (only,) = json.loads(succeed("components", "denoisers", "--format", "json").stdout).items()
    assert only == ("denoisers", listed["denoisers"])
    text = succeed("components", "denoisers").stdout
    assert listed["denoisers"]["class_transformer"] in text


def test_data_info_counts(images: Path) -> None:
    facts = json.loads(succeed("data", "info", images, "--format", "json").stdout)
    assert (facts["classes"], facts["images"]) == (CLASSES, CLASSES * IMAGES_PER_CLASS)
    assert facts["images_per_class"] == [IMAGES_PER_CLASS] * 2
    assert facts["first_image"] == "12x12 L"


def test_data_sample_takes_no_image_twice(images: Path, tmp_path: Path) -> None:
    sizes = ("--ways", "4", "--shots", "3", "--queries", "2")
    sampled = json.loads(succeed("data", "sample", images, *sizes, "--out", tmp_path / "a", "--format", "json").stdout)
    contents = {}
    for part, number in (("support", 3), ("query", 2)):
        files = sorted((tmp_path / "a" / part).rglob("*.png"))
        assert {path.parent.name for path in files} == set(sampled["classes"])
        assert len(files) == 4 * number
        contents[part] = {path.read_bytes() for path in files}
    assert len(contents["support"] | contents["query"]) == 4 * 5
    succeed("data", "sample", images, *sizes, "--out", tmp_path / "b")
    succeed("data", "sample", images, *sizes, "--seed", "1", "--out", tmp_path / "c")
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b") != files_below(tmp_path / "c")


def test_data_sample_of_an_image_folder(pictures: Path, tmp_path: Path) -> None:
    succeed(
        "data", "sample", pictures / "query", "--ways", "2", "--shots", "1", "--queries", "1", "--out", tmp_path / "a"
    )
    given = {path.read_bytes() for path in (pictures / "query").rglob("*.png")}
    taken = {path.read_bytes() for path in (tmp_path / "a").rglob("*.png")}
    assert len(taken) == 4
    assert taken <= given


def test_data_sample_keeps_classes_apart_whose_names_make_the_same_folder(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    def encoded(shade: int, form: str) -> bytes:
        stream = io.BytesIO()
        Image.new("L", (5, 4), shade).save(stream, form)
        return stream.getvalue()

    names = ["a/b", "a_b", "..", "."]
    forms = ("BMP", "GIF", "JPEG", "PNG")
    columns = {
        "image": [encoded(40 * i + j, forms[i]) for i in range(4) for j in range(2)],
        "label": [name for name in names for _ in range(2)],
    }
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    sizes = ("--ways", "4", "--shots", "1", "--queries", "1")
    succeed("data", "sample", tmp_path / "d.parquet", *sizes, "--out", tmp_path / "s")
    files = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
    assert {path.read_bytes() for path in files} == set(columns["image"])
    assert {path.suffix for path in files} == {".bmp", ".gif", ".jpg", ".png"}
    assert json.loads(succeed("data", "info", tmp_path / "s" / "support", "--format", "json").stdout)["classes"] == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ways", "1"), "--ways is 1; it must be 2 or more"),
        (("--shots", "0"), "--shots is 0; it must be 1 or more"),
        (("--queries", "-1"), "--queries is -1; it must be 0 or more"),
        (("--ways", "27"), "lower ways, shots or queries"),
        (("--shots", "14"), "lower ways, shots or queries"),
    ],
)
def test_a_sample_that_cannot_be_taken(images: Path, tmp_path: Path, arguments: tuple[str, str], said: str) -> None:
    assert said in refuse("data", "sample", images, *arguments, "--out", tmp_path / "a")
    assert files_below(tmp_path) == set()
    (tmp_path / "b").mkdir()
    assert "b: exists already" in refuse("data", "sample", images, "--out", tmp_path / "b")


def test_a_sample_of_something_that_is_no_image(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"image": [b"no image %d" % i for i in range(4)], "label": ["a", "a", "b", "b"]}
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    assert "holds a file that is not an image" in refuse("data", "info", tmp_path / "d.parquet")
    sizes = ("--ways", "2", "--shots", "1", "--queries", "1")
    refuse("data", "sample", tmp_path / "d.parquet", *sizes, "--out", tmp_path / "s")
    assert files_below(tmp_path) == {"d.parquet"}


@pytest.mark.slow
def test_quiet_alone_turns_the_bars_of_other_libraries_off(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys; from weightgen.cli.main import app; app(sys.argv[1:], standalone_mode=False); import datasets; "
        "from huggingface_hub.utils import are_progress_bars_disabled as hub; "
        "print(datasets.are_progress_bars_disabled(), hub())"
    )
    clean = {key: value for key, value in os.environ.items() if not key.endswith("DISABLE_PROGRESS_BARS")}
    command = [sys.executable, "-c", script, "data", "info", str(images), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.splitlines()[-1] == "True True"
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", clean)
        Output("text", quiet=False)
    assert not [key for key in clean if key.endswith("DISABLE_PROGRESS_BARS")]


def test_nothing_asked_is_answered_with_help() -> None:
    for command in ((), ("recipes",), ("data",)):
        result = invoke(*command)
        assert "Usage" in result.output


def test_the_version_is_that_of_the_package() -> None:
    assert succeed("--version").stdout == f"{weightgen.__version__}\n"
