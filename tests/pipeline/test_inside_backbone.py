"""A generator that writes inside the backbone: from a folder of images to an adapted model, on disk and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from episode_changes import permuted
from made_up_chunks import untrained
from made_up_pixels import made_up_pixels, pixel_episode
from PIL import Image
from safetensors.torch import load_file

from weightgen import load_head
from weightgen.errors import InputError
from weightgen.files import read_json, read_tensors, write_json, write_tensors
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode
from weightgen.seeds import generator
from weightgen.spaces.chunks import AdaptedHeads

SELECTORS = ["lora", "norm_affine"]


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


@torch.no_grad()
def heads(pipeline: WeightGenerationPipeline, episode: Episode, noise_of: slice = slice(None)) -> AdaptedHeads:
    written = pipeline.heads(episode, noise(pixel_episode())[noise_of])
    assert isinstance(written, AdaptedHeads)
    return written


def test_offsets_depend_on_the_support_and_on_nothing_else() -> None:
    pipeline, episode = untrained(), pixel_episode()
    offsets = heads(pipeline, episode).offsets
    assert offsets.shape == (2, pipeline.space.adaptable.layout.size)
    single = [heads(pipeline, episode[i : i + 1], slice(i, i + 1)).offsets for i in range(2)]
    torch.testing.assert_close(offsets, torch.cat(single), rtol=1e-4, atol=1e-5)
    assert torch.equal(heads(pipeline, episode.support_only()).offsets, offsets)
    assert (heads(pipeline, pixel_episode(seed=1)).offsets - offsets).abs().max() > 1e-3


def test_permuting_classes_permutes_logits_and_nothing_inside_the_backbone() -> None:
    pipeline, episode, order = untrained(), pixel_episode(), torch.tensor([2, 0, 1])
    expected, turned = heads(pipeline, episode), heads(pipeline, permuted(episode, order))
    torch.testing.assert_close(turned.offsets, expected.offsets, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        turned.logits(episode.query), expected.logits(episode.query)[..., order], rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_the_scale_goes_with_the_shots() -> None:
    pipeline = untrained()
    for shots, factor in ((1, 5.0), (4, 9.0)):
        written = heads(pipeline, episode := pixel_episode(shots=shots, queries=1))
        plain = AdaptedHeads.of(pipeline.space.adaptable, written.offsets, episode, scale=1.0)
        torch.testing.assert_close(written.linear.weight, factor * plain.linear.weight)


@torch.no_grad()
def test_heads_are_those_of_the_tokens_that_the_chain_ends_at() -> None:
    pipeline, episode = untrained(), pixel_episode()
    tokens = pipeline.tokens(episode, noise(episode))
    assert torch.equal(
        pipeline.decode(tokens, episode).logits(episode.query), heads(pipeline, episode).logits(episode.query)
    )
    assert torch.equal(pipeline.space.decode(tokens[:, 0]), heads(pipeline, episode).offsets)


def test_every_episode_costs_a_backbone_and_there_are_no_draws() -> None:
    assert untrained().costly
    assert not untrained().can_draw


@pytest.mark.parametrize("selector", SELECTORS)
def test_it_comes_back_from_its_folder(selector: str, tmp_path: Path) -> None:
    if selector == "lora":
        pytest.importorskip("peft")
    pipeline, episode = untrained(selector), pixel_episode()
    pipeline.save_pretrained(tmp_path / "generator")
    again = WeightGenerationPipeline.from_pretrained(tmp_path / "generator")
    before, after = heads(pipeline, episode), heads(again, episode)
    assert torch.equal(after.offsets, before.offsets)
    assert torch.equal(after.logits(episode.query), before.logits(episode.query))
    assert again.generator_hash() == pipeline.generator_hash()
    assert {path.suffix for path in (tmp_path / "generator").rglob("*") if path.is_file()} == {".json", ".safetensors"}


def edited(folder: Path, name: str, **values: Any) -> Path:
    write_json(folder / name, {**read_json(folder / name), **values})
    return folder


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("space/config.json", {"selector": {"name": "foreign_code.selector"}}, "import that module first"),
        ("space/config.json", {"selector": {}}, "names no selector"),
        ("space/config.json", {"selector": {"name": "bias"}}, "not of one generator"),
        ("space/config.json", {"token_width": 8}, "not of one generator"),
        ("denoiser/config.json", {"sizes": [5, 5, 5, 5, 5, 5, 5, 4, 1]}, "not of one generator|has shape"),
        ("model_index.json", {"space": ["os", "system"]}, "is not a ParameterSpace"),
        (
            "model_index.json",
            {"space": ["weightgen.denoisers.chunk_transformer", "ChunkTransformer"]},
            "is not a ParameterSpace",
        ),
        ("model_index.json", {"calibration": [[1.0, -2.0]]}, "no calibration"),
        (
            "model_index.json",
            {"_class_name": "PartPipeline"},
            r"weightgen 0\.1, in a form no longer read; train it again",
        ),
    ],
)
def test_a_tampered_folder_is_refused(name: str, values: dict[str, Any], message: str, tmp_path: Path) -> None:
    untrained().save_pretrained(tmp_path / "generator")
    with pytest.raises(InputError, match=message) as caught:
        WeightGenerationPipeline.from_pretrained(edited(tmp_path / "generator", name, **values))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("selector", SELECTORS)
@torch.no_grad()
def test_the_exported_model_is_the_functional_one(selector: str, support: Path, tmp_path: Path) -> None:
    """In timm, in transformers and in weightgen, and head.safetensors holds all that was generated."""
    if selector == "lora":
        pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    pipeline = untrained(selector)
    pipeline(support).save_pretrained(tmp_path / "head")
    pixels = made_up_pixels().values.unflatten(0, (6, 7))[None, :3, :2]
    episode = replace(pixel_episode(batch=1), support=pixels)
    wanted = pipeline.heads(episode, [generator(0, "generate")]).logits(episode.query)[0]
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


def test_a_head_folder_whose_backbone_was_changed_is_refused(support: Path, tmp_path: Path) -> None:
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
        ({"unlabelled": "more"}, "unlabelled: a ChunkTransformer learns nothing from unlabelled images"),
        ({"num_inference_steps": 0}, "steps is 0"),
        ({"num_inference_steps": 3}, "visits its local targets only in exactly 6"),
    ],
)
def test_what_it_cannot_do_is_refused(asked: dict[str, Any], message: str, support: Path) -> None:
    with pytest.raises(InputError, match=message):
        untrained()(support, **asked)


def test_classes_are_not_added_to_what_was_written_for_others(support: Path) -> None:
    pipeline = untrained()
    with pytest.raises(InputError, match="writes parameters inside the backbone; generate a head anew"):
        pipeline.extend(pipeline(support), support)
