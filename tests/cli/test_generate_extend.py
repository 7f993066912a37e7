"""`weightgen generate --extend`: what it prints, writes and refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from generator_doubles import generator_double
from made_up_folders import paint
from tiny_runs import files_below, refuse, succeed

from weightgen import load_head
from weightgen.runs.folder import RunFolder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a single class; look, do not touch."""
    return paint(tmp_path_factory.mktemp("one"), {"new [class]": 4})


@pytest.fixture
def birds(head: Path, tmp_path: Path) -> Path:
    """A head for three classes, to be extended."""
    return shutil.copytree(head, tmp_path / "birds")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_class_is_added_in_place(trained: Path, birds: Path, one: Path) -> None:
    old = load_head(birds)
    given = ("generate", "--support", one, "--extend", birds, "--generator", trained)
    written = json.loads(succeed(*given, "--format", "json").stdout)
    new = load_head(birds)
    assert (written["head"], written["classes"], written["added"]) == (
        str(birds),
        list(new.class_names),
        ["new [class]"],
    )
    assert (written["support_images"], written["unlabelled_images"], written["samples"], written["steps"]) == (
        10,
        0,
        1,
        2,
    )
    assert torch.equal(new.draws.weight[:, :, :3], old.draws.weight)
    assert torch.equal(new.draws.bias[:, :, :3], old.draws.bias)
    assert new.provenance["extended"] == "added 'new [class]' (2 steps of MeanDDPMScheduler)"


def test_the_sentence_and_what_comes_next(trained: Path, birds: Path, one: Path, tmp_path: Path) -> None:
    before, out = contents(birds), tmp_path / "more"
    result = succeed("generate", "--support", one, "--extend", birds, "--generator", trained, "--out", out)
    assert result.stdout.startswith(f"{out}: a head with 1 new class, 4 in all, from 10 images, old and new, in ")
    assert f"weightgen predict --head {out}" in result.stderr
    assert contents(birds) == before
    predictions = json.loads(succeed("predict", one, "--head", out, "--format", "json").stdout)
    assert len(predictions) == 4 and "new [class]" in predictions[0]["probabilities"]
    assert json.loads(succeed("head", "info", out, "--format", "json").stdout)["classes"][-1] == {
        "name": "new [class]",
        "images": 4,
    }


def test_rewriting(trained: Path, birds: Path, one: Path) -> None:
    old = load_head(birds)
    succeed("generate", "--support", one, "--extend", birds, "--generator", trained, "--rewrite", "--samples", "2")
    new = load_head(birds)
    assert new.draws.weight.shape[:3] == (1, 2, 4)
    assert not torch.equal(new.draws.weight[:, :1, :3], old.draws.weight)
    assert new.provenance["extended"] == "added 'new [class]' (all rows anew)"


def no_memory(head: Path) -> None:
    (head / "statistics.safetensors").unlink()


def nothing(head: Path) -> None:
    pass


BAD: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str]] = {
    "a class that is there": (nothing, ("--support", "SUPPORT"), "already; rename its new folder, or take"),
    "no memory": (no_memory, (), "has no statistics of its support images"),
    "another generator": (nothing, ("--generator", "WALKED"), "name the"),
    "samples": (nothing, ("--samples", "2"), "samples is 2, and the head has 1; take 1, or rewrite all classes"),
    "no samples": (nothing, ("--samples", "0"), "--samples is 0; it must be 1 or more"),
    "too many steps": (nothing, ("--steps", "5000"), "steps is 5000; the chain has"),
    "no head": (nothing, ("--extend", "nowhere"), "nowhere: is not a directory"),
    "no images": (nothing, ("--support", "nowhere"), "nowhere: is not a directory"),
    "out of the way": (nothing, ("--out", "SUPPORT"), "which is not a file of a head"),
    "unlabelled": (nothing, ("--unlabelled", "SUPPORT"), "--unlabelled belongs to a head that is written from all"),
}


@pytest.mark.parametrize(("damage", "arguments", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_extended(
    trained: Path,
    walked: Path,
    pictures: Path,
    birds: Path,
    one: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    damage(birds)
    before, places = contents(birds), {"SUPPORT": pictures / "support", "WALKED": walked}
    given = [places.get(argument, argument) for argument in arguments]
    assert said in refuse("generate", "--support", one, "--extend", birds, "--generator", trained, *given)
    assert contents(birds) == before
    assert files_below(tmp_path) == {"birds", *(f"birds/{name}" for name in before)}


def test_rewriting_nothing(one: Path) -> None:
    assert "--rewrite belongs to a head that is extended; give --extend HEAD" in refuse(
        "generate", "--support", one, "--rewrite"
    )


def test_a_generator_inside_the_backbone_extends_nothing(
    trained: Path, birds: Path, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunFolder, "generator", lambda run: generator_double(takes_images=True))
    before = contents(birds)
    said = refuse("generate", "--support", one, "--extend", birds, "--generator", trained)
    assert said.startswith("this generator writes parameters inside the backbone")
    assert contents(birds) == before
