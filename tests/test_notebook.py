"""The notebook runs from its first cell to its last."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def answer(source: str, names: dict[str, Any]) -> str:
    """Run a cell, whose last line is an expression, and show that as a notebook does."""
    *statements, last = ast.parse(source).body
    assert isinstance(last, ast.Expr)
    exec(compile(ast.Module(statements, []), "cell", "exec"), names)
    return repr(eval(compile(ast.Expression(last.value), "cell", "eval"), names))


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("examples")  # the first cell adds it, and all is as before afterwards
    shutil.copytree(ROOT / "examples", "examples")
    cells = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    assert len(cells) == 10
    names: dict[str, Any] = {}
    answers = [answer("".join(cell["source"]), names) for cell in cells if cell["cell_type"] == "code"]
    assert answers[1] == "(('flower', 'portrait', 'temple'), (3, 1280))"
    assert answers[3:] == ["(2, 3)", "('flower', 'portrait', 'pagoda')"]
