"""Consoles of any encoding, pipes whose reader goes away, files that cannot be read, caches that cannot be written."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import SHARED, SHRINKAGES, invoke, on, refuse, succeed
from weightgen.cli.main import app
from weightgen.cli.output import CLOSED_PIPE

from weightgen import files
from weightgen.heads.head import load_head
from weightgen.runs.data_tools import write_sample

NAMES = ("Größe", "猫", "αβγ")


@pytest.fixture(scope="module")
def accents(head: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head whose classes have names from three alphabets, and a folder of pictures named so."""
    place = tmp_path_factory.mktemp("Bäume 木")
    saved = load_head(head)
    saved.rename(dict(zip(saved.class_names, NAMES, strict=True))).save_pretrained(place / "head")
    return place


@pytest.fixture
def photos(accents: Path, pictures: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "фото"
    folder.mkdir()
    for i, path in enumerate(sorted((pictures / "query").rglob("*.png"))[:3]):
        shutil.copy(path, folder / f"{i} é.png")
    return folder


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
class TestEncodings:
    def test_json_and_csv_are_utf8(self, accents: Path, photos: Path, encoding: str) -> None:
        outputs = {}
        for form in ("json", "csv"):
            result = on(encoding, "predict", photos, "--head", accents / "head", "--format", form)
            assert result.exit_code == 0
            outputs[form] = result.stdout_bytes.decode("utf-8")
        parsed = json.loads(outputs["json"])
        assert [one["path"] for one in parsed] == [str(path) for path in sorted(photos.iterdir())]
        assert all(list(one["probabilities"]) == list(NAMES) for one in parsed)
        rows = list(csv.DictReader(io.StringIO(outputs["csv"])))
        assert [(row["path"], row["class_name"]) for row in rows] == [
            (one["path"], one["class_name"]) for one in parsed
        ]

    def test_text_falls_back_to_replacement_characters(self, accents: Path, photos: Path, encoding: str) -> None:
        table = on(encoding, "predict", photos, "--head", accents / "head")
        info = on(encoding, "head", "info", accents / "head")
        assert table.exit_code == info.exit_code == 0
        shown = info.stdout_bytes.decode(encoding)
        assert all(name.encode(encoding, "replace").decode(encoding) in shown for name in NAMES)
        assert "0 é.png".encode(encoding, "replace").decode(encoding) in table.stdout_bytes.decode(encoding)

    def test_recipes_and_their_schema_are_utf8(self, encoding: str, tmp_path: Path) -> None:
        mine = tmp_path / "mine.yaml"
        mine.write_bytes("# Größe ± 猫\r\nseed: 1\n".encode())
        assert on(encoding, "recipes", "cat", mine).stdout_bytes == mine.read_bytes()
        json.loads(on(encoding, "recipes", "schema").stdout_bytes.decode("utf-8"))
        assert on(encoding, "recipes", "ls").exit_code == 0
        assert on(encoding, "components").exit_code == 0
        assert on(encoding, "--help").exit_code == on(encoding, "train", "--help").exit_code == 0

    def test_complaints_and_remarks(self, accents: Path, encoding: str, trained: Path, pictures: Path) -> None:
        missing = on(encoding, "predict", "猫.png", "--head", accents / "head")
        assert (missing.exit_code, missing.stdout_bytes) == (2, b"")
        assert b"cannot be read" in missing.stderr_bytes
        out = accents / f"頭 {encoding}"
        written = on(encoding, "generate", "--support", pictures / "support", "--generator", trained, "--out", out)
        assert written.exit_code == 0
        assert b"weightgen predict --head" in written.stderr_bytes

    def test_an_evaluation(self, trained: Path, encoding: str) -> None:
        few = ("--methods", "generator,cosine_centroid", "--shots", "1", "--episodes", "4")
        result = on(encoding, "evaluate", trained, *few)
        assert result.exit_code == 0
        assert "accuracy" in result.stdout_bytes.decode(encoding)


def test_a_file_name_that_is_no_text_is_named_and_the_others_are_answered(accents: Path, photos: Path) -> None:
    odd = os.fsdecode(b"odd \xff.png")
    try:
        shutil.copy(next(photos.iterdir()), photos / odd)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    for form in ("text", "json", "csv"):
        result = on("ascii", "predict", photos, "--head", accents / "head", "--format", form)
        assert result.exit_code == 1
        assert b"odd \\udcff.png" in result.stderr_bytes
        assert b"1 of 4 could not be read" in result.stderr_bytes
    place = shutil.copytree(accents / "head", photos.parent / odd)
    for arguments in (("head", "info", place), ("predict", photos / "0 é.png", "--head", place)):
        result = on("ascii", *arguments)
        assert result.exit_code == 0, result.stderr


def commands(head: Path, trained: Path, query: Path) -> dict[str, tuple[str | Path, ...]]:
    return {
        "cat": ("recipes", "cat", "metadiff"),
        "ls": ("recipes", "ls"),
        "schema": ("recipes", "schema"),
        "help": ("train", "--help"),
        "components": ("components",),
        "text": ("predict", query, "--head", head),
        "json": ("predict", query, "--head", head, "--format", "json"),
        "csv": ("predict", query, "--head", head, "--format", "csv"),
        "info": ("head", "info", head),
        "evaluate": ("evaluate", trained, "--methods", "generator", "--shots", "1", "--episodes", "4"),
    }


@pytest.mark.parametrize("name", commands(Path(), Path(), Path()))
def test_a_reader_that_goes_away_ends_the_command_in_silence(
    name: str, head: Path, trained: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    said = io.StringIO()
    with open(writer, "w", encoding="ascii") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", said)
        with pytest.raises(SystemExit) as left:
            app([*map(str, commands(head, trained, pictures / "query")[name])])
    assert left.value.code == CLOSED_PIPE
    assert [line for line in said.getvalue().splitlines() if not line.endswith("…")] == []


@pytest.mark.parametrize("arguments", ["recipes schema", "--help"])
def test_head_takes_a_line_from_the_command_itself(arguments: str) -> None:
    script = f"{sys.executable} -m weightgen {arguments} | head -1; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=True)
    *lines, code = done.stdout.splitlines()
    assert len(lines) == 1
    assert code in ("0", str(CLOSED_PIPE))
    assert done.stderr == ""


def test_a_full_disk_behind_stdout_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "weightgen", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "error: No space left on device; make room, or write elsewhere\n")


def bad_files(folder: Path, good: Path) -> int:
    """Pictures that cannot be read among good ones; how many bad ones there are."""
    content = good.read_bytes()
    (folder / "1_cut.png").write_bytes(content[: len(content) * 2 // 3])
    (folder / "1_text.jpg").write_bytes(b"<html>404</html>")
    (folder / "zero.png").write_bytes(b"")
    return 3


@pytest.mark.parametrize("form", ["text", "json", "csv"])
def test_bad_images_among_many(head: Path, photos: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    good = sorted(photos.iterdir())
    alone = succeed("predict", photos, "--head", head, "--format", form).stdout
    bad = bad_files(photos, good[0])
    for arguments in ([photos], sorted(photos.iterdir()), [photos, "--quiet"]):
        result = invoke("predict", *arguments, "--head", head, "--format", form)
        assert result.exit_code == 1
        if form != "text":
            assert result.stdout == alone
        lines = [line for line in result.stderr.splitlines() if not line.endswith("…")]
        assert len(lines) == bad + 1
        for name in ("1_cut.png", "1_text.jpg", "zero.png"):
            assert sum(f"{name}: " in line for line in lines) == 1
        assert lines[-1] == f"error: {bad} of {bad + len(good)} could not be read; the others are answered"


def test_a_missing_file_and_an_empty_folder_among_good_ones(head: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    given = (photos, tmp_path / "empty", tmp_path / "nowhere.png")
    result = invoke("predict", *given, "--head", head, "--format", "json")
    assert (result.exit_code, len(json.loads(result.stdout))) == (1, 3)
    assert "empty: holds no image" in result.stderr and "nowhere.png: cannot be read" in result.stderr


def test_when_no_image_can_be_read_nothing_is_printed(head: Path, tmp_path: Path) -> None:
    for form in ("text", "json", "csv"):
        for name in ("a.png", "b.png"):
            (tmp_path / name).write_bytes(b"no image")
        assert "a.png: is not an image" in refuse("predict", tmp_path / "a.png", "--head", head, "--format", form)
        result = invoke("predict", tmp_path, "--head", head, "--format", form)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "2 of 2 could not be read" in result.stderr


def test_predictions_come_before_all_images_are_read(head: Path, photos: Path) -> None:
    paths = sorted(photos.iterdir())
    (photos / "9.png").write_bytes(b"no image")
    stream = load_head(head).stream([*paths, photos / "9.png"], batch_size=1)
    assert [one.path for one in itertools.islice(stream, len(paths))] == paths  # the bad one is not reached


def blocked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(folder / "file"))


def no_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTGEN_CACHE", "/proc/nothing/can/be/made/here")


@pytest.mark.parametrize("block", [blocked, no_room])
def test_an_unusable_cache_costs_one_remark(
    block: Callable[[Path, pytest.MonkeyPatch], None],
    trained: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(files, "_unusable", set())
    block(tmp_path, monkeypatch)
    arguments = (
        "generate",
        "--support",
        pictures / "support",
        "--unlabelled",
        pictures / "query",
        "--generator",
        trained,
    )
    said = succeed(*arguments, "--out", tmp_path / "head").stderr
    assert said.count("cannot be used as a cache") == 1
    assert "set WEIGHTGEN_CACHE" in said
    monkeypatch.setattr(files, "_unusable", set())
    assert succeed(*arguments, "--out", tmp_path / "other", "--quiet").stderr == ""


def test_generate_says_which_generator_it_used(trained: Path, pictures: Path, tmp_path: Path) -> None:
    given = ("generate", "--support", pictures / "support", "--generator", trained, "--out", tmp_path / "head")
    result = succeed(*given, "--format", "json")
    json.loads(result.stdout)
    expected = (
        f"generator: {trained}, on conv4, which sees grey images of 16 pixels, trained on shared_images.parquet: "
    )
    assert expected + "grey images of 12 pixels" in result.stderr
    assert "warning" not in result.stderr


@pytest.mark.parametrize(
    ("colour", "side", "warned"), [(True, 300, True), (True, 16, True), (False, 300, True), (False, 40, False)]
)
def test_commands_warn_of_images_of_another_kind(
    trained: Path, tmp_path: Path, colour: bool, side: int, warned: bool
) -> None:
    """In one line on stderr, whichever command is given them; JSON stays clean, and --quiet is silent."""
    photos = tmp_path / "photos"
    for i, name in enumerate(("ant", "bee")):
        (photos / name).mkdir(parents=True)
        for j in range(2):
            tint = (200 - j, 30 + 90 * i, 60) if colour else (90 + 2 * i + j,) * 3
            Image.new("RGB", (side, side + 7), tint).save(photos / name / f"{j}.png")
    kind = f"{'colour' if colour else 'grey'} images of {side} pixels"
    words = f"warning: {photos} holds {kind}, and conv4 sees grey images of 16 pixels"
    few, sizes = ("--methods", "generator"), ("--ways", "2", "--shots", "1", "--queries", "1", "--episodes", "2")
    for given in (
        ("generate", "--support", photos, "--generator", trained, "--out", tmp_path / "head"),
        ("transfer", trained, "--data", photos, "--test", "0.5", "--images", "all", *few),
        ("evaluate", trained, "--data", photos, *few, *sizes),
    ):
        result = succeed(*given, "--format", "json")
        assert json.loads(result.stdout)
        lines = [line for line in result.stderr.splitlines() if "warning" in line]
        assert [line.partition(";")[0] for line in lines] == [words] * warned, result.stderr
    assert succeed(*given, "--quiet").stderr == ""


VALIDATED = {
    "a model that timm lacks": (("backbone=resnet5x",), "timm has no model 'resnet5x'; did you mean"),
    "weights that timm lacks": (("backbone=resnet18.a9_in1k",), "timm has no weights 'resnet18.a9_in1k'"),
    "no published weights": (
        ("backbone.pretraining=null", "backbone.pretrained=true"),
        "offers no safetensors weights",
    ),
    "a checkpoint that is not there": (("backbone=/nowhere/x.safetensors",), "/nowhere/x.safetensors: cannot be read"),
    "a pickle": (("backbone=/nowhere/x.pth",), "only safetensors are read"),
    "a folder that is not there": (("backbone=local-dir:nowhere",), "nowhere: is not a directory"),
    "a hub model by half its name": (("backbone=birds/heads",), "write hf-hub:OWNER/NAME"),
    "an option of another model": (("backbone.options.depth=3",), "timm cannot build 'conv4'"),
    "data that are not there": (("data=/nowhere",), "/nowhere: does not exist"),
    "further data that are not there": (("data.further=[/nowhere]",), "/nowhere: does not exist"),
    "novel data that are not there": (("data.novel=/nowhere",), "/nowhere: does not exist"),
    "a class that is not there": (("data.novel=[no, yes]",), "no class 'no'"),
    "too many backbone classes": (("data.backbone_classes=20",), "data.backbone_classes is 20"),
    "too few novel classes": (("data.novel=2",), "data.novel: gives 2 classes and evaluation.ways is 3"),
    "too few images": (("training.queries=20",), "images, and training.shots with training.queries need"),
    "too many folds": (("training.folds=9",), "training.folds is 9"),
}


@pytest.mark.parametrize(("overrides", "said"), VALIDATED.values(), ids=VALIDATED)
def test_what_train_refuses_at_once_validate_refuses_by_the_same_line(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("metadiff", f"data={images}", *SHARED, *overrides)
    complaint = refuse("recipes", "validate", *given)
    assert said in complaint
    assert complaint == refuse("train", *given)
    assert list(tmp_path.iterdir()) == []


def test_what_train_takes_validate_takes(images: Path) -> None:
    assert "is valid" in succeed("recipes", "validate", "metadiff", f"data={images}", *SHARED).stdout


def test_validate_downloads_nothing(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightgen.backbones.construction.hf_hub_download", None)
    monkeypatch.setattr("weightgen.data.sources.load_dataset", None)
    for overrides in (("backbone=resnet18.a1_in1k",), ("backbone=timm/resnet18.a1_in1k",), ("backbone=hf-hub:a/b",)):
        succeed("recipes", "validate", "metadiff", f"data={images}", *SHARED, *overrides)
    succeed("recipes", "validate", "metadiff", "data=hub:owner/name", *SHARED)


def test_a_backbone_in_a_head_folder_trains(head: Path, images: Path, tmp_path: Path) -> None:
    small = (*SHRINKAGES, "denoiser.width=16", "denoiser.depth=1", "generation.draw_steps=2", "data.novel=0")
    given = ("train", "metadiff", f"data={images}", *SHARED, *small, f"backbone=local-dir:{head}", "--out", tmp_path)
    run = Path(json.loads(succeed(*given, "--format", "json", "--quiet").stdout)["run"])
    assert f"model: local-dir:{head}" in (run / "recipe.yaml").read_text()
    write_sample(str(images), tmp_path / "s", ways=3, shots=2, queries=1, seed=0)
    arguments = ("generate", "--support", tmp_path / "s" / "support", "--generator", run, "--out", tmp_path / "h")
    assert "on conv4" in succeed(*arguments).stderr
