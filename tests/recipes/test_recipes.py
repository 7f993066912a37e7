"""Every recipe that comes with weightgen: checked, and carried out in miniature."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tiny_runs import QUERIES, SHARED, SHRINKAGES, TINY_FIXED, TINY_ZOO, WAYS, files_below, succeed

from weightgen.config.build import check_components
from weightgen.config.loading import check, load_recipe, to_yaml
from weightgen.config.names import recipe_names
from weightgen.config.recipe import Recipe
from weightgen.runs.folder import RunFolder
from weightgen.runs.methods import chosen_methods

ROOT = Path(__file__).parents[2] / "recipes"
FILES = sorted(ROOT.rglob("*.yaml"))
NAMES = [path.relative_to(ROOT).with_suffix("").as_posix() for path in FILES]
SMALL = {
    "conv4": ("backbone.options.width=5",),
    "resnet12": ("backbone.options.widths=[3, 4, 5, 6]",),
    "class_transformer": ("denoiser.width=16", "denoiser.depth=1"),
    "gradient_mlp": ("denoiser.width=16", "denoiser.time_width=6"),
    "token_transformer": ("denoiser.width=12", "denoiser.depth=1"),
    "learnt_descent": ("denoiser.width=9", "denoiser.rounds=2"),
    "local_targets": ("conditioner.width=7",),
    "OneStepScheduler": ("generation.steps=1", "generation.draw_steps=1"),
    "dataset_encoder": ("conditioner.width=8",),
    "latent": ("space.width=4", "space.hidden=32", "space.steps=200", "space.learning_rate=0.01"),
    "chunk_transformer": ("denoiser.width=12", "denoiser.depth=1", "space.token_width=9", "training.folds=1"),
}
"""How a backbone, a denoiser, a conditioner or a chain becomes small; one that is not here is taken as it is."""
TRAINED_HERE = (
    *("backbone.model=conv4", "backbone.pretrained=false", "data.classes=null", "training.unlabelled=[3, 4]"),
)
"""What a recipe for a pretrained backbone takes beside, to be carried out with a tiny one."""
METHOD_KEYS = {
    *("name", "kind", "accuracy", "ci95", "delta", "delta_ci95", "delta_ci95_classes"),
    *("ms_per_episode", "ece", "norm_ratio", "novelty", "ece_floor", "ood_auroc", "drift"),
}


def small(recipe: Recipe) -> list[str]:
    if recipe.data.test_images:
        return [*TINY_FIXED]
    names = (recipe.backbone.model or "", recipe.denoiser.name, recipe.conditioner.name, recipe.space.name)
    names = (*names, recipe.scheduler.name)
    zoo = TINY_ZOO if recipe.zoo.targets == "trajectories" else ()
    settled = SHRINKAGES if recipe.standardizer.map == "whiten" else ()
    if recipe.backbone.pretraining is None:
        names = ("conv4", *names)
        settled = (*settled, *TRAINED_HERE)
    always = [*SHARED, "evaluation.episodes=4", "generation.draw_steps=2", *settled, *zoo]
    return [*always, *(override for name in names for override in SMALL.get(name, ()))]


def test_there_are_recipes() -> None:
    assert {"pdiff", "d2nwg"} <= set(NAMES)
    assert {"metadiff", "mcdi", "paper/metadiff", "transfer/metadiff", "transfer/mcdi"} <= set(NAMES)
    assert recipe_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_fits_together(name: str) -> None:
    check_components(load_recipe(name))
    check_components(load_recipe(name, small(load_recipe(name))))


@pytest.mark.parametrize("name", NAMES)
def test_the_resolved_form_says_the_same(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert check(yaml.safe_load(to_yaml(recipe)), source=name) == recipe
    (tmp_path / "resolved.yaml").write_text(to_yaml(recipe))
    assert load_recipe(str(tmp_path / "resolved.yaml")) == recipe


@pytest.mark.parametrize(("name", "path"), list(zip(NAMES, FILES, strict=True)), ids=NAMES)
def test_the_header_says_what_it_is_and_how_to_run_it(name: str, path: Path) -> None:
    lines = path.read_text().splitlines()
    header = [line for line in lines[:5] if line.startswith("#")]
    assert len(header[0]) > 30
    assert any(f"weightgen train {name}" in line for line in header)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_sections_stand_in_the_order_of_the_data(path: Path) -> None:
    sections = list(yaml.safe_load(path.read_text()))
    assert sections == [name for name in Recipe.model_fields if name in sections]


def components(name: str) -> tuple[str, ...]:
    recipe = load_recipe(name)
    sections = (recipe.selector, recipe.space, recipe.conditioner, recipe.denoiser, recipe.scheduler)
    return tuple(section.name for section in sections)


TRAINED = [name for name in NAMES if not load_recipe(name).data.test_images]
USED = {components(name): name for name in reversed(TRAINED)}.values()
"""One recipe of each set of components: what follows a training sees these, and no recipe."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRAINED if name not in USED])
def test_a_small_version_trains(name: str, images: Path, tmp_path: Path) -> None:
    options = (*small(load_recipe(name)), "data.novel=0", "--out", tmp_path, "--format", "json", "--quiet")
    result = json.loads(succeed("train", name, f"data={images}", *options).stdout)
    assert (result["trained"], result["evaluations"]) == (True, [])
    assert RunFolder(Path(result["run"])).generator().class_names is None


@pytest.mark.slow
@pytest.mark.parametrize("name", USED)
def test_a_small_version_runs_from_end_to_end(
    name: str, images: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.parquet").symlink_to(images)
    options = (*small(load_recipe(name)), "evaluation.shots=[1]")
    result = json.loads(succeed("train", name, "data=data.parquet", *options, "--format", "json", "--quiet").stdout)
    assert result["trained"]
    generator = RunFolder(Path(result["run"])).generator()
    crops = generator.conditioner.uses_crops
    methods = chosen_methods(None, protocol="episodes", crops=crops, pipeline=generator)
    # Fewer steps are nothing to draw for a chain without noise, nor are its paths where there are none, or costly ones.
    walks = load_recipe(name).zoo.targets == "trajectories" and not generator.costly
    drawn = {"png"} if generator.can_draw or walks else set()
    (alone,) = result["evaluations"]
    assert alone["backbone"] == load_recipe(name, options).backbone.model
    assert [one["name"] for one in alone["methods"]] == methods
    assert all(set(one) == METHOD_KEYS for one in alone["methods"])
    assert (alone["ways"], alone["shots"], alone["queries"]) == (WAYS, 1, QUERIES)
    kept = {file.rpartition(".")[2] for file in files_below(tmp_path / "runs") if "." in Path(file).name}
    assert kept == {"yaml", "jsonl", "json", "safetensors", "md", "html", *drawn}

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    run = Path("..") / result["run"]
    given = ("--generator", run, "--support", pictures / "support", "--format", "json")
    written = json.loads(succeed("generate", *given).stdout)
    assert (len(written["classes"]), written["support_images"]) == (WAYS, WAYS * 2)
    predictions = json.loads(succeed("predict", "--head", "head", pictures / "query", "--format", "json").stdout)
    assert len(predictions) == WAYS * 3
    assert {one["class_name"] for one in predictions} <= set(written["classes"])
    for one in predictions:
        assert sum(one["probabilities"].values()) == pytest.approx(1)

    before = {one["name"]: one["accuracy"] for one in alone["methods"]}
    (again,) = json.loads(succeed("evaluate", run, "--methods", f"{methods[0]},ridge", "--format", "json").stdout)
    assert {one["name"]: one["accuracy"] for one in again["methods"]}.items() <= before.items()

    monkeypatch.chdir(tmp_path)
    compared = ("data=data.parquet", *options, "--methods", "ridge", "--format", "json", "--quiet")
    rows = json.loads(succeed("compare", name, *compared).stdout)["rows"]
    assert [row["name"] for row in rows if row["kind"] != "ablation"] == [name, "ridge", "raw_centroid"]
    assert (rows[0]["memorisation"] is None) == generator.conditioner.adapts
    assert len(list(Path("runs").iterdir())) == 1  # the run that was there
