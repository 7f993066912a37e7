"""A generator for one fixed set of classes, from its recipe to predictions; `tests/recipes` has the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import SHARED, TINY_FIXED, files_below, refuse, succeed

from weightgen.config.build import check_components
from weightgen.config.loading import load_recipe
from weightgen.data.labelled import class_names, select_classes
from weightgen.data.sources import open_data
from weightgen.errors import InputError
from weightgen.runs.folder import RunFolder
from weightgen.zoo.store import ZooFolder

JSON = ("--format", "json", "--quiet")


@pytest.fixture(scope="module")
def pictures(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """support/ with nine, and query/ with four images of four classes."""
    folder = tmp_path_factory.mktemp("fixed") / "pictures"
    succeed("data", "sample", images, "--ways", 4, "--shots", 9, "--queries", 4, "--out", folder, "--quiet")
    return folder


@pytest.fixture(scope="module")
def run(pictures: Path) -> Path:
    """The folder of a finished run; look, do not touch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHTGEN_CACHE", str(pictures.parent / "cache"))
        out = ("--out", pictures.parent / "runs", *JSON)
        trained_run = json.loads(succeed("train", "pdiff", f"data={pictures / 'support'}", *TINY_FIXED, *out).stdout)
    assert [one["shots"] for one in trained_run["evaluations"]] == [1, 2]
    return Path(trained_run["run"])


def test_the_stages_are_in_the_records_with_the_accuracy_of_reconstructed_networks(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(record["stage"] for record in records)) == ["pretraining", "space", "training"]
    last = [record for record in records if record["stage"] == "space"][-1]
    assert last["step"] == 5
    assert {"reconstruction_error", "reconstructed_accuracy", "zoo_accuracy"} <= set(last)
    assert {file.rpartition(".")[2] for file in files_below(run / "checkpoints") if "." in file} <= {
        "json",
        "safetensors",
    }


def test_baselines_and_the_mean_of_the_zoo_stand_beside_it_on_images_that_training_did_not_see(run: Path) -> None:
    (first, _) = json.loads((run / "report" / "results.json").read_text())
    names = {one["name"] for one in first["methods"]}
    assert {"generator", "zoo_mean", "raw_centroid", "ridge"} <= names
    assert not {"fitted_on_support", "oracle"} & names
    assert "was not fitted; leave it out" in refuse("evaluate", run, "--methods", "oracle")


def test_what_it_writes_is_a_network_for_its_classes_alone(
    run: Path, pictures: Path, images: Path, tmp_path: Path
) -> None:
    printed = succeed(
        "generate", "--generator", run, "--support", pictures / "support", "--out", tmp_path / "head", *JSON
    )
    written = json.loads(printed.stdout)
    assert tuple(written["classes"]) == RunFolder(run).generator().class_names
    predictions = json.loads(succeed("predict", "--head", tmp_path / "head", pictures / "query", *JSON).stdout)
    assert len(predictions) == 16
    succeed("data", "sample", images, "--ways", 2, "--shots", 1, "--queries", 1, "--seed", 5, "--out", tmp_path / "few")
    said = refuse("generate", "--generator", run, "--support", tmp_path / "few" / "support", "--out", tmp_path / "no")
    assert "is none of the 4 that this generator knows" in said


def test_codes_are_compared_with_checkpoints_as_the_networks_that_they_stand_for(
    run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(pictures.parent / "cache"))
    options = (f"data={pictures / 'support'}", *TINY_FIXED, "--runs", run.parent, "--out", tmp_path / "page")
    (row, *_) = json.loads(succeed("compare", "pdiff", *options, "--methods", "ridge", *JSON).stdout)["rows"]
    assert row["name"] == "pdiff" and row["memorisation"]["checkpoints"]["distance"] == pytest.approx(1)
    assert row["memorisation"]["generated"]["distance"] > 0


def test_members_decode_to_the_networks_that_they_were(run: Path) -> None:
    generator, zoo = RunFolder(run).generator(), ZooFolder(run / "zoo").read()
    values = zoo.members(4).path[:, -1]
    inner = generator.space.inner
    torch.testing.assert_close(inner.decode(inner.encode(values)), values)
    assert generator.space.decode(generator.space.encode(values)).shape == values.shape


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.held_out_classes=0.1", "training.held_out_classes is 0.1; 'latent' knows its classes and no others"),
        ("training.folds=2", "training.folds is 2; 'latent' knows"),
        ("zoo={targets: ideal_prototypes}", "are heads; use head, or set zoo.targets"),
        ("zoo.fit.epochs=3", "zoo: tasks and fit are for targets: trajectories; drop fit with checkpoints"),
        ("zoo.counts=3", "zoo has no option 'counts'; did you mean 'count'"),
        ("zoo={targets: checkpoint}", "unknown name 'checkpoint' among zoo_targets; did you mean 'checkpoints'"),
        ("space.of={name: network, tokens: 3}", "space.of has no option 'tokens'"),
        ("denoiser=token_transformer", "does not fit space 'latent'; use chunk_transformer"),
        ("space.depth=0", "depth is 0; it must be above 0"),
    ],
)
def test_what_makes_no_sense_for_fixed_classes_is_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_components(load_recipe("pdiff", [override]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.novel=0.2", "test_images are of the base classes as they are; set novel: 0"),
        ("data.turned=true", "test_images are of the base classes as they are"),
        ("data.test_images=1", "test_images"),
    ],
)
def test_test_images_of_other_classes_are_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("pdiff", [override])


def test_a_backbone_without_its_head_and_too_many_classes_are_refused(pictures: Path, tmp_path: Path) -> None:
    data = (f"data={pictures / 'support'}", *TINY_FIXED, "--out", tmp_path)
    assert "set backbone.pretraining.keep_head: true" in refuse(
        "train", "pdiff", *data, "backbone.pretraining.keep_head=false"
    )
    assert "a cosine head is no layer of the network; set head: linear" in refuse(
        "train", "pdiff", *data, "backbone.pretraining.head=cosine"
    )
    assert "data.classes is 5 and" in refuse("train", "pdiff", *data, "data.classes=5")


@pytest.mark.slow
def test_a_generator_that_is_told_which_classes_writes_a_head_for_some_of_them(images: Path, tmp_path: Path) -> None:
    options = [override for override in SHARED if not override.startswith(("data.", "training.held", "evaluation.q"))]
    data = (
        f"data={images}",
        "data.classes=7",
        "data.backbone_classes=0",
        "data.test_images=0.5",
        "data.validation=0",
        "data.novel=0",
    )
    alone = ("training.held_out_classes=0", "training.folds=1", "training.unlabelled=[0,0]", "evaluation.queries=3")
    alone = (*alone, "evaluation.shots=[1]", "evaluation.episodes=2")
    parts = ("conditioner=class_subset", "denoiser={name: token_transformer, width: 12, depth: 1}")
    parts = (*parts, "backbone.options.width=5")
    printed = succeed("train", "metadiff", *data, *options, *alone, *parts, "--out", tmp_path, *JSON)
    pipeline, every = RunFolder(Path(json.loads(printed.stdout)["run"])).generator(), open_data(str(images))
    known = pipeline.class_names
    assert known is not None and len(known) == 7
    one, other = (pipeline(select_classes(every, names)) for names in ((known[5], known[2]), (known[5], known[1])))
    assert one.class_names == (known[5], known[2])
    assert not torch.equal(one.weight[1], other.weight[1])  # the class decides, for the noise is the same
    unknown = [name for name in class_names(every) if name not in known]
    with pytest.raises(InputError, match="is none of the 7 that this generator knows"):
        pipeline(select_classes(every, unknown[:2]))
    with pytest.raises(InputError, match="knows classes and sees no images"):
        pipeline.extend(one, images)
