"""Predictions are the mixture of the draws, whatever the images' order, number and form."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from weightgen import load_head
from weightgen.errors import InputError
from weightgen.heads.prediction import normalised_entropy
from weightgen.records import LinearHeads


def rows(predictions) -> torch.Tensor:
    return torch.tensor([list(prediction.probabilities.values()) for prediction in predictions])


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 4])
def test_probabilities_are_the_mixture_of_the_draws(make, pictures: Path, samples: int) -> None:
    case = make(samples=samples)
    predictions = case.head().predict(pictures)
    inputs = torch.stack([case.backbone.preprocess(Image.open(p.path)) for p in predictions])
    features = case.backbone(inputs)
    draws = [(features @ case.draws.weight[0, s].T + case.draws.bias[0, s]).softmax(-1) for s in range(samples)]
    expected = torch.stack(draws).mean(0)
    torch.testing.assert_close(rows(predictions), expected)
    torch.testing.assert_close(case.head().probabilities(features), expected)
    for prediction, row in zip(predictions, expected, strict=True):
        assert tuple(prediction.probabilities) == case.class_names
        assert prediction.class_name == case.class_names[int(row.argmax())]
        assert prediction.probability == max(prediction.probabilities.values())
    log_ways = torch.tensor(3.0).log()
    uncertainty = -(expected * expected.log()).sum(-1) / log_ways
    within = torch.stack([-(draw * draw.clamp(min=1e-30).log()).sum(-1) / log_ways for draw in draws]).mean(0)
    torch.testing.assert_close(torch.tensor([p.uncertainty for p in predictions]), uncertainty, rtol=1e-4, atol=1e-5)
    if samples > 1:
        disagreement = torch.tensor([p.disagreement for p in predictions])
        torch.testing.assert_close(disagreement, uncertainty - within, rtol=1e-4, atol=1e-5)


def test_a_folder_files_and_images_give_the_same(make, pictures: Path) -> None:
    head = make().head()
    paths = sorted(pictures.iterdir())
    by_folder = head.predict(pictures)
    assert [prediction.path for prediction in by_folder] == paths
    assert head.predict([str(path) for path in paths]) == by_folder
    by_image = head.predict([Image.open(path) for path in paths])
    assert all(prediction.path is None for prediction in by_image)
    torch.testing.assert_close(rows(by_image), rows(by_folder))
    assert head.predict(paths[0]) == head.predict([paths[0]])
    assert head.predict([]) == []


def test_batches_change_nothing_and_report_progress(make, pictures: Path) -> None:
    head, calls = make(samples=4).head(), []
    small = head.predict(pictures, batch_size=2, progress=lambda *call: calls.append(call))
    torch.testing.assert_close(rows(small), rows(head.predict(pictures)), rtol=1e-5, atol=1e-6)
    assert calls == [("predicting", 2, 5), ("predicting", 4, 5), ("predicting", 5, 5)]


def test_uncertainty_is_0_for_a_sure_head_and_1_for_an_ignorant_one(make, pictures: Path) -> None:
    case = make()
    zero = torch.zeros_like(case.draws.weight)
    sure = case.head(draws=LinearHeads(zero, torch.tensor([[[0.0, 500.0, 0.0]]])))
    ignorant = case.head(draws=LinearHeads(zero, torch.zeros(1, 1, 3)))
    assert [p.uncertainty for p in sure.predict(pictures)] == [0.0] * 5
    assert [p.uncertainty for p in ignorant.predict(pictures)] == pytest.approx([1.0] * 5)
    assert [p.class_name for p in sure.predict(pictures)] == [case.class_names[1]] * 5


def test_disagreement_tells_contradiction_from_shared_doubt(make, pictures: Path) -> None:
    case = make()
    weight = torch.zeros(1, 3, 3, case.backbone.feature_width)

    def predict(bias: torch.Tensor):
        return case.head(draws=LinearHeads(weight[:, : bias.shape[1]], bias)).predict(pictures)[0]

    contradicting, doubting = predict(500 * torch.eye(3)[None]), predict(torch.zeros(1, 3, 3))
    assert contradicting.uncertainty == pytest.approx(1) and contradicting.disagreement == pytest.approx(1)
    assert doubting.uncertainty == pytest.approx(1) and doubting.disagreement == pytest.approx(0, abs=1e-6)
    assert predict(torch.zeros(1, 1, 3)).disagreement is None


def test_normalised_entropy_of_one_class_is_0() -> None:
    assert normalised_entropy(torch.ones(2, 1)).tolist() == [0, 0]


def test_files_that_are_no_images_are_refused(make, pictures: Path) -> None:
    (pictures / "5.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"5\.png"):
        make().head().predict([pictures / "5.png"])
    with pytest.raises(InputError, match="absent"):
        make().head().predict([pictures / "absent.png"])


def test_a_head_of_another_backbone_is_refused(make) -> None:
    with pytest.raises(InputError, match="for this backbone"):
        make().head(backbone=make("test_resnet").backbone)


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 4])
def test_a_fresh_head_is_what_its_folder_holds(make, pictures: Path, tmp_path: Path, samples: int) -> None:
    case = make(samples=samples, support=True)
    fresh = case.head()
    fresh.save_pretrained(tmp_path / "head")
    loaded = load_head(tmp_path / "head")
    assert fresh.predict(pictures) == loaded.predict(pictures)
    assert torch.equal(fresh.attach()(case.images), loaded.attach()(case.images))
    for name in ("class_names", "provenance", "parts", "samples", "support_counts", "summary"):
        assert getattr(fresh, name) == getattr(loaded, name)
    assert fresh.support_counts == dict(zip(case.class_names, (7, 2, 9), strict=True))
    assert case.provenance.items() <= fresh.provenance.items()
    features = case.backbone(case.images)
    torch.testing.assert_close(fresh.probabilities(features), case.draws.probabilities(features[None])[0])


@torch.no_grad()
def test_attach_leaves_the_backbone_alone(make) -> None:
    case = make()
    before = case.backbone(case.images)
    attached = case.head().attach()
    for parameter in attached.parameters():
        parameter.zero_()
    assert torch.equal(case.backbone(case.images), before)


@torch.no_grad()
def test_unreadable_files_are_reported_and_the_others_answered(make, pictures: Path, tmp_path: Path) -> None:
    head, errors = make().head(), []
    (pictures / "1.png").write_bytes(b"")
    predictions = list(head.stream([pictures, tmp_path / "absent.png"], batch_size=2, failed=errors.append))
    good = [pictures / f"{i}.png" for i in (0, 2, 3, 4)]
    assert [one.path for one in predictions] == good
    torch.testing.assert_close(rows(predictions), rows(head.predict(good)), rtol=1e-5, atol=1e-6)
    assert [str(error).partition(": ")[0] for error in errors] == [
        str(pictures / "1.png"),
        str(tmp_path / "absent.png"),
    ]
