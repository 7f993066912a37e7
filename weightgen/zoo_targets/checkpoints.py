"""p-diff's targets: the last steps of training."""

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.errors import InputError
from weightgen.interfaces import ZooTargets
from weightgen.seeds import generator
from weightgen.zoo.build import Source, ZooPlan, task_problem
from weightgen.zoo.members import Shard

_JUDGED = 1000  # images that a checkpoint's accuracy, and the statistics of its batch norms, are measured on


class Checkpoints(ZooTargets):
    """The selected parameters after each of the last steps of training on all classes (p-diff, arXiv 2402.13144).

    A run trains the selected parameters alone, from where the parameter space starts fits; the rest of the network is
    as it is: trained to the end by `backbone.pretraining`, for example. Every checkpoint is a member by itself. Every
    fold of base classes has as many runs.

    Options:
        runs: training runs. steps: steps of a run before the first checkpoint is kept.
        count: checkpoints of a run, one a step.
        learning_rate: of Adam, the same in every step.
        batch: images of a step, equally many of every class.
    """

    def __init__(
        self, *, runs: int = 1, steps: int = 0, count: int = 200, learning_rate: float = 1e-3, batch: int = 128
    ) -> None:
        for name, value, least in (("runs", runs, 1), ("steps", steps, 0), ("count", count, 1), ("batch", batch, 1)):
            if value < least:
                raise InputError(f"zoo.{name} is {value}; it must be {least} or more")
        if not learning_rate > 0:
            raise InputError(f"zoo.learning_rate is {learning_rate}; it must be above 0")
        if runs * count < 2:
            raise InputError("zoo: 1 run of 1 checkpoint leaves nothing to tell apart; raise zoo.count or zoo.runs")
        self.runs, self.steps, self.count = runs, steps, count
        self.learning_rate, self.batch = learning_rate, batch

    def shards(self, plan: ZooPlan) -> int:
        return self.runs * len(plan.sources)

    def shard(self, plan: ZooPlan, number: int) -> Shard:
        fold = number % len(plan.sources)
        source, draw = plan.sources[fold], generator(plan.seed, "checkpoints", number)
        classes = torch.arange(len(source.inputs.class_names))
        start = plan.space.start(generator(plan.seed, "run", number), feature_width=source.prototypes.shape[1])
        path = self._trained(source, classes[None], start, draw)
        judge = task_problem(source, classes[None], most_images=max(1, _JUDGED // len(classes)), draw=draw)
        targets = judge.targets(path[None])[0]
        accuracy = torch.cat([judge.judged(values[None])[0] for values in targets])
        return Shard(
            fold=fold,
            classes=(classes + plan.first_class(fold)).expand(len(targets), -1).contiguous(),
            targets=targets[:, None].cpu(),
            accuracy=accuracy.cpu(),
        )

    def key(self, plan: ZooPlan) -> tuple[str, ...]:
        return ("checkpoints", repr(sorted(vars(self).items())), repr(plan.seed))

    @torch.no_grad()
    def _trained(
        self, source: Source, classes: Tensor, start: Float[Tensor, " width"], draw: torch.Generator
    ) -> Tensor:
        """Parameters after each of the last steps [checkpoints …]."""
        kept, most = [], max(1, self.batch // classes.shape[1])
        values = task_problem(source, classes, most_images=most, draw=draw).initial(start)
        values.grad = torch.empty_like(values)  # written by the problem, never by autograd
        adam = torch.optim.Adam([values], lr=self.learning_rate, fused=True)
        for step in range(self.steps + self.count):
            problem = task_problem(source, classes, most_images=most, draw=draw)
            problem.start_epoch()
            problem.gradient(values, out=values.grad)
            adam.step()
            if step >= self.steps:
                kept.append(values[0].clone())
        path = torch.stack(kept)
        if not bool(torch.isfinite(path).all()):
            raise InputError(f"zoo.learning_rate is {self.learning_rate}: training left finite numbers; lower it")
        return path
