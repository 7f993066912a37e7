"""Mc-Di's targets: parameters fitted to many tasks, and points on the way there."""

import torch

from weightgen.interfaces import ZooTargets
from weightgen.seeds import generator
from weightgen.zoo.build import ZooPlan, fit_tasks
from weightgen.zoo.members import Shard
from weightgen.zoo.options import FitOptions

_FEWEST_SHARDS = 20  # of a fold, where tasks are few: all of a shard have equally many classes
_FIT = FitOptions()


class Trajectories(ZooTargets):
    """Parameters fitted to many tasks of base classes, with the path of each fit (Mc-Di, arXiv 2502.01117).

    Options:
        tasks: tasks to fit, at least, spread evenly over the folds; each has as many classes as training.ways allow,
            all of a shard equally many.
        fit: how parameters are fitted.
    """

    fit: FitOptions

    def __init__(self, *, tasks: int = 3000, fit: FitOptions = _FIT) -> None:
        self.tasks, self.fit, self.local_targets = tasks, fit, fit.local_targets

    def shards(self, plan: ZooPlan) -> int:
        folds = len(plan.sources)
        return folds * -(-self.tasks // (self.tasks_in_shard(plan) * folds))

    def tasks_in_shard(self, plan: ZooPlan) -> int:
        in_fold, most = -(-self.tasks // len(plan.sources)), plan.space.tasks_in_shard
        return most if in_fold >= most else max(1, in_fold // _FEWEST_SHARDS)

    def shard(self, plan: ZooPlan, number: int) -> Shard:
        fold = number % len(plan.sources)
        source, draw = plan.sources[fold], generator(plan.seed, "zoo", number)
        present = len(source.inputs.class_names)
        least, most = (min(ways, present) for ways in plan.ways)
        ways = int(torch.randint(least, most + 1, (), generator=draw))
        classes = torch.rand(self.tasks_in_shard(plan), present, generator=draw).topk(ways).indices
        fitted = fit_tasks(source, classes, seed=plan.seed, options=self.fit, draw=draw)
        return Shard(
            fold=fold,
            classes=classes + plan.first_class(fold),
            targets=fitted.targets.cpu(),
            accuracy=fitted.accuracy.cpu(),
        )

    def key(self, plan: ZooPlan) -> tuple[str, ...]:
        return self.fit.model_dump_json(), repr((self.tasks, self.tasks_in_shard(plan), plan.ways, plan.seed))
