"""Names in a recipe to objects; the one file that knows both."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SchedulerMixin

from weightgen.backbones.backbone import Backbone
from weightgen.diffusion.local_ddpm import LocalDDPMScheduler
from weightgen.diffusion.mean_ddpm import MeanDDPMScheduler
from weightgen.diffusion.schedulers import build_scheduler, swap_scheduler
from weightgen.errors import InputError
from weightgen.interfaces import Objective
from weightgen.options.recipe import BackboneOptions, GenerationOptions, Recipe
from weightgen.parameters.class_rows import Readout
from weightgen.parameters.standardizer import Standardizer
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.registry import check_options, create, get, option_names
from weightgen.seeds import derive

_SMALL_WIDTH = 8
_GIVEN = {
    "conditioner": {"feature_width"},
    "denoiser": {"feature_width", "num_train_timesteps", "base_classes"},
    "objective": set(),
    "selector": set(),
}


def check_components(recipe: Recipe) -> None:
    """Refuse unknown components and options before any work. Raises InputError."""
    for section, given in _GIVEN.items():
        options = getattr(recipe, section)
        component = get(f"{section}s", options.name)
        check_options(component, options.options, place=section, given=given)
    if recipe.selector.name != "head":
        raise InputError(f"selector '{recipe.selector.name}': zoo.targets '{recipe.zoo.targets}' are heads; use head")
    training = build_scheduler(recipe.scheduler.name, _scheduler_options(recipe))
    generation_scheduler(recipe.generation, training)
    if recipe.generation.draw_scheduler == MeanDDPMScheduler.__name__:
        raise InputError("generation.draw_scheduler: MeanDDPMScheduler adds no noise, so that all draws would be one")
    if _segments(recipe) == 1:
        swap_scheduler(recipe.generation.draw_scheduler, training)
    for section in ("denoiser", "conditioner"):  # what a constructor refuses should not wait for a backbone
        _component(recipe, section, _SMALL_WIDTH, base_classes=0)
    build_objective(recipe)
    chain = _chain(recipe)
    for key in ("steps", "draw_steps"):
        steps = getattr(recipe.generation, key)
        if _segments(recipe) > 1 and key == "steps" and steps != chain:
            raise InputError(
                f"generation.steps is {steps}; a chain in {_segments(recipe)} segments needs all {chain} steps of "
                "scheduler.num_train_timesteps"
            )
        if steps > chain and key in recipe.generation.model_fields_set | {"steps"}:
            raise InputError(f"generation.{key} is {steps} and scheduler.num_train_timesteps {chain}; take fewer steps")


def build_backbone(options: BackboneOptions, *, seed: int) -> Backbone:
    """The backbone of a recipe, not yet pretrained."""
    return Backbone.create(
        model=options.model,
        pretrained=options.pretrained,
        checkpoint=options.checkpoint,
        options=options.options,
        seed=derive(seed, "backbone"),
    )


def build_generator(
    recipe: Recipe, backbone: Backbone, standardizer: Standardizer, *, readout: Readout, base_classes: int
) -> WeightGenerationPipeline:
    """An untrained generator on a fitted standardizer, to learn from so many classes; its scheduler is training's."""
    scheduler = build_scheduler(recipe.scheduler.name, _scheduler_options(recipe))
    # Components draw their first weights from torch's global state; the caller's stays as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(recipe.seed, "components"))
        denoiser = _component(recipe, "denoiser", backbone.feature_width, base_classes)
        conditioner = _component(recipe, "conditioner", backbone.feature_width, base_classes)
    denoiser.attune(scheduler)
    return WeightGenerationPipeline(
        denoiser,
        conditioner,
        standardizer,
        scheduler,
        backbone,
        readout=readout,
        steps=recipe.generation.steps,
        samples=recipe.generation.samples,
        draw_scheduler=recipe.generation.draw_scheduler,
        draw_steps=min(recipe.generation.draw_steps, _chain(recipe)),
    )


def build_objective(recipe: Recipe) -> Objective:
    """The objective of a recipe."""
    return create("objectives", recipe.objective.name, recipe.objective.options)


def generation_scheduler(generation: GenerationOptions, training: SchedulerMixin) -> SchedulerMixin:
    """The scheduler that heads are read with, on the noise levels of training."""
    usual = LocalDDPMScheduler if isinstance(training, LocalDDPMScheduler) else MeanDDPMScheduler
    return swap_scheduler(generation.scheduler or usual.__name__, training)


def _component(recipe: Recipe, section: str, feature_width: int, base_classes: int) -> Any:
    chosen = getattr(recipe, section)
    chain = _chain(recipe)
    given = {"feature_width": feature_width, "num_train_timesteps": chain, "base_classes": base_classes}
    taken = option_names(get(f"{section}s", chosen.name))
    return create(f"{section}s", chosen.name, chosen.options, **{k: v for k, v in given.items() if k in taken})


def _scheduler_options(recipe: Recipe) -> dict[str, Any]:
    """A recipe's scheduler options; what is predicted is the denoiser's to say, and the segments are the zoo's."""
    options = {**recipe.scheduler.options, "prediction_type": get("denoisers", recipe.denoiser.name).prediction_type}
    if "segments" in options:
        raise InputError("scheduler.segments: follows from zoo.fit.local_targets; drop it")
    if recipe.scheduler.name == LocalDDPMScheduler.__name__:
        options["segments"] = _segments(recipe)
    return options


def _segments(recipe: Recipe) -> int:
    """Of Mc-Di's chain: one for every local target, unless all are learnt as its end."""
    local = recipe.zoo.targets == "trajectories" and recipe.objective.name == "local_consistency"
    naive = recipe.objective.options.get("naive_local_targets", False)
    return recipe.zoo.fit.local_targets if local and not naive else 1


def _chain(recipe: Recipe) -> int:
    """Length of the training chain."""
    return int(build_scheduler(recipe.scheduler.name, _scheduler_options(recipe)).config.num_train_timesteps)
