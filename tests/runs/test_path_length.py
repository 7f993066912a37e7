"""From a support image to a number in the head: how many files of the library are entered on the way."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import weightgen
from weightgen import WeightGenerationPipeline

MOST = 22
NETWORK = "backbones/few_shot_networks.py"
"""Is the backbone itself, which is timm's where it is another than conv4 or resnet12."""
LIBRARY = Path(weightgen.__file__).parent


def test_writing_a_head_enters_few_files(
    trained: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path))
    generator = WeightGenerationPipeline.from_pretrained(trained / "generator")

    entered: dict[str, None] = {}

    def profile(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and frame.f_code.co_name != "<module>" and LIBRARY in path.parents:
            entered[path.relative_to(LIBRARY).as_posix()] = None

    sys.setprofile(profile)
    try:
        generator(pictures / "support")
    finally:
        sys.setprofile(None)
    entered.pop(NETWORK)
    assert len(entered) <= MOST, "\n".join(entered)
    assert {"pipeline.py", "spaces/class_rows.py", "denoisers/class_transformer.py", "heads/head.py"} <= set(entered)
