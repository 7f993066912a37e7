"""Which methods take part in a comparison: with unlabelled images and without, on episodes and on training sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from generator_doubles import generator_double
from weightgen.cli.evaluate import training_sizes

from weightgen.errors import InputError
from weightgen.evaluation.tuning import CrossValidation
from weightgen.methods.sgd_head import SgdHead
from weightgen.runs.methods import build_methods, chosen_methods, known_methods
from weightgen.runs.transfer_evaluation import held_out_share

EPISODES: dict[str, Any] = {"protocol": "episodes", "pipeline": generator_double()}
TRANSFER: dict[str, Any] = {"protocol": "transfer", "pipeline": generator_double()}
INSIDE: dict[str, Any] = {"protocol": "episodes", "pipeline": generator_double(can_draw=False, takes_images=True)}
ABLATIONS = {"draws", "inductive", "no_crops", "no_denoiser", "one_step", "random_denoiser"}
FITTED = {"fitted_on_support", "oracle", "zoo_mean"}
TRANSDUCTIVE = {"bd_cspn", "laplacian_shot", "soft_kmeans", "tim"}
FEW_SHOT = {
    *("raw_centroid", "cosine_centroid", "fine_tuned_head", "logistic_regression", "ridge"),
    *("shrunk_centroid", "shrunk_lda"),
}


def test_all_by_default_less_those_that_need_unlabelled_images_or_take_too_long_with_them() -> None:
    without = chosen_methods(None, **EPISODES)
    assert without[0] == "generator"
    assert set(without) == {"generator", *FEW_SHOT, *ABLATIONS} - {"inductive", "no_crops"}
    with_them = chosen_methods(None, **EPISODES, unlabelled=True)
    assert set(with_them) == {"generator", *FEW_SHOT, *ABLATIONS, *TRANSDUCTIVE} - {"draws", "no_crops"}
    assert "draws" not in chosen_methods(None, protocol="episodes", pipeline=generator_double(can_draw=False))


def test_without_base_classes_those_that_need_them_and_the_slow_one_are_left_out() -> None:
    names = set(chosen_methods(None, **EPISODES, base_classes=False, crops=True))
    assert names == {"generator", *FEW_SHOT, *ABLATIONS} - {"inductive", "shrunk_centroid", "fine_tuned_head"}
    assert "fine_tuned_head" in chosen_methods(["fine_tuned_head"], **EPISODES, base_classes=False)


def test_a_generator_inside_the_backbone_meets_all_others_and_other_sources_of_its_parameters() -> None:
    others = {"generator", *FEW_SHOT, *ABLATIONS} - {"draws", "inductive", "no_crops"}
    assert set(chosen_methods(None, **INSIDE)) == {*others, *FITTED}


def test_all_of_training_sets_by_default() -> None:
    assert set(chosen_methods(None, **TRANSFER)) == {
        *("generator", "no_denoiser", "one_step", "raw_centroid", "cosine_centroid", "lda", "logistic_regression"),
        *("nearest_neighbours", "ridge", "sgd_head_1", "sgd_head_10", "sgd_head_100", "shrunk_lda"),
    }


def test_those_asked_for_in_their_order_and_the_raw_centroid() -> None:
    assert chosen_methods(["ridge", "generator"], **EPISODES) == ["ridge", "generator", "raw_centroid"]
    assert chosen_methods(["raw_centroid", "lda"], **EPISODES) == ["raw_centroid", "lda"]
    asked = ["inductive", "ridge"]
    assert chosen_methods(asked, **EPISODES, unlabelled=True) == [*asked, "raw_centroid"]
    assert chosen_methods(["draws", "fine_tuned_head"], **TRANSFER) == ["draws", "fine_tuned_head", "raw_centroid"]
    assert chosen_methods(["oracle"], **INSIDE) == ["oracle", "raw_centroid"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: chosen_methods(["ridg"], **EPISODES), "did you mean 'ridge'"),
        (lambda: chosen_methods(["sgd_head"], **TRANSFER), "did you mean 'sgd_head_1"),
        (lambda: chosen_methods(["ridge", "generator", "ridge"], **EPISODES), "'ridge' is named twice"),
        (lambda: chosen_methods(["oracle"], **EPISODES), "'oracle' is for generators that write inside the backbone"),
        (lambda: chosen_methods(["inductive"], **EPISODES), "'inductive' needs unlabelled images; give --unlabelled N"),
        (lambda: chosen_methods(["no_crops"], **EPISODES), "'no_crops': this generator sees no crops"),
        (lambda: chosen_methods(["ridge", "shrunk_centroid"], **EPISODES, base_classes=False), "tuned on base classes"),
        (lambda: chosen_methods(["tim"], **EPISODES), "'tim' needs unlabelled images; give --unlabelled N"),
        (lambda: chosen_methods(["tim"], **TRANSFER), "'tim' is for episodes; leave it out"),
        (lambda: chosen_methods(["shrunk_centroid"], **TRANSFER), "'shrunk_centroid' is for episodes"),
        (lambda: chosen_methods(["draws"], **INSIDE), "'draws': this generator writes a single head"),
        (lambda: training_sizes(["0"]), "--images is '0'; give a number from 1, or all"),
        (lambda: training_sizes(["3", "few"]), "--images is 'few'"),
        (lambda: held_out_share("1"), "--test is 1; a share lies between 0 and 1"),
        (lambda: held_out_share("nan"), "--test is nan; a share"),
    ],
)
def test_what_cannot_take_part(call: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()


def test_kinds() -> None:
    kinds = {name: method.kind for name, (method, _) in known_methods().items()}
    assert {name for name, kind in kinds.items() if kind == "ablation"} == ABLATIONS
    assert [name for name, kind in kinds.items() if kind == "generator"] == ["generator"]
    assert [name for name, kind in kinds.items() if kind == "oracle"] == ["oracle"]
    assert set(kinds.values()) == {"generator", "ablation", "baseline", "oracle"}


def test_a_variant_has_its_options_and_tuning_is_the_protocols() -> None:
    built = build_methods(["sgd_head_100", "ridge", "raw_centroid"], None)
    assert isinstance(built["sgd_head_100"], SgdHead) and built["sgd_head_100"].epochs == 100
    assert isinstance(built["ridge"], CrossValidation)
    assert not isinstance(built["raw_centroid"], CrossValidation)


def test_sizes_and_shares() -> None:
    assert training_sizes(["3", "all", "12"]) == [3, None, 12]
    assert training_sizes(None) == training_sizes([]) == [1, 2, 5, 10, 20, 50, None]
    assert held_out_share("0.25") == 0.25
    assert held_out_share("flowers/") is None
