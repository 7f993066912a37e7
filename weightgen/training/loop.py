"""The training loop: one visible function that yields one record per step."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from weightgen.checkpoint import CheckpointFolder
from weightgen.episodes.hard_episodes import neighbouring_classes, warped
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.records import Episode
from weightgen.seeds import derive
from weightgen.seeds import generator as seeded
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.folds import Fold
from weightgen.training.learner import Learner
from weightgen.training.options import TrainingOptions
from weightgen.training.reptile import adapted

_CONCENTRATIONS = (0.5, 1.0, 2.0, None)
_MOST_DISTRACTORS = 0.4
_RAGGED = 4  # the largest class of a ragged data set holds so many times the images of the smallest


def train(
    module: EpisodeLoss,
    folds: Sequence[Fold],
    options: TrainingOptions,
    *,
    score: Callable[[], float] | None,
    seed: int,
    checkpoints: CheckpointFolder,
    accelerator: Accelerator,
) -> Generator[dict[str, Any], None, float]:
    """Train `module` in place and yield one record per step; resumes from the newest checkpoint.

    The exponential average of the weights is what is scored and, when the iterator is used up, what `module` holds:
    the average of the step with the best score, or of the last step without a score. Step 0 competes too, so that
    training which only harms is thrown away.

    Randomness is stateless (a function of seed, step and process), so that a resumed run on one CPU process ends with
    the same bits as an uninterrupted one.

    Args:
        folds: groups of base classes; step n draws from fold n modulo their number.
        score: accuracy in percent on held-out classes, of the weights as they stand; None keeps the last step.

    Returns:
        The score of the weights that `module` holds at the end; minus infinity without a score.
    """
    learner = Learner(module, options, accelerator)
    done = learner.restore(checkpoints)
    samplers, device = [EpisodeSampler(fold.features) for fold in folds], accelerator.device
    if done == 0 and score is not None:
        learner.consider(0, score)
        yield {"step": 0, "held_out_accuracy": learner.best_score}
    for step in range(done, options.steps):
        draw = seeded(seed, "training", step, accelerator.process_index)
        fold, sampler = folds[step % len(samplers)], samplers[step % len(samplers)]
        episode, path = _draw(fold, sampler, options, seed=seed, step=step, accelerator=accelerator, generator=draw)
        episode, path = episode.to(device), path.to(device)
        with accelerator.autocast(), _dropout_seeded(seed, step, accelerator):
            if options.reptile is None:
                losses = learner.wrapped(episode, path, fold.standardizer, fold.scale, draw)
                learner.descend(losses["loss"])
            else:
                losses, gradients = adapted(
                    module, episode, path, fold.standardizer, fold.scale, draw, options=options.reptile
                )
                learner.descend_along(gradients)
        record = {"step": step + 1, **{name: float(value.detach()) for name, value in losses.items()}}
        record["learning_rate"] = learner.learning_rate.get_last_lr()[0]
        last = step + 1 == options.steps
        if score is not None and (last or (step + 1) % options.evaluate_every == 0):
            record["held_out_accuracy"] = learner.consider(step + 1, score)
        yield record  # before the checkpoint: a kill in between repeats the step instead of losing its record
        if last or (step + 1) % options.checkpoint_every == 0:
            learner.save(checkpoints, step + 1)
    learner.finish()
    return learner.best_score


@contextlib.contextmanager
def _dropout_seeded(seed: int, step: int, accelerator: Accelerator) -> Iterator[None]:
    """Dropout draws from torch's global state, the only thing that does; afterwards that is as before."""
    device = accelerator.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive(seed, "dropout", step, accelerator.process_index))
        yield


def _draw(
    fold: Fold,
    sampler: EpisodeSampler,
    options: TrainingOptions,
    *,
    seed: int,
    step: int,
    accelerator: Accelerator,
    generator: torch.Generator,
) -> tuple[Episode, Float[Tensor, "batch targets tokens width"]]:
    """This process's share of a step's episodes, and the paths to their parameters."""
    # Sizes are drawn from seed and step alone: every process works on tensors of the same shape.
    sizes = seeded(seed, "sizes", step)
    classes = len(sampler.features.class_names)
    least, most = (min(number, classes) for number in options.ways)
    between = _between if options.sizes == "even" else _between_evenly_in_logarithm
    ways = between(least, most, sizes)
    shots = between(*options.shots, sizes)
    batch = max(1, options.episodes_per_step // accelerator.num_processes)
    members = path = None
    if fold.zoo is not None:
        known = fold.zoo.ways()
        ways = known[_between(0, len(known) - 1, sizes)]
        members, path = fold.zoo.draw(ways, batch, generator)
    unlabelled = _draw_unlabelled(options, sizes)
    if unlabelled is not None:
        ways = ways if members is not None else max(2, min(ways, classes - unlabelled.extra_classes))
        if ways + unlabelled.extra_classes > classes:
            unlabelled = replace(unlabelled, distractors=0.0)
    shots = max(1, min(shots, options.most_images // ways))
    if members is None and options.neighbours and float(torch.rand((), generator=sizes)) < options.neighbours:
        members = neighbouring_classes(fold.prototypes, ways=ways, batch=batch, generator=generator)
    data_sets = options.sizes == "logarithmic"
    ragged = data_sets and _between(0, 1, sizes) == 1
    episode = sampler.sample(
        batch=batch,
        ways=ways,
        shots=(max(1, shots // _RAGGED), shots) if ragged else shots,
        queries=options.queries,
        generator=generator,
        unlabelled=unlabelled,
        classes=members,
        as_they_hold=data_sets,
    )
    if options.warped and float(torch.rand((), generator=sizes)) < options.warped:
        episode = warped(episode, generator)
    return episode, fold.prototypes[episode.classes][:, None] if path is None else path


def _draw_unlabelled(options: TrainingOptions, sizes: torch.Generator) -> UnlabelledDraw | None:
    """Of every kind that a user may bring: few and many, balanced and not, with and without distractors."""
    if options.unlabelled[1] == 0 or _between(0, 1, sizes) == 0:
        return None
    images = _between(*options.unlabelled, sizes)
    concentration = _CONCENTRATIONS[_between(0, len(_CONCENTRATIONS) - 1, sizes)]
    distractors = _between(0, 2, sizes) * float(torch.rand((), generator=sizes)) * _MOST_DISTRACTORS / 2
    return UnlabelledDraw(images, concentration, distractors)


def _between_evenly_in_logarithm(least: int, most: int, sizes: torch.Generator) -> int:
    share = float(torch.rand((), generator=sizes))
    return min(most, int(least * ((most + 1) / least) ** share))


def _between(least: int, most: int, sizes: torch.Generator) -> int:
    return int(torch.randint(least, most + 1, (), generator=sizes))
