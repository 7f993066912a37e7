"""The layers of the house, read off the import statements."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    (
        *(
            "checkpoint",
            "classifiers",
            "errors",
            "extras",
            "files",
            "hub",
            "interfaces",
            "parameter_spaces",
            "records",
            "registry",
        ),
        *("section", "seeds", "selection", "specs"),
    ),
    ("data",),
    ("features", "schedulers", "backbones", "episodes"),
    ("selectors", "spaces", "conditioners", "denoisers", "objectives", "heads"),
    ("zoo", "pipeline_io"),
    ("pipeline", "zoo_targets"),
    ("training", "methods", "universal"),
    ("evaluation", "estimator"),
    ("config",),
    ("runs",),
    ("cli",),
    ("__main__",),
)
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}
PRINTS = ("print", "rich", "typer", "sys.stdout", "sys.stderr")  # logging is left to whoever uses the library


def modules() -> list[tuple[str, Path]]:
    """Dotted name and file of every module; the folder cli/ is the package weightgen.cli."""
    files = [(path.relative_to(ROOT), path) for path in sorted((ROOT / "weightgen").rglob("*.py"))]
    files += [(Path("weightgen") / path.relative_to(ROOT), path) for path in sorted((ROOT / "cli").rglob("*.py"))]
    return [(".".join(name.with_suffix("").parts).removesuffix(".__init__"), path) for name, path in files]


def imports(tree: ast.AST, module: str) -> Iterator[str]:
    """Modules that a tree imports, also inside functions, but not those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{name.name}" for name in node.names)
        yield from imports(node, module)


def names_in(tree: ast.AST) -> set[str]:
    """What code says by its name, and by an attribute of a name."""
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add(f"{node.value.id}.{node.attr}")
    return used


def part(module: str) -> str | None:
    """`weightgen.data.images` and `weightgen.data` are of the part "data"; others than weightgen's are of none."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == "weightgen" and rest else None


def violations(module: str, source: str) -> list[str]:
    """What is wrong with the imports of one module."""
    own = part(module)
    if own is None:  # weightgen/__init__.py, which hands out the pipeline
        return []
    used = {part(name) for name in imports(ast.parse(source), module)} - {None, own, "__version__"}
    return [
        f"{module} imports {other}"
        for other in sorted(filter(None, used))
        if not (LAYER[own] == LAYER[other] == 0 or LAYER[other] < LAYER[own])
    ]


def test_every_part_is_in_a_layer() -> None:
    parts = {part(module) for module, _ in modules()} - {None}
    assert parts == set(LAYER)


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_only_from_below(module: str, path: Path) -> None:
    assert violations(module, path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("weightgen.data.images", "from weightgen.config.recipe import Recipe"),
        ("weightgen.data.images", "import weightgen.episodes.sampler"),
        ("weightgen.data.images", "def f():\n    from weightgen import pipeline"),
        ("weightgen.data.images", "from ..episodes import sampler"),
        ("weightgen.pipeline_io", "from weightgen.pipeline import WeightGenerationPipeline"),
        ("weightgen.seeds", "from weightgen.data.images import read_image"),
        ("weightgen.methods.ridge", "from weightgen.training.loop import train"),
        ("weightgen.methods.ridge", "from weightgen.evaluation.tuning import CrossValidation"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("weightgen.data.images", "from .sources import open_data\nfrom weightgen import files\nimport numpy"),
        ("weightgen.interfaces", "if TYPE_CHECKING:\n    from weightgen.spaces.class_rows import RowReader"),
        ("weightgen.pipeline", "from weightgen.pipeline_io import GeneratorPipeline"),
        ("weightgen.cli.main", "from . import train\nfrom .output import Output"),
    ],
)
def test_a_right_import_is_left_alone(module: str, source: str) -> None:
    assert violations(module, source) == []


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_only_the_commands_print(module: str, path: Path) -> None:
    if part(module) == "cli":
        return
    tree = ast.parse(path.read_text())
    used = names_in(tree) | {name.partition(".")[0] for name in imports(tree, module)}
    assert used.isdisjoint(PRINTS)


def test_nothing_pickled_is_written_or_read() -> None:
    for module, path in modules():
        tree = ast.parse(path.read_text())
        calls = names_in(tree)
        banned = {"torch.load", "torch.save", "eval", "exec"}
        if module == "weightgen.backbones.packaged":  # one file of a pinned hash, by torch's restricted reader
            loads = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
            assert all("weights_only=True" in one for one in loads if one.startswith("torch.load("))
            banned.remove("torch.load")
        assert not calls & banned, module
        assert not {"pickle", "dill", "cloudpickle"} & {name.partition(".")[0] for name in imports(tree, module)}, (
            module
        )


def test_no_two_test_files_have_the_same_name() -> None:
    """Pytest imports only one of two such files when it runs them together."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in ("__init__.py", "conftest.py")]
    assert sorted(set(names)) == sorted(names)
