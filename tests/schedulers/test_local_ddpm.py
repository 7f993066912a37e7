"""Mc-Di's chain, run by the exact minimiser of its objective (arXiv 2502.01117)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from diffusers import DDIMScheduler

from weightgen.errors import InputError
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.schedulers.reverse_chain import MeanDDPMScheduler, reverse_chain, started
from weightgen.schedulers.schedulers import build_scheduler, swap_scheduler

CHAIN = 20
WIDTH = 2000
HIT = 1e-3


def chain_of(segments: int, **options: object) -> LocalDDPMScheduler:
    return build_scheduler("LocalDDPMScheduler", {"segments": segments, "num_train_timesteps": CHAIN, **options})


@dataclass(frozen=True)
class Run:
    """The minimiser's chain. misses[i]: relative distance from target i when its segment ends; end[i]: at t = 0."""

    misses: list[float]
    end: list[float]


def run(path: torch.Tensor, *, ranges: str) -> Run:
    """f(x, s) = E[what the objective asks for | x, s], over the targets that are learnt at this time."""
    k = len(path)
    bounds = chain_of(k).boundaries.tolist()
    naive = ranges == "naive"
    chain = chain_of(1 if naive else k)
    chain.set_timesteps(CHAIN)
    x = torch.randn(1, 1, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    seen = {}
    for t in chain.timesteps.tolist():
        whole = chain.signal_from(torch.tensor(0), torch.tensor(t))
        odds, answers = [], []
        for i, target in enumerate(path):
            first = 0 if naive else bounds[i + 1]
            beyond = bounds[i] if ranges == "disjoint" else CHAIN
            if not first <= t < beyond:
                continue
            local = chain.signal_from(torch.tensor(first), torch.tensor(t))
            noise = (x - local.sqrt() * target) / (1 - local).sqrt()
            density = (
                -(noise.square().sum() + WIDTH * (1 - local).log()) / 2 - torch.tensor(float(beyond - first)).log()
            )
            odds.append(density + (1 - local).log())  # the loss weighs an answer with 1 − ᾱⁱ
            answers.append(((1 - whole) / (1 - local)).sqrt() * noise)
        weights = torch.softmax(torch.stack(odds), 0)
        mean = sum(weight * answer for weight, answer in zip(weights, answers, strict=True))
        x = chain.step(mean, t, x).prev_sample
        seen[t] = x[0, 0]
    away = [(seen[bounds[i + 1]] - target).norm() / target.norm() for i, target in enumerate(path)]
    return Run([float(one) for one in away], [float((x[0, 0] - target).norm() / target.norm()) for target in path])


def line(k: int) -> torch.Tensor:
    """Points on the way from near 0 to a far end."""
    draw = torch.Generator().manual_seed(2)
    start, end = torch.randn(2, WIDTH, dtype=torch.float64, generator=draw)
    return torch.stack([0.1 * start + (end - 0.1 * start) * (i + 1) / k for i in range(k)])


def unrelated(k: int) -> torch.Tensor:
    return torch.randn(k, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(("path", "ranges"), [(line, "disjoint"), (line, "literal"), (unrelated, "disjoint")])
def test_the_chain_passes_every_target_at_the_end_of_its_segment(path, ranges: str, k: int) -> None:
    assert max(run(path(k), ranges=ranges).misses) < HIT


@pytest.mark.parametrize("k", [3, 5])
def test_literal_ranges_miss_targets_in_the_middle_that_lie_on_no_path(k: int) -> None:
    misses = run(unrelated(k), ranges="literal").misses
    assert max(misses[1:-1]) > 1
    assert max(misses[0], misses[-1]) < HIT


@pytest.mark.parametrize(("path", "k"), [(line, 3), (line, 5), (unrelated, 5)])
def test_naive_local_targets_end_at_one_that_need_not_be_the_last(path, k: int) -> None:
    end = run(path(k), ranges="naive").end
    assert min(end) < HIT
    assert end[-1] > 0.1


def test_the_segments_of_the_paper() -> None:
    assert chain_of(3).boundaries.tolist() == [20, 13, 7, 0]
    assert chain_of(3).segment_of(torch.tensor([19, 13, 12, 7, 6, 0])).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("k", [1, 3])
def test_a_denoiser_of_clean_rows_walks_as_one_of_noise_does(k: int) -> None:
    path = torch.randn(k, 4, 5, generator=torch.Generator().manual_seed(4))
    chains = {kind: chain_of(k, prediction_type=kind) for kind in ("sample", "epsilon")}

    def answer(kind: str):
        clean = chains["sample"]

        def predict(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            target = 0.9 * path[clean.segment_of(t)] + 0.1 * noisy  # not exact, so that the whole way counts
            return target if kind == "sample" else clean.noise_of(target, t, noisy)

        noise = [torch.Generator().manual_seed(i) for i in range(2)]
        return reverse_chain(predict, started(chains[kind], CHAIN), like=torch.zeros(2, 4, 5), generators=noise)

    torch.testing.assert_close(answer("sample"), answer("epsilon"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("t", [0, 6, 7, 13, 19])
def test_a_prediction_is_turned_into_the_local_target_and_back(segments: int, t: int) -> None:
    clean, noisy_kind = (chain_of(segments, prediction_type=kind) for kind in ("sample", "epsilon"))
    noisy, target = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(6))
    time = torch.full((2,), t)
    noise = clean.noise_of(target, time, noisy)
    assert torch.equal(clean.target_of(target, time, noisy), target)
    assert torch.equal(noisy_kind.noise_of(noise, time, noisy), noise)
    torch.testing.assert_close(noisy_kind.target_of(noise, time, noisy), target, rtol=1e-3, atol=1e-3)


def test_one_segment_is_the_plain_noise_free_chain() -> None:
    options = {"num_train_timesteps": CHAIN, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}
    plain, ours = (
        MeanDDPMScheduler(clip_sample=False, timestep_spacing="trailing", **options),
        chain_of(1, prediction_type="sample"),
    )
    torch.testing.assert_close(ours.input_signal, plain.alphas_cumprod, rtol=1e-4, atol=1e-8)

    def rows(scheduler: object) -> torch.Tensor:
        noise = [torch.Generator().manual_seed(7)]
        return reverse_chain(
            lambda x, t: 0.5 * x.tanh(), started(scheduler, 4), like=torch.zeros(1, 3, 5), generators=noise
        )

    torch.testing.assert_close(rows(ours), rows(plain), rtol=1e-4, atol=1e-4)


def test_a_denoiser_is_told_how_much_its_input_holds_of_the_local_target() -> None:
    chain = chain_of(3)
    signal = chain.input_signal
    assert signal[19] < 1e-4
    assert (signal[[0, 7, 13]] > 0.7).all()  # just before the end of every segment little noise is left
    assert (signal[[6, 12]] < signal[[7, 13]]).all()


def test_the_segments_survive_a_reload() -> None:
    again = swap_scheduler("LocalDDPMScheduler", chain_of(3))
    assert (again.config.segments, again.boundaries.tolist()) == (3, [20, 13, 7, 0])


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "MeanDDPMScheduler", "UniPCMultistepScheduler"])
def test_other_schedulers_know_nothing_of_segments(name: str) -> None:
    with pytest.raises(InputError, match="knows nothing of the 3 segments"):
        swap_scheduler(name, chain_of(3))
    assert swap_scheduler(name, chain_of(1)) is not None


def test_a_scheduler_put_in_place_of_a_segmented_one_is_refused() -> None:
    other = DDIMScheduler.from_config(chain_of(3).config)
    with pytest.raises(InputError, match="DDIMScheduler knows nothing of the 3 segments"):
        started(other, CHAIN)
    whole = DDIMScheduler.from_config(chain_of(1).config)
    assert len(started(whole, 5).timesteps) == 5


def test_another_number_of_steps_would_miss_the_targets() -> None:
    with pytest.raises(InputError, match="only in exactly 20 steps"):
        chain_of(3).set_timesteps(10)
    chain_of(1).set_timesteps(10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segments": 21}, "21 segments do not fit"),
        ({"segments": 0}, "0 segments"),
        ({"prediction_type": "v_prediction"}, "use epsilon"),
    ],
)
def test_what_is_no_chain_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_scheduler("LocalDDPMScheduler", {"num_train_timesteps": CHAIN, **options})
