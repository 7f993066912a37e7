"""The components that the guide shows, run as they stand there by recipes of a package outside weightgen."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from made_up_chunks import made_up_plan
from tiny_runs import SHARED, SHRINKAGES, succeed

from weightgen.interfaces import Conditioner, Denoiser, Method, Objective, ParameterSpace, Selector, ZooTargets
from weightgen.registry import create, get

GUIDE = Path(__file__).parents[1] / "docs" / "extending.md"
EXAMPLES = {
    "biases_of_blocks": ("selectors", Selector),
    "unshared_start": ("spaces", ParameterSpace),
    "support_medians": ("conditioners", Conditioner),
    "straight_line": ("denoisers", Denoiser),
    "absolute_error": ("objectives", Objective),
    "averaged_runs": ("zoo_targets", ZooTargets),
    "nearest_image": ("methods", Method),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The examples as a package that can be imported, and nothing of it afterwards."""
    for language, name, code in re.findall(
        r"```(python|yaml)\n# (my_\w+/\w+\.\w+)\n(.*?)```", GUIDE.read_text(), re.DOTALL
    ):
        assert name.endswith({"python": ".py", "yaml": ".yaml"}[language])
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for module in [name for name in sys.modules if name.startswith(("my_project", "my_flow"))]:
        del sys.modules[module]


def test_there_is_an_example_of_every_kind(project: Path) -> None:
    assert {path.stem for path in (project / "my_project").glob("*.py")} == set(EXAMPLES)
    for name, (kind, base) in EXAMPLES.items():
        assert issubclass(get(kind, f"my_project.{name}"), base)


@pytest.mark.usefixtures("unchecked")  # the few annotations are not those of the base classes
def test_heads_are_generated_by_the_examples(project: Path, images: Path) -> None:
    parts = ("conditioner=my_project.support_medians", "denoiser=my_project.straight_line")
    succeed(
        *(
            "train",
            "metadiff",
            f"data={images}",
            *SHARED,
            *SHRINKAGES,
            "backbone.options.width=5",
            *parts,
            "objective=my_project.absolute_error",
        ),
        *("data.novel=5", "evaluation.shots=[1]", "training.unlabelled=[0,0]"),
    )
    for module in [name for name in sys.modules if name.startswith("my_project")]:
        del sys.modules[module]  # as another process would find it
    methods = "generator,no_denoiser,my_project.nearest_image"
    evaluations = json.loads(succeed("evaluate", "--methods", methods, "--shots", "1", "--format", "json").stdout)
    accuracies = {method["name"]: method["accuracy"] for method in evaluations[0]["methods"]}
    assert set(accuracies) == {"generator", "no_denoiser", "my_project.nearest_image", "raw_centroid"}
    assert all(0 <= accuracy <= 100 for accuracy in accuracies.values())


@pytest.mark.usefixtures("unchecked")
def test_parameters_inside_the_backbone_are_generated_by_the_examples(project: Path, images: Path) -> None:
    succeed(
        *("train", "mcdi_norm_affine", f"data={images}", *SHARED, "backbone.options.width=6"),
        *("selector=my_project.biases_of_blocks", "space=my_project.unshared_start", "space.token_width=8"),
        *("zoo.tasks=2", "zoo.fit.epochs=3", "scheduler.num_train_timesteps=7", "generation.steps=7"),
        *("denoiser.width=8", "denoiser.heads=2", "data.novel=0", "training.queries=1"),
    )
    (run,) = Path("runs").glob("mcdi_norm_affine-*")
    index = json.loads((run / "generator" / "model_index.json").read_text())
    assert index["space"] == ["my_project.unshared_start", "UnsharedStart"]


@pytest.mark.usefixtures("unchecked")
def test_a_method_of_two_components_and_a_recipe_is_compared(project: Path, images: Path) -> None:
    """The package of the guide: its denoiser, its objective, its recipe, and no other file."""
    assert {path.name for path in (project / "my_flow").iterdir()} == {
        "velocity_field.py",
        "middle_times.py",
        "mine.yaml",
    }
    options = (*SHARED, *SHRINKAGES, "backbone.options.width=5", "denoiser.width=9", "evaluation.shots=[1]")
    how = ("--data", images, "--methods", "ridge", "--format", "json")
    board = json.loads(succeed("compare", "my_flow/mine.yaml", *options, *how).stdout)
    assert [row["name"] for row in board["rows"]] == ["my_flow/mine", "ridge", "raw_centroid"]
    assert board["rows"][0]["memorisation"]["diversity"]["noise"] > 0
    (run,) = Path("runs").glob("mine-*")
    index = json.loads((run / "generator" / "model_index.json").read_text())
    assert index["denoiser"] == ["my_flow.velocity_field", "VelocityField"]


@pytest.mark.usefixtures("project")
def test_a_zoo_is_made_of_the_example() -> None:
    of_runs = create("zoo_targets", "checkpoints", {"count": 4})
    averaged = create("zoo_targets", "my_project.averaged_runs", {"count": 4})
    plain, near = (made_up_plan(targets).fit_shard(0).targets for targets in (of_runs, averaged))
    torch.testing.assert_close(near.mean(0), plain.mean(0))
    assert near.std(0).sum() == pytest.approx(float(plain.std(0).sum()) / 2, rel=1e-5)  # single precision
    assert made_up_plan(of_runs).key() != made_up_plan(averaged).key()
