"""Every command and every Python block of the documents, run as it stands there on small images of the names it uses.

What takes minutes is made small by further options: `train`, `compare` and `zoo build` are checked by `recipes
validate`, which refuses what they would refuse (`tests/recipes` trains every recipe), and comparisons have few
episodes and methods.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file
from tiny_runs import SHARED, hurry, succeed

from weightgen.backbones.backbone import Backbone

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "getting_started.md"),
    *sorted((ROOT / "docs" / "how_to").glob("*.md")),
]
FEW = {"--methods": "generator,ridge", "--episodes": "4", "--ways": "2", "--queries": "2"}
"""Options that a comparison gets where the document gives none."""


def blocks(path: Path, language: str) -> list[str]:
    """Contents of the fenced blocks of a language, "" for those that name none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [content for named, content in fenced if named == language]


def commands(path: Path) -> list[str]:
    """Command lines of a document without prompt and remark."""
    lines = [line.removeprefix("$ ") for block in blocks(path, "") for line in block.splitlines()]
    return [re.split(r"\s+# ", line)[0].strip() for line in lines if line.startswith("weightgen ")]


COMMANDS = [(name, line) for line, name in {line: path.name for path in DOCUMENTS for line in commands(path)}.items()]
PYTHON = [(path.name, number, code) for path in DOCUMENTS for number, code in enumerate(blocks(path, "python"))]


@pytest.fixture(scope="session")
def birds(images: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders and files that documents name; look, do not touch."""
    place = tmp_path_factory.mktemp("documents")

    def classes(folder: str, names: tuple[str, ...], seed: int, *, shots: int, queries: int = 0) -> None:
        sizes = ("--ways", str(len(names)), "--shots", str(shots), "--queries", str(queries), "--seed", str(seed))
        succeed("data", "sample", images, *sizes, "--out", place / "sample", "--quiet")
        (place / folder).mkdir()
        for name, source in zip(names, sorted((place / "sample" / "support").iterdir()), strict=True):
            shutil.move(source, place / folder / name)
        if queries:
            shutil.move(place / "sample" / "query", place / "photos")
        shutil.rmtree(place / "sample")

    classes("my_birds", ("heron", "ibis", "kite", "wren"), 0, shots=2, queries=1)
    classes("more_birds", ("crane", "egret"), 1, shots=2)
    classes("train_folder", ("crane", "egret", "heron"), 2, shots=4)
    classes("flowers", tuple(f"flower {i}" for i in range(12)), 3, shots=13)
    classes("more_flowers", tuple(f"flower {i}" for i in range(12)), 4, shots=6)
    shutil.copytree(place / "more_flowers", place / "other_images")
    (place / "demo").mkdir()
    shutil.copytree(place / "my_birds", place / "demo" / "support")
    shutil.copytree(place / "photos", place / "demo" / "query")
    for target in ("heads/birds", "demo/head"):
        succeed("generate", "--support", place / "my_birds", "--generator", trained, "--out", place / target, "--quiet")
    shutil.copy(next((place / "photos").rglob("*.png")), place / "photo.jpg")
    onnx = ("--onnx", place / "birds.onnx", "--preprocessing", "--quiet")
    succeed("export", place / "heads" / "birds", *onnx)
    options = {"width": 5, "img_size": 16}
    network = Backbone.create(model="conv4", options=options, seed=0).trunk
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"architecture": "conv4", "kwargs": json.dumps(options)}
    save_file(tensors, place / "weights.safetensors", metadata)
    return place


@pytest.fixture
def world(birds: Path, images: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with copies of all that, and a finished run."""
    shutil.copytree(birds, tmp_path, dirs_exist_ok=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "metadiff-1a2b3c4d").symlink_to(trained)
    (tmp_path / "images.parquet").symlink_to(images)
    (tmp_path / "images").symlink_to(tmp_path / "flowers")
    monkeypatch.chdir(tmp_path)
    hurry(monkeypatch)
    return tmp_path


def checkable(words: list[str]) -> list[str]:
    """A command as it stands, with names for placeholders, and small where it would take minutes."""
    places = {"RUN": "runs/metadiff-1a2b3c4d", "glyphs": "images.parquet"}
    places["backbone=resnet50.a1_in1k"] = "backbone=weights.safetensors"  # which needs no download
    places["resnet50.a1_in1k"] = "weights.safetensors"
    words = [places.get(word, word) for word in words]
    if words[0] == "sweep":  # tests/runs sweeps
        words = ["train", *(word.partition(",")[0] for word in words[1:])]
    if words[0] == "train" or words[:2] == ["zoo", "build"]:
        words = ["recipes", "validate", *words[1 if words[0] == "train" else 2 :]]
        if not any(word.startswith(("data=", "data.source=")) for word in words):
            words.append("data=images.parquet")
        words += [option for option in SHARED if option.startswith(("data.", "evaluation."))]
        words.append("training.folds=2")  # of a few classes
    if words[0] == "compare":  # tests/runs compares recipes
        words = ["recipes", "validate", words[1], f"data={words[words.index('--data') + 1]}"]
        words += [option for option in SHARED if option.startswith(("data.", "evaluation."))] + ["training.folds=2"]
    comparison = words[0] == "transfer" or "transfer" in words[1:] or words[0] == "evaluate"
    if comparison:
        transfer = words[0] == "transfer" or "transfer" in words
        given = {"--methods": FEW["--methods"], "--images": "2"} if transfer else FEW
        if "universal" in words:
            given = {**given, "--backbone": "weights.safetensors"}
        words += [part for option, value in given.items() if option not in words for part in (option, value)]
    if words[:2] == ["data", "sample"]:
        words[words.index("--out") + 1] += "/new"
        words[words.index("--queries") + 1] = "3"
    return words


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_a_command_of_the_documents_runs(
    document: str, command: str, world: Path, request: pytest.FixtureRequest, hub_calls: list[tuple]
) -> None:
    if "mcdi-…" in command:
        (world / "runs" / "mcdi-…").symlink_to(request.getfixturevalue("walked"))
    succeed(*checkable(shlex.split(command)[1:]))


@pytest.mark.filterwarnings(
    "ignore:__array__:DeprecationWarning"  # of diffusers' solvers
)
@pytest.mark.parametrize(("document", "number", "code"), PYTHON, ids=lambda value: str(value)[:20].split("\n")[0])
def test_a_python_block_of_the_documents_runs(
    document: str, number: int, code: str, world: Path, hub_calls: list[tuple], capsys: pytest.CaptureFixture
) -> None:
    exec(compile(code.replace("runs/metadiff-…", "runs/metadiff-1a2b3c4d"), f"{document}, block {number}", "exec"), {})


def test_every_document_with_commands_is_checked() -> None:
    elsewhere = [ROOT / "docs" / "extending.md", *(ROOT / "docs" / "results").glob("*.md")]  # tests/test_extending.py
    with_commands = {path for path in (ROOT / "docs").rglob("*.md") if commands(path)}
    assert with_commands - {*DOCUMENTS, *elsewhere} == set()
    assert len(COMMANDS) > 25
