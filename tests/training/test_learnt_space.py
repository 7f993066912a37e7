"""The stage in which a parameter space learns to give a zoo's values back."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from made_up_chunks import made_up_plan
from made_up_pixels import WIDTH

from weightgen.checkpoint import CheckpointFolder
from weightgen.errors import InputError
from weightgen.interfaces import ParameterSpace
from weightgen.spaces.latent import Latent
from weightgen.training.learnt_space import Reconstructions, train_space
from weightgen.zoo.build import ZooPlan, task_problem
from weightgen.zoo_targets.checkpoints import Checkpoints

CLASSES = 6


def options_of(space: ParameterSpace) -> dict[str, Any]:
    return {key: value for key, value in space.config.items() if not key.startswith("_")}


@pytest.fixture(scope="module")
def plan() -> ZooPlan:
    """Of two runs that end far from each other: their mean classifies worse than either."""
    targets = Checkpoints(runs=2, steps=40, count=8, learning_rate=0.02, batch=42)
    return made_up_plan(targets, options={"renew_statistics": True})


@pytest.fixture(scope="module")
def values(plan: ZooPlan) -> list[torch.Tensor]:
    return [plan.fit_shard(number).targets for number in range(plan.shards)]


class Stage:
    """A space and its training in a folder; every instance starts from the same weights."""

    def __init__(self, plan: ZooPlan, values: list[torch.Tensor], folder: Path, **options: Any) -> None:
        chosen = {"steps": 120, "hidden": 12, "depth": 2, "learning_rate": 0.01, "batch": 16, **options}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            of = {"name": "network", **options_of(plan.space)}
            self.space = Latent(of=of, feature_width=WIDTH, **chosen)
        self.space.attach(plan.sources[0].space.adaptable.backbone)
        self.space.fit(values)
        self.values, self.folder, self.plan = values, folder, plan

    def judged(self) -> Reconstructions:
        ends = torch.cat([each[-2:, -1] for each in self.values])
        classes = torch.arange(CLASSES).expand(len(ends), -1)
        problem = task_problem(self.plan.sources[0], classes, most_images=None, draw=torch.Generator().manual_seed(0))
        return Reconstructions(ends, problem, 100 / CLASSES)

    def records(self) -> Any:
        checkpoints, accelerator = CheckpointFolder(self.folder), Accelerator(cpu=True)
        return train_space(
            self.space, self.values, self.judged, seed=1, checkpoints=checkpoints, accelerator=accelerator
        )


def test_it_learns_and_says_how_good_reconstructed_networks_are(
    plan: ZooPlan, values: list[torch.Tensor], tmp_path: Path
) -> None:
    stage = Stage(plan, values, tmp_path)
    records = list(stage.records())
    assert [record["step"] for record in records] == list(range(1, 121))
    assert records[-1]["reconstruction_error"] < 0.3 * records[0]["reconstruction_error"]
    assert records[-1]["reconstructed_accuracy"] > 100 / CLASSES + 0.5 * (records[-1]["zoo_accuracy"] - 100 / CLASSES)
    assert sum("reconstructed_accuracy" in record for record in records) == 10


def test_codes_of_the_zoo_have_mean_0_and_unit_variance(
    plan: ZooPlan, values: list[torch.Tensor], tmp_path: Path
) -> None:
    stage = Stage(plan, values, tmp_path, steps=20, variational=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reconstructions, "check", lambda *_: None)
        list(stage.records())
    codes = torch.cat([stage.space.encode(each) for each in values])[:, -1]
    assert codes.shape[1:] == (stage.space.shape_options["sizes"][0] // 4, 4)
    torch.testing.assert_close(codes.mean(0), torch.zeros(codes.shape[1:]), atol=1e-4, rtol=0)
    assert float(codes.square().mean()) == pytest.approx(1, abs=1e-3)


def test_a_resumed_stage_ends_with_the_same_bits(plan: ZooPlan, values: list[torch.Tensor], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reconstructions, "check", lambda *_: None)
        whole, killed = (Stage(plan, values, tmp_path / name, steps=20) for name in ("whole", "killed"))
        expected = list(whole.records())
        list(islice(killed.records(), 7))
        resumed = Stage(plan, values, tmp_path / "killed", steps=20)
        rest = list(resumed.records())
        assert rest == expected[-len(rest) :]
        assert 10 < len(rest) < 20
        again = Stage(plan, values, tmp_path / "killed", steps=20)
        assert list(again.records()) == []
    for other in (resumed, again):
        for name, tensor in whole.space.state_dict().items():
            assert torch.equal(other.space.state_dict()[name], tensor), name


def test_reconstructions_at_chance_end_training_with_the_option_to_change(
    plan: ZooPlan, values: list[torch.Tensor], tmp_path: Path
) -> None:
    stage, own = Stage(plan, values, tmp_path, steps=2), plan.space.adaptable.own
    stage.space.decode = lambda codes: -own.expand(len(codes), -1)  # networks of zeros, which take all for one class
    with pytest.raises(InputError, match=r"at chance \(16.7 %\).*raise space.steps or space.width, or lower") as caught:
        list(stage.records())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is 0; it must be above 0"),
        ({"latent_noise": -1.0}, "latent_noise is -1.0; it must be 0 or more"),
        ({"of": {}}, "of names no space"),
        ({"of": {"name": "latent"}}, "of names no space"),
    ],
)
def test_options_that_make_no_space_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Latent(**{"of": {"name": "class_rows"}, "feature_width": WIDTH, **options})
