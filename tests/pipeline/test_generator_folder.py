"""A generator's folder gives back the same heads, or is refused; it never runs what it holds."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from weightgen import WeightGenerationPipeline
from weightgen.errors import InputError
from weightgen.files import read_json, read_tensors, write_json, write_tensors
from weightgen.records import Episode, LinearHeads
from weightgen.seeds import generator as seeded
from weightgen.spaces.class_rows import ClassRows

MakeGenerator = Callable[..., WeightGenerationPipeline]
DrawEpisode = Callable[..., Episode]
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG: dict[str, Any] = {
    "readout": "cosine",
    "calibration": ((1.0, 2.5),),
    "steps": 4,
    "samples": 3,
    "provenance": {"seed": "0"},
}
FILES = [
    "model_index.json",
    "backbone/config.json",
    "backbone/model.safetensors",
    "conditioner/config.json",
    f"conditioner/{WEIGHTS}",
    "denoiser/config.json",
    f"denoiser/{WEIGHTS}",
    "scheduler/scheduler_config.json",
    "standardizer/config.json",
    "space/config.json",
    f"space/{WEIGHTS}",
    f"standardizer/{WEIGHTS}",
]


@pytest.fixture(scope="module")
def saved(make_generator: MakeGenerator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "generator"
    make_generator(**CONFIG).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "generator"))


@torch.no_grad()
def heads(pipeline: WeightGenerationPipeline, episode: Episode, **options: int) -> LinearHeads:
    return pipeline.heads(episode, [seeded(1, i) for i in range(len(episode))], **options)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = read_json(path)
    change(content)
    write_json(path, content)


def test_the_folder_holds_safetensors_and_json_alone(saved: Path) -> None:
    assert sorted(str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()) == sorted(FILES)


def test_a_reloaded_generator_writes_identical_heads(
    make_generator: MakeGenerator, saved: Path, draw_episode: DrawEpisode
) -> None:
    built, loaded = make_generator(**CONFIG), WeightGenerationPipeline.from_pretrained(saved)
    before, after = heads(built, draw_episode()), heads(loaded, draw_episode())
    assert before.weight.shape == (2, 3, 3, 8)
    assert torch.equal(before.weight, after.weight)
    assert torch.equal(before.bias, after.bias)
    assert loaded.scale(1).knots == ((1.0, 2.5),)
    assert loaded.space.config.readout == "cosine"
    assert loaded.config.provenance == {"seed": "0"}
    assert type(loaded.scheduler) is type(built.scheduler)
    parts = (loaded.denoiser, loaded.conditioner, loaded.standardizer, loaded.space, loaded.backbone)
    assert not any(part.training for part in parts)


def test_saving_twice_gives_the_same_files(saved: Path, tmp_path: Path) -> None:
    WeightGenerationPipeline.from_pretrained(saved).save_pretrained(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes(), name


def test_a_scheduler_swapped_before_or_after_a_reload_gives_the_same_heads(
    make_generator: MakeGenerator, draw_episode: DrawEpisode, tmp_path: Path
) -> None:
    built = make_generator()
    built.save_pretrained(tmp_path / "plain")
    late = WeightGenerationPipeline.from_pretrained(tmp_path / "plain")
    late.scheduler = DDIMScheduler.from_config(late.scheduler.config)
    built.scheduler = DDIMScheduler.from_config(built.scheduler.config)
    built.save_pretrained(tmp_path / "swapped")
    early = WeightGenerationPipeline.from_pretrained(tmp_path / "swapped")
    assert isinstance(early.scheduler, DDIMScheduler)
    expected = heads(built, draw_episode(), steps=6).weight
    assert torch.equal(heads(late, draw_episode(), steps=6).weight, expected)
    assert torch.equal(heads(early, draw_episode(), steps=6).weight, expected)


def test_config_can_be_changed_while_loading(saved: Path) -> None:
    loaded = WeightGenerationPipeline.from_pretrained(saved, steps=9, space=ClassRows(readout="gaussian"))
    assert (loaded.config.steps, loaded.space.config.readout, loaded.config.samples) == (9, "gaussian", 3)


def test_a_folder_from_before_parameter_spaces_holds_class_rows(
    folder: Path, saved: Path, draw_episode: DrawEpisode
) -> None:
    """Its readout stood in the index."""
    shutil.rmtree(folder / "space")
    edit(folder / "model_index.json", lambda c: c.pop("space") and c.update(readout="cosine"))
    older, newer = (WeightGenerationPipeline.from_pretrained(place) for place in (folder, saved))
    assert older.space.config.readout == "cosine"
    assert torch.equal(heads(older, draw_episode()).weight, heads(newer, draw_episode()).weight)
    edit(folder / "model_index.json", lambda c: c.pop("readout"))
    with pytest.raises(InputError, match="component 'space' is missing"):
        WeightGenerationPipeline.from_pretrained(folder)


def test_a_folder_with_other_things_is_not_overwritten(make_generator: MakeGenerator, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds something else"):
        make_generator().save_pretrained(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_an_older_generator_is_replaced(make_generator: MakeGenerator, folder: Path) -> None:
    (folder / "rubbish.json").touch()
    make_generator(steps=7).save_pretrained(folder)
    assert WeightGenerationPipeline.from_pretrained(folder).config.steps == 7
    assert not (folder / "rubbish.json").exists()


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_needed(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=Path(name).name.replace(".", r"\.")):
        WeightGenerationPipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", FILES)
def test_truncated_files_are_refused(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=Path(name).name.replace(".", r"\.")):
        WeightGenerationPipeline.from_pretrained(folder)


CHANGES = {
    "missing": (lambda t, k: t.pop(k), "is missing|not a whole"),  # of the only tensor: a file without any
    "extra": (lambda t, k: t.update(extra=torch.zeros(2)), "'extra' is not one of its tensors"),
    "shape": (lambda t, k: t.update({k: torch.zeros(*t[k].shape, 2)}), "has shape"),
    "type": (lambda t, k: t.update({k: t[k].double()}), "float64"),
    "nan": (lambda t, k: t.update({k: t[k] * torch.nan}), "holds NaN"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("part", ["denoiser", "standardizer", "space", "conditioner"])
def test_tensors_that_do_not_fit_are_refused(folder: Path, part: str, change: str) -> None:
    path = folder / part / WEIGHTS
    tensors = read_tensors(path)
    apply, message = CHANGES[change]
    apply(tensors, min(tensors))
    write_tensors(path, tensors)
    with pytest.raises(InputError, match=message) as caught:
        WeightGenerationPipeline.from_pretrained(folder)
    assert f"{part}/{WEIGHTS}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model_index.json", lambda c: c.pop("denoiser"), "'denoiser' is missing"),
        ("model_index.json", lambda c: c.update(denoiser=7), "'denoiser' is missing or not"),
        ("model_index.json", lambda c: c.update(scheduler=[None, None]), "'scheduler' is missing or not"),
        ("model_index.json", lambda c: c.update(scheduler=["diffusers", "UNet2DModel"]), "unknown scheduler"),
        ("model_index.json", lambda c: c.update(colour="red"), "colour"),
        ("model_index.json", lambda c: c.update(calibration=[["x", 1.0]]), "could not convert"),
        ("model_index.json", lambda c: c.update(draw_calibration=[]), "is no calibration"),
        ("model_index.json", lambda c: c["denoiser"].__setitem__(1, "Nothing"), "has no weightgen.denoisers"),
        ("denoiser/config.json", lambda c: c.update(colour="red"), "does not fit ClassTransformer .*colour"),
        ("denoiser/config.json", lambda c: c.update(heads=5), "no multiple of heads"),
        ("denoiser/config.json", lambda c: c.pop("feature_width"), "feature_width"),
        ("denoiser/config.json", lambda c: c.update(feature_width=9), "denoiser.*feature_width is 9, but .* have 8"),
        ("scheduler/scheduler_config.json", lambda c: c.update(num_train_timesteps=1500), "is 1000, but .* have 1500"),
        ("scheduler/scheduler_config.json", lambda c: c.update(beta_schedule="steep"), "does not fit Mean.*steep"),
    ],
)
def test_configs_that_do_not_fit_are_refused(folder: Path, name: str, change: Callable, message: str) -> None:
    edit(folder / name, change)
    with pytest.raises(InputError, match=message):
        WeightGenerationPipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".json")])
@pytest.mark.parametrize("content", [[], 3, None, "text"], ids=str)
def test_json_that_is_no_object_is_refused(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(InputError, match=Path(name).name):
        WeightGenerationPipeline.from_pretrained(folder)


def test_a_folder_that_is_no_generator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a generator folder \(no model_index.json\)"):
        WeightGenerationPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", ["denoiser", "conditioner", "standardizer", "space"])
def test_foreign_modules_are_not_imported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    (tmp_path / "foreign_code.py").write_text("raise SystemExit('foreign code ran')")
    monkeypatch.syspath_prepend(tmp_path)
    edit(folder / "model_index.json", lambda c: c.update({part: ["foreign_code", "Denoiser"]}))
    with pytest.raises(InputError, match="comes from 'foreign_code'; import that module first"):
        WeightGenerationPipeline.from_pretrained(folder)
    assert "foreign_code" not in sys.modules


@pytest.mark.parametrize(
    ("named", "options"),
    [
        (["subprocess", "run"], {"args": ["touch", "MARK"]}),
        (["os", "system"], {"command": "touch MARK"}),
        (["weightgen.registry", "get"], {"kind": "denoisers", "name": "foreign_code.thing"}),
        (["weightgen.files", "new_folder"], {"path": "MARK"}),
        (["weightgen.conditioners.task_prototypes", "TaskPrototypes"], {}),
        (["torch.nn", "Linear"], {"in_features": 2, "out_features": 3}),
    ],
)
def test_nothing_but_a_component_of_the_kind_is_called(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: list, options: dict
) -> None:
    monkeypatch.chdir(tmp_path)
    edit(folder / "model_index.json", lambda c: c.update(denoiser=named))
    write_json(folder / "denoiser" / "config.json", options)
    with pytest.raises(InputError, match=f"{named[1]} is not a Denoiser"):
        WeightGenerationPipeline.from_pretrained(folder)
    assert not (tmp_path / "MARK").exists()


class _Bomb:
    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('a pickle was loaded')",)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pkl"])
def test_pickles_are_never_loaded(saved: Path, folder: Path, draw_episode: DrawEpisode, suffix: str) -> None:
    bomb = pickle.dumps(_Bomb())
    for part in ("denoiser", "conditioner", "standardizer", "space"):
        (folder / part / f"diffusion_pytorch_model{suffix}").write_bytes(bomb)
    for name in ("pytorch_model", "model"):
        (folder / "backbone" / f"{name}{suffix}").write_bytes(bomb)
    loaded, plain = (WeightGenerationPipeline.from_pretrained(place) for place in (folder, saved))
    assert torch.equal(heads(loaded, draw_episode()).weight, heads(plain, draw_episode()).weight)
    (folder / "denoiser" / WEIGHTS).unlink()
    with pytest.raises(InputError, match="cannot be read"):
        WeightGenerationPipeline.from_pretrained(folder)


def test_a_pickle_in_the_place_of_weights_is_refused(folder: Path) -> None:
    (folder / "denoiser" / WEIGHTS).write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(InputError, match="not a whole safetensors file"):
        WeightGenerationPipeline.from_pretrained(folder)


def test_push_to_hub_uploads_the_folder(make_generator: MakeGenerator, hub_calls: list, tmp_path: Path) -> None:
    assert make_generator(steps=6).push_to_hub("birds", private=True, token="t") == "https://hub/me/birds"
    assert hub_calls == [("token", "t"), ("birds", {"private": True, "exist_ok": True}), ("upload", "me/birds")]
    assert WeightGenerationPipeline.from_pretrained(tmp_path / "uploaded").config.steps == 6
