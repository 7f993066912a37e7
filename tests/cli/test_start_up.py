"""Commands that need no torch import none: they answer while others would still be loading libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import refuse, succeed

HEAVY = {"torch", "diffusers", "timm", "transformers", "datasets", "accelerate", "sklearn", "numpy", "PIL"}
RUN = """
import json, sys
from weightgen.cli.main import app
try:
    app(sys.argv[1:])
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "--version",
        "train --help",
        "head info --help",
        "recipes ls",
        "recipes cat metadiff",
        "recipes cp metadiff copy.yaml",
        "recipes schema",
        "recipes validate mcdi --quiet",
        "components",
    ],
)
def test_a_command_that_needs_no_torch_imports_none(command: str, tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", RUN, *command.split()], capture_output=True, cwd=tmp_path, check=True)
    assert done.stdout or "cp" in command
    imported = set(json.loads(done.stderr.splitlines()[-1]))
    assert "typer" in imported
    assert imported & HEAVY == set()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("denoiser.widht=3", "denoiser has no option 'widht'; did you mean 'width'?"),
        ("denoiser.feature_width=3", "denoiser has no option 'feature_width'"),
        ("denoiser.width=wide", "denoiser.width: input should be a valid integer (got 'wide')"),
        ("denoiser=class_transfomer", "unknown name 'class_transfomer' among denoisers; did you mean"),
        ("zoo.tasks=5", "zoo: tasks and fit are for targets: trajectories"),
        ("zoo.targets=prototypes", "unknown name 'prototypes' among zoo_targets"),
        ("scheduler=DDMPScheduler", "unknown scheduler 'DDMPScheduler'; did you mean 'DDPMScheduler'?"),
        ("scheduler.beta_strat=0.1", "scheduler.DDPMScheduler has no option 'beta_strat'; did you mean 'beta_start'?"),
        ("generation.draw_scheduler=DDIM", "unknown scheduler 'DDIM'"),
    ],
)
def test_a_wrong_name_or_option_is_refused_by_the_line_of_train(override: str, line: str) -> None:
    said = refuse("recipes", "validate", "metadiff", override)
    assert line in said
    assert said == refuse("train", "metadiff", override)


def test_a_changed_recipe_is_refused_for_what_only_the_libraries_know(images: Path) -> None:
    succeed("recipes", "validate", "transfer/metadiff")
    small = (f"data={images}", "data.backbone_classes=0", "evaluation.queries=5")
    for override, line in {
        "data=/nowhere": "/nowhere",
        "backbone=resnet5x": "timm has no model 'resnet5x'",
        "backbone=/nowhere/x.safetensors": "/nowhere/x.safetensors",
        "denoiser.width=7": "width",
        "training.ways=[9000,9000]": "training.ways",
    }.items():
        assert line in refuse("recipes", "validate", "metadiff", *small, override)
