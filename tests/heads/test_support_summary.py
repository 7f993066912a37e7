"""What a head keeps of its support is read as it was written, and refused when anything in it is wrong."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from weightgen import load_head
from weightgen.errors import InputError
from weightgen.heads import support_summary
from weightgen.heads.support_summary import SupportSummary
from weightgen.records import Statistics

FILE = "statistics.safetensors"


def same(one: SupportSummary, other: SupportSummary) -> bool:
    tensors = zip(one.tensors().values(), other.tensors().values(), strict=True)
    return one.generator == other.generator and all(torch.equal(a, b) for a, b in tensors)


def test_what_is_saved_is_read(make, tmp_path: Path) -> None:
    case = make(support=True)
    case.save(tmp_path / "head")
    assert same(load_head(tmp_path / "head").support, case.support)
    with safe_open(tmp_path / "head" / FILE, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["generator"] == case.support.generator
    assert tuple(json.loads(metadata["class_names"])) == case.class_names
    kinds = {name: tensor.dtype for name, tensor in load_file(tmp_path / "head" / FILE).items()}
    assert kinds.pop("sample") == torch.float16
    assert kinds.pop("sample_mask") == kinds.pop("space_classes") == torch.bool
    assert set(kinds.values()) == {torch.float32}


def test_a_summary_of_other_classes_is_refused(make) -> None:
    case = make(support=True)
    with pytest.raises(InputError, match="summary is of 2 classes of 6 features, and the head has 3 classes of 6"):
        case.head(support=case.support.of_classes([0, 2]))


def test_files_of_version_0_1_are_read(make, tmp_path: Path) -> None:
    case = make(support=True)
    case.save(tmp_path / "head")
    edit(tmp_path / "head", lambda tensors: tensors.update(space_classes=tensors.pop("space_classes")))
    assert same(load_head(tmp_path / "head").support, case.support)


def test_a_folder_without_it_is_a_head_all_the_same(make, tmp_path: Path) -> None:
    make(support=True).save(tmp_path / "head")
    assert "statistics.safetensors" in (tmp_path / "head/README.md").read_text()
    (tmp_path / "head" / FILE).unlink()
    assert load_head(tmp_path / "head").support is None
    make().save(tmp_path / "head")
    assert load_head(tmp_path / "head").support is None
    assert "statistics.safetensors" not in (tmp_path / "head/README.md").read_text()


def test_a_summary_without_classes_keeps_the_covariance(make) -> None:
    summary = make(support=True).support
    fewer = summary.of_classes([1, 2])
    assert torch.equal(fewer.statistics.counts, torch.tensor([2.0, 9.0]))
    assert torch.equal(fewer.statistics.means, summary.statistics.means[1:])
    assert torch.equal(fewer.sample, summary.sample[1:]) and torch.equal(fewer.sample_mask, summary.sample_mask[1:])
    torch.testing.assert_close(fewer.scatter / (1 + 8), summary.scatter / (6 + 1 + 8))
    assert fewer.generator == summary.generator
    assert fewer.space_classes.tolist() == [True, False]
    assert (fewer.space, fewer.shots) == (summary.space, summary.shots)
    assert same(summary.of_classes([0, 1, 2]), summary)


def test_joined_summaries_hold_all_classes_and_keep_what_rows_are_written_in(make) -> None:
    summary, other = make(support=True).support, make(support=True, seed=1).support.of_classes([1, 2])
    both = summary.joined(other.episode())
    for name in ("counts", "means"):
        parts = [getattr(one.statistics, name) for one in (summary, other)]
        assert torch.equal(getattr(both.statistics, name), torch.cat(parts))
    assert torch.equal(both.scatter, summary.scatter + other.scatter)
    assert torch.equal(both.sample, torch.cat([summary.sample, other.sample]))
    assert torch.equal(both.sample_mask, torch.cat([summary.sample_mask, other.sample_mask]))
    assert both.space_classes.tolist() == [True, True, False, False, False]
    assert (both.space, both.shots) == (summary.space, summary.shots)
    assert both.generator == summary.generator


def test_a_joined_sample_has_as_little_room_as_any(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support_summary, "MOST_SAMPLED", 17)
    summary = make(support=True).support
    short = replace(summary, sample=summary.sample[:, :1], sample_mask=summary.sample_mask[:, :1])
    both = summary.joined(short.episode())
    assert both.sample_mask.tolist() == [[True] * 2] * 3 + [[True, False]] * 3
    assert torch.equal(both.sample[:3], summary.sample[:, :2])
    assert torch.equal(both.sample[3:], torch.stack([summary.sample[:, 0], torch.zeros_like(summary.sample[:, 0])], 1))


def test_single_images_have_no_scatter_to_keep(make) -> None:
    summary = make(support=True).support
    ones, zero = torch.ones(3), torch.zeros_like(summary.scatter)
    statistics = Statistics(ones, summary.statistics.means, zero)
    single = replace(summary, statistics=statistics, sample=summary.sample[:, :1], sample_mask=ones[:, None] > 0)
    assert not single.of_classes([0, 1]).scatter.any()


WRONG = {
    "other width": (lambda m: replace(m, sample=m.sample[..., 1:]), "not of the same classes, images and features"),
    "other images": (lambda m: replace(m, sample=m.sample[:, 1:]), "not of the same classes, images and features"),
    "other classes": (lambda m: replace(m, sample_mask=m.sample_mask[1:]), "not of the same classes, images"),
    "no class": (lambda m: m.of_classes([]), "not of the same classes, images and features"),
    "numbers for a mask": (
        lambda m: replace(m, sample_mask=m.sample_mask.float()),
        "sample_mask is of type torch.float32",
    ),
    "NaN": (
        lambda m: replace(m, sample=m.sample * torch.nan),
        "sample is of type torch.float32, or holds NaN",
    ),
    "beyond half precision": (lambda m: replace(m, sample=m.sample * 1e6), "beyond 65504; standardise the images"),
    "no generator": (lambda m: replace(m, generator=""), "no generator is named"),
    "NaN in the space": (
        lambda m: replace(m, space={"centre": torch.tensor([1.0, torch.nan])}),
        "space.centre is of type torch.float32, or holds NaN",
    ),
    "no shots": (lambda m: replace(m, shots=torch.tensor(0.5)), "shots are below 1"),
    "no image": (
        lambda m: replace(m, statistics=replace(m.statistics, counts=torch.tensor([7.0, 0.0, 9.0]))),
        "counts are below 1",
    ),
    "fewer than the sample": (
        lambda m: replace(m, statistics=replace(m.statistics, counts=torch.tensor([4.0, 2.0, 9.0]))),
        "below the number of images in the sample",
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_summary_is_refused(make, name: str) -> None:
    change, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        change(make(support=True).support)


def edit(folder: Path, change, **changes: str) -> None:
    with safe_open(folder / FILE, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE, {**metadata, **changes})


def cut(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-9])


def narrow(tensors: dict[str, torch.Tensor]) -> None:
    for name in ("means", "sample"):
        tensors[name] = tensors[name][..., 1:].contiguous()
    tensors["scatter"] = tensors["scatter"][1:, 1:].contiguous()


DAMAGE = {
    "cut short": (cut, "is not a whole safetensors file"),
    "a pickle": (lambda f: (f / FILE).write_bytes(b"\x80\x04\x95\x0b\x00\x00\x00."), "is not a whole safetensors file"),
    "NaN": (lambda f: edit(f, lambda t: t["scatter"].fill_(torch.nan)), "holds NaN or infinite values"),
    "infinite sample": (lambda f: edit(f, lambda t: t["sample"].fill_(torch.inf)), "holds NaN or infinite values"),
    "no means": (
        lambda f: edit(f, lambda t: t.pop("means")),
        "holds counts, sample, sample_mask, scatter, shots, space_classes instead of",
    ),
    "another tensor": (
        lambda f: edit(f, lambda t: t.update(other=torch.ones(3))),
        "holds counts, means, other, sample",
    ),
    "another shape": (lambda f: edit(f, lambda t: t.update(scatter=torch.ones(6))), "not of the same classes"),
    "scalar means": (lambda f: edit(f, lambda t: t.update(means=torch.ones(()))), "not of the same classes"),
    "counts of 0": (lambda f: edit(f, lambda t: t["counts"].zero_()), "counts are below 1"),
    "other names": (lambda f: edit(f, lambda t: None, class_names='["a", "b", "c"]'), "class names differ"),
    "no generator": (lambda f: edit(f, lambda t: None, generator=""), "no generator is named"),
    "no metadata": (lambda f: save_file(load_file(f / FILE), f / FILE), "class names differ"),
    "another width": (
        lambda f: edit(f, narrow),
        "is of 3 classes of 5 features, and the head has 3 classes of 6",
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_summary_is_refused_in_one_line(make, tmp_path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    make(support=True).save(tmp_path / "head")
    damage(tmp_path / "head")
    with pytest.raises(InputError) as caught:
        load_head(tmp_path / "head")
    assert str(caught.value).startswith(str(tmp_path / "head")) and FILE in str(caught.value)
    assert message in str(caught.value) and "\n" not in str(caught.value)
