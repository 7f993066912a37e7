"""What an installed weightgen brings along, and what its commands import."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from weightgen.extras import EXTRAS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMMANDS = [
    ("train",),
    ("sweep",),
    ("generate",),
    ("predict",),
    ("export",),
    ("push",),
    ("evaluate",),
    ("head",),
    *(("head", name) for name in ("info", "remove", "rename")),
    ("recipes",),
    *(("recipes", name) for name in ("ls", "cat", "cp", "validate", "schema")),
    ("components",),
    ("data",),
    *(("data", name) for name in ("info", "sample")),
    ("doctor",),
]
HEAVY = ("torch", "diffusers", "timm", "datasets", "numpy", "sklearn", "matplotlib", "yaml")
SCRIPT = """
import json, sys
from typer.testing import CliRunner
import weightgen.cli.main as main
loaded = set(sys.modules)
shown = {}
for command in json.loads(sys.argv[1]):
    result = CliRunner().invoke(main.app, [*command, "--help"])
    shown[" ".join(command)] = [result.exit_code, result.output]
print(json.dumps({"shown": shown, "after_import": sorted(loaded), "after_help": sorted(sys.modules)}))
"""


def names_in(text: str) -> list[str]:
    """Recipes that a text tells the reader to train."""
    return re.findall(r"weightgen train ([\w./-]+)", text)


@pytest.fixture(scope="module")
def helped() -> dict:
    """`--help` of every command in a fresh interpreter."""
    commands = json.dumps([list(command) for command in [(), *COMMANDS]])
    done = subprocess.run([sys.executable, "-c", SCRIPT, commands], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_list_of_packages_is_complete() -> None:
    folders = {path.parent for path in (ROOT / "weightgen").rglob("__init__.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders} | {"weightgen.cli", "weightgen.recipes"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


def test_extras_are_those_of_the_project() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert EXTRAS.keys() == extras.keys() - {"test", "docs", "dev"}
    for name, modules in EXTRAS.items():
        assert [re.split(r"[>=<~]", one)[0] for one in extras[name]] == list(modules)


def test_every_folder_with_code_is_a_package() -> None:
    for path in [*(ROOT / "weightgen").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]:
        assert (path.parent / "__init__.py").exists(), path


def test_every_recipe_is_package_data() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["weightgen.recipes"]
    packed = {path for pattern in patterns for path in (ROOT / "recipes").glob(pattern)}
    assert packed == {*(ROOT / "recipes").rglob("*.yaml"), ROOT / "recipes" / "recipe.schema.json"}


def test_the_command_is_installed_under_its_name() -> None:
    assert PROJECT["project"]["scripts"] == {"weightgen": "weightgen.cli.main:app"}


def test_one_version() -> None:
    source = (ROOT / "weightgen" / "__init__.py").read_text()
    assert f'__version__ = "{PROJECT["project"]["version"]}"' in source
    assert f"\nversion: {PROJECT['project']['version']}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.name
)
def test_documents_name_recipes_that_exist(path: Path) -> None:
    from weightgen.config.names import recipe_path

    named = names_in(path.read_text())
    assert path.name != "README.md" or path.parent != ROOT or named
    for name in named:
        if not name.endswith("mine.yaml") and not name.isupper():  # a reader's own recipe, a placeholder
            recipe_path(name.removeprefix("./"))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_begins_with_its_own_command(path: Path) -> None:
    name = path.relative_to(ROOT / "recipes").with_suffix("").as_posix()
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert name in names_in("\n".join(header))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(helped: dict, command: tuple[str, ...]) -> None:
    code, output = helped["shown"][" ".join(command)]
    plain = " ".join(output.split())
    assert code == 0
    assert "Example" in plain, output
    assert "weightgen " + " ".join(command) in plain


def test_the_list_of_commands_is_help(helped: dict) -> None:
    code, output = helped["shown"][""]
    assert code == 0
    for command in COMMANDS:
        assert command[0] in output


def test_help_imports_nothing_heavy(helped: dict) -> None:
    for moment in ("after_import", "after_help"):
        assert "weightgen.cli.main" in helped[moment]
        assert sorted(set(HEAVY) & set(helped[moment])) == [], moment
