"""Recipe files and overrides, and one line for whatever is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from weightgen import backbones
from weightgen.config.build import check_components
from weightgen.config.loading import FROM_SCRATCH, check, load_recipe, recipe_hash, to_yaml
from weightgen.config.names import recipe_names, recipe_path
from weightgen.config.recipe import Recipe
from weightgen.errors import InputError

WRONG = {
    "unknown section": ("trainig.steps=5", "unknown key 'trainig'; did you mean 'training'?"),
    "unknown key": ("training.step=5", "unknown key 'training.step'; did you mean 'steps'?"),
    "unknown key, deep": ("backbone.pretraining.stepz=5", "unknown key 'backbone.pretraining.stepz'; did you mean"),
    "unknown key, nothing near": ("evaluation.zzz=5", "it is one of: episodes, queries, shots, ways"),
    "word for number": ("training.steps=many", "training.steps: input should be a valid integer"),
    "fraction for number": ("training.steps=2.5", "training.steps: input should be a valid integer"),
    "zero": ("training.steps=0", "training.steps: input should be greater than 0 (got 0)"),
    "not finite": ("training.learning_rate=.inf", "training.learning_rate: input should be a finite number"),
    "list for section": ("training=[1]", "'training=[1]': this section has no main value"),
    "section without main value": ("evaluation=5", "name an option, e.g. evaluation.steps=…"),
    "unknown choice": ("backbone.pretraining.head=cosin", "backbone.pretraining.head: input should be"),
    "unknown split": ("data.split=cifar", "data.split: input should be 'cifar_fs', 'fc100'"),
    "share above 1": ("data.novel=1.5", "data.novel: must be a whole number, or a share between 0 and 1 (got 1.5)"),
    "share below 0": ("data.novel=-0.1", "data.novel: must be a whole number, or a share between 0 and 1 (got -0.1)"),
    "true for a number": ("training.steps=true", "training.steps: input should be a valid integer"),
    "an option twice": ("denoiser={name: a, name: b}", "the value is not valid YAML ('name' is given twice)"),
    "a value within itself": ("denoiser={a: &x {b: *x}}", "is not valid YAML (an anchor stands within itself)"),
    "negative count": ("data.novel=-3", "data.novel: input should be"),
    "wrong order": ("training.ways=[7, 3]", "training: ways is [7, 3]: put the smaller number first"),
    "one way": ("training.ways=[1, 3]", "training: ways starts at 1"),
    "one way to evaluate": ("evaluation.ways=1", "evaluation.ways: input should be greater than or equal to 2"),
    "no shots to evaluate": ("evaluation.shots=[]", "evaluation.shots: tuple should have at least 1 item"),
    "one number of two": ("training.ways=[2]", "training.ways: must be a list such as [5, 20]"),
    "three numbers of two": ("training.ways=[1, 2, 3]", "training.ways: must be a list such as [5, 20]"),
    "a number for a list": ("evaluation.shots=5000", "evaluation.shots: must be a list such as [1, 5]"),
    "a range that falls": ("evaluation.shots=[5-1]", "a range from more to less; write 1-5"),
    "half a range": ("evaluation.shots=[1-]", "neither a number nor a range such as 1-10"),
    "a yes for a number": ("seed=true", "seed: input should be a valid integer"),
    "null": ("seed=null", "seed: input should be a valid integer"),
    "two sources of weights": ("backbone.pretrained=true", "give one of pretrained, checkpoint and pretraining"),
    "weights and pretraining": ("backbone.model=resnet50.a1_in1k", "names weights, and pretraining starts from random"),
    "no source of weights": ("backbone={model: conv4}", "random weights give no features"),
    "no model": ("backbone={pretrained: true}", "backbone: give model, a timm name"),
    "mean with a scheduler": ("generation.scheduler=DDIMScheduler", "drop scheduler DDIMScheduler or use read: draws"),
    "identity stretched": ("standardizer.map=identity", "set unit_length: false"),
    "no name": ("denoiser={width: 5}", "key 'denoiser.name' is missing; add it"),
    "not an override": ("training.steps", "'training.steps' is not an override; write key=value"),
    "no key": ("=5", "'=5' is not an override"),
    "broken value": ("training.ways=[5", "the value is not valid YAML"),
}

MISFITS = {
    "a word for a number": ("denoiser.rounds=many", "denoiser.rounds: input should be a valid integer (got 'many')"),
    "a word for a yes": ("denoiser.linear=maybe", "denoiser.linear: input should be a valid boolean (got 'maybe')"),
    "a number below": ("denoiser.rounds=0", "rounds is 0; it must be 1 or more"),
    "no width": ("denoiser.width=0", "width is 0; it must be 1 or more"),
    "a depth below": ("denoiser.depth=-1", "depth is -1; it must be 1 or more"),
    "more than memory holds": ("denoiser.width=1000000", "can't allocate memory"),
    "an option that is missing": ("selector=lora", "selectors.lora: option 'target_modules' is missing; add it"),
    "no chain": ("scheduler.num_train_timesteps=0", "scheduler.num_train_timesteps is 0; give a whole number from 1"),
    "a text for a chain": ("scheduler.num_train_timesteps=1e3", "is '1e3'; give a whole number from 1"),
    "a weight below 0": ("objective.weight=-1.0", "weight is -1.0"),
    "heads that do not divide": ("denoiser.width=65", "width 65 is no multiple of heads 4"),
    "a draw scheduler for noise alone": (
        "generation.draw_scheduler=PNDMScheduler",
        "takes no denoiser that predicts clean",
    ),
    "a draw scheduler without noise": ("generation.draw_scheduler=MeanDDPMScheduler", "adds no noise"),
    "heads of a plain transformer": (
        "denoiser={name: token_transformer, width: 65}",
        "width 65 is no multiple of heads 4",
    ),
    "no heads of a plain transformer": ("denoiser={name: token_transformer, heads: 0}", "heads is 0; it must be 1"),
    "a condition without a variance": ("conditioner.shrink=false", "needs the variance of the condition"),
    "unlabelled images that teach nothing": ("denoiser={name: token_transformer}", "set it to [0, 0]"),
    "no heads": ("denoiser.heads=0", "heads is 0; it must be 1"),
    "unknown component": ("denoiser=class_transformr", "did you mean 'class_transformer'?"),
    "unknown option": ("denoiser.widht=5", "denoiser has no option 'widht'; did you mean 'width'?"),
    "given by the program": ("denoiser.feature_width=5", "denoiser has no option 'feature_width'"),
    "option of another component": ("conditioner.width=5", "conditioner has no option 'width'"),
    "unknown conditioner": ("conditioner=task_prototype", "did you mean 'task_prototypes'?"),
    "unknown objective": ("objective=query_los", "did you mean 'query_loss'?"),
    "selector without a zoo": ("selector=bias", "space 'class_rows' does not hold 'bias'; set space.name to chunks"),
    "a word that YAML takes for another": (
        "denoiser={name: token_transformer, width: no}",
        "denoiser.width: input should be a valid integer (got False)",
    ),
    "outside module": ("denoiser=no_package.my_denoiser", "cannot import 'no_package.my_denoiser'"),
    "unknown scheduler": ("scheduler=DDPMSchedular", "DDPMScheduler"),
    "unknown reader": ("generation={read: draws, scheduler: DDIMSchedular}", "DDIMScheduler"),
    "more steps than the chain": (
        "generation.steps=1001",
        "generation.steps is 1001 and scheduler.num_train",
    ),
}


def refused(*overrides: str, name: str = "metadiff") -> str:
    """The complaint about a recipe; one line."""
    with pytest.raises(InputError) as caught:
        check_components(load_recipe(name, overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("override", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_override_is_named(override: str, said: str) -> None:
    assert said in refused(override)


@pytest.mark.parametrize(("override", "said"), MISFITS.values(), ids=MISFITS)
def test_a_component_that_does_not_fit_is_named(override: str, said: str) -> None:
    assert said in refused(override)


def test_other_data_are_taken_with_all_their_classes() -> None:
    assert load_recipe("specialise").data.classes == 100
    assert load_recipe("specialise", ["data=birds"]).data.classes is None
    assert load_recipe("specialise", ["data.classes=7", "data=birds"]).data.classes == 7


def test_an_override_changes_one_option_and_nothing_else() -> None:
    before, after = (load_recipe("metadiff", overrides).model_dump() for overrides in ([], ["training.steps=77"]))
    assert before["training"].pop("steps") != after["training"].pop("steps") == 77
    assert before == after


def test_later_overrides_win() -> None:
    assert load_recipe("metadiff", ["seed=3", "seed=5"]).seed == 5


def test_data_takes_a_spec() -> None:
    recipe, plain = load_recipe("metadiff", ["data=birds.parquet"]), load_recipe("metadiff")
    assert recipe.data.source == "birds.parquet"
    assert recipe.data.backbone_classes == plain.data.backbone_classes == 200


def test_a_hub_spec_needs_no_quotes() -> None:
    assert load_recipe("metadiff", ["data=hub:owner/name:test"]).data.source == "hub:owner/name:test"


def test_backbone_takes_a_file() -> None:
    backbone = load_recipe("metadiff", ["backbone=birds.safetensors"]).backbone
    assert (backbone.checkpoint, backbone.model, backbone.pretraining) == ("birds.safetensors", None, None)


@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_a_backbone_without_published_weights_keeps_its_pretraining(name: str) -> None:
    before = load_recipe("metadiff").backbone
    assert load_recipe("metadiff", [f"backbone={name}"]).backbone == before.model_copy(update={"model": name})


def test_all_backbones_of_our_own_and_no_others_are_pretrained_when_named_alone() -> None:
    assert set(FROM_SCRATCH) == set(backbones.__all__)


@pytest.mark.parametrize(
    "name",
    ["resnet50.a1_in1k", "resnet50", "timm/resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k", "local-dir:heads/birds"],
)
def test_a_bare_name_means_its_published_weights(name: str) -> None:
    backbone = load_recipe("metadiff", [f"backbone={name}"]).backbone
    assert (backbone.model, backbone.pretrained, backbone.pretraining) == (name, True, None)


def test_pretraining_from_scratch_is_asked_for_by_name() -> None:
    backbone = load_recipe("metadiff", ["backbone.model=resnet50", "backbone.pretraining.steps=7"]).backbone
    assert (backbone.model, backbone.pretrained) == ("resnet50", False)
    assert backbone.pretraining is not None and backbone.pretraining.steps == 7


AS_WRITTEN = ["no", "on", "007", "1e5", "1_000", "null", "~", "2024-01-31", "2024-13-45", "12:30", "birds #2", "~/x"]
AS_WRITTEN += [r"C:\photos", "a: b", "*.parquet", "@home", "=x", "<<", "0.50", "0x1F", "true", "Größe", " x "]


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_paths_on_the_command_line_are_taken_as_they_are_written(name: str) -> None:
    assert load_recipe("metadiff", [f"data={name}"]).data.source == name


@pytest.mark.parametrize("name", [name for name in AS_WRITTEN if name not in ("0.50", "007", "0x1F", "1_000")])
def test_where_a_number_could_stand_only_a_number_is_one(name: str) -> None:
    assert load_recipe("metadiff", [f"data.novel={name}"]).data.novel == name
    assert load_recipe("metadiff", ["data.novel=0.50"]).data.novel == 0.5
    assert load_recipe("metadiff", ["data.novel=7"]).data.novel == 7


@pytest.mark.parametrize("section", ["backbone_classes", "validation", "novel"])
def test_class_names_are_taken_as_they_are_written(section: str, tmp_path: Path) -> None:
    names = ["no", "yes", "0", "007", "null", "1e5", "2024-01-31", "off", "3.10", "quoted: one"]
    written = "[no, yes, 0, 007, null, 1e5, 2024-01-31, off, 3.10, 'quoted: one']"
    assert getattr(load_recipe("metadiff", [f"data.{section}={written}"]).data, section) == names
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"data: {{source: 007, {section}: {written}}}\nbackbone: {{model: conv4, pretraining: {{}}}}\n")
    recipe = load_recipe(str(mine))
    assert (getattr(recipe.data, section), recipe.data.source) == (names, "007")
    mine.write_text(to_yaml(recipe))  # as a run folder keeps it
    assert load_recipe(str(mine)) == recipe


@pytest.mark.parametrize("written", ["010", "10", "+10", "0xA"])
def test_a_leading_zero_makes_no_other_number(written: str, tmp_path: Path) -> None:
    assert load_recipe("metadiff", [f"training.steps={written}"]).training.steps == 10
    (tmp_path / "mine.yaml").write_text(
        f"data: {{source: glyphs}}\nbackbone: {{model: conv4, pretraining: {{}}}}\ntraining: {{steps: {written}}}\n"
    )
    assert load_recipe(str(tmp_path / "mine.yaml")).training.steps == 10


def test_a_time_is_no_number() -> None:
    with pytest.raises(InputError, match=r"training\.steps: .*'12:30'"):
        load_recipe("metadiff", ["training.steps=12:30"])


def test_words_that_are_no_names_keep_their_meaning() -> None:
    overrides = ["data.turned=yes", "backbone.checkpoint=null", "data.split=null", "seed=007", "data.further=[on, 2]"]
    recipe = load_recipe("metadiff", overrides)
    assert (recipe.data.turned, recipe.backbone.checkpoint, recipe.data.split, recipe.seed) == (True, None, None, 7)
    assert recipe.data.further == ["on", "2"]


def test_a_component_by_name_drops_the_options_of_the_old_one() -> None:
    recipe = load_recipe("metadiff", ["denoiser=gradient_mlp", "denoiser.width=9"])
    assert recipe.denoiser.name == "gradient_mlp"
    assert recipe.denoiser.options == {"width": 9}


def test_other_bare_sections() -> None:
    overrides = ["seed=4", "zoo=ideal_prototypes", "standardizer=scale", "scheduler=DDIMScheduler"]
    recipe = load_recipe("metadiff", overrides)
    assert (recipe.seed, recipe.zoo.targets, recipe.standardizer.map) == (4, "ideal_prototypes", "scale")
    assert recipe.scheduler.options == {}


def test_no_needs_no_quotes() -> None:
    assert load_recipe("metadiff", ["training.precision=no"]).training.precision == "no"
    assert load_recipe("metadiff", ["training.precision=bf16"]).training.precision == "bf16"


def test_a_section_as_a_mapping_replaces_it() -> None:
    recipe = load_recipe("metadiff", ["generation={read: draws, scheduler: DDIMScheduler, samples: 3}"])
    assert (recipe.generation.samples, recipe.generation.steps) == (3, 5)


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 1\n")
    assert "key 'backbone' is missing; add it" in refused(name=str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a recipe"),
        (b"- a\n- b\n", "is not a recipe"),
        (b"seed: [1\n", "is not valid YAML"),
        (
            b"seed: 1\ndata: {source: a}\nseed: 2\n",
            "is not valid YAML ('seed' is given twice at line 3,",
        ),
        (b"data: &a {b: *a}\n", "is not valid YAML (an anchor stands within itself)"),
        (b"seed: \xff\xfe\n", "cannot be read"),
        (b"a: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert refused(name=str(path)).startswith(f"{path}: {said}")


def test_an_unknown_recipe_is_named_with_the_nearest() -> None:
    assert (
        refused(name="metadif") == "recipe 'metadif': no such file, nor a recipe of weightgen; did you mean 'metadiff'?"
    )


def test_recipes_are_found_by_name_and_by_the_path_of_a_checkout() -> None:
    root = Path(__file__).parents[2]
    assert recipe_path("recipes/paper/metadiff.yaml").resolve() == root / "recipes" / "paper" / "metadiff.yaml"
    assert recipe_path("paper/metadiff") == root / "recipes" / "paper" / "metadiff.yaml"
    assert {"metadiff", "paper/metadiff"} <= set(recipe_names())


def test_the_resolved_recipe_has_every_option() -> None:
    recipe = load_recipe("metadiff")
    assert to_yaml(recipe).count("\n") > 50
    for section in Recipe.model_fields:
        assert f"{section}:" in to_yaml(recipe)


def test_the_hash_is_of_values_not_of_spelling() -> None:
    resolved = load_recipe("metadiff")
    assert recipe_hash(check(resolved.model_dump(), source="")) == recipe_hash(resolved)
    assert recipe_hash(load_recipe("metadiff", ["training.learning_rate=0.001"])) == recipe_hash(resolved)


@pytest.mark.parametrize("override", ["seed=1", "training.steps=601", "denoiser.width=65", "data=other.parquet"])
def test_the_hash_changes_with_any_option(override: str) -> None:
    assert recipe_hash(load_recipe("metadiff", [override])) != recipe_hash(load_recipe("metadiff"))


def test_loading_does_not_change_the_shipped_recipe() -> None:
    load_recipe("metadiff", ["denoiser.width=9"])
    assert load_recipe("metadiff").denoiser.options["width"] != 9
