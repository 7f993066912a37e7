"""The packaged universal generator compared with baselines, without a run and without base classes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import refuse, succeed

WIDTH, CLASSES, IMAGES = 6, 7, 9
SMALL = ("--ways", "3", "--queries", "4", "--episodes", "4", "--format", "json")


@pytest.fixture
def spec(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    draw, labels = torch.Generator().manual_seed(0), torch.arange(CLASSES).repeat(IMAGES)
    values = 2 * torch.randn(CLASSES, WIDTH, generator=draw)[labels] + torch.randn(len(labels), WIDTH, generator=draw)
    save_file({"features": values, "labels": labels}, "x.safetensors")
    return "features:x.safetensors"


def test_it_is_evaluated_where_no_run_is_finished_and_where_it_is_named(spec):
    tables = [
        json.loads(succeed("evaluate", *named, "--data", spec, "--shots", "1", "--shots", "2", *SMALL).stdout)
        for named in ((), ("universal",), ("--backbone", spec))
    ]
    assert tables[0][0]["generator"] == "universal" and tables[0][0]["backbone"] == "features"
    assert [table["shots"] for table in tables[0]] == [1, 2]
    names = {method["name"] for method in tables[0][0]["methods"]}
    assert {"generator", "no_denoiser", "raw_centroid", "cosine_centroid", "logistic_regression", "ridge"} <= names
    assert not names & {"shrunk_centroid", "fine_tuned_head"}, "tuned on base classes, or slow in every episode"
    accuracies = [[[m["accuracy"] for m in one["methods"]] for one in table] for table in tables]
    assert accuracies[0] == accuracies[1] == accuracies[2]


def test_it_is_evaluated_with_unlabelled_images_and_on_whole_training_sets(spec, tmp_path):
    beside = ("--unlabelled", "5", "--shots", "1", "--methods", "generator,inductive", "--report", "report")
    (table,) = json.loads(succeed("evaluate", "universal", "--data", spec, *beside, *SMALL).stdout)
    assert table["unlabelled"]["images"] == 5 and "unlabelled images add" in table["chain"]
    assert "universal" in (tmp_path / "report" / "report.html").read_text()
    sets = ("--test", "0.5", "--images", "2", "--methods", "generator,ridge", "--format", "json")
    (table,) = json.loads(succeed("transfer", "universal", "--data", spec, *sets).stdout)
    assert table["generator"] == "universal" and {"generator", "ridge"} <= {m["name"] for m in table["methods"]}


def test_what_crops_are_worth_is_said_where_the_file_has_some(spec):
    tensors = load_file("x.safetensors")
    save_file({**tensors, "crops": tensors["features"][:, None] + 0.1 * torch.randn(63, 2, WIDTH)}, "crops.safetensors")
    for data, there in ((spec, False), ("features:crops.safetensors", True)):
        (table,) = json.loads(succeed("evaluate", "universal", "--data", data, "--shots", "1", *SMALL).stdout)
        assert there == ("no_crops" in {method["name"] for method in table["methods"]})
    assert "'no_crops': this generator sees no crops" in refuse(
        "evaluate", "universal", "--data", spec, "--methods", "no_crops"
    )


def test_what_it_lacks_is_named(spec, tmp_path):
    assert "universal: has no images of its own to be evaluated on; give --data SPEC" in refuse("evaluate", "universal")
    assert "runs/: holds no finished run" in refuse("evaluate")
    assert "'shrunk_centroid' is tuned on base classes" in refuse(
        "evaluate", "universal", "--data", spec, "--methods", "shrunk_centroid"
    )
    message = refuse("evaluate", tmp_path, "--data", spec, "--backbone", spec)
    assert f"--backbone: {tmp_path} has a backbone of its own" in message
