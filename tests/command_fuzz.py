"""Malformed files of every kind given to the commands that read them: each is used, or refused in one clear line.

The suite runs 38 of each of 8 kinds; `FUZZ_CASES=500 FUZZ_SEED=1 pytest tests/cli/test_fuzz.py` as many as are wanted.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from image_fuzz import mutated
from safetensors.torch import load_file, save_file
from tiny_runs import invoke

KINDS = ("recipe", "image", "features", "generator", "head", "extended head", "zoo", "run")
ODD = (
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    "",
    "nonsense",
    [],
    {},
    [None],
    {"a": 1},
    float("nan"),
    "../..",
    "1e400",
    [[1, 2]],
)
"""Values that stand where others belong."""
NAMES = ("..%2f", "a\nb", " ", "ß" * 90, "-rf", "CON", "a.png.png", "[bold]", "\u202eexe")


@dataclass(frozen=True)
class Target:
    """Something a command reads.

    source: a file or a folder. within: the pattern of its files that are spoilt.
    command: words of the command that reads it, from where it lies and where it may write.
    """

    source: Path
    within: str
    command: Callable[[Path, Path], tuple[str | Path, ...]]


def targets(*, run: Path, zoo: Path, head: Path, pictures: Path, features: Path) -> dict[str, Target]:
    """All kinds of input, made of sound ones."""
    support, query = pictures / "support", next((pictures / "query").rglob("*.png"))
    return {
        "recipe": Target(run / "recipe.yaml", "", lambda path, _: ("recipes", "validate", path)),
        "image": Target(
            support,
            "**/*.png",
            lambda path, out: ("generate", "--generator", run, "--support", path, "--out", out, "--quiet"),
        ),
        "features": Target(
            features, "", lambda path, out: ("generate", "--support", f"features:{path}", "--out", out, "--quiet")
        ),
        "generator": Target(
            run / "generator",
            "**/*.*",
            lambda path, out: ("generate", "--generator", path, "--support", support, "--out", out, "--quiet"),
        ),
        "head": Target(head, "*.*", lambda path, _: ("predict", "--head", path, query, "--quiet")),
        "extended head": Target(
            head,
            "*.*",
            lambda path, out: (
                *("generate", "--generator", run, "--support", support, "--extend", path, "--out", out, "--quiet"),
            ),
        ),
        "zoo": Target(zoo, "**/*.*", lambda path, _: ("zoo", "info", path)),
        "run": Target(
            run, "*.*", lambda path, _: ("evaluate", path, "--episodes", "2", "--methods", "generator", "--quiet")
        ),
    }


def spoilt_values(value: Any, random: np.random.Generator) -> Any:
    """A JSON or YAML value with one thing in it changed, left out, or put in."""
    if isinstance(value, Mapping) and value and random.random() < 0.85:
        changed, key = dict(value), str(random.choice(sorted(map(str, value))))
        way = random.random()
        if way < 0.15:
            changed.pop(key, None)
        elif way < 0.25:
            changed[f"{key}x"] = changed.pop(key, None)
        else:
            changed[key] = spoilt_values(changed.get(key), random)
        return changed
    if isinstance(value, list) and value and random.random() < 0.7:
        place = int(random.integers(len(value)))
        return [*value[:place], spoilt_values(value[place], random), *value[place + 1 :]]
    return ODD[int(random.integers(len(ODD)))]


def spoilt_tensors(path: Path, random: np.random.Generator) -> None:
    """One tensor left out, renamed, of another shape or type, or not finite; the metadata may go."""
    tensors = load_file(path)
    key = str(random.choice(sorted(tensors)))
    tensor, way = tensors.pop(key), int(random.integers(7))
    if way == 1:
        tensors[f"{key}.other"] = tensor
    elif way == 2:
        tensors[key] = tensor[..., None].contiguous()
    elif way == 3:
        tensors[key] = tensor.to(torch.int32 if tensor.is_floating_point() else torch.float32)
    elif way == 4:
        tensors[key] = torch.full_like(tensor.float(), torch.nan)
    elif way == 5:
        tensors[key] = torch.full_like(tensor.float(), 3e38)
    elif way == 6 and tensor.dim():
        tensors[key] = tensor[: len(tensor) // 2].contiguous()
    save_file(tensors, path, None if random.random() < 0.3 else {"format": "pt"})


def spoil(path: Path, random: np.random.Generator) -> str:
    """Change a file in some way; which."""
    way, ending = random.random(), path.suffix
    if way < 0.05:
        path.unlink()
        return "missing"
    if way < 0.1:
        path.write_bytes(b"")
        return "empty"
    if way < 0.15:
        path.unlink()
        path.mkdir()
        return "a directory"
    if way < 0.2 and ending == ".png":
        name = NAMES[int(random.integers(len(NAMES)))]
        path.rename(path.with_name(name[:80]))
        return f"named {name!r}"
    if way < 0.6 and ending == ".json":
        path.write_text(json.dumps(spoilt_values(json.loads(path.read_text()), random)))
        return "with odd values"
    if way < 0.6 and ending == ".yaml":
        path.write_text(yaml.safe_dump(spoilt_values(yaml.safe_load(path.read_text()), random)))
        return "with odd values"
    if way < 0.6 and ending == ".safetensors":
        spoilt_tensors(path, random)
        return "with odd tensors"
    path.write_bytes(mutated(path.read_bytes(), random))
    return "with changed bytes"


def contents(path: Path) -> dict[str, str]:
    """Hashes of the files at or below a path."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def check_case(target: Target, place: Path, random: np.random.Generator) -> tuple[str, int]:
    """Fail unless a spoilt copy is used, or refused in one line and nothing written or lost; how, and the exit code."""
    copy, out = place / ("input" + target.source.suffix), place / "out"
    (shutil.copytree if target.source.is_dir() else shutil.copy)(target.source, copy)
    files = [copy] if not target.within else sorted(file for file in copy.glob(target.within) if file.is_file())
    victim = files[int(random.integers(len(files)))]
    how = f"{victim.relative_to(place)} {spoil(victim, random)}"
    before = contents(copy)
    result = invoke(*target.command(copy, out))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"{how}: a traceback") from result.exception
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code in (0, 1, 2), f"{how}: exit code {result.exit_code}"
    assert "Traceback" not in result.output, f"{how}: {result.output}"
    if result.exit_code == 2:
        plain = errors[0].partition("Type-check error")[0] if errors else ""  # of the typing of test runs, many lines
        assert len(errors) == 1 and len(plain) < 600, f"{how}: {result.stderr}"
        assert not out.exists(), f"{how}: something was written"
    left = contents(copy)
    assert {key: left.get(key) for key in before} == before, f"{how}: an input was changed or lost"
    return how, result.exit_code


def failures(cases: int, seed: int, target: Target, place: Path, counted: Counter[str]) -> list[str]:
    """Go through cases of one kind, and count how many were used and refused; what went wrong."""
    wrong = []
    for number in range(cases):
        folder = place / str(number)
        folder.mkdir()
        try:
            _, code = check_case(target, folder, np.random.default_rng([seed, number]))
        except AssertionError as error:
            cause = "".join(traceback.format_exception(error.__cause__)[-2:]) if error.__cause__ else ""
            wrong.append(f"case {number} of seed {seed}: {error}\n{cause}")
        else:
            counted["used" if code == 0 else "refused"] += 1
        shutil.rmtree(folder, ignore_errors=True)
    return wrong
