"""A head read off rows says on raw features what the rows say in their own space."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.distributions import MultivariateNormal

from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.records import Calibration, Features
from weightgen.spaces.class_rows import RowReader

MakeFeatures = Callable[..., Features]
BATCH, SAMPLES, WAYS, WIDTH = 2, 3, 5, 8
READOUTS = ["cosine", "gaussian"]


@pytest.fixture
def standardizer(make_features: MakeFeatures) -> Standardizer:
    return Standardizer(feature_width=WIDTH, within_shrinkage=0.1, between_shrinkage=0.2).fit(make_features())


@pytest.fixture
def rows() -> torch.Tensor:
    return 2 * torch.randn(BATCH, SAMPLES, WAYS, WIDTH, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def raw(make_features: MakeFeatures) -> torch.Tensor:
    return make_features(seed=3).values[: 7 * BATCH].reshape(BATCH, 7, WIDTH)


COUNTS = torch.tensor([[1.0, 2, 3, 4, 5], [4, 4, 4, 4, 4]])
EVEN = torch.tensor([[3.0, 3, 3, 3, 3], [4, 4, 4, 4, 4]])
"""Where classes have equally many images, boundaries are where the rows put them."""


@pytest.mark.parametrize("readout", READOUTS)
def test_folding_the_map_changes_no_logit(standardizer, rows, raw, readout: str) -> None:
    reader = RowReader(standardizer, readout, Calibration(((1.0, 1.7), (6.0, 0.6))))
    folded = reader.head(rows, COUNTS).logits(raw)
    inside = reader.standardised_head(rows, COUNTS).logits(standardizer.query(raw))
    torch.testing.assert_close(folded, inside, rtol=1e-3, atol=1e-3)


def test_gaussian_logits_are_differences_of_log_densities(standardizer, rows, raw) -> None:
    """Each draw: logit_a − logit_b = log N(z; w_a, v) − log N(z; w_b, v)."""
    head = RowReader(standardizer, "gaussian").head(rows, EVEN)
    z = standardizer.query(raw)
    for i in range(BATCH):
        shots = EVEN[i].mean()
        prior, noise = standardizer.prior_variance, standardizer.noise_variance
        variance = noise + prior * (noise / shots) / (prior + noise / shots)
        covariance = standardizer.axes @ variance.diag() @ standardizer.axes.mT
        for j in range(SAMPLES):
            logits = raw[i] @ head.weight[i, j].T + head.bias[i, j]
            density = MultivariateNormal(rows[i, j], covariance).log_prob(z[i][:, None])
            torch.testing.assert_close(logits - logits[:, :1], density - density[:, :1], rtol=1e-3, atol=2e-3)


def test_cosine_logits_rank_as_cosines_do(standardizer, rows, raw) -> None:
    logits = RowReader(standardizer, "cosine").head(rows[:, :1], EVEN).logits(raw)
    z, origin = standardizer.query(raw), standardizer.query(standardizer.origin)
    z, directions = z - origin, rows[:, :1] - origin
    cosine = torch.nn.functional.cosine_similarity(z[:, :, None], directions, dim=-1)
    expected = cosine * z.norm(dim=-1, keepdim=True) / standardizer.radius
    torch.testing.assert_close(logits - logits[..., :1], expected - expected[..., :1], rtol=1e-3, atol=1e-4)


def test_an_image_of_the_average_base_class_has_no_logit(make_features: MakeFeatures, rows) -> None:
    """Far from the origin every cosine is large; what counts is how much larger than that to the average class."""
    standardizer = Standardizer(feature_width=WIDTH, centring=0.0).fit(make_features())
    head = RowReader(standardizer, "cosine").head(torch.zeros_like(rows), EVEN)
    assert float(head.mean().logits(standardizer.restore(rows[:, 0])).abs().max()) < 1e-4


@pytest.mark.parametrize("readout", READOUTS)
def test_a_padding_class_never_wins_and_changes_no_other(standardizer, rows, raw, readout: str) -> None:
    reader = RowReader(standardizer, readout)
    padded = reader.head(
        torch.nn.functional.pad(rows, (0, 0, 0, 1), value=9.0), torch.nn.functional.pad(COUNTS, (0, 1))
    )
    plain = reader.head(rows, COUNTS)
    assert torch.isfinite(padded.bias).all()
    assert (padded.probabilities(raw)[..., WAYS] == 0).all()
    torch.testing.assert_close(padded.weight[:, :, :WAYS], plain.weight)
    torch.testing.assert_close(padded.bias[:, :, :WAYS], plain.bias)


@pytest.mark.parametrize("readout", READOUTS)
def test_scale_multiplies_logits(standardizer, rows, raw, readout: str) -> None:
    once, thrice = (
        RowReader(standardizer, readout, Calibration.flat(scale)).head(rows, COUNTS).mean().logits(raw)
        for scale in (1.0, 3.0)
    )
    torch.testing.assert_close(thrice, 3 * once, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("readout", READOUTS)
def test_each_episode_is_scaled_by_its_own_shots(standardizer, rows, raw, readout: str) -> None:
    plain = RowReader(standardizer, readout).head(rows, EVEN).mean().logits(raw)
    scaled = RowReader(standardizer, readout, Calibration(((3.0, 2.0), (4.0, 5.0)))).head(rows, EVEN).mean().logits(raw)
    torch.testing.assert_close(scaled, plain * torch.tensor([2.0, 5.0])[:, None, None], rtol=1e-3, atol=1e-3)


def test_draws_are_read_with_the_noise_of_images_alone(standardizer, rows, raw) -> None:
    """What a draw does not know of its class is in the spread of the draws."""
    head = RowReader(standardizer, "gaussian", draws=True).head(rows, EVEN)
    z, noise = standardizer.query(raw), standardizer.noise_variance.expand(WIDTH)
    logits = raw[0] @ head.weight[0, 1].T + head.bias[0, 1]
    density = MultivariateNormal(rows[0, 1], noise.diag()).log_prob(z[0][:, None])
    torch.testing.assert_close(logits - logits[:, :1], density - density[:, :1], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("readout", READOUTS)
def test_permuting_rows_permutes_the_head(standardizer, rows, readout: str) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    reader = RowReader(standardizer, readout)
    head, turned = reader.head(rows, COUNTS), reader.head(rows[:, :, order], COUNTS[:, order])
    torch.testing.assert_close(turned.weight, head.weight[:, :, order])
    torch.testing.assert_close(turned.bias, head.bias[:, :, order])


def test_an_unknown_readout_is_refused(standardizer) -> None:
    with pytest.raises(InputError, match="'gausian'; did you mean 'gaussian'"):
        RowReader(standardizer, "gausian")
