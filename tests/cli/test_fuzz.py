"""Malformed recipes, images, features, generators, heads, zoos and runs: no traceback, nothing lost."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import command_fuzz
import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture
def kinds(
    trained: Path, walked: Path, head: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, command_fuzz.Target]]:
    monkeypatch.chdir(tmp_path)
    features = tmp_path / "sound.safetensors"
    tensors = {"features": torch.randn(12, 7), "labels": torch.arange(12) % 3, "classifier.weight": torch.randn(5, 7)}
    save_file({**tensors, "classifier.bias": torch.zeros(5)}, features, {"class_names": '["ant", "bee", "cat"]'})
    yield command_fuzz.targets(run=trained, zoo=walked / "zoo", head=head, pictures=pictures, features=features)


@pytest.mark.slow
@pytest.mark.parametrize("kind", command_fuzz.KINDS)
def test_no_malformed_input_ends_in_a_traceback(
    kind: str, kinds: dict[str, command_fuzz.Target], tmp_path: Path
) -> None:
    assert tuple(kinds) == command_fuzz.KINDS
    counted, cases, seed = Counter[str](), int(os.environ.get("FUZZ_CASES", 22)), int(os.environ.get("FUZZ_SEED", 0))
    wrong = command_fuzz.failures(cases, seed, kinds[kind], tmp_path, counted)
    assert not wrong, "\n".join(wrong)
    assert counted["refused"] > cases // 10
