"""Names in a recipe to objects; the one file that knows both."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SchedulerMixin

from weightgen.backbones import construction
from weightgen.backbones.backbone import Backbone
from weightgen.config.component_checks import check_together
from weightgen.config.part_checks import check_kinds
from weightgen.config.recipe import BackboneOptions, GenerationOptions, Recipe
from weightgen.errors import InputError
from weightgen.features.class_rows import Readout
from weightgen.features.standardizer import Standardizer
from weightgen.features.vector_scale import VectorScale
from weightgen.interfaces import Conditioner, Denoiser, Objective
from weightgen.part_pipeline import PartPipeline
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.registry import check_options, create, get, option_names
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.schedulers.mean_ddpm import MeanDDPMScheduler
from weightgen.schedulers.schedulers import build_scheduler, scheduler_class, swap_scheduler
from weightgen.seeds import derive
from weightgen.selectors._part import Part
from weightgen.selectors._selector import Selector

_SMALL_WIDTH = 8
_GIVEN = {
    "conditioner": {"feature_width"},
    "denoiser": {"feature_width", "num_train_timesteps", "base_classes", "sizes"},
    "objective": set(),
    "selector": set(),
}


def check_components(recipe: Recipe) -> None:
    """Refuse unknown components and options before any work. Raises InputError."""
    for section, given in _GIVEN.items():
        options = getattr(recipe, section)
        component = get(f"{section}s", options.name)
        check_options(component, options.options, place=section, given=given)
    check_kinds(recipe, get("denoisers", recipe.denoiser.name), get("conditioners", recipe.conditioner.name))
    build_selector(recipe)
    _check_chain(recipe)
    denoiser, conditioner = (  # what a constructor refuses should not wait for a backbone
        _component(recipe, section, _SMALL_WIDTH, base_classes=0, sizes=(_SMALL_WIDTH,))
        for section in ("denoiser", "conditioner")
    )
    check_together(recipe, denoiser, conditioner)
    build_objective(recipe)
    _check_reading(recipe.generation, chain=_chain(recipe), segments=_segments(recipe))


def build_backbone(options: BackboneOptions, *, seed: int) -> Backbone:
    """The backbone of a recipe, not yet pretrained."""
    return Backbone.create(
        model=options.model,
        pretrained=options.pretrained,
        checkpoint=options.checkpoint,
        options=options.options,
        seed=derive(seed, "backbone"),
    )


def check_backbone(options: BackboneOptions, *, seed: int) -> None:
    """Refuse what `build_backbone` would refuse, except for weights on the hub: nothing is downloaded.

    Raises InputError.
    """
    model = construction.timm_name(options.model or "")
    if not options.pretrained or model.startswith(construction.LOCAL_DIR):
        build_backbone(options, seed=seed)
    elif not model.startswith(construction.HUB):
        construction.check_name(model)
        construction.published(model)
        Backbone.create(model=model, options=options.options)


def build_generator(
    recipe: Recipe, backbone: Backbone, standardizer: Standardizer, *, readout: Readout, base_classes: int
) -> WeightGenerationPipeline:
    """An untrained generator on a fitted standardizer, to learn from so many classes; its scheduler is training's."""
    scheduler, denoiser, conditioner = _learning(recipe, backbone.feature_width, base_classes)
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


def build_part_generator(recipe: Recipe, backbone: Backbone, standardizer: Standardizer) -> PartPipeline:
    """The same for a part of the backbone; the scale of its vectors is yet to be fitted."""
    part = Part(backbone, build_selector(recipe))
    sizes = tuple(tensor.numel() for tensor in part.layout.unflatten(part.own).values())
    scheduler, denoiser, conditioner = _learning(recipe, backbone.feature_width, base_classes=0, sizes=sizes)
    return PartPipeline(
        denoiser,
        conditioner,
        standardizer,
        VectorScale(sizes=sizes),
        scheduler,
        backbone,
        selector={"name": recipe.selector.name, **recipe.selector.options},
        steps=recipe.generation.steps,
    )


def build_selector(recipe: Recipe) -> Selector:
    """The selector of a recipe."""
    return create("selectors", recipe.selector.name, recipe.selector.options)


def build_objective(recipe: Recipe) -> Objective:
    """The objective of a recipe."""
    return create("objectives", recipe.objective.name, recipe.objective.options)


def generation_scheduler(generation: GenerationOptions, training: SchedulerMixin) -> SchedulerMixin:
    """The scheduler that heads are read with, on the noise levels of training."""
    usual = LocalDDPMScheduler if isinstance(training, LocalDDPMScheduler) else MeanDDPMScheduler
    return swap_scheduler(generation.scheduler or usual.__name__, training)


def _check_chain(recipe: Recipe) -> None:
    """Refuse schedulers that do not fit together, or not the objective."""
    name, generation = recipe.scheduler.name, recipe.generation
    if recipe.objective.name == "local_consistency" and name != LocalDDPMScheduler.__name__:
        raise InputError(
            f"scheduler.name is {name}, and the objective local_consistency needs {LocalDDPMScheduler.__name__}; "
            "set that, or another objective"
        )
    training = build_scheduler(name, _scheduler_options(recipe))
    generation_scheduler(generation, training)
    if issubclass(scheduler_class(generation.draw_scheduler), MeanDDPMScheduler):
        raise InputError(
            f"generation.draw_scheduler: {generation.draw_scheduler} adds no noise, so that all draws would be one; "
            "use DDPMScheduler"
        )
    if _segments(recipe) == 1:
        swap_scheduler(generation.draw_scheduler, training)


def _check_reading(generation: GenerationOptions, *, chain: int, segments: int) -> None:
    """Refuse numbers of steps and samples that the chain does not have."""
    if segments > 1 and generation.steps != chain:
        raise InputError(
            f"generation.steps is {generation.steps}; a chain in {segments} segments visits its local targets only in "
            f"all steps of scheduler.num_train_timesteps, set it to {chain}"
        )
    if segments > 1 and generation.samples > 1:
        raise InputError(
            f"generation.samples is {generation.samples}; a chain in {segments} segments has no noise to draw with, "
            "set it to 1"
        )
    usual = GenerationOptions.model_fields["draw_steps"].default  # that one gives way to a shorter chain
    for key, steps in (("steps", generation.steps), ("draw_steps", generation.draw_steps)):
        if steps > chain and (key, steps) != ("draw_steps", usual):
            raise InputError(f"generation.{key} is {steps} and scheduler.num_train_timesteps {chain}; take fewer steps")


def _learning(
    recipe: Recipe, feature_width: int, base_classes: int, sizes: tuple[int, ...] = ()
) -> tuple[SchedulerMixin, Denoiser, Conditioner]:
    """The training scheduler, and what learns with it."""
    scheduler = build_scheduler(recipe.scheduler.name, _scheduler_options(recipe))
    # Components draw their first weights from torch's global state; the caller's stays as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(recipe.seed, "components"))
        denoiser = _component(recipe, "denoiser", feature_width, base_classes, sizes)
        conditioner = _component(recipe, "conditioner", feature_width, base_classes, sizes)
    denoiser.attune(scheduler)
    return scheduler, denoiser, conditioner


def _component(recipe: Recipe, section: str, feature_width: int, base_classes: int, sizes: tuple[int, ...]) -> Any:
    chosen = getattr(recipe, section)
    chain = _chain(recipe)
    given = {
        "feature_width": feature_width,
        "num_train_timesteps": chain,
        "base_classes": base_classes,
        "sizes": sizes,
    }
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
