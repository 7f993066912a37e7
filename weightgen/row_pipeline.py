"""From an episode to class rows, and from rows to heads: what a generator of heads does whatever it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from weightgen.errors import InputError
from weightgen.features.class_rows import RowReader
from weightgen.features.temperature import Calibration
from weightgen.files import tensors_hash, text_hash
from weightgen.generator_pipeline import GeneratorPipeline
from weightgen.interfaces import FeatureSpace
from weightgen.records import Condition, Episode, Head
from weightgen.schedulers.mean_ddpm import MeanDDPMScheduler
from weightgen.schedulers.reverse_chain import reverse_chain
from weightgen.schedulers.schedulers import check_scheduler, swap_scheduler

Denoise = Callable[[Tensor, Tensor, Condition], Tensor]
"""What a denoiser does: noisy rows, times and condition to a prediction."""


class RowPipeline(GeneratorPipeline):
    """Runs the reverse chain on the rows of a head; components and config are those of `WeightGenerationPipeline`."""

    @property
    def can_draw(self) -> bool:
        """Whether several samples differ by more than errors; a chain in segments has no noise to draw with."""
        return bool(self.scheduler.config.get("segments", 1) == 1)

    def reader(self, *, samples: int, space: FeatureSpace | None = None) -> RowReader:
        """How rows become heads, of a single one or several draws; in the generator's own space, or in another."""
        draws = samples > 1
        calibration = Calibration.of(self.config.draw_calibration if draws else self.config.calibration)
        return RowReader(space or self.standardizer, self.config.readout, calibration, draws=draws)

    def chain(self, steps: int | None, samples: int) -> tuple[SchedulerMixin, int]:
        """The scheduler that a call runs, and for how many steps; the generator's own number if None.

        Raises InputError for several samples of a chain in segments.
        """
        check_scheduler(self.scheduler, self.config.chain)  # it may have been changed since it was put there
        if samples > 1 and not self.can_draw:
            segments = self.scheduler.config.segments
            raise InputError(f"samples is {samples}; a chain in {segments} segments has no noise to draw with, take 1")
        drawing = samples > 1 and isinstance(self.scheduler, MeanDDPMScheduler)
        scheduler = swap_scheduler(self.config.draw_scheduler, self.scheduler) if drawing else self.scheduler
        usual = self.config.draw_steps if drawing else self.config.steps
        return scheduler, usual if steps is None else steps

    def generator_hash(self) -> str:
        """16 hex digits of all that decides what statistics mean and which rows are written from them.

        Scheduler, steps and samples do not count: they are the choice of a call.
        """
        told = [self.backbone.weights_hash(), self.backbone.preprocessing_key()]
        for part in (self.standardizer, self.conditioner, self.denoiser):
            options = {key: value for key, value in part.config.items() if not key.startswith("_")}
            told += [type(part).__name__, json.dumps(options, sort_keys=True), tensors_hash(part.state_dict())]
        readout = [self.config[key] for key in ("readout", "calibration", "draw_calibration")]
        return text_hash(*told, json.dumps(readout))

    def heads(
        self,
        episode: Episode,
        generators: Sequence[torch.Generator],
        *,
        steps: int | None = None,
        samples: int | None = None,
        denoiser: Denoise | None = None,
    ) -> Head:
        """Heads on raw features for a batch of episodes of raw features.

        Args:
            episode: any ways, any shots, ragged or padded.
            generators: one per episode, so that a head does not depend on its neighbours in the batch.
            steps: denoiser calls in a row. samples: draws per episode.
            denoiser: used instead of the generator's own (what would another one have done?).
        """
        standardised = self._standardised(episode)
        return self._heads(standardised, generators, steps=steps, samples=samples, denoiser=denoiser)

    def rows(
        self,
        episode: Episode,
        generators: Sequence[torch.Generator],
        *,
        steps: int | None = None,
        samples: int | None = None,
        denoiser: Denoise | None = None,
        watch: Callable[[Tensor], None] | None = None,
    ) -> Float[Tensor, "batch samples ways feature"]:
        """What the chain ends at, each episode's in its own space; the arguments are those of `heads`.

        `watch` is shown the chain's rows on the way (`reverse_chain`), the samples of an episode next to each other.
        """
        chosen: dict[str, Any] = {"steps": steps, "samples": samples, "denoiser": denoiser, "watch": watch}
        return torch.cat([rows for rows, _, _ in self._denoised(self._standardised(episode), generators, **chosen)])

    def prototypes(
        self, episode: Episode, generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "batch ways feature"]:
        """The rows of single heads as points among raw features."""
        told = self._denoised(self._standardised(episode), generators, samples=1)
        return torch.cat([space.restore(rows[:, 0]) for rows, _, space in told])

    def _standardised(self, episode: Episode) -> Episode:
        return self.standardizer.standardize(episode.support_only().to(self.device))

    def _heads(self, episode: Episode, generators: Sequence[torch.Generator], **chosen: Any) -> Head:
        """Heads on raw features for a standardised batch of episodes."""
        heads = [
            self.reader(samples=rows.shape[1], space=space).head(rows, own.counts)
            for rows, own, space in self._denoised(episode, generators, **chosen)
        ]
        return Head(torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads]))

    def _denoised(
        self,
        episode: Episode,
        generators: Sequence[torch.Generator],
        *,
        steps: int | None = None,
        samples: int | None = None,
        denoiser: Denoise | None = None,
        watch: Callable[[Tensor], None] | None = None,
        spaces: Iterable[tuple[slice, Episode, FeatureSpace]] | None = None,
    ) -> Iterator[tuple[Float[Tensor, "batch samples ways feature"], Episode, FeatureSpace]]:
        """What the chain ends at for standardised episodes: all at once, or where each gets a space, one by one.

        `spaces` are others than the conditioner would give them.
        """
        samples = self.config.samples if samples is None else samples
        scheduler, steps = self.chain(steps, samples)
        for name, number in (("steps", steps), ("samples", samples)):
            if number < 1:
                raise InputError(f"{name} is {number}; it must be 1 or more")
        if len(generators) != len(episode):
            raise InputError(f"{len(generators)} random generators for {len(episode)} episodes; give one for each")
        denoise = denoiser or self.denoiser
        for which, own, space in spaces or self.conditioner.in_spaces(episode, self.standardizer):
            condition = self.conditioner(own, space).repeat(samples)
            repeated = [generator for generator in generators[which] for _ in range(samples)]
            predict = partial(self._predicted, denoise, condition)
            rows = reverse_chain(predict, scheduler, steps, like=condition.tokens, generators=repeated, watch=watch)
            yield rows.unflatten(0, (-1, samples)), own, space

    def _predicted(self, denoise: Denoise, condition: Condition, noisy: Tensor, time: Tensor) -> Tensor:
        return denoise(noisy, time, self.conditioner.at(condition, noisy))
