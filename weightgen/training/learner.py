"""What training changes: weights, their average, the optimiser, and the best average so far."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from weightgen.checkpoint import CheckpointFolder, moments, set_step, with_prefix
from weightgen.training.options import TrainingOptions

_NOTHING = float("-inf")


def new_accelerator(
    *, precision: str = "no", cpu: bool = False, tracker: str | None = None, folder: Path | None = None
) -> Accelerator:
    """For any number of processes: a step without unlabelled images leaves some weights without a gradient.

    accelerate joins the processes of torchrun on a machine without an accelerator only if it is told to use the CPU.

    From here on numbers below 1e-38 count as 0 in this process: gradients of answers that are sure are full of them,
    and a processor takes half as long again over a step for their sake.

    tracker: of accelerate. folder: what it writes goes there.
    """
    cpu = cpu or not torch.accelerator.is_available()
    torch.set_flush_denormal(True)
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(
        mixed_precision=precision, cpu=cpu, kwargs_handlers=[unused], log_with=tracker, project_dir=folder
    )


def all_processes() -> Accelerator | None:
    """Of the processes that torchrun has started; None where this one is alone."""
    return new_accelerator() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None


class Learner:
    """The learnt weights of a module of losses and everything that moves them; saves and restores itself."""

    def __init__(self, module: nn.Module, options: TrainingOptions, accelerator: Accelerator) -> None:
        self.module, self.options, self.accelerator = module, options, accelerator
        module.to(accelerator.device)
        self.learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
        kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[options.optimiser]
        optimiser = kind(self.learnt, lr=options.learning_rate, weight_decay=options.weight_decay)
        self.wrapped, self.optimiser = accelerator.prepare(module, optimiser)
        self.learning_rate = get_scheduler(
            options.schedule, optimiser, num_warmup_steps=options.warmup_steps, num_training_steps=options.steps
        )
        # The warm-up of the average keeps the random start from weighing on short runs.
        self.average = EMAModel(
            self.learnt, decay=0.5 ** (1 / options.ema_halflife_steps), use_ema_warmup=True, power=0.9
        )
        self.best_score, self.best_step, self.best = _NOTHING, 0, self._averaged()

    def descend(self, loss: Tensor) -> None:
        """One optimiser step, and one of the average."""
        self.accelerator.backward(loss)
        self._step()

    def descend_along(self, gradients: Sequence[Tensor]) -> None:
        """The same along given gradients, averaged over processes; one for every learnt parameter."""
        for parameter, gradient in zip(self.learnt, gradients, strict=True):
            parameter.grad = self.accelerator.reduce(gradient, reduction="mean")
        self._step()

    def _step(self) -> None:
        if self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(self.learnt, self.options.max_gradient_norm)
        self.optimiser.step()
        self.learning_rate.step()
        self.optimiser.zero_grad()
        self.average.step(self.learnt)

    def consider(self, step: int, score: Callable[[], float]) -> float:
        """Score the averaged weights, and keep them if they are the best so far."""
        self.average.store(self.learnt)
        self.average.copy_to(self.learnt)
        self.module.eval()
        with torch.no_grad():
            value = score()
        self.module.train()
        self.average.restore(self.learnt)
        if value > self.best_score:
            self.best_score, self.best_step, self.best = value, step, self._averaged()
        return value

    def _averaged(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self.average.shadow_params]

    def finish(self) -> None:
        """Leave the best averaged weights in the module."""
        kept = self.best if self.best_score > _NOTHING else self.average.shadow_params
        with torch.no_grad():
            for parameter, tensor in zip(self.learnt, kept, strict=True):
                parameter.copy_(tensor)
        self.module.eval()

    def save(self, checkpoints: CheckpointFolder, step: int) -> None:
        """Write a checkpoint, from the main process."""
        if not self.accelerator.is_main_process:
            return
        tensors = {
            **with_prefix("learnt", _numbered(self.learnt)),
            **with_prefix("average", _numbered(self.average.shadow_params)),
            **with_prefix("best", _numbered(self.best)),
            **moments(self.optimiser),
        }
        best = None if self.best_score == _NOTHING else self.best_score
        state = {"best_score": best, "best_step": self.best_step, "average_steps": self.average.optimization_step}
        checkpoints.save(step, tensors, state)

    def restore(self, checkpoints: CheckpointFolder) -> int:
        """Take up the newest checkpoint; returns the steps already done."""
        newest = checkpoints.newest()
        if newest is None:
            return 0
        tensors, state = newest
        with torch.no_grad():
            for name, targets in (
                ("learnt", self.learnt),
                ("average", self.average.shadow_params),
                ("best", self.best),
            ):
                for i, target in enumerate(targets):
                    target.copy_(tensors[f"{name}.{i}"])
        set_step(self.optimiser, self.learning_rate, tensors, state["step"])
        self.average.optimization_step = state["average_steps"]
        self.best_step = state["best_step"]
        self.best_score = _NOTHING if state["best_score"] is None else state["best_score"]
        return int(state["step"])


def _numbered(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {str(i): tensor for i, tensor in enumerate(tensors)}
