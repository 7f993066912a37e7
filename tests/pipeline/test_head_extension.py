"""Classes are added to a head without its old images: what stays, and what comes out as if all had been there."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import timm
import torch
from made_up_folders import paint
from PIL import Image

from weightgen import Head, WeightGenerationPipeline, load_head
from weightgen.backbones.backbone import Backbone
from weightgen.conditioners.dataset_statistics import DatasetStatistics
from weightgen.denoisers.learnt_descent import LearntDescent
from weightgen.errors import InputError
from weightgen.features.adapted_space import AdaptedSpace
from weightgen.records import Features, LinearHeads

MakeGenerator = Callable[..., WeightGenerationPipeline]
OLD: Mapping[str, int] = {"ant": 2, "bee": 5, "cat": 3}
NEW: Mapping[str, int] = {"dog": 4, "elk": 1}
SEEN_IN_HALF = {"rtol": 2e-2, "atol": 2e-2}  # samples are kept in half precision


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """old/, new/, both/ and some pieces; look, do not touch."""
    place = tmp_path_factory.mktemp("folders")
    for name, sizes in {"old": OLD, "new": NEW, "both": {**OLD, **NEW}, "dog": {"dog": 4}, "elk": {"elk": 1}}.items():
        paint(place / name, sizes)
    (paint(place / "copy", {"bee": 5}) / "bee").rename(place / "copy" / "wasp")
    return place


@pytest.fixture(scope="module")
def make(make_generator: MakeGenerator, tmp_path_factory: pytest.TempPathFactory) -> MakeGenerator:
    """Generators whose space is that of pictures."""
    names = [f"base {i}" for i in range(20)]
    folder = paint(tmp_path_factory.mktemp("base"), dict.fromkeys(names, 4), seed=9)
    backbone = make_generator().backbone
    pixels = [backbone.preprocess(Image.open(path)) for name in names for path in sorted((folder / name).iterdir())]
    with torch.no_grad():
        base = Features(backbone(torch.stack(pixels)), torch.arange(20).repeat_interleave(4), tuple(names))

    def make_one(**config: object) -> WeightGenerationPipeline:
        built = make_generator(**config)
        built.standardizer.fit(base)
        return built

    return make_one


@pytest.fixture(scope="module")
def generators(make: MakeGenerator) -> dict[str, WeightGenerationPipeline]:
    """By kind; `form` has no network, so that a row depends on nothing but its own class; `adapting` neither."""
    built = {"plain": make(), "form": make(steps=1), "cosine": make(readout="cosine")}
    for layer in (built["form"].denoiser.own, built["form"].denoiser.shared):
        torch.nn.init.zeros_(layer.weight)
    for kind in ("adapting", "descending"):
        built[kind] = make(steps=1, calibration=((1.0, 0.5), (2.0, 1.0), (20.0, 3.0)))
        built[kind].conditioner = DatasetStatistics()
        built[kind].denoiser = LearntDescent(width=6).eval()
        built[kind].denoiser.set_noise_levels(built["form"].scheduler)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        torch.nn.init.normal_(built["descending"].denoiser.answer.weight, std=0.3)
    return built


KINDS = ("plain", "form", "cosine", "adapting", "descending")


@pytest.fixture
def written(folders: Path, tmp_path: Path) -> Callable[..., Head]:
    """A head for a folder, saved and read again."""

    def write(generator: WeightGenerationPipeline, name: str = "old", **options: int) -> Head:
        generator(folders / name, **options).save_pretrained(tmp_path / "head")
        return load_head(tmp_path / "head")

    return write


def rows(head: LinearHeads, which: slice | list[int] = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
    return head.weight[:, :, which], head.bias[:, :, which]


def same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_old_rows_stay_bit_for_bit(
    generators: dict, folders: Path, written: Callable, tmp_path: Path, kind: str, samples: int
) -> None:
    old = written(generators[kind], num_samples=samples)
    generators[kind].extend(old, folders / "new").save_pretrained(tmp_path / "more")
    more = load_head(tmp_path / "more")
    assert more.class_names == (*OLD, *NEW)
    assert more.draws.weight.shape == (1, samples, 5, 8)
    for one, other in ((old.draws, more.draws), (old.mean, more.mean)):
        assert same(rows(one), rows(other, slice(3)))
    model = timm.create_model(f"local-dir:{tmp_path / 'more'}", pretrained=True).eval()
    picture = old.backbone.preprocess(Image.open(next((folders / "old").rglob("*.png"))))[None]
    with torch.no_grad():
        torch.testing.assert_close(model(picture)[:, :3], old.attach()(picture), rtol=1e-5, atol=1e-5)
        assert model(picture).shape == (1, 5)
    assert more.provenance == {
        **old.provenance,
        "support_images": "15",
        "extended": more.provenance["extended"],
    }
    chain = (
        "20 steps of DDPMScheduler" if samples > 1 else f"{generators[kind].config.steps} steps of MeanDDPMScheduler"
    )
    assert more.provenance["extended"] == f"added 'dog', 'elk' ({chain})"


@pytest.mark.parametrize("kind", KINDS)
def test_rewriting_is_writing_from_all_images(
    generators: dict, folders: Path, written: Callable, tmp_path: Path, kind: str
) -> None:
    generator = generators[kind]
    again = generator.extend(written(generator), folders / "new", rewrite=True)
    joint = generator(folders / "both")
    assert again.class_names == joint.class_names
    for one, other in zip(rows(again.draws), rows(joint.draws), strict=True):
        torch.testing.assert_close(one / other.abs().max(), other / other.abs().max(), **SEEN_IN_HALF)
    assert again.support is not None and joint.support is not None
    for name, tensor in joint.support.tensors().items():
        torch.testing.assert_close(again.support.tensors()[name].sum(), tensor.sum(), **SEEN_IN_HALF)
    assert again.support.space_classes.all()
    assert again.provenance == {**joint.provenance, "extended": "added 'dog', 'elk' (all rows anew)"}


@pytest.mark.parametrize("rewrite", [False, True])
@pytest.mark.parametrize("kind", ["plain", "descending"])
def test_a_fresh_head_is_extended_as_its_folder_is(
    generators: dict, folders: Path, tmp_path: Path, kind: str, rewrite: bool
) -> None:
    generator = generators[kind]
    fresh = generator(folders / "old", num_samples=2)
    fresh.save_pretrained(tmp_path / "head")
    one, other = (
        generator.extend(head, folders / "new", rewrite=rewrite) for head in (fresh, load_head(tmp_path / "head"))
    )
    assert same(rows(one.draws), rows(other.draws)) and same(rows(one.mean), rows(other.mean))
    assert (one.class_names, one.provenance) == (other.class_names, other.provenance)
    assert one.support is not None and other.support is not None
    tensors = zip(one.support.tensors().values(), other.support.tensors().values(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in tensors)


def test_the_order_of_two_extensions_does_not_matter_where_classes_are_written_alone(
    generators: dict, folders: Path, written: Callable, tmp_path: Path
) -> None:
    generator, ends = generators["form"], []
    for first, second in (("dog", "elk"), ("elk", "dog")):
        generator.extend(written(generator), folders / first).save_pretrained(tmp_path / "more")
        ends.append(generator.extend(load_head(tmp_path / "more"), folders / second))
    one, other = ends
    order = [other.class_names.index(name) for name in one.class_names]
    for mine, theirs in zip(rows(one.draws), rows(other.draws, order), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-2 * float(mine.abs().max()))
    assert one.provenance["extended"].count("added") == 2


@pytest.mark.parametrize("kind", ["form", "adapting"])
@pytest.mark.parametrize("before", ["nothing", "extended", "removed", "both"])
def test_an_old_class_under_a_new_name_gets_its_old_row(
    generators: dict, folders: Path, written: Callable, tmp_path: Path, kind: str, before: str
) -> None:
    """Old and new logits can be compared, whatever was added or taken out in between."""
    generator, head = generators[kind], written(generators[kind])
    if before in ("extended", "both"):
        head = generator.extend(head, paint(tmp_path / "many", {"yak": 17}))
    if before in ("removed", "both"):
        head = head.remove(["ant"])
    both = generator.extend(head, folders / "copy")
    assert same(rows(both.draws, slice(len(head.class_names))), rows(head.draws))
    cat, bee, wasp = (both.class_names.index(name) for name in ("cat", "bee", "wasp"))
    for one, other in zip(rows(both.draws, [bee]), rows(both.draws, [wasp]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2 * float(one.abs().max()))
    assert not torch.allclose(both.draws.weight[:, :, cat], both.draws.weight[:, :, bee], rtol=0.3)


def test_an_added_image_that_is_left_out_changes_no_covariance(
    generators: dict, folders: Path, written: Callable, tmp_path: Path
) -> None:
    generator, conditioner = generators["adapting"], generators["adapting"].conditioner
    support = generator.extend(written(generator), folders / "new").support
    assert support.space_classes.tolist() == [True] * 3 + [False] * 2
    own, space = conditioner.recalled(
        support.episode(), generator.standardizer, space=support.space, space_classes=support.space_classes
    )
    condition, dog = conditioner(own, space), 3
    assert condition.loo_change[0, 1, 0].abs().min() > 1e-4  # an image of the old bee weighs in all logits
    there = condition.support_mask[0, dog]
    assert not condition.loo_change[0, dog, :, [0, 1, 2, 4]].any()
    images = condition.support[0, dog, there]
    prior = condition.space.prior_variance
    others = (images.sum(0) - images) / 3 * prior / (prior + 1 / 3)

    def logits(row: torch.Tensor) -> torch.Tensor:
        return (images * row).sum(-1) - row.square().sum(-1) / 2

    own_row = condition.space.along_axes(condition.tokens[0, dog])
    expected = logits(others) - logits(own_row.expand_as(images))
    torch.testing.assert_close(condition.loo_change[0, dog, there, dog], expected, rtol=1e-3, atol=1e-2)


def test_support_summaries_go_on_growing(generators: dict, folders: Path, written: Callable, tmp_path: Path) -> None:
    generator = generators["plain"]
    generator.extend(written(generator), folders / "new").save_pretrained(tmp_path / "head")
    head = load_head(tmp_path / "head")
    assert head.support is not None
    assert head.support.statistics.counts.tolist() == [2, 5, 3, 4, 1]
    assert head.support.sample_mask.sum(1).tolist() == [2, 5, 3, 4, 1]
    again = generator.extend(head.remove(["bee", "dog"]), folders / "dog", num_inference_steps=2)
    assert again.class_names == ("ant", "cat", "elk", "dog")
    assert again.support is not None
    assert again.support.statistics.counts.tolist() == [2, 3, 1, 4]
    assert again.provenance["support_images"] == "10"
    assert again.provenance["edited"] == "removed 'bee', 'dog'"
    assert again.provenance["extended"].endswith("; added 'dog' (2 steps of MeanDDPMScheduler)")


def test_what_cannot_be_extended(
    generators: dict, make: MakeGenerator, folders: Path, written: Callable, tmp_path: Path
) -> None:
    generator = generators["plain"]
    head = written(generator)

    def refused(
        message: str, *, by: WeightGenerationPipeline = generator, support: str = "new", **options: int
    ) -> None:
        with pytest.raises(InputError, match=message) as caught:
            by.extend(load_head(tmp_path / "head"), folders / support, **options)
        assert "\n" not in str(caught.value)

    refused("has a class 'ant' already; rename its new folder", support="old")
    refused("samples is 2, and the head has 1; take 1, or rewrite all classes", num_samples=2)
    refused("steps is 0; it must be 1 or more", num_inference_steps=0)
    refused("nowhere: is not a directory", support="nowhere")
    refused(
        r"the head was written by another generator \(.*, weightgen .*\), and this one is", by=generators["adapting"]
    )
    other = make()
    other.backbone = Backbone.create(model="conv4", options={"width": 8, "img_size": 16}, seed=5)
    refused(f"the head is for a conv4 with weights {head.backbone.weights_hash()}, and the generator's have", by=other)
    (tmp_path / "head" / "statistics.safetensors").unlink()
    refused("the head has no statistics of its support images .*; generate it again")


def test_names_that_look_alike_are_one_class(generators: dict, tmp_path: Path) -> None:
    generator = generators["plain"]
    generator(paint(tmp_path / "old", {"café": 2, "tea": 1})).save_pretrained(tmp_path / "head")
    apart = paint(tmp_path / "new", {unicodedata.normalize("NFD", "café"): 2})
    with pytest.raises(InputError, match="already; rename its new folder"):
        generator.extend(load_head(tmp_path / "head"), apart)


def test_more_draws_when_all_are_rewritten(generators: dict, folders: Path, written: Callable) -> None:
    again = generators["plain"].extend(written(generators["plain"]), folders / "dog", num_samples=2, rewrite=True)
    assert again.draws.weight.shape == (1, 2, 4, 8)


def test_many_names_are_counted(generators: dict, written: Callable, tmp_path: Path) -> None:
    many = paint(tmp_path / "many", {f"class {i}": 1 for i in range(21)})
    more = generators["plain"].extend(written(generators["plain"]), many)
    assert more.provenance["extended"].startswith("added 21 classes (")


def test_tensors_that_are_no_space_are_refused(generators: dict, written: Callable) -> None:
    generator = generators["adapting"]
    space = written(generator).support.space
    with pytest.raises(InputError, match="generate the head again"):
        AdaptedSpace.recalled(generator.standardizer, {**space, "centre": space["centre"][1:]})
