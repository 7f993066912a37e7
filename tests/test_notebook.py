"""The notebook runs from its first cell to its last, in a kernel of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's own packages
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    assert len(notebook.cells) == 10
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    answers = [cell.outputs[-1]["data"]["text/plain"] for cell in notebook.cells if cell.cell_type == "code"]
    assert answers[1] == "(('flower', 'portrait', 'temple'), (3, 1280))"
    assert answers[3:] == ["(2, 3)", "('flower', 'portrait', 'pagoda')"]
