"""Made-up features and tiny untrained generators, for every part of the core."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import imported_first  # noqa: F401
import jaxtyping
import pytest
import torch
from hypothesis import settings

from weightgen import hub
from weightgen.backbones.backbone import Backbone
from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.denoisers.class_transformer import ClassTransformer
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.features.standardizer import Standardizer
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, Features
from weightgen.schedulers.schedulers import build_scheduler, swap_scheduler
from weightgen.spaces.class_rows import ClassRows, Readout

settings.register_profile("suite", derandomize=True, deadline=None, database=None)  # the same examples in every run
settings.load_profile("suite")


@pytest.fixture
def hub_calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple]:
    """Calls of a made-up hub, which puts what is uploaded into `tmp_path / "uploaded"`."""
    calls: list[tuple] = []

    class Address(str):
        repo_id = "me/birds"

    class Hub:
        def __init__(self, *, token: str | None) -> None:
            calls.append(("token", token))

        def create_repo(self, repo_id: str, **options: bool) -> Address:
            calls.append((repo_id, options))
            return Address("https://hub/me/birds")

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> None:
            calls.append(("upload", repo_id))
            shutil.copytree(folder_path, tmp_path / "uploaded")

    monkeypatch.setattr(hub, "HfApi", Hub)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    return calls


@pytest.fixture
def unchecked() -> Iterator[None]:
    """No shape checks: for tests that hand in doubles, or malformed tensors whose refusal is what they are about."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def make_features() -> Callable[..., Features]:
    """Classes ~ N(2, Σ_b) with `images` images each ~ N(class, Σ_w): noise is widest where classes differ least."""

    def make(*, classes: int = 24, images: int | list[int] = 15, width: int = 8, seed: int = 0) -> Features:
        generator = torch.Generator().manual_seed(seed)
        counts = torch.tensor([images] * classes if isinstance(images, int) else images)
        labels = torch.arange(len(counts)).repeat_interleave(counts)
        centres = 2 + torch.linspace(1.5, 0.5, width) * torch.randn(len(counts), width, generator=generator)
        noise = torch.linspace(0.3, 2.5, width) * torch.randn(len(labels), width, generator=generator)
        return Features(centres[labels] + noise, labels, tuple(f"class {i}" for i in range(len(counts))))

    return make


@pytest.fixture(scope="session")
def make_generator(make_features: Callable[..., Features]) -> Callable[..., WeightGenerationPipeline]:
    """An untrained generator on a random conv4 whose feature width is 8, with its map fitted on made-up features."""

    def make(
        *, chain: int = 1000, scheduler: str = "MeanDDPMScheduler", readout: Readout = "gaussian", **config: object
    ) -> WeightGenerationPipeline:
        backbone = Backbone.create(model="conv4", options={"width": 8, "img_size": 16}, seed=3)
        standardizer = Standardizer(feature_width=8).fit(make_features())
        conditioner = TaskPrototypes()
        training = build_scheduler("DDPMScheduler", {"num_train_timesteps": chain, "prediction_type": "sample"})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            denoiser = ClassTransformer(feature_width=8, num_train_timesteps=chain, width=12, depth=1, heads=3, bands=2)
            for layer in (denoiser.own, denoiser.shared):  # far enough from zero to be seen in a head
                torch.nn.init.normal_(layer.weight, std=0.1)
        denoiser.set_noise_levels(training)
        swapped = swap_scheduler(scheduler, training)
        return WeightGenerationPipeline(
            denoiser.eval(), conditioner, standardizer, ClassRows(readout=readout), swapped, backbone,
            **{"steps": 3, **config},
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def base_features(make_features: Callable[..., Features]) -> Features:
    return make_features()


@pytest.fixture(scope="session")
def base_standardizer(base_features: Features) -> Standardizer:
    """Look, do not touch."""
    return Standardizer(feature_width=8).fit(base_features)


@pytest.fixture(scope="session")
def diagonal_standardizer(base_standardizer: Standardizer) -> Standardizer:
    """The same space with its axes as coordinates, where a textbook formula can go entry by entry."""
    return base_standardizer.along_axes()


@pytest.fixture(scope="session")
def draw_episode(base_features: Features) -> Callable[..., Episode]:
    """Raw episodes of `base_features`, ragged, with sizes pairwise different unless given."""

    def draw(
        *,
        batch: int = 2,
        ways: int = 3,
        shots: int | tuple[int, int] = (1, 4),
        queries: int = 5,
        seed: int = 0,
        unlabelled: UnlabelledDraw | None = None,
    ) -> Episode:
        generator = torch.Generator().manual_seed(seed)
        sampler = EpisodeSampler(base_features)
        return sampler.sample(
            batch=batch, ways=ways, shots=shots, queries=queries, generator=generator, unlabelled=unlabelled
        )

    return draw
