"""What editors know of recipes: the schema is current, every recipe names it and keeps to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml
from tiny_runs import succeed

from weightgen.config.recipe import Recipe

ROOT = Path(__file__).parents[2] / "recipes"
SCHEMA = ROOT / "recipe.schema.json"
FILES = sorted(ROOT.rglob("*.yaml"))
START = "# yaml-language-server: $schema="


def named(recipe: Path) -> Path:
    """The schema that the first line of a recipe names."""
    first = recipe.read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith(START)
    return (recipe.parent / first.removeprefix(START)).resolve()


def test_the_schema_is_what_the_command_prints() -> None:
    assert succeed("recipes", "schema").stdout == SCHEMA.read_text(encoding="utf-8")
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == Recipe.model_json_schema()


@pytest.mark.parametrize("recipe", FILES, ids=lambda path: path.stem)
def test_a_recipe_names_the_schema_and_keeps_to_it(recipe: Path) -> None:
    assert named(recipe) == SCHEMA
    jsonschema.validate(yaml.safe_load(recipe.read_text(encoding="utf-8")), json.loads(SCHEMA.read_text()))


def test_a_wrong_recipe_does_not_keep_to_it() -> None:
    content = yaml.safe_load((ROOT / "metadiff.yaml").read_text(encoding="utf-8"))
    content["training"] = {"stepz": 3}
    with pytest.raises(jsonschema.ValidationError, match="stepz"):
        jsonschema.validate(content, json.loads(SCHEMA.read_text()))


def test_a_copy_names_the_schema_of_the_package(tmp_path: Path) -> None:
    for name in ("metadiff", "paper/metadiff"):
        target = tmp_path / f"{Path(name).parent.name}.yaml"
        succeed("recipes", "cp", name, target)
        assert named(target) == SCHEMA
        assert target.read_text().partition("\n")[2] == (ROOT / f"{name}.yaml").read_text().partition("\n")[2]


def test_a_recipe_without_that_line_is_copied_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_bytes(b"seed: 1\r\n# $schema=x\r\n")
    succeed("recipes", "cp", own, tmp_path / "copy.yaml")
    assert (tmp_path / "copy.yaml").read_bytes() == own.read_bytes()
    shutil.copy(ROOT / "metadiff.yaml", own)  # names a schema that is not beside it
    succeed("recipes", "cp", own, tmp_path / "other.yaml")
    assert (tmp_path / "other.yaml").read_bytes() == own.read_bytes()


def test_the_list_describes_recipes() -> None:
    listed = json.loads(succeed("recipes", "ls", "--format", "json").stdout)
    assert listed["metadiff"].startswith("MetaDiff heads on conv4 features")
    assert not [line for line in listed.values() if "schema" in line or not line]
