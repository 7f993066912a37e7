"""What the commands say to input that cannot be used: one line, exit code 2, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import files_below, invoke, refuse, succeed

from weightgen import files
from weightgen.files import read_tensors, write_tensors


def picture(path: Path, *, size: tuple[int, int] = (17, 13), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def classes(folder: Path, *names: str, images: int = 2) -> Path:
    """A folder of good pictures."""
    for i, name in enumerate(names):
        for j in range(images):
            picture(folder / name / f"{j}.png", seed=10 * i + j)
    return folder


def bad_file(content: bytes, name: str = "x.png") -> Callable[[Path], None]:
    """Puts one bad file into a good folder."""

    def make(folder: Path) -> None:
        (classes(folder, "ant", "bee") / "bee" / name).write_bytes(content)

    return make


def truncated(folder: Path) -> None:
    path = picture(classes(folder, "ant", "bee") / "bee" / "x.jpg", size=(39, 41))
    path.write_bytes(path.read_bytes()[:-300])


def huge(folder: Path) -> None:
    picture(classes(folder, "ant", "bee") / "bee" / "x.png", size=(41, 40))


def dead_link(folder: Path) -> None:
    (classes(folder, "ant", "bee") / "bee" / "x.png").symlink_to(folder / "nowhere.png")


def circle(folder: Path) -> None:
    (classes(folder, "ant", "bee") / "bee" / "x.png").symlink_to(folder / "bee" / "x.png")


def pipe(folder: Path) -> None:
    os.mkfifo(classes(folder, "ant", "bee") / "bee" / "x.png")


def same_name(folder: Path) -> None:
    classes(folder, "caf\u00e9", "cafe\u0301")


def same_folder(folder: Path) -> None:
    (classes(folder, "ant", "bee") / "cat").symlink_to(folder / "ant")


SUPPORT: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: None, "is not a directory"),
    "a file": (lambda folder: folder.write_text("x"), "is not a directory"),
    "empty": (lambda folder: folder.mkdir(), "has no class folders"),
    "images without classes": (lambda folder: picture(folder / "a.png"), "has no class folders"),
    "one class": (lambda folder: classes(folder, "ant"), "one class only"),
    "an empty class": (lambda folder: (classes(folder, "ant", "bee") / "cat").mkdir(), "cat: the class has no image"),
    "splits": (lambda folder: classes(folder / "train", "a", "b"), "train: the class has no image directly in it"),
    "no bytes": (bad_file(b""), "x.png: is empty"),
    "text": (bad_file(b"hello, I am no image"), "x.png: is not an image of a known kind"),
    "a pickle": (bad_file(b"\x80\x04\x95\x0b\x00\x00\x00."), "x.png: is not an image of a known kind"),
    "cut short": (truncated, "x.jpg: is damaged or cut short"),
    "corrupt": (bad_file(b"\x89PNG\r\n\x1a\n" + bytes(40)), "x.png: is"),
    "too large": (huge, "x.png: has more than 1600 pixels"),
    "a dead link": (dead_link, "x.png: cannot be read"),
    "a link to itself": (circle, "x.png: cannot be read"),
    "a pipe": (pipe, "x.png: is not a file"),
    "classes that look alike": (same_name, "is the same class as another"),
    "a class twice": (same_folder, "is the same class as another"),
}


@pytest.mark.parametrize(("make", "said"), SUPPORT.values(), ids=SUPPORT)
def test_a_support_folder_that_cannot_be_used(
    trained: Path, tmp_path: Path, make: Callable[[Path], object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1600)
    make(tmp_path / "support")
    before = files_below(tmp_path)
    complaint = refuse(
        "generate", "--support", tmp_path / "support", "--generator", trained, "--out", tmp_path / "head"
    )
    assert said in complaint
    assert str(tmp_path / "support") in complaint
    assert files_below(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission(trained: Path, tmp_path: Path) -> None:
    (classes(tmp_path / "support", "ant", "bee") / "bee" / "0.png").chmod(0)
    said = refuse("generate", "--support", tmp_path / "support", "--generator", trained, "--out", tmp_path / "head")
    assert "0.png: cannot be read" in said


def test_a_file_that_the_system_refuses_to_read(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, read = classes(tmp_path / "support", "ant", "bee") / "bee" / "0.png", Path.read_bytes

    def guarded(path: Path) -> bytes:
        if path == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", guarded)
    said = refuse("generate", "--support", tmp_path / "support", "--generator", trained, "--out", tmp_path / "head")
    assert "0.png: cannot be read (Permission denied)" in said


NAMES = ("Ä ö 猫 🐈", "it's [bold]", 'quo"ted, comma', "[red] ${x}", "-dash", "a\nb")


def test_odd_names_go_all_the_way(trained: Path, tmp_path: Path) -> None:
    support, head = classes(tmp_path / "sup port [x]", *NAMES), tmp_path / "hé ad"
    classes(support, ".hidden", "ant")
    (support / "loop").symlink_to(support)
    (support / "ant" / "Thumbs.db").write_bytes(b"x")
    written = json.loads(
        succeed("generate", "--support", support, "--generator", trained, "--out", head, "--format", "json").stdout
    )
    assert set(written["classes"]) == {*NAMES, "ant"}
    predictions = json.loads(succeed("predict", support, "--head", head, "--format", "json").stdout)
    assert {one["path"] for one in predictions} == {
        str(support / name / f"{i}.png") for name in written["classes"] for i in (0, 1)
    }
    text = succeed("predict", support / "[[]red] ${x}" if False else support, "--head", head).stdout
    for piece in ("猫", "[bold]", "[red]", "-dash"):
        assert piece in text


def put(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def change(name: str, key: str, edit: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """Tampers with one tensor, chosen by the end of its name; the file stays whole."""

    def make(folder: Path) -> None:
        tensors = read_tensors(folder / name)
        full_name = next(full_name for full_name in sorted(tensors) if full_name.endswith(key))
        tensors[full_name] = edit(tensors[full_name])
        write_tensors(folder / name, tensors)

    return make


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-5])


def edit_json(name: str, **changes: object) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))


DENOISER, BACKBONE = "denoiser/diffusion_pytorch_model.safetensors", "backbone/model.safetensors"
GENERATOR: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (drop("model_index.json"), "is not a generator folder"),
    "broken index": (put("model_index.json", b"{"), "model_index.json: is not valid JSON"),
    "no denoiser": (lambda folder: shutil.rmtree(folder / "denoiser"), "config.json: cannot be read"),
    "no tensors": (drop(DENOISER), f"{DENOISER}: cannot be read"),
    "tensors cut short": (cut(DENOISER), f"{DENOISER}: is not a whole safetensors file"),
    "a pickle": (put(DENOISER, b"\x80\x04\x95\x0b\x00\x00\x00."), f"{DENOISER}: is not a whole safetensors file"),
    "NaN": (change(DENOISER, "weight", lambda t: t * torch.nan), "holds NaN or infinite values"),
    "another shape": (change(DENOISER, "weight", lambda t: t[:-1]), "has shape"),
    "another type": (change(DENOISER, "weight", lambda t: t.half()), "torch.float16"),
    "foreign component": (edit_json("model_index.json", denoiser=["os", "system"]), "model_index.json"),
    "unknown component": (edit_json("model_index.json", denoiser=["weightgen.nowhere", "X"]), "weightgen.nowhere"),
    "component left out": (edit_json("model_index.json", denoiser=None), "model_index.json"),
    "another width": (edit_json("denoiser/config.json", width=32), "denoiser"),
    "an option too many": (edit_json("denoiser/config.json", colour="red"), "denoiser/config.json"),
    "backbone cut short": (cut(BACKBONE), f"{BACKBONE}: is not a whole safetensors file"),
    "backbone of NaN": (change(BACKBONE, "weight", lambda t: t * torch.inf), "holds NaN or infinite values"),
    "backbone of another width": (edit_json("backbone/config.json", options={"width": 6}), "backbone"),
    "unknown architecture": (edit_json("backbone/config.json", architecture="conv5"), "timm has no model 'conv5'"),
}


@pytest.mark.parametrize(("damage", "said"), GENERATOR.values(), ids=GENERATOR)
def test_a_generator_that_was_tampered_with(
    trained: Path, pictures: Path, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    folder = shutil.copytree(trained / "generator", tmp_path / "generator")
    damage(folder)
    before = files_below(tmp_path)
    arguments = ("generate", "--support", pictures / "support", "--generator", folder, "--out", tmp_path / "head")
    assert said in refuse(*arguments)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("wrong", ["nowhere", "file", "head", "empty"])
def test_something_else_than_a_generator(head: Path, pictures: Path, tmp_path: Path, wrong: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    given = head if wrong == "head" else tmp_path / wrong
    said = refuse("generate", "--support", pictures / "support", "--generator", given, "--out", tmp_path / "out")
    assert str(given) in said
    assert not (tmp_path / "out").exists()


HEAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no head": (drop("head.safetensors"), "is not a head folder"),
    "no model": (drop("model.safetensors"), "model.safetensors: cannot be read"),
    "no config": (drop("config.json"), "config.json: cannot be read"),
    "cut short": (cut("head.safetensors"), "is not a whole safetensors file"),
    "not the same head": (change("model.safetensors", "fc.bias", lambda t: t + 1), "model.safetensors"),
    "another backbone": (change("model.safetensors", "conv.weight", lambda t: t + 1), "model.safetensors"),
    "NaN": (change("model.safetensors", "conv.weight", lambda t: t * torch.nan), "holds NaN or infinite values"),
    "other classes": (edit_json("config.json", label_names=["a", "b", "c"]), "class names differ"),
    "fewer classes": (edit_json("config.json", label_names=["a", "b"]), "config.json"),
}


@pytest.mark.parametrize(("damage", "said"), HEAD.values(), ids=HEAD)
def test_a_head_that_was_tampered_with(
    head: Path, pictures: Path, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    folder = shutil.copytree(head, tmp_path / "head")
    damage(folder)
    assert said in refuse("predict", pictures / "query", "--head", folder)


def test_a_generator_in_place_of_a_head(trained: Path, pictures: Path) -> None:
    assert "is a generator, not a head" in refuse("predict", pictures / "query", "--head", trained / "generator")


def test_images_to_predict_that_are_none(head: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    assert "x.png: is not an image" in refuse("predict", tmp_path / "x.png", "--head", head)
    assert "empty: holds no image" in refuse("predict", tmp_path / "empty", "--head", head)
    assert "nowhere.png: cannot be read" in refuse("predict", tmp_path / "nowhere.png", "--head", head)


def test_a_loop_of_folders_ends(head: Path, tmp_path: Path) -> None:
    picture(tmp_path / "a" / "0.png")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (predictions,) = json.loads(succeed("predict", tmp_path, "--head", head, "--format", "json").stdout)
    assert predictions["path"].endswith("a/0.png")


def test_the_folder_for_the_head_is_taken(trained: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    arguments = ("generate", "--support", pictures / "support", "--generator", trained, "--out")
    assert "taken: holds 'thesis.txt'" in refuse(*arguments, tmp_path / "taken")
    assert "file: is a file" in refuse(*arguments, tmp_path / "file")
    assert "report is" in refuse(*arguments, tmp_path / "new", "--report", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert files_below(tmp_path) == {"taken", "taken/thesis.txt", "file"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--samples", "0"), "--samples is 0; it must be 1 or more"),
        (("--steps", "-2"), "--steps is -2; it must be 1 or more"),
        (("--steps", "1001"), "steps is 1001; the chain has 1000, take fewer"),
        (("--steps", "many"), "--steps"),
    ],
)
def test_numbers_for_generate(
    trained: Path, pictures: Path, tmp_path: Path, arguments: tuple[str, str], said: str
) -> None:
    given = ("generate", "--support", pictures / "support", "--generator", trained, "--out", tmp_path / "head")
    assert said in refuse(*given, *arguments)
    assert files_below(tmp_path) == set()


def test_numbers_below_one_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    assert "--samples is 0" in refuse(
        "generate", "--support", tmp_path / "a", "--generator", tmp_path, "--samples", "0"
    )


EVALUATE: dict[str, tuple[tuple[str, ...], str]] = {
    "no ways": (("--ways", "0"), "--ways is 0; it must be 2 or more"),
    "one way": (("--ways", "1"), "--ways is 1; it must be 2 or more"),
    "no shots": (("--shots", "0"), "--shots is 0; it must be 1 or more"),
    "shots from none": (("--shots", "0-3"), "--shots is 0-3; it must be 1 or more"),
    "shots from more to less": (("--shots", "3-1"), "--shots is 3-1, a range from more to less; write 1-3"),
    "shots that are no number": (("--shots", "few"), "--shots is few, neither a number nor a range such as 1-10"),
    "too many of a range": (("--shots", "1-10"), "10 shots with 4 queries need 14; lower shots or queries"),
    "no queries": (("--queries", "0"), "--queries is 0; it must be 1 or more"),
    "no episodes": (("--episodes", "-5"), "--episodes is -5; it must be 2 or more"),
    "too many ways": (("--ways", "6"), "6 ways need 6 classes and there are 5; lower the ways"),
    "too many shots": (("--shots", "10"), "10 shots with 4 queries need 14; lower shots or queries"),
    "unknown method": (("--methods", "ridg"), "unknown method 'ridg'; did you mean 'ridge'?"),
    "no method": (("--methods", " "), "unknown method ''"),
    "a method twice": (("--methods", "ridge, ridge"), "method 'ridge' is named twice"),
    "no data": (("--data", "nowhere"), "nowhere: does not exist"),
    "no unlabelled images": (("--unlabelled", "0"), "--unlabelled is 0; it must be 1 or more"),
    "shares of nothing": (("--shares", "3"), "--shares says which unlabelled images there are; give --unlabelled N"),
    "distractors among nothing": (("--distractors", "0"), "--distractors says which unlabelled images there are"),
    "no shares": (("--unlabelled", "7", "--shares", "even"), "--shares is 'even'; give balanced or a Dirichlet"),
    "shares of 0": (("--unlabelled", "7", "--shares", "0"), "--shares: class shares: 0.0 is not a Dirichlet parameter"),
    "all distractors": (("--unlabelled", "7", "--distractors", "1"), "--distractors: distractors: 1.0 is not a share"),
    "queries are no distractors": (("--transductive", "--distractors", "nan"), "--distractors: distractors: nan"),
    "no class for distractors": (("--unlabelled", "7"), "3 ways and 3 classes of distractors need 6 classes"),
    "nothing to leave out": (("--methods", "generator,inductive"), "method 'inductive' needs unlabelled images; give"),
}


@pytest.mark.parametrize(("arguments", "said"), EVALUATE.values(), ids=EVALUATE)
def test_what_cannot_be_evaluated(trained: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in refuse("evaluate", trained, *arguments, "--report", tmp_path / "report")
    assert files_below(tmp_path) == set()


def test_evaluate_needs_a_run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is not a run folder (no recipe.yaml)" in refuse("evaluate", trained / "generator")
    assert "runs/: holds no finished run; train one" in refuse("evaluate")


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


PLACES: dict[str, tuple[str, ...]] = {
    "generate": ("generate", "--support", "SUPPORT", "--generator", "RUN", "--out", "FILE/x"),
    "its report": ("generate", "--support", "SUPPORT", "--generator", "RUN", "--out", "new", "--report", "FILE/x"),
    "predict": ("predict", "SUPPORT", "--head", "HEAD", "--sort-into", "FILE/x"),
    "export": ("export", "HEAD", "--onnx", "FILE/x"),
    "sample": ("data", "sample", "SUPPORT", "--ways", "2", "--shots", "1", "--queries", "1", "--out", "FILE/x"),
    "train": ("train", "metadiff", "--out", "FILE/x"),
    "evaluate": ("evaluate", "RUN", "--report", "FILE/x"),
    "transfer": ("transfer", "RUN", "--data", "SUPPORT", "--test", "0.5", "--report", "FILE/x"),
}


@pytest.mark.parametrize("words", PLACES.values(), ids=PLACES)
def test_a_file_above_what_is_to_be_written_is_refused_before_any_work(
    trained: Path, head: Path, pictures: Path, tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("precious")
    places = {"SUPPORT": pictures / "support", "RUN": trained, "HEAD": head, "FILE/x": tmp_path / "file" / "x"}
    assert refuse(*(places.get(word, word) for word in words)).startswith(f"{tmp_path / 'file'}: is a file; name a")
    assert files_below(tmp_path) == {"file"}


@pytest.mark.parametrize("flag", ["--support", "--backbone", "--unlabelled", "--report"])
def test_an_empty_value_is_none_left_out(pictures: Path, tmp_path: Path, flag: str) -> None:
    given = {"--support": str(pictures / "support"), "--generator": "universal", "--out": str(tmp_path / "h"), flag: ""}
    said = f"{flag} is empty; give a value, or leave it out"
    assert refuse("generate", *(word for pair in given.items() for word in pair)) == said
    del given[flag]
    assert refuse("generate", *(word for pair in given.items() for word in pair), f"{flag}=") == said
    assert files_below(tmp_path) == set()


def test_an_empty_path_is_not_this_directory(head: Path) -> None:
    assert refuse("predict", "--head", head, "") == "an argument is empty; give a value, or leave it out"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 15 TB")])
def test_more_than_the_memory_holds_is_one_line(head: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("weightgen.heads.head.load_head", fail)
    assert "not enough memory" in refuse("head", "info", head, code=1)


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_full_disk(
    trained: Path, pictures: Path, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("generate", "--support", pictures / "support", "--generator", trained, "--out", tmp_path / "head")
    invoke(*arguments[:-1], tmp_path / "first")  # features are cached now
    shutil.rmtree(tmp_path / "first")
    monkeypatch.setattr(files.os, moment, full)
    assert "No space left on device" in refuse(*arguments, code=1)
    assert files_below(tmp_path) == set()


def test_a_full_disk_keeps_the_older_head(
    head: Path, trained: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(head, tmp_path / "head")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(files.os, "fsync", full)
    refuse("generate", "--support", pictures / "support", "--generator", trained, "--out", folder, code=1)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert files_below(tmp_path) == {"head", *(f"head/{name}" for name in before)}


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("train",),
        ("generate",),
        ("predict",),
        ("train", "metadiff", "--no-such-option"),
        ("data", "sample", "glyphs"),
        ("evaluate", "--format", "xml"),
        ("train", "metadif"),
        ("train", "metadiff", "training.step=5"),
        ("recipes", "cat", "metadif"),
        ("recipes", "cp", "metadif", "x.yaml"),
        ("recipes", "validate", "metadiff", "seed"),
        ("components", "denoiser"),
        ("data", "info", "nowhere.parquet"),
        ("data", "info", ""),
    ],
    ids=" ".join,
)
def test_a_command_that_cannot_be_understood(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "Value error" not in refuse(*arguments)  # of pydantic, which newer typer reads options by
    assert files_below(tmp_path) == set()


def test_a_recipe_is_copied_to_where_a_folder_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert refuse("recipes", "cp", "metadiff", "file/mine.yaml") == "file: is a file; name a folder for the recipe"
    succeed("recipes", "cp", "metadiff", "new/mine.yaml")


@pytest.mark.parametrize("arguments", [("components",), ("generate", "--support", "photos")], ids=" ".join)
def test_a_folder_that_is_gone_is_no_place_to_work_in(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert refuse(*arguments) == "the current folder has been deleted; change to one that exists"


def test_an_interruption(trained: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    arguments = ("generate", "--support", pictures / "support", "--generator", trained, "--out", tmp_path / "head")
    result = invoke(*arguments)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert files_below(tmp_path) == set()


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("weightgen.registry.summary", broken)
    assert isinstance(invoke("components").exception, ZeroDivisionError)
