"""What people do to a diffusers pipeline: other schedulers, types of numbers, devices; it works or is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler
from made_up_chunks import untrained

from weightgen.errors import InputError
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.schedulers.schedulers import scheduler_names
from weightgen.seeds import generator

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers with numpy 2
MakeGenerator = Callable[..., WeightGenerationPipeline]
DrawEpisode = Callable[..., Episode]

FRESH: dict[str, tuple[Callable[[], Any], str]] = {
    "DDIM as diffusers has it": (
        DDIMScheduler,
        "prediction_type is epsilon, and the generator was trained",
    ),
    "DPM-Solver as diffusers has it": (DPMSolverMultistepScheduler, "prediction_type is epsilon"),
    "DDPM as diffusers has it": (DDPMScheduler, "prediction_type is epsilon"),
    "the right prediction, clipped": (lambda: DDIMScheduler(prediction_type="sample"), "clip_sample is True"),
}
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "clipped": ({"clip_sample": True}, "clip_sample is True"),
    "thresholded": ({"thresholding": True}, "thresholding is True"),
    "longer": ({"num_train_timesteps": 500}, "num_train_timesteps is 500, and the generator was trained with 1000"),
    "more noise": ({"beta_end": 0.03}, "beta_end is 0.03, and the generator was trained with 0.02"),
    "less noise": ({"beta_start": 0.001}, "beta_start is 0.001"),
    "another schedule": ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule is squaredcos_cap_v2"),
    "betas of one's own": ({"trained_betas": [0.01] * 1000}, "trained_betas is"),
    "noise": ({"prediction_type": "epsilon"}, "prediction_type is epsilon"),
    "velocity": ({"prediction_type": "v_prediction"}, "prediction_type is v_prediction"),
    "no signal at the end": ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True"),
    "a start with signal left": ({"timestep_spacing": "leading"}, "timestep_spacing is leading"),
}


def complaint(assign: Callable[[], object]) -> str:
    """The complaint; one line."""
    with pytest.raises(InputError) as caught:
        assign()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows(pipeline: WeightGenerationPipeline, episode: Episode) -> torch.Tensor:
    return pipeline.tokens(episode, [generator(0, "x", i) for i in range(len(episode))])


@pytest.mark.parametrize(("make", "why"), FRESH.values(), ids=FRESH)
def test_a_fresh_scheduler_is_refused_and_the_old_one_stays(
    make_generator: MakeGenerator, draw_episode: DrawEpisode, make: Callable[[], Any], why: str
) -> None:
    pipeline, episode = make_generator(), draw_episode()
    before, scheduler = rows(pipeline, episode), pipeline.scheduler
    fresh = make()
    message = complaint(lambda: setattr(pipeline, "scheduler", fresh))
    assert why in message
    assert f"use {type(fresh).__name__}.from_config(pipeline.scheduler.config)" in message
    assert pipeline.scheduler is scheduler
    assert torch.equal(rows(pipeline, episode), before)
    pipeline.scheduler = type(fresh).from_config(pipeline.scheduler.config)  # the mend that the line gives
    assert torch.isfinite(rows(pipeline, episode)).all()


@pytest.mark.parametrize(("change", "why"), CHANGES.values(), ids=CHANGES)
def test_another_chain_is_refused_wherever_it_comes_from(
    make_generator: MakeGenerator, draw_episode: DrawEpisode, tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    pipeline = make_generator()
    other = DDIMScheduler.from_config(pipeline.scheduler.config, **change)
    assert why in complaint(lambda: setattr(pipeline, "scheduler", other))
    pipeline.save_pretrained(tmp_path / "generator")
    pipeline.scheduler.register_to_config(**change)  # changed after it was put there
    assert why in complaint(lambda: rows(pipeline, draw_episode()))
    path = tmp_path / "generator" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    message = complaint(lambda: WeightGenerationPipeline.from_pretrained(tmp_path / "generator"))
    assert why.partition(",")[0] in message or "num_train_timesteps is 1000, but" in message
    assert str(tmp_path / "generator") in message


@pytest.mark.parametrize("name", sorted(set(scheduler_names()) - {"LocalDDPMScheduler"}))
def test_what_from_config_yields_works_or_is_refused(
    make_generator: MakeGenerator, draw_episode: DrawEpisode, name: str
) -> None:
    pipeline, episode = make_generator(), draw_episode()
    centroid = rows(pipeline, episode).norm()
    kind = getattr(diffusers, name, type(pipeline.scheduler))
    other = kind.from_config(pipeline.scheduler.config)
    try:
        pipeline.scheduler = other
    except InputError as error:
        assert "takes no denoiser that predicts clean rows" in str(error)
        return
    written = rows(pipeline, episode)
    assert torch.isfinite(written).all()
    assert 0.3 < written.norm() / centroid < 3  # rows, not noise blown up


def test_schedulers_of_another_kind_are_refused(make_generator: MakeGenerator) -> None:
    pipeline = make_generator()
    for other in (diffusers.FlowMatchEulerDiscreteScheduler(), diffusers.DDIMInverseScheduler()):
        assert "cannot run this chain; use one of" in complaint(
            lambda other=other: setattr(pipeline, "scheduler", other)
        )
    taken = PNDMScheduler.from_config(pipeline.scheduler.config)
    assert "takes no denoiser that predicts clean rows" in complaint(lambda: setattr(pipeline, "scheduler", taken))
    flow = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_flow_sigmas=True)
    assert "use_flow_sigmas is True" in complaint(lambda: setattr(pipeline, "scheduler", flow))


def test_a_class_that_ignores_the_rescaled_levels_of_a_chain_is_refused(make_generator: MakeGenerator) -> None:
    """diffusers carries options along that the other class does not look at."""
    pipeline = make_generator()
    pipeline.register_to_config(chain={**pipeline.config.chain, "rescale_betas_zero_snr": True})
    config = {**pipeline.scheduler.config, "rescale_betas_zero_snr": True, "prediction_type": "sample"}
    pipeline.scheduler = DDIMScheduler.from_config(config)
    ignored = diffusers.HeunDiscreteScheduler.from_config(config)
    ignored.register_to_config(rescale_betas_zero_snr=True)
    assert "its noise levels are not those" in complaint(lambda: setattr(pipeline, "scheduler", ignored))


def test_a_subclass_of_a_scheduler_works(make_generator: MakeGenerator, draw_episode: DrawEpisode) -> None:
    class Mine(EulerDiscreteScheduler):
        pass

    pipeline = make_generator()
    pipeline.scheduler = Mine.from_config(pipeline.scheduler.config)
    assert torch.isfinite(rows(pipeline, draw_episode())).all()


def test_a_chain_in_segments_takes_its_own_scheduler_alone() -> None:
    pipeline = untrained()
    for kind in (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler):
        other = kind.from_config(pipeline.scheduler.config)
        assert "knows nothing of the 3 segments" in complaint(lambda other=other: setattr(pipeline, "scheduler", other))
        fresh = kind()
        assert "LocalDDPM" in complaint(
            lambda fresh=fresh: setattr(pipeline, "scheduler", fresh)
        ) or "from_config" in complaint(lambda fresh=fresh: setattr(pipeline, "scheduler", fresh))
    fewer = LocalDDPMScheduler.from_config(pipeline.scheduler.config, segments=2)
    assert "segments is 2, and the generator was trained with 3" in complaint(
        lambda: setattr(pipeline, "scheduler", fewer)
    )
    pipeline.scheduler = LocalDDPMScheduler.from_config(pipeline.scheduler.config)


def test_a_chain_in_segments_is_kept_in_its_folder(tmp_path: Path) -> None:
    untrained().save_pretrained(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta_schedule": "linear"}))
    assert "beta_schedule is linear" in complaint(lambda: WeightGenerationPipeline.from_pretrained(tmp_path))


def test_a_folder_of_an_older_weightgen_takes_its_scheduler_for_that_of_training(
    make_generator: MakeGenerator, draw_episode: DrawEpisode, tmp_path: Path
) -> None:
    pipeline, episode = make_generator(), draw_episode()
    pipeline.save_pretrained(tmp_path / "generator")
    index = json.loads((tmp_path / "generator" / "model_index.json").read_text())
    del index["chain"]
    (tmp_path / "generator" / "model_index.json").write_text(json.dumps(index))
    read = WeightGenerationPipeline.from_pretrained(tmp_path / "generator")
    assert torch.equal(rows(read, episode), rows(pipeline, episode))
    assert "from_config" in complaint(lambda: setattr(read, "scheduler", DDIMScheduler()))


@pytest.fixture
def both(make_generator: MakeGenerator) -> list[WeightGenerationPipeline]:
    return [make_generator(), untrained()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_numbers_are_refused(
    both: list[WeightGenerationPipeline], tmp_path: Path, dtype: torch.dtype
) -> None:
    for pipeline in both:
        for call in (
            lambda p=pipeline: p.to(dtype),
            lambda p=pipeline: p.to("cpu", dtype),
            lambda p=pipeline: p.to(dtype=dtype),
            lambda p=pipeline: p.to(torch_dtype=dtype),
        ):
            assert complaint(call).startswith(f"{dtype}: a generator works in float32")
        folder = tmp_path / "generator"
        pipeline.save_pretrained(folder)
        for key in ("torch_dtype", "dtype"):
            message = complaint(lambda p=pipeline, f=folder, k=key: type(p).from_pretrained(f, **{k: dtype}))
            assert message.startswith(f"{dtype}: a generator works in float32")
            read = type(pipeline).from_pretrained(folder, **{key: torch.float32})
            assert read.device == torch.device("cpu")
        shutil.rmtree(folder)


def test_unknown_words_for_from_pretrained_are_named(make_generator: MakeGenerator, tmp_path: Path) -> None:
    make_generator().save_pretrained(tmp_path)
    assert "from_pretrained takes no 'device_map'" in complaint(
        lambda: WeightGenerationPipeline.from_pretrained(tmp_path, device_map="balanced")
    )
    assert "did you mean 'samples'" in complaint(lambda: WeightGenerationPipeline.from_pretrained(tmp_path, sampels=3))
    assert WeightGenerationPipeline.from_pretrained(tmp_path, samples=3).config.samples == 3


def test_devices(both: list[WeightGenerationPipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    for pipeline in both:
        for given in ("cpu", torch.device("cpu")):
            assert pipeline.to(given) is pipeline
            assert pipeline.to(device=given, dtype=torch.float32) is pipeline
        assert "device nowhere: torch cannot use it here" in complaint(lambda p=pipeline: p.to("nowhere"))
        if not torch.cuda.is_available():
            assert "device cuda: torch cannot use it here" in complaint(lambda p=pipeline: p.to("cuda"))


def test_offloading_in_parts_is_refused(both: list[WeightGenerationPipeline]) -> None:
    for pipeline in both:
        for name in ("enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_group_offload"):
            assert "move it whole, with pipeline.to(device)" in complaint(lambda p=pipeline, n=name: getattr(p, n)())
