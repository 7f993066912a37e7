"""Batched, closed-form fits are those of torch.optim.Adam and autograd through the reader, one task at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from weightgen.features.standardizer import Standardizer
from weightgen.records import Calibration, Episode, Features
from weightgen.spaces.class_rows import ClassRows, RowReader
from weightgen.zoo import fit as module
from weightgen.zoo.build import Source
from weightgen.zoo.fit import Fitted
from weightgen.zoo.options import FitOptions

TASKS, WAYS, SHOTS, WIDTH = 2, 3, 3, 8
READOUTS = ["cosine", "gaussian"]
OPTIONS = FitOptions(epochs=11, local_targets=4, learning_rate=0.1, weight_decay=0.01)
START = torch.linspace(-1, 1, WIDTH)


@pytest.fixture
def reader(base_standardizer: Standardizer, request: pytest.FixtureRequest) -> RowReader:
    """Gaussian logits of whole classes are read with the noise of images alone, as those of draws are."""
    standardizer = Standardizer(**{**base_standardizer.config, "centring": 0.5})
    standardizer.load_state_dict(base_standardizer.state_dict())
    standardizer.origin.mul_(0.5)
    standardizer.likelihood_scale.fill_(0.7)
    scale = Calibration(((1.0, 9.0), (5.0, 3.0))) if request.param == "cosine" else Calibration.flat(0.7)
    return ClassRows(readout=request.param).reader(standardizer, scale, draws=True)


both = pytest.mark.parametrize("reader", READOUTS, indirect=True)


def drawn() -> Episode:
    """Ragged supports of standardised images."""
    generator = torch.Generator().manual_seed(1)
    none = torch.zeros(TASKS, 0, WIDTH)
    return Episode(
        support=torch.randn(TASKS, WAYS, SHOTS, WIDTH, generator=generator),
        support_mask=torch.arange(SHOTS) < torch.tensor([[2, 2, 3], [3, 1, 2]])[..., None],
        query=none,
        query_labels=torch.zeros(TASKS, 0, dtype=torch.int64),
        classes=torch.arange(WAYS).expand(TASKS, -1),
        unlabelled=none,
        unlabelled_mask=torch.zeros(TASKS, 0, dtype=torch.bool),
    )


def fit(reader: RowReader, options: FitOptions = OPTIONS, *, support: Episode | None = None) -> Fitted:
    space, nothing = ClassRows(readout=reader.readout), Features(torch.zeros(0, WIDTH), torch.zeros(0).long(), ())
    source = Source(space, nothing, reader.standardizer, torch.ones(1, WIDTH), reader.scale)
    draw = torch.Generator().manual_seed(2)
    return module.fit(
        space.problem(support or drawn(), source, noise=options.feature_noise, generator=draw), START, options
    )


def plain_fit(reader: RowReader, images: Tensor, labels: Tensor, options: FitOptions) -> tuple[list[Tensor], float]:
    """One task without padding; the rows after every epoch, and the loss at the end."""
    rows = START.expand(WAYS, -1).clone().requires_grad_()
    adam = torch.optim.Adam([rows], lr=options.learning_rate, weight_decay=options.weight_decay, fused=False)

    def loss() -> Tensor:
        head = reader.standardised_head(rows[None, None], torch.full((1, WAYS), 10.0))
        return torch.nn.functional.cross_entropy(head.logits(images[None])[0], labels)

    path = []
    for _ in range(options.epochs):
        adam.zero_grad()
        loss().backward()
        if options.sharpness_aware_radius:
            here = rows.detach().clone()
            uphill = options.sharpness_aware_radius * rows.grad / rows.grad.norm()
            rows.data.add_(uphill)
            adam.zero_grad()
            loss().backward()
            rows.data.copy_(here)
        adam.step()
        path.append(rows.detach().clone())
    return path, float(loss().detach())


def as_targets(reader: RowReader, rows: Tensor) -> Tensor:
    """Rows that are read by their cosine get the length of prototypes; here there is one prototype, of ones."""
    if reader.readout == "gaussian":
        return rows
    origin = reader.standardizer.standardized_origin
    length = (1 - origin).norm()
    return origin + length * torch.nn.functional.normalize(rows - origin, dim=-1)


@both
@pytest.mark.parametrize("radius", [0.0, 0.3])
def test_the_fit_is_that_of_adam_and_autograd(reader: RowReader, radius: float) -> None:
    options = OPTIONS.model_copy(update={"sharpness_aware_radius": radius})
    fitted = fit(reader, options)
    assert fitted.targets.shape == (TASKS, 4, WAYS, WIDTH)
    for i, (images, mask) in enumerate(zip(drawn().support, drawn().support_mask, strict=True)):
        path, loss = plain_fit(reader, images[mask], mask.nonzero()[:, 0], options)
        expected = as_targets(reader, torch.stack([path[epoch - 1] for epoch in options.kept_epochs]))
        torch.testing.assert_close(fitted.targets[i], expected, rtol=0, atol=1e-5)
        assert float(fitted.loss[i]) == pytest.approx(loss, abs=1e-5)


@both
def test_logits_differ_from_the_readers_by_a_constant_per_image(reader: RowReader) -> None:
    images, rows = drawn().support.flatten(1, 2), 2 * torch.randn(TASKS, WAYS, WIDTH)
    logits = ClassRows(readout=reader.readout).fit_logits(reader.standardizer, reader.scale).logits(rows, images).mT
    expected = reader.standardised_head(rows[:, None], torch.full((TASKS, WAYS), 10.0)).logits(images)
    torch.testing.assert_close(logits - logits[..., :1], expected - expected[..., :1], rtol=1e-5, atol=1e-5)


@both
def test_the_gradient_is_autograds_for_any_residual(reader: RowReader) -> None:
    """Any that sums to 0 over the classes, as those of probabilities do."""
    images, generator = drawn().support.flatten(1, 2), torch.Generator().manual_seed(4)
    rows = torch.randn(TASKS, WAYS, WIDTH, generator=generator).requires_grad_()
    residual = torch.randn(TASKS, WAYS, images.shape[1], generator=generator)
    residual -= residual.mean(1, keepdim=True)
    head = reader.standardised_head(rows[:, None], torch.full((TASKS, WAYS), 10.0))
    (residual * head.logits(images).mT).sum().backward()
    gradient, space = torch.empty(TASKS, WAYS, WIDTH), ClassRows(readout=reader.readout)
    space.fit_logits(reader.standardizer, reader.scale).gradient(rows.detach(), images, residual, out=gradient)
    torch.testing.assert_close(gradient, rows.grad, rtol=1e-5, atol=1e-5)


@both
def test_permuting_classes_permutes_rows(reader: RowReader) -> None:
    support, order = drawn(), [2, 0, 1]
    other = replace(support, support=support.support[:, order], support_mask=support.support_mask[:, order])
    fitted, permuted = fit(reader), fit(reader, support=other)
    torch.testing.assert_close(permuted.targets, fitted.targets[:, :, order], rtol=0, atol=1e-5)


@both
def test_a_batch_of_tasks_is_each_task_alone(reader: RowReader) -> None:
    fitted = fit(reader)
    for i in range(TASKS):
        alone = fit(reader, support=drawn()[i : i + 1])
        for name in ("targets", "accuracy", "loss"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(fitted, name)[i], rtol=1e-5, atol=1e-5)


@both
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_padding_changes_nothing(reader: RowReader, noise: float) -> None:
    support = drawn()
    other = replace(support, support=support.support.masked_fill(~support.support_mask[..., None], 9.0))
    options = OPTIONS.model_copy(update={"feature_noise": noise})
    fitted, same = fit(reader, options), fit(reader, options, support=other)
    for name in ("targets", "accuracy", "loss"):
        torch.testing.assert_close(getattr(same, name), getattr(fitted, name), rtol=0, atol=0)


@both
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_local_targets_are_the_rows_of_shorter_fits(reader: RowReader, noise: float) -> None:
    options = OPTIONS.model_copy(update={"feature_noise": noise, "sharpness_aware_radius": 0.1})
    targets = fit(reader, options).targets
    for i, epochs in enumerate(options.kept_epochs):
        shorter = options.model_copy(update={"epochs": epochs, "local_targets": 1})
        torch.testing.assert_close(fit(reader, shorter).targets[:, 0], targets[:, i], rtol=0, atol=0)


@both
def test_a_long_fit_tells_separable_images_apart(reader: RowReader) -> None:
    fitted = fit(reader, FitOptions(epochs=300, learning_rate=0.1))
    assert fitted.accuracy.tolist() == [100.0, 100.0]
    assert float(fitted.loss.max()) < 0.6


@both
def test_noise_is_that_of_images_and_the_generators(reader: RowReader) -> None:
    noisy = OPTIONS.model_copy(update={"feature_noise": 0.5})
    assert torch.equal(fit(reader, noisy).targets, fit(reader, noisy).targets)
    assert not torch.allclose(fit(reader, noisy).targets, fit(reader).targets, atol=1e-3)
    deviation = ClassRows(readout=reader.readout).fit_logits(reader.standardizer, reader.scale).noise
    assert deviation == pytest.approx(float(reader.standardizer.noise_variance) ** 0.5)


@pytest.mark.parametrize(
    ("epochs", "local_targets", "kept"),
    [(60, 3, (20, 40, 60)), (10, 4, (3, 5, 8, 10)), (7, 7, tuple(range(1, 8))), (5, 1, (5,)), (11, 3, (4, 7, 11))],
)
def test_kept_epochs_are_even_and_end_with_the_fit(epochs: int, local_targets: int, kept: tuple[int, ...]) -> None:
    assert FitOptions(epochs=epochs, local_targets=local_targets).kept_epochs == kept


def test_more_points_than_epochs_are_refused() -> None:
    with pytest.raises(ValidationError, match="local_targets is 4 and epochs 3"):
        FitOptions(epochs=3, local_targets=4)
