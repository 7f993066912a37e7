"""`weightgen transfer`, and `evaluate --protocol transfer`: what it prints, writes and refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from generator_doubles import generator_double
from html_pages import read_page
from tiny_runs import files_below, refuse, succeed

from weightgen.runs.folder import RunFolder

TRANSFER = ("--protocol", "transfer")
FEW = ("--methods", "generator, one_step,ridge,logistic_regression")
QUICK = ("--methods", "generator,raw_centroid,ridge")


def test_one_object_for_each_size(trained: Path, pictures: Path) -> None:
    sets = ("--data", pictures / "support", "--test", pictures / "query")
    printed = succeed("evaluate", trained, *TRANSFER, *sets, *FEW, "--seed", "4", "--format", "json").stdout
    one, whole = json.loads(printed)
    for compared, images, draws in ((one, 1, 10), (whole, None, 1)):
        assert (compared["protocol"], compared["images_per_class"], compared["draws"]) == ("transfer", images, draws)
        assert (compared["data"], compared["test"]) == (str(pictures / "support"), str(pictures / "query"))
        assert (compared["classes"], compared["train_images"], compared["test_images"]) == (3, 3 * (images or 2), 9)
        assert (compared["seed"], compared["backbone"], compared["generator"]) == (4, "conv4", trained.name)
        assert [(method["name"], method["kind"]) for method in compared["methods"]] == [
            ("generator", "generator"),
            ("one_step", "ablation"),
            ("ridge", "baseline"),
            ("logistic_regression", "baseline"),
            ("raw_centroid", "baseline"),
        ]
        assert all(0 <= method["accuracy"] <= 100 and method["seconds"] > 0 for method in compared["methods"])
        assert compared["verdict"].startswith("the generator is ")


def test_transfer_is_the_protocol_of_evaluate(trained: Path, pictures: Path) -> None:
    sets = ("--data", pictures / "support", "--test", pictures / "query", *QUICK, "--images", "1", "--format", "json")
    (one,), (other,) = (
        json.loads(succeed(*command, trained, *sets).stdout) for command in (("transfer",), ("evaluate", *TRANSFER))
    )
    for compared in (one, other):
        for method in compared["methods"]:
            method.pop("seconds")
        compared.pop("verdict")  # it says how long things took
    assert one == other
    assert "--test" in refuse("transfer", trained, "--data", pictures / "support")


def test_a_share_of_the_training_data_is_of_its_novel_classes(trained: Path, images: Path, tmp_path: Path) -> None:
    sizes = ("--images", "3", "--images", "all", "--images", "30")
    given = ("evaluate", trained, *TRANSFER, "--data", images, "--test", "0.4", *sizes, *QUICK)
    result = succeed(*given, "--report", tmp_path)
    three, whole = json.loads((tmp_path / "results.json").read_text())
    assert (three["classes"], three["train_images"], whole["train_images"], whole["test_images"]) == (5, 15, 40, 25)
    assert "Which classes generator confuses" in read_page(tmp_path / "report.html").text
    assert files_below(tmp_path) == {"results.json", "report.html", "report.md", "learning_curve.png"}
    lines = result.stdout.splitlines()
    assert [line.split() for line in lines if line.strip().startswith("method")] == [["method", "3", "all"]] * 2
    assert sum(line.strip().startswith("raw_centroid") for line in lines) == 2
    assert f"With all images of a class {whole['verdict']}." in lines


def test_tables_fit_a_terminal(trained: Path, images: Path) -> None:
    from rich.console import Console
    from weightgen.cli.tables import print_transfer

    given = ("--data", images, "--test", "0.4", "--images", "1", *QUICK, "--format", "json")
    printed = succeed("transfer", trained, *given).stdout
    compared = json.loads(printed)
    for method in compared[0]["methods"]:
        method.update(name="nearest_neighbours", accuracy=100.0, seconds=123456.7)
    sizes = [{**compared[0], "images_per_class": size} for size in (1, 2, 5, 10, 20, 50, None)]
    console = Console(record=True, width=80, file=io.StringIO())
    print_transfer(console, sizes)
    table = [line for line in console.export_text().splitlines() if line.lstrip().startswith("nearest")]
    assert len(table) == 6 and max(map(len, table)) <= 80


def test_features_alone_decide(trained: Path, images: Path) -> None:
    def accuracies(seed: str) -> list[float]:
        given = ("--data", images, "--test", "0.4", "--images", "2", *QUICK, "--seed", seed, "--format", "json")
        (one,) = json.loads(succeed("evaluate", trained, *TRANSFER, *given).stdout)
        return [method["accuracy"] for method in one["methods"]]

    assert accuracies("3") == accuracies("3") != accuracies("4")


SHARE = ("--data", "IMAGES", "--test", "0.5")
BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "a test set for episodes": (
        ("--test", "0.5"),
        "--test is for whole training sets; use `weightgen transfer`",
    ),
    "images for episodes": (("--images", "3"), "--images is for whole training sets"),
    "no training set": ((*TRANSFER, "--test", "0.5"), "needs a training set; give --data SPEC"),
    "no test set": ((*TRANSFER, "--data", "IMAGES"), "needs a test set; give --test SPEC, or --test 0.5"),
    "ways": ((*TRANSFER, *SHARE, "--ways", "3"), "--ways is for episodes"),
    "shots": ((*TRANSFER, *SHARE, "--shots", "3"), "--shots is for episodes"),
    "queries": ((*TRANSFER, *SHARE, "--queries", "3"), "--queries is for episodes"),
    "episodes": ((*TRANSFER, *SHARE, "--episodes", "3"), "--episodes is for episodes"),
    "unlabelled": ((*TRANSFER, *SHARE, "--unlabelled", "0"), "--unlabelled is for episodes"),
    "shares": ((*TRANSFER, *SHARE, "--shares", "2"), "--shares is for episodes"),
    "distractors": ((*TRANSFER, *SHARE, "--distractors", "0"), "--distractors is for episodes"),
    "transductive": ((*TRANSFER, *SHARE, "--transductive"), "--transductive is for episodes"),
    "a share of all": ((*TRANSFER, "--data", "IMAGES", "--test", "1.0"), "--test is 1.0; a share lies between 0 and 1"),
    "no test data": ((*TRANSFER, "--data", "IMAGES", "--test", "nowhere"), "nowhere: does not exist"),
    "no training data": ((*TRANSFER, "--data", "nowhere", "--test", "0.5"), "nowhere: does not exist"),
    "other classes": ((*TRANSFER, "--data", "QUERY", "--test", "IMAGES"), "the training set has no class"),
    "fewer classes": ((*TRANSFER, "--data", "IMAGES", "--test", "QUERY"), "the test set has no class"),
    "the same images": (
        (*TRANSFER, "--data", "QUERY", "--test", "QUERY"),
        "is the training set; give other images, or",
    ),
    "no size": ((*TRANSFER, *SHARE, "--images", "many"), "--images is 'many'; give a number from 1, or all"),
    "too many images": ((*TRANSFER, *SHARE, "--images", "7"), "no class has more than 7 training images"),
    "unknown method": ((*TRANSFER, *SHARE, "--methods", "rige"), "unknown method 'rige'; did you mean 'ridge'?"),
    "unknown protocol": (("--protocol", "transfr"), "--protocol"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_compared(
    trained: Path, images: Path, pictures: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    places = {"IMAGES": images, "QUERY": pictures / "query"}
    given = [places.get(argument, argument) for argument in arguments]
    assert said in refuse("evaluate", trained, *given, "--report", tmp_path / "report")
    assert files_below(tmp_path) == set()


def test_a_generator_inside_the_backbone_serves_no_training_sets(
    trained: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunFolder, "generator", lambda run: generator_double(takes_images=True))
    given = ("evaluate", trained, *TRANSFER, "--data", images, "--test", "0.5")
    assert "whole training sets are for generators of heads, and this one writes inside the backbone" in refuse(*given)


def test_novel_classes_there_are_none(trained: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RunFolder(trained).recipe()
    none = recipe.model_copy(update={"data": recipe.data.model_copy(update={"novel": 0})})
    monkeypatch.setattr(RunFolder, "recipe", lambda run: none)
    given = ("evaluate", trained, *TRANSFER, "--data", images, "--test", "0.5")
    assert "keeps no novel classes to evaluate on; give other --data" in refuse(*given)
