"""Logits, losses and folders are those of 0.1 (commit 7b50a80), to 1e-5; README.md here tells what may change them."""

from __future__ import annotations

import frozen_values
import pytest
import torch
from subjects import FOLDERS, READ, REFUSED, SUBJECTS

from weightgen.errors import InputError


@pytest.mark.parametrize("name", SUBJECTS)
def test_values_are_the_frozen_ones(name: str) -> None:
    if name == "parts/lora":
        pytest.importorskip("peft")
    tolerance = frozen_values.tolerance_of(name)
    assert frozen_values.differences(frozen_values.read(name), SUBJECTS[name](), tolerance) == {}


def test_every_file_of_values_has_a_subject() -> None:
    paths = {path.relative_to(frozen_values.VALUES) for path in frozen_values.VALUES.rglob("*.safetensors")}
    assert {path.with_suffix("").as_posix() for path in paths} == set(SUBJECTS)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_folder_of_0_1_that_is_not_read_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match=r"0\.1") as caught:
        READ[name]()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("generator", "without"),
    [
        ("generators/metadiff.whiten", "ablations/metadiff.whiten.no_denoiser"),
        ("generators/metadiff.scale_power", "ablations/metadiff.scale_power.no_denoiser"),
        ("generators/mcdi.whiten", "ablations/mcdi.whiten.no_denoiser"),
        ("generators/paper_metadiff.identity", "ablations/paper_metadiff.no_denoiser"),
        ("data_sets/transfer_metadiff.generator", "data_sets/transfer_metadiff.no_denoiser"),
        ("data_sets/transfer_mcdi.generator", "data_sets/transfer_mcdi.no_denoiser"),
        ("parts_methods/generator", "parts_methods/mean_offset"),
    ],
)
def test_the_networks_explicit_weights_are_seen_in_the_values(generator: str, without: str) -> None:
    apart = frozen_values.differences(frozen_values.read(generator), frozen_values.read(without))
    assert min(apart.values()) > 1e-3


def test_differences_are_found() -> None:
    values = {"a": torch.tensor([3.0, 200.0]), "b": torch.zeros(0)}
    assert frozen_values.differences(values, values) == {}
    assert list(frozen_values.differences(values, {**values, "a": torch.tensor([3.0, 200.01])})) == ["a"]
    assert list(frozen_values.differences(values, {**values, "a": torch.tensor([3.0, torch.nan])})) == ["a"]
    assert list(frozen_values.differences(values, {**values, "a": torch.tensor([3.0])})) == ["a"]
    assert list(frozen_values.differences(values, {"a": values["a"]})) == ["b"]


def test_all_of_it_stays_small() -> None:
    whole = sum(path.stat().st_size for place in (FOLDERS, frozen_values.VALUES) for path in place.rglob("*.*"))
    assert whole < 300_000
