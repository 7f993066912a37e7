"""Names in a recipe to objects that fit together; the one file that knows both."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import SchedulerMixin

from weightgen.backbones import construction
from weightgen.backbones.backbone import Backbone
from weightgen.backbones.packaged import PYPI
from weightgen.config.names import GIVEN, check_names
from weightgen.config.recipe import BackboneOptions, GenerationOptions, Recipe
from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import Conditioner, Denoiser, Objective, ParameterSpace, Selector, ZooTargets
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.registry import check_options, create, get, option_names, option_types
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.schedulers.reverse_chain import MeanDDPMScheduler
from weightgen.schedulers.schedulers import (
    build_scheduler,
    drawing_scheduler,
    is_noiseless,
    mean_scheduler,
    scheduler_class,
    swap_scheduler,
)
from weightgen.seeds import building_networks, derive
from weightgen.spaces.class_rows import Readout
from weightgen.specs import FEATURES, HUB, LOCAL_DIR

_SMALL_WIDTH = 8


def check_components(recipe: Recipe) -> None:
    """Refuse unknown components and options before any work. Raises InputError."""
    check_names(recipe)
    build_selector(recipe)
    build_targets(recipe)
    _check_chain(recipe)
    # What a constructor refuses should not wait for a backbone.
    space, objective = build_space(recipe, sizes=(_SMALL_WIDTH,)), build_objective(recipe)
    check_space(recipe, space)
    supplied = _given(recipe, _SMALL_WIDTH, classes=(), space=space)
    denoiser, conditioner = (_component(recipe, section, supplied) for section in ("denoiser", "conditioner"))
    check_kinds(recipe, space, denoiser, conditioner, objective)
    check_together(recipe, denoiser, conditioner)
    _check_reading(recipe.generation, chain=_chain(recipe), segments=_segments(recipe))


def import_components(recipe: Recipe) -> None:
    """Import the components that a recipe names outside weightgen, as training did. Raises InputError."""
    for section in GIVEN:
        if "." in (name := getattr(recipe, section).name):
            get(f"{section}s", name)
    build_targets(recipe)


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
    if not options.pretrained or model.startswith((LOCAL_DIR, PYPI, FEATURES)):
        build_backbone(options, seed=seed)
    elif not model.startswith(HUB):
        construction.check_name(model)
        construction.published(model)
        Backbone.create(model=model, options=options.options)


def build_generator(
    recipe: Recipe, backbone: Backbone, standardizer: Standardizer, *, readout: Readout, classes: Sequence[str]
) -> WeightGenerationPipeline:
    """An untrained generator on a fitted standardizer, to learn from these classes; its scheduler is training's.

    What its space has to fit is yet to be fitted.
    """
    space = build_space(recipe, readout=readout, backbone=backbone, classes=classes)
    scheduler = build_scheduler(recipe.scheduler.name, _scheduler_options(recipe))
    given = _given(recipe, backbone.feature_width, classes=classes, space=space)
    with building_networks():  # components draw their first weights from torch's own state
        torch.manual_seed(derive(recipe.seed, "components"))
        denoiser, conditioner = (_component(recipe, section, given) for section in ("denoiser", "conditioner"))
    denoiser.set_noise_levels(scheduler)
    return WeightGenerationPipeline(
        denoiser,
        conditioner,
        standardizer,
        space,
        scheduler,
        backbone,
        steps=recipe.generation.steps,
        samples=recipe.generation.samples,
        draw_scheduler=recipe.generation.draw_scheduler,
        draw_steps=min(recipe.generation.draw_steps, _chain(recipe)),
    )


def build_space(
    recipe: Recipe,
    *,
    readout: Readout = "gaussian",
    backbone: Backbone | None = None,
    sizes: tuple[int, ...] = (),
    classes: Sequence[str] = (),
) -> ParameterSpace:
    """The parameter space of a recipe, for the selected tensors of a backbone or for tensors of given `sizes`."""
    given = dict[str, Any](readout=readout, sizes=list(sizes), classes=list(classes))
    given["selector"] = {"name": recipe.selector.name, **recipe.selector.options}
    given["feature_width"] = _SMALL_WIDTH if backbone is None else backbone.feature_width
    options, inner = recipe.space.options, recipe.space.options.get("of")
    innermost = get("spaces", recipe.space.name)
    if isinstance(inner, Mapping) and "name" in inner:  # a space over another, which takes the same
        innermost, own = get("spaces", inner["name"]), {key: inner[key] for key in inner if key != "name"}
        check_options(option_types(innermost), own, place="space.of", given=GIVEN["space"])
    if backbone is not None and "sizes" in option_names(innermost):
        model, selector = innermost.model(backbone), build_selector(recipe)
        selector.prepare(model)
        given["sizes"] = list(selector.layout(model).sizes)
    if isinstance(inner, Mapping) and "name" in inner:
        options = {**options, "of": {**_taken(innermost, given), **inner}}
    return create("spaces", recipe.space.name, options, **_taken(get("spaces", recipe.space.name), given))


def _taken(component: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a component's constructor names of what is given."""
    return {key: value for key, value in given.items() if key in option_names(component)}


def build_selector(recipe: Recipe) -> Selector:
    """The selector of a recipe."""
    return create("selectors", recipe.selector.name, recipe.selector.options)


def build_targets(recipe: Recipe) -> ZooTargets:
    """The zoo targets of a recipe."""
    return create("zoo_targets", recipe.zoo.targets, recipe.zoo.options)


def build_objective(recipe: Recipe) -> Objective:
    """The objective of a recipe."""
    return create("objectives", recipe.objective.name, recipe.objective.options)


def generation_scheduler(generation: GenerationOptions, training: SchedulerMixin) -> SchedulerMixin:
    """The scheduler that a call runs, on the noise levels of training."""
    if generation.read == "mean":
        return mean_scheduler(training)
    if generation.scheduler is not None:
        return swap_scheduler(generation.scheduler, training)
    return drawing_scheduler(generation.draw_scheduler, training)


def _check_chain(recipe: Recipe) -> None:
    name, generation = recipe.scheduler.name, recipe.generation
    objective = recipe.objective.name
    needed = get("objectives", objective).scheduler
    if needed and name != needed:
        raise InputError(
            f"scheduler.name is {name}, and the objective {objective} needs {needed}; set that, or another objective"
        )
    training = build_scheduler(name, _scheduler_options(recipe))
    generation_scheduler(generation, training)
    if issubclass(scheduler_class(generation.draw_scheduler), MeanDDPMScheduler):
        raise InputError(
            f"generation.draw_scheduler: {generation.draw_scheduler} adds no noise, so that all draws would be one; "
            "use DDPMScheduler"
        )
    if not is_noiseless(training):
        drawing_scheduler(generation.draw_scheduler, training)


def _check_reading(generation: GenerationOptions, *, chain: int, segments: int) -> None:
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
    if chain == 1 and generation.samples > 1:
        raise InputError(
            f"generation.samples is {generation.samples}; a chain of one step has no noise to draw with, set it to 1"
        )
    default = GenerationOptions.model_fields["draw_steps"].default  # that one gives way to a shorter chain
    for key, steps in (("steps", generation.steps), ("draw_steps", generation.draw_steps)):
        if steps > chain and (key, steps) != ("draw_steps", default):
            raise InputError(f"generation.{key} is {steps} and scheduler.num_train_timesteps {chain}; take fewer steps")


def _given(recipe: Recipe, feature_width: int, *, classes: Sequence[str], space: ParameterSpace) -> dict[str, Any]:
    """Arguments of components that no recipe decides; each takes those that its constructor names."""
    return {
        "feature_width": feature_width,
        "num_train_timesteps": _chain(recipe),
        "base_classes": len(classes),
        "classes": list(classes),
        **space.shape_options,
    }


def _component(recipe: Recipe, section: str, given: Mapping[str, Any]) -> Any:
    chosen = getattr(recipe, section)
    return create(f"{section}s", chosen.name, chosen.options, **_taken(get(f"{section}s", chosen.name), given))


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
    local = recipe.objective.name == "local_consistency" and not recipe.objective.options.get("naive_local_targets")
    return build_targets(recipe).local_targets if local else 1


def _chain(recipe: Recipe) -> int:
    return int(build_scheduler(recipe.scheduler.name, _scheduler_options(recipe)).config.num_train_timesteps)


_UNIVERSAL = ("ridge_transformer", "calibrated_prototypes")
_HEAD, _ROWS, _CHUNKS = "head", "class_rows", "chunks"


def check_space(recipe: Recipe, space: ParameterSpace) -> None:
    """Refuse a parameter space that does not hold what the selector generates. Raises InputError."""
    selector = recipe.selector.name
    if space.class_names is not None:  # with a last layer of its own
        return
    if space.takes_images == (selector == _HEAD):
        fitting = _ROWS if space.takes_images else _CHUNKS
        raise InputError(f"space '{recipe.space.name}' does not hold '{selector}'; set space.name to {fitting}")


def check_kinds(
    recipe: Recipe, space: ParameterSpace, denoiser: Denoiser, conditioner: Conditioner, objective: Objective
) -> None:
    """Refuse a recipe whose components do not suit its parameter space. Raises InputError."""
    selector = recipe.selector.name
    if denoiser.ordered != space.ordered:
        fitting = "chunk_transformer" if space.ordered else "class_transformer"
        raise InputError(f"denoiser '{recipe.denoiser.name}' does not fit space '{recipe.space.name}'; use {fitting}")
    if space.shape_options and "token_width" not in option_names(type(denoiser)):
        raise InputError(
            f"denoiser '{recipe.denoiser.name}' takes tokens as wide as features, and those of space "
            f"'{recipe.space.name}' are not; use token_transformer"
        )
    for name, component in ((recipe.space.name, space), (recipe.conditioner.name, conditioner)):
        if component.class_names is not None:
            _check_fixed_classes(recipe, name)
    if not space.takes_images:
        return
    if not get("zoo_targets", recipe.zoo.targets).fitted:
        raise InputError(
            f"selector '{selector}': zoo.targets '{recipe.zoo.targets}' are heads; use head, or set zoo.targets to "
            "trajectories"
        )
    if type(conditioner).at is not Conditioner.at:
        raise InputError(
            f"conditioner '{recipe.conditioner.name}' follows noisy class rows, and selector '{selector}' has none; "
            "use local_targets"
        )
    if objective.classifies_queries:
        raise InputError(
            f"objective '{recipe.objective.name}' classifies queries by class rows; selector '{selector}' has none, "
            "use local_consistency with query_weight: 0"
        )
    for key, given, allowed, why in _limits(recipe):
        if given != allowed:
            raise InputError(f"{key} is {given}; {why} with selector '{selector}', set it to {allowed}")


def _limits(recipe: Recipe) -> list[tuple[str, object, object, str]]:
    """Key, value, the only value that makes sense where parameters lie inside the backbone, and why."""
    training, fit, generation = recipe.training, recipe.zoo.fit, recipe.generation
    return [
        ("training.folds", training.folds, 1, "parameters are seen in one space"),
        ("training.unlabelled", list(training.unlabelled), [0, 0], "unlabelled images are of no use"),
        ("zoo.fit.feature_noise", fit.feature_noise, 0.0, "fits see images and not features"),
        ("generation.samples", generation.samples, 1, "one backbone is written"),
        ("generation.readout", generation.readout, None, "heads are cosines to class means"),
    ]


def _check_fixed_classes(recipe: Recipe, known: str) -> None:
    """Refuse to keep classes from a generator that is for all classes of its data and no others."""
    training, data = recipe.training, recipe.data
    for key, given, allowed in (
        ("training.held_out_classes", training.held_out_classes, 0),
        ("training.folds", training.folds, 1),
        ("data.novel", data.novel or 0, 0),
        ("data.turned", data.turned, False),
    ):
        if given != allowed:
            raise InputError(
                f"{key} is {given}; '{known}' knows its classes and no others, set it to {str(allowed).lower()}, and "
                "data.test_images to a share of their images to evaluate on"
            )


def check_together(recipe: Recipe, denoiser: Denoiser, conditioner: Conditioner) -> None:
    """Refuse components that do not fit together. Raises InputError."""
    name = recipe.denoiser.name
    if denoiser.needs_variance and not conditioner.gives_variance:
        raise InputError(
            f"denoiser '{name}' needs the variance of the condition; use conditioner local_targets, or "
            "task_prototypes with shrink: true"
        )
    if denoiser.needs_gradient and type(conditioner).at is Conditioner.at:
        raise InputError(f"denoiser '{name}' needs the gradient at the noisy rows; use conditioner task_prototypes")
    if denoiser.needs_loo and not conditioner.adapts:
        raise InputError(f"denoiser '{name}' needs leave-one-out logits; use conditioner dataset_statistics")
    if conditioner.adapts:
        _check_adapted(recipe)
    if recipe.training.start == "universal" and (name, recipe.conditioner.name) != _UNIVERSAL:
        raise InputError(
            f"training.start: the universal generator is of {' and '.join(_UNIVERSAL)}, not of {name} and "
            f"{recipe.conditioner.name}; take the recipe specialise, or start: scratch"
        )
    if recipe.data.spaces:
        _check_spaces(recipe)
    if recipe.training.unlabelled[1] and not denoiser.uses_unlabelled:
        raise InputError(
            f"training.unlabelled: denoiser '{name}' learns nothing from unlabelled images; set it to [0, 0]"
        )


def _check_spaces(recipe: Recipe) -> None:
    """Refuse further feature spaces for what belongs to one. Raises InputError."""
    for section in ("denoiser", "conditioner"):
        component = get(f"{section}s", getattr(recipe, section).name)
        if "feature_width" in option_names(component):
            raise InputError(f"data.spaces: {section} {getattr(recipe, section).name} has one feature width; drop it")
    if recipe.standardizer.map != "classifier" or get("zoo_targets", recipe.zoo.targets).fitted:
        raise InputError("data.spaces: needs standardizer.map: classifier and zoo.targets: ideal_prototypes; set both")


def _check_adapted(recipe: Recipe) -> None:
    """Refuse what makes no sense where every episode gets a space of its own."""
    limits: list[tuple[str, object, tuple[object, ...], str]] = [
        ("selector.name", recipe.selector.name, ("head",), "parameters inside a backbone have no feature space"),
        ("training.reptile", "given" if recipe.training.reptile else "null", ("null",), "tasks come one at a time"),
        ("generation.readout", recipe.generation.readout, (None, "gaussian"), "images are classified by their density"),
        ("standardizer.map", recipe.standardizer.map, ("scale", "whiten"), "the scale of features must be known"),
    ]
    for key, given, allowed, why in limits:
        if given not in allowed:
            raise InputError(
                f"{key} is {given}; {why} with conditioner '{recipe.conditioner.name}', set it to {allowed[-1]}"
            )
