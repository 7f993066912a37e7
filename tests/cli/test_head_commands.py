"""`weightgen head info`, `remove` and `rename`: what they print, write and refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_runs import files_below, invoke, refuse, succeed

from weightgen import Head, load_head
from weightgen.backbones.backbone import Backbone
from weightgen.heads.support_summary import SupportSummary
from weightgen.records import LinearHeads, Statistics

NAMES = ("a=b", "[red] 猫", "-dash", "grey wagtail")
WIDTH, DRAWS, KEPT = 6, 2, 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head of four classes with its support summary; look, do not touch."""
    folder = tmp_path_factory.mktemp("heads") / "birds"
    backbone = Backbone.create(model="conv4", options={"width": WIDTH})
    generator = torch.Generator().manual_seed(0)
    ways, counts = len(NAMES), torch.tensor([5.0, 8.0, 3.0, 21.0])
    drawn = torch.randn(ways * (DRAWS + 1 + KEPT), WIDTH, generator=generator)
    weight, means, sample = drawn.split([ways * DRAWS, ways, ways * KEPT])
    support = SupportSummary(
        Statistics(counts, means, drawn.T @ drawn),
        sample=sample.unflatten(0, (ways, KEPT)),
        sample_mask=torch.ones(ways, KEPT, dtype=torch.bool),
        space={},
        shots=counts.mean(),
        space_classes=torch.ones(ways, dtype=torch.bool),
        generator="0123456789abcdef",
    )
    draws = LinearHeads(weight.unflatten(0, (1, DRAWS, ways)), torch.zeros(1, DRAWS, ways))
    made_by = {"generator": "metadiff-1a2b3c4d", "steps": "5"}
    head = Head(draws=draws, backbone=backbone, class_names=NAMES, provenance=made_by, support=support)
    head.save_pretrained(folder)
    return folder


@pytest.fixture
def birds(saved: Path, tmp_path: Path) -> Path:
    """The same head, to be edited."""
    return shutil.copytree(saved, tmp_path / "birds")


COMMANDS = {
    "info": ("info",),
    "remove": ("remove", "a=b"),
    "rename": ("rename", "grey wagtail=wagtail"),
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_json_is_the_head_that_is_there_afterwards(birds: Path, arguments: tuple[str, ...]) -> None:
    name, *rest = arguments
    printed = json.loads(succeed("head", name, birds, *rest, "--format", "json").stdout)
    assert printed == json.loads(succeed("head", "info", birds, "--format", "json").stdout)
    head = load_head(birds)
    counts = dict(zip(NAMES, (5, 8, 3, 21), strict=True)) | {"wagtail": 21}
    assert printed["head"] == str(birds)
    assert printed["classes"] == [{"name": name, "images": counts[name]} for name in head.class_names]
    assert (printed["backbone"], printed["samples"], printed["parts"]) == ("conv4", DRAWS, [])
    assert (printed["generator"], printed["generator_hash"]) == ("metadiff-1a2b3c4d", "0123456789abcdef")
    assert printed["provenance"] == head.provenance


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_text_is_plain_and_nothing_stands_beside_it(
    birds: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    name, *rest = arguments
    result = succeed("head", name, birds, *rest, "--quiet")
    assert result.stderr == ""
    assert str(birds) in result.stdout
    assert "\x1b[" not in result.stdout


def test_info_shows_every_class_with_its_images(saved: Path) -> None:
    lines = succeed("head", "info", saved).stdout.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert rows == [["a=b", "5"], ["[red] 猫", "8"], ["-dash", "3"], ["grey wagtail", "21"]]
    assert any(line.split() == ["generator", "metadiff-1a2b3c4d"] for line in lines)


def test_info_of_a_head_without_support_summary(birds: Path) -> None:
    (birds / "statistics.safetensors").unlink()
    printed = json.loads(succeed("head", "info", birds, "--format", "json").stdout)
    assert printed["generator_hash"] is None
    assert [one["images"] for one in printed["classes"]] == [None] * 4
    assert succeed("head", "info", birds).stdout.count("unknown") == 4


def test_odd_names_are_removed_and_renamed(birds: Path) -> None:
    said = succeed("head", "remove", birds, "[red] 猫", "--", "-dash").stdout
    assert said == f"{birds}: removed '[red] 猫', '-dash'; it has 2 classes\n"
    said = succeed("head", "rename", birds, "a=b=c=d", "grey wagtail=[bold] 'x'").stdout
    renamed = "renamed 'a=b' to 'c=d', 'grey wagtail' to \"[bold] 'x'\""
    assert said == f"{birds}: {renamed}; it has 2 classes\n"
    assert load_head(birds).provenance["edited"] == f"removed '[red] 猫', '-dash'; {renamed}"
    assert load_head(birds).class_names == ("c=d", "[bold] 'x'")


def test_out_leaves_the_head_alone(birds: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in birds.iterdir()}
    out = tmp_path / "heads" / "few"
    assert succeed("head", "remove", birds, "a=b", "--out", out).stdout.startswith(f"{out}: ")
    succeed("head", "rename", birds, "grey wagtail=x", "--out", tmp_path / "renamed")
    assert {path.name: path.read_bytes() for path in birds.iterdir()} == before
    assert load_head(out).class_names == NAMES[1:]
    assert load_head(tmp_path / "renamed").class_names == (*NAMES[:3], "x")


@pytest.mark.parametrize("command", [("remove", "a=b"), ("rename", "a=b=grey heron")], ids=" ".join)
def test_an_edited_head_predicts(birds: Path, tmp_path: Path, command: tuple[str, str]) -> None:
    from PIL import Image

    Image.new("L", (17, 13), 80).save(tmp_path / "x.png")
    (before,) = json.loads(succeed("predict", tmp_path / "x.png", "--head", birds, "--format", "json").stdout)
    succeed("head", command[0], birds, command[1])
    (after,) = json.loads(succeed("predict", tmp_path / "x.png", "--head", birds, "--format", "json").stdout)
    if command[0] == "rename":
        assert list(after["probabilities"].values()) == list(before["probabilities"].values())
        assert tuple(after["probabilities"]) == ("grey heron", *NAMES[1:])
    else:
        assert tuple(after["probabilities"]) == NAMES[1:]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("remove", "gray wagtail"), "the head has no class 'gray wagtail'; did you mean 'grey wagtail'?"),
        (("remove", "a=b", "a=b"), "class 'a=b' is named twice; name it once"),
        (("remove", *NAMES[:2], "grey wagtail"), "1 of 4 classes would stay; keep 2 or more"),
        (("remove", "a=b", "--format", "csv"), "csv"),
        (("rename", "gray wagtail=x"), "the head has no class 'gray wagtail'; did you mean 'grey wagtail'?"),
        (("rename", "grey wagtail"), "'grey wagtail' is not a renaming; give OLD=NEW"),
        (("rename", "grey wagtail="), "class 'grey wagtail' would have an empty name; give it another"),
        (("rename", "grey wagtail=a=b"), "two classes would be called 'a=b'; give them different names"),
        (("rename", "a=b=x", "a=b=y"), "class 'a=b' is named twice; name it once"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_edited(birds: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    before = {path.name: path.read_bytes() for path in birds.iterdir()}
    name, *rest = arguments
    assert said in refuse("head", name, birds, *rest)
    assert {path.name: path.read_bytes() for path in birds.iterdir()} == before
    assert files_below(tmp_path) == {"birds", *(f"birds/{name}" for name in before)}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("wrong", ["nowhere", "file", "empty", "generator", "damaged"])
def test_something_else_than_a_head(birds: Path, tmp_path: Path, wrong: str, arguments: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "generator" / "generator").mkdir(parents=True)
    (birds / "statistics.safetensors").write_bytes(b"x")
    given, (name, *rest) = birds if wrong == "damaged" else tmp_path / wrong, arguments
    before = files_below(tmp_path)
    assert str(given) in refuse("head", name, given, *rest)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("arguments", [("info",), ("remove", "DIR"), ("rename", "DIR"), ("inof", "DIR")], ids=" ".join)
def test_a_command_that_is_incomplete(arguments: tuple[str, ...]) -> None:
    refuse("head", *arguments)


def test_nothing_asked_is_answered_with_help() -> None:
    assert "Usage" in invoke("head").output
