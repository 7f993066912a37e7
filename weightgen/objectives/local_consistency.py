"""Mc-Di's objective: one chain that passes the points of an optimisation path one after the other."""

from dataclasses import replace
from typing import Literal

import torch
from diffusers import SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from weightgen.errors import InputError
from weightgen.interfaces import Objective, TrainingBatch
from weightgen.records import Episode
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler


class LocalConsistency(Objective):
    """Local-consistency diffusion (Mc-Di, Guan et al., CVPR 2026, arXiv 2502.01117).

    L_i = E ‖ √(1−ᾱⁱ_s) f(x_s, s) − √(1−ᾱ_s) ε ‖² with x_s = √ᾱⁱ_s θ_i + √(1−ᾱⁱ_s) ε for local target θ_i, the end of
    the scheduler's segment i; each episode draws one i. With one local target it is plain noise prediction ("Mv-Di").

    Options:
        ranges: literal, the paper's: target i is learnt at all noise above its boundary, where targets share times and
            the denoiser must compromise unless they lie on a path. disjoint: within its own segment only.
        query_weight: of the cross-entropy on the episode's queries of the rows that the last segment predicts; 0, as in
            the paper, does not look at queries.
        naive_local_targets: every local target as the end of the whole chain ("Tw-Di"), where they compete; the
            paper's ablation.
    """

    scheduler = LocalDDPMScheduler.__name__

    def __init__(
        self,
        *,
        ranges: Literal["disjoint", "literal"] = "disjoint",
        query_weight: float = 0.0,
        naive_local_targets: bool = False,
    ) -> None:
        if query_weight < 0:
            raise ValueError(f"query_weight is {query_weight}; it must be 0 or more")
        if naive_local_targets and ranges == "literal":
            raise ValueError("naive_local_targets has the whole chain for every target; drop ranges")
        self.ranges, self.query_weight, self.naive = ranges, query_weight, naive_local_targets
        self.classifies_queries = query_weight > 0

    def __call__(self, batch: TrainingBatch) -> dict[str, Tensor]:
        path, generator, conditioner = batch.path, batch.generator, batch.conditioner
        chain = self._chain(batch.scheduler, targets=path.shape[1])
        episodes, targets = path.shape[:2]
        which = torch.randint(targets, (episodes,), generator=generator)
        end, start = self._range(chain, which)
        t = end + (torch.rand(episodes, generator=generator) * (start - end)).long()
        noise = torch.randn(path[:, 0].shape, generator=generator, dtype=path.dtype).to(path)
        levels = (chain.signal_from(level, t) for level in (end, torch.zeros_like(t)))
        local, whole = (level[:, None, None].to(path) for level in levels)  # batch 1 1
        target = path[torch.arange(episodes), which]
        noisy = local.sqrt() * target + (1 - local).sqrt() * noise
        condition = conditioner.at(conditioner(batch.episode, batch.features), noisy)
        if not self.naive:
            condition = replace(condition, segment=which.to(path.device))
        prediction = batch.denoiser(noisy, t.to(path.device), condition)
        predicted = chain.noise_of(prediction, t, noisy)
        residual = (1 - local).sqrt() * predicted - (1 - whole).sqrt() * noise
        real = batch.space.real(condition)[..., None]
        loss = (residual * real).square().sum() / (real.sum() * path.shape[-1])
        if not self.query_weight:
            return {"loss": loss}
        clean = (noisy - (1 - local) / (1 - whole).sqrt() * predicted) / local.sqrt()
        last = (which == targets - 1).to(clean)
        query_loss = _query_loss(batch.query_logits(clean, batch.features), batch.episode, last)
        return {"loss": loss + self.query_weight * query_loss, "query_loss": query_loss.detach()}

    def _chain(self, scheduler: SchedulerMixin, *, targets: int) -> LocalDDPMScheduler:
        wanted = 1 if self.naive else targets
        if not isinstance(scheduler, LocalDDPMScheduler) or scheduler.config.segments != wanted:
            raise InputError(
                f"objective local_consistency needs a LocalDDPMScheduler of {wanted} segments; set "
                "scheduler.name: LocalDDPMScheduler"
            )
        return scheduler

    def _range(self, chain: LocalDDPMScheduler, which: Tensor) -> tuple[Tensor, Tensor]:
        """First time, and first one beyond, at which each target is learnt."""
        bounds = chain.boundaries
        if self.naive:
            return torch.zeros_like(which), bounds[:1].expand_as(which)
        return bounds[which + 1], bounds[which] if self.ranges == "disjoint" else bounds[:1].expand_as(which)


def _query_loss(
    logits: Float[Tensor, "batch queries ways"], episode: Episode, counted: Float[Tensor, " batch"]
) -> Tensor:
    """Mean cross-entropy on the queries of the episodes that count."""
    each = torch.nn.functional.cross_entropy(logits.mT, episode.query_labels, reduction="none").mean(-1)
    return (each * counted).sum() / counted.sum().clamp(min=1)
