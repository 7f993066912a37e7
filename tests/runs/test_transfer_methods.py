"""Which methods a training set is given to, and how the generator is asked."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from weightgen.config.protocol_flags import held_out_share, training_sizes
from weightgen.errors import InputError
from weightgen.probes.sgd_head import SgdHead
from weightgen.records import Features, LinearHeads
from weightgen.runs.transfer_methods import build_transfer_method, chosen_transfer_methods, transfer_kind


class FakePipeline:
    """Writes a head of two draws and remembers how it was asked."""

    denoiser = SimpleNamespace(without_network="the form alone")

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.asked: list[dict[str, Any]] = []

    def dataset_heads(self, features: Features, generators: list[torch.Generator], **options: Any) -> LinearHeads:
        self.asked.append({"noise": torch.randn(3, generator=generators[0]).tolist(), **options})
        classes, width = len(features.class_names), features.values.shape[1]
        weight = torch.arange(self.samples * classes * width * 1.0).reshape(1, self.samples, classes, width).cos()
        return LinearHeads(weight, torch.zeros(1, self.samples, classes))


@pytest.mark.parametrize("samples", [1, 2])
def test_the_generator_and_its_parts(base_features: Features, samples: int) -> None:
    pipeline: Any = FakePipeline(samples)
    asked = {}
    for name in ("generator", "no_denoiser", "one_step"):
        classifier = build_transfer_method(name, pipeline).fit(base_features, seed=3)
        asked[name] = pipeline.asked[-1]
        logits = classifier(base_features.values[:5])
        expected = pipeline.dataset_heads(base_features, [torch.Generator()]).probabilities(
            base_features.values[None, :5]
        )
        torch.testing.assert_close(logits.softmax(-1), expected[0])
    assert asked["generator"]["steps"] is asked["generator"]["denoiser"] is asked["no_denoiser"]["steps"] is None
    assert asked["no_denoiser"]["denoiser"] == "the form alone"
    assert (asked["one_step"]["steps"], asked["one_step"]["denoiser"]) == (1, None)
    assert asked["generator"]["noise"] == asked["one_step"]["noise"]


def test_a_variant_has_its_options() -> None:
    made = build_transfer_method("sgd_head_100", None)  # type: ignore[arg-type]
    assert isinstance(made, SgdHead) and made.epochs == 100


def test_all_by_default() -> None:
    names = chosen_transfer_methods(None, can_step=True)
    assert names[:3] == ["generator", "no_denoiser", "one_step"]
    assert {"linear_probe", "ridge", "lda", "shrunk_lda", "centroid", "nearest_neighbours", "sgd_head_10"} < set(names)
    assert [name for name in names if name not in chosen_transfer_methods(None, can_step=False)] == ["one_step"]
    kinds = [transfer_kind(name) for name in names]
    assert kinds == ["generator", "ablation", "ablation", *["baseline"] * (len(names) - 3)]
    assert chosen_transfer_methods(["ridge", "generator"], can_step=False) == ["ridge", "generator"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: chosen_transfer_methods(["linear"], can_step=True), "did you mean 'linear_probe'"),
        (lambda: chosen_transfer_methods(["sgd_head"], can_step=True), "did you mean 'sgd_head_1"),
        (lambda: chosen_transfer_methods(["lda", "lda"], can_step=True), "'lda' is named twice"),
        (lambda: chosen_transfer_methods(["one_step"], can_step=False), "'one_step': a chain in segments"),
        (lambda: training_sizes(["0"]), "--images is '0'; give a number from 1, or all"),
        (lambda: training_sizes(["3", "few"]), "--images is 'few'"),
        (lambda: held_out_share("1"), "--test is 1; a share lies between 0 and 1"),
        (lambda: held_out_share("nan"), "--test is nan; a share"),
    ],
)
def test_what_cannot_be(call: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()


def test_sizes_and_shares() -> None:
    assert training_sizes(["3", "all", "12"]) == [3, None, 12]
    assert training_sizes(None) == training_sizes([]) == [1, 2, 5, 10, 20, 50, None]
    assert held_out_share("0.25") == 0.25
    assert held_out_share("flowers/") is None
