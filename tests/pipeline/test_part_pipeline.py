"""A generator of parts: from a folder of images to an adapted model, on disk and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from made_up_pixels import made_up_pixels, pixel_episode, small_backbone
from PIL import Image
from safetensors.torch import load_file

from weightgen import load_head
from weightgen.conditioners.local_targets import LocalTargets
from weightgen.denoisers.part_transformer import PartTransformer
from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.features.vector_scale import VectorScale
from weightgen.files import read_tensors, write_tensors
from weightgen.part_pipeline import PartPipeline
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode
from weightgen.registry import create
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.seeds import generator
from weightgen.selectors._part import Part

CHAIN = 6
SELECTORS: dict[str, dict[str, Any]] = {
    "norm_affine": {"name": "norm_affine"},
    "lora": {"name": "lora", "target_modules": ["blocks.1.conv"], "rank": 2},
}


def untrained(selector: str = "norm_affine") -> PartPipeline:
    """With weights far enough from zero that a support can be seen in what is written."""
    backbone, chosen = small_backbone(), dict(SELECTORS[selector])
    part = Part(backbone, create("selectors", chosen["name"], {k: v for k, v in chosen.items() if k != "name"}))
    sizes = [tensor.numel() for tensor in part.layout.unflatten(part.own).values()]
    features = part.unadapted(pixel_episode(batch=1, ways=6, shots=5, queries=1)).support[0].flatten(0, 1)
    pixels = made_up_pixels(images=5)
    standardizer = Standardizer(feature_width=5).fit(type(pixels)(features, pixels.labels, pixels.class_names))
    scale = VectorScale(sizes=sizes).fit(0.2 * torch.randn(9, 3, part.layout.size, generator=generator(0, "zoo")))
    scheduler = LocalDDPMScheduler(segments=3, num_train_timesteps=CHAIN, prediction_type="sample")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        conditioner = LocalTargets(feature_width=5, width=7)
        denoiser = PartTransformer(
            feature_width=5, sizes=sizes, num_train_timesteps=CHAIN, token_width=9, width=12, heads=3
        )
        torch.nn.init.normal_(denoiser.out.weight, std=0.3)
    denoiser.attune(scheduler)
    knots = ((1.0, 5.0), (4.0, 9.0))
    return PartPipeline(
        denoiser.eval(), conditioner.eval(), standardizer, scale, scheduler, backbone,
        selector=chosen, calibration=knots, steps=CHAIN,
    )  # fmt: skip


@pytest.fixture
def support(tmp_path: Path) -> Path:
    """Three classes of two images."""
    pixels = made_up_pixels()
    for name in pixels.class_names[:3]:
        (tmp_path / "support" / name).mkdir(parents=True)
        for i, row in enumerate(pixels.of_classes([name]).values[:2]):
            Image.fromarray(row.reshape(16, 16).numpy()).save(tmp_path / "support" / name / f"{i}.png")
    return tmp_path / "support"


def noise(episode: Episode) -> list[torch.Generator]:
    return [generator(0, "noise", i) for i in range(len(episode))]


def test_offsets_depend_on_the_support_and_on_nothing_else() -> None:
    pipeline, episode = untrained(), pixel_episode()
    offsets = pipeline.offsets(episode, noise(episode))
    assert offsets.shape == (2, pipeline.part.layout.size)
    single = [pipeline.offsets(episode[i : i + 1], noise(episode)[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(offsets, torch.cat(single), rtol=1e-4, atol=1e-5)
    assert torch.equal(pipeline.offsets(episode.support_only(), noise(episode)), offsets)
    other = pixel_episode(seed=1)
    assert (pipeline.offsets(other, noise(other)) - offsets).abs().max() > 1e-3


def test_the_order_of_classes_does_not_matter() -> None:
    pipeline, episode, order = untrained(), pixel_episode(), torch.tensor([2, 0, 1])
    turned = Episode(**{**vars(episode), "support": episode.support[:, order]})
    expected = pipeline.offsets(episode, noise(episode))
    torch.testing.assert_close(pipeline.offsets(turned, noise(episode)), expected, rtol=1e-4, atol=1e-5)


def test_the_scale_goes_with_the_shots() -> None:
    torch.testing.assert_close(untrained().scale(pixel_episode(shots=4, queries=1)), torch.tensor([9.0, 9.0]))
    torch.testing.assert_close(untrained().scale(pixel_episode(shots=1)), torch.tensor([5.0, 5.0]))


@pytest.mark.parametrize("selector", sorted(SELECTORS))
def test_it_comes_back_from_its_folder(selector: str, tmp_path: Path) -> None:
    if selector == "lora":
        pytest.importorskip("peft")
    pipeline, episode = untrained(selector), pixel_episode()
    pipeline.save_pretrained(tmp_path / "generator")
    again = PartPipeline.from_pretrained(tmp_path / "generator")
    assert torch.equal(again.offsets(episode, noise(episode)), pipeline.offsets(episode, noise(episode)))
    assert torch.equal(again.scale(episode), pipeline.scale(episode))
    assert {path.suffix for path in (tmp_path / "generator").rglob("*") if path.is_file()} == {".json", ".safetensors"}


def changed(folder: Path, **values: Any) -> Path:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **values}))
    return folder


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"selector": {"name": "foreign_code.selector"}}, "import that module first"),
        ({"selector": None}, "names no selector"),
        ({"selector": {"name": "bias"}}, "not of one generator"),
        ({"vector_scale": ["os", "system"]}, "import|no VectorScale"),
        ({"vector_scale": ["weightgen.denoisers.part_transformer", "PartTransformer"]}, "is no VectorScale"),
        ({"calibration": [[1.0, -2.0]]}, "no calibration"),
    ],
)
def test_a_tampered_folder_is_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    untrained().save_pretrained(tmp_path / "generator")
    with pytest.raises(InputError, match=message) as caught:
        PartPipeline.from_pretrained(changed(tmp_path / "generator", **values))
    assert "\n" not in str(caught.value)


def test_the_pipeline_of_heads_says_which_one_to_use(tmp_path: Path) -> None:
    untrained().save_pretrained(tmp_path / "generator")
    with pytest.raises(InputError, match="PartPipeline"):
        WeightGenerationPipeline.from_pretrained(tmp_path / "generator")


@pytest.mark.parametrize("selector", sorted(SELECTORS))
@torch.no_grad()
def test_the_exported_model_is_the_functional_one(selector: str, support: Path, tmp_path: Path) -> None:
    """In timm, in transformers and in weightgen, and head.safetensors holds all that was generated."""
    if selector == "lora":
        pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    pipeline = untrained(selector)
    pipeline(support).save_pretrained(tmp_path / "head")
    episode = Episode(
        **{**vars(pixel_episode(batch=1)), "support": made_up_pixels().values.unflatten(0, (6, 7))[None, :3, :2]}
    )
    offsets = pipeline.offsets(episode, [generator(0, "generate")])
    wanted = pipeline.part.query_logits(offsets, episode, scale=pipeline.scale(episode))[0]
    images = pipeline.backbone.preprocess.normalise(episode.query[0].unflatten(1, (1, 16, 16)))
    model = timm.create_model(f"local-dir:{tmp_path / 'head'}", pretrained=True).eval()
    torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=1e-4)
    other = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "head").eval()
    torch.testing.assert_close(other(images).logits, wanted, rtol=1e-4, atol=1e-4)
    predictions = load_head(tmp_path / "head").predict(support)
    assert len(predictions) == 6
    generated, whole = load_file(tmp_path / "head" / "head.safetensors"), model.state_dict()
    own = pipeline.backbone.trunk.state_dict()
    moved = {name for name, tensor in own.items() if not torch.equal(tensor, whole[name])}
    assert set(generated) == {"fc.weight", "fc.bias", *moved}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in generated.items())


def test_a_head_folder_whose_parts_were_changed_is_refused(support: Path, tmp_path: Path) -> None:
    untrained()(support).save_pretrained(tmp_path / "head")
    path = tmp_path / "head" / "head.safetensors"
    tensors = read_tensors(path)
    tensors["blocks.0.norm.weight"] += 1
    metadata = {"class_names": json.dumps([f"class {i}" for i in range(3)])}
    write_tensors(path, tensors, metadata)
    with pytest.raises(InputError, match=r"holds tensors that model\.safetensors lacks"):
        load_head(tmp_path / "head")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"num_samples": 2}, "samples is 2"),
        ({"unlabelled": "more"}, "more: a generator of parts"),
        ({"num_inference_steps": 0}, "steps is 0"),
        ({"num_inference_steps": 3}, "visits its local targets only in exactly 6"),
    ],
)
def test_what_it_cannot_do_is_refused(asked: dict[str, Any], message: str, support: Path) -> None:
    with pytest.raises(InputError, match=message):
        untrained()(support, **asked)
