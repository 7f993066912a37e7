"""The words of the glossary, and none of those that it replaced, in code, recipes, messages and documents."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = sorted([*(ROOT / "weightgen").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
SCRIPTS = sorted(path for folder in ("benchmarks", "examples", "tests") for path in (ROOT / folder).rglob("*.py"))
PROSE = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").rglob("*.yaml")])
NAMES = {"told", "made", "found", "usual"}
"""No name in code: they say nothing of the value."""
WORDS = re.compile(
    r"(?<![a-z])(?:strangers?|rivals?|honest\w*|poles?|beliefs?|lessons?|attune\w*|founding|judgeable|temper|sharpness(?!_aware)"
    r"|left_out|left-out|is no (?:folder|directory|file|head|run|image|recipe|override|share|finished))(?![a-z])",
    re.IGNORECASE,
)
"""Words that the glossary replaced, and phrases for which messages say "is not a directory" or the like."""
ALLOWED = {
    ("weightgen/pipeline_io.py", "sharpness"): "an option of generators written by version 0.1",
    ("weightgen/pipeline_io.py", "strangers"): "an option of generators written by version 0.1",
    ("weightgen/pipeline_io.py", "told"): "an option of generators written by version 0.1",
    ("weightgen/heads/support_summary.py", "founding"): "a tensor of heads written by version 0.1",
    ("weightgen/evaluation/comparison.py", "honest"): "the name of a stream of random numbers: another gives others",
}


def names(tree: ast.AST) -> set[str]:
    """Variables, arguments, attributes, functions and classes."""
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.arg | ast.keyword):
            used.add(node.arg or "")
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            used.add(node.name)
    return used


def replaced_words(text: str, place: str) -> list[str]:
    """Line number and word, of those that are not allowed at this place."""
    return [
        f"{number}: {word}"
        for number, line in enumerate(text.splitlines(), 1)
        for word in WORDS.findall(line)
        if (place, word.lower()) not in ALLOWED
    ]


def checked(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


@pytest.mark.parametrize("place", checked([*PYTHON, *PROSE]))
def test_replaced_words_are_used_nowhere(place: str) -> None:
    assert replaced_words((ROOT / place).read_text(encoding="utf-8"), place) == []


@pytest.mark.parametrize("place", checked([*PYTHON, *SCRIPTS]))
def test_every_name_says_what_the_value_is(place: str) -> None:
    used = names(ast.parse((ROOT / place).read_text(encoding="utf-8")))
    assert {word for word in NAMES & {name.strip("_") for name in used} if (place, word) not in ALLOWED} == set()


@pytest.mark.parametrize("line", ["strangers = 3", "/x: is no folder", "an honest scale", "self.attune(scheduler)"])
def test_a_replaced_word_is_reported(line: str) -> None:
    assert len(replaced_words(line, "weightgen/data/images.py")) == 1


def test_a_word_in_another_meaning_is_left_alone() -> None:
    assert replaced_words("temperature, no image is missing, a directory is left out", "README.md") == []


def test_every_exception_is_needed() -> None:
    for place, word in ALLOWED:
        assert word in (ROOT / place).read_text(encoding="utf-8"), place
