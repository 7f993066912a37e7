"""The subjects whose values are frozen: the one file here that knows the library's API.

A subject is a function without arguments that returns named tensors. When the API changes, this file follows it, and
the values stay. Networks get explicit weights (`fill`) and chains explicit random generators, so that a value depends
on neither the order of construction nor the library's own seeds.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import inputs
import numpy as np
import torch
from torch import Tensor, nn

from weightgen import WeightGenerationPipeline, registry
from weightgen.backbones.backbone import Backbone
from weightgen.config.build import build_generator, build_objective, generation_scheduler
from weightgen.config.loading import load_recipe
from weightgen.episodes.dataset_episode import episode_of as data_set_episode
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.evaluation.tuning import BaseClassFolds
from weightgen.features.class_statistics import ClassStatistics
from weightgen.features.standardizer import Standardizer
from weightgen.heads.head import load_head
from weightgen.interfaces import Classifier
from weightgen.records import Calibration, Episode, Features, LinearHeads
from weightgen.runs.methods import build_methods
from weightgen.schedulers.schedulers import swap_scheduler
from weightgen.spaces.chunks import AdaptedHeads
from weightgen.spaces.class_rows import ClassRows
from weightgen.training.calibration import View, calibrated
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.folds import cross_fitted
from weightgen.training.space import SpaceGrid, choose_space
from weightgen.zoo.build import Source, fit_tasks
from weightgen.zoo.options import FitOptions
from weightgen.zoo_targets.ideal_prototypes import ideal_prototypes

Tensors = dict[str, Tensor]
Subject = Callable[[], Tensors]

FOLDERS = Path(__file__).parent / "written_by_0_1"
KNOTS = ((1.0, 0.8), (3.0, 1.6))
SHARPNESS = 0.6

SPACES: dict[str, dict[str, Any]] = {
    "whiten": {"map": "whiten", "readout": "gaussian"},
    "whiten_power": {
        **{"map": "whiten", "centring": 0.0, "support_power": 0.7, "readout": "cosine"},
        **{"within_shrinkage": 0.9, "between_shrinkage": 0.2},
    },
    "symmetric": {"map": "whiten", "readout": "gaussian"},
    "scale": {"map": "scale", "readout": "gaussian"},
    "scale_power": {"map": "scale", "centring": 0.0, "support_power": 0.7, "readout": "cosine"},
    "identity": {"map": "identity", "unit_length": False, "readout": "cosine"},
    "identity_gaussian": {"map": "identity", "unit_length": False, "readout": "gaussian"},
}
"""Arguments of the standardizer, and the readout.

Coordinates are the features' own with "scale" and "identity", the eigenvectors of the base classes' covariance with
"whiten", as in 0.1, and with "symmetric" what whitening gives since.
"""

NARROW = ("backbone.model=conv4", "backbone.options={width: 12, img_size: 16}", "denoiser.width=8")
RECIPES: dict[str, tuple[str, ...]] = {
    "metadiff": (),
    "mcdi": (),
    "paper/metadiff": ("denoiser.width=16", "denoiser.time_width=16", "generation.steps=50"),
    "paper/mcdi_omniglot": ("conditioner.width=8",),
    "ablations/mcdi_k1": ("conditioner.width=8",),
    "ablations/mcdi_k3": ("conditioner.width=8",),
    "ablations/mcdi_k5": ("conditioner.width=8",),
    "ablations/mv_di": ("conditioner.width=8",),
    "ablations/tw_di": ("conditioner.width=8",),
    "transfer/metadiff": (),
    "transfer/mcdi": (),
}
"""Recipes whose generators write heads, and what makes them small beside `NARROW`."""

SELECTORS: dict[str, tuple[str, ...]] = {
    "norm_affine": (),
    "bias": ("selector=bias",),
    "last_block": ("selector=last_block",),
    "pattern": ("selector=pattern", "selector.target_modules=[blocks.1.norm, blocks.3]"),
    "lora": ("selector=lora", "selector.target_modules=[blocks.1.conv]", "selector.rank=2"),
}

BASELINES: dict[str, tuple[dict[str, Any], ...]] = {
    "bd_cspn": ({}, {"temperature": 1.0, "shift": False, "within_shrinkage": 0.2}),
    "cosine_centroid": ({}, {"centre": False, "unit_support": False}),
    "fine_tuned_head": ({"epochs": 20}, {"epochs": 10, "learning_rate": 0.1, "unit_support": False}),
    "laplacian_shot": ({}, {"neighbours": 1, "strength": 0.3, "shift": True, "within_shrinkage": 0.2}),
    "logistic_regression": ({}, {"inverse_penalty": 10.0, "unit_support": False}),
    "ridge": ({}, {"penalty": 0.01, "unit_support": False}),
    "shrunk_centroid": ({}, {"within_shrinkage": 0.1, "between_shrinkage": 0.1, "unit_support": True}),
    "shrunk_lda": ({}, {"shrinkage": 0.02, "prototype": "posterior"}, {"prototype": "shrunk", "unit_support": True}),
    "soft_kmeans": ({}, {"temperature": 5.0, "weight": 0.3, "within_shrinkage": 0.2}),
    "tim": ({}, {"by_distance": True, "temperature": 3.0, "confidence": 1.0, "support_weight": 1.0}),
}
"""Options of each: its defaults, and others far from them."""

PROBES = {
    **{name: name for name in ("lda", "nearest_neighbours", "ridge", "sgd_head_1", "sgd_head_10", "sgd_head_100")},
    **{"shrunk_lda": "shrunk_lda", "centroid": "cosine_centroid", "linear_probe": "logistic_regression"},
}
"""Methods that fit whole data sets, by the name that 0.1 had for them."""
PARTS_METHODS = ("centroid", "fitted_on_support", "generator", "mean_offset", "oracle")

DATA_SETS = {"data_set": inputs.DATA_SET_COUNTS, "few": (2, 1, 3), "single": (1, 1, 1), "two": (7, 4)}


# The library's records from arrays.


def features_of(arrays: inputs.LabelledArrays) -> Features:
    return Features(torch.from_numpy(arrays.values), torch.from_numpy(arrays.labels), arrays.class_names)


def episode_of(arrays: inputs.EpisodeArrays) -> Episode:
    tensors = {name: torch.from_numpy(values) for name, values in vars(arrays).items()}
    batch, ways = arrays.support_mask.shape[:2]
    return Episode(**tensors, classes=torch.arange(ways).expand(batch, -1))


def episodes() -> dict[str, Episode]:
    return {name: episode_of(arrays) for name, arrays in inputs.episodes().items()}


@cache
def base() -> Features:
    return features_of(inputs.base_classes())


def noise(episode: Episode | None = None) -> list[torch.Generator]:
    """One generator for each episode."""
    return [torch.Generator().manual_seed(100 + i) for i in range(1 if episode is None else len(episode))]


def real_logits(classifier: Classifier, episode: Episode) -> Tensor:
    """Logits of a single head, log-probabilities of draws; 0 for padding, whose probability must be 0."""
    logits, padding = classifier.logits(episode.query), ~(episode.counts > 0)[:, None]
    probabilities = logits.softmax(-1)
    assert not bool((probabilities * padding).any())
    drawn = isinstance(classifier, LinearHeads) and classifier.weight.shape[1] > 1
    return (probabilities.clamp(min=1e-30).log() if drawn else logits).masked_fill(padding, 0.0)


# Generators with explicit weights.


@torch.no_grad()
def fill(module: nn.Module, *, salt: str, strength: float = 0.35) -> None:
    """Set every parameter to seeded normal numbers, around 1 where all of it starts at 1.

    The numbers depend on a parameter's shape and on how many parameters of that shape come before it, so that names
    do not matter, nor where parameters of other shapes stand.
    """
    streams: dict[tuple[int, ...], np.random.RandomState] = {}
    for parameter in module.parameters():
        shape = tuple(parameter.shape)
        seed = zlib.crc32(repr((salt, shape)).encode())
        drawn = streams.setdefault(shape, np.random.RandomState(seed)).standard_normal(shape)
        spread = 0.1 if len(shape) < 2 else strength / np.prod(shape[1:]) ** 0.5
        start = 1.0 if bool((parameter == 1).all()) else 0.0  # the scale of a norm
        parameter.copy_(start + torch.from_numpy(spread * drawn))


def backbone() -> Backbone:
    made_with = {"width": inputs.WIDTH, "img_size": inputs.SIDE}
    network = Backbone.create(model="conv4", options=made_with)
    fill(network, salt="backbone", strength=1.4)
    return network


def standardizer(space: str, features: Features | None = None) -> Standardizer:
    options = {key: value for key, value in SPACES[space].items() if key != "readout"}
    fitted = Standardizer(feature_width=inputs.WIDTH, **options).fit(features or base())
    fitted.likelihood_scale.fill_(SHARPNESS)
    return fitted if space == "symmetric" else fitted.along_axes()


def recipe_of(name: str, *overrides: str) -> Any:
    return load_recipe(name, (*NARROW, *RECIPES.get(name, ()), *overrides))


def generator(name: str, space: str, *overrides: str, training: bool = False) -> WeightGenerationPipeline:
    """A recipe's generator of heads with explicit weights; with the scheduler of its training if asked for."""
    recipe, readout = recipe_of(name, *overrides), SPACES[space]["readout"]
    pipeline = build_generator(
        recipe,
        backbone(),
        standardizer(space),
        readout=readout,
        classes=[str(number) for number in range(inputs.BASE_CLASSES)],
    )
    for salt in ("denoiser", "conditioner"):
        fill(getattr(pipeline, salt), salt=salt)
    if not training:
        pipeline.scheduler = generation_scheduler(recipe.generation, pipeline.scheduler)
    pipeline.register_to_config(calibration=KNOTS, draw_calibration=((1.0, 1.3),))
    for module in pipeline._modules():
        module.eval()
    return pipeline


def parts_generator(selector: str, *, training: bool = False) -> WeightGenerationPipeline:
    """The generator of parameters inside the backbone, with explicit weights."""
    sizes = ("space.token_width=16", "denoiser.depth=2", "conditioner.width=8")
    recipe, network = recipe_of("mcdi_norm_affine", *sizes, *SELECTORS[selector]), backbone()
    # not whitened: the axes of so few classes would be a matter of rounding, and these networks see coordinates
    pixels, fitted = features_of(inputs.pixel_classes()), Standardizer(feature_width=inputs.WIDTH, map="scale")
    pipeline = build_generator(recipe, network, fitted, readout="cosine", classes=())
    space = pipeline.space
    own = space.adaptable.features(torch.zeros_like(space.adaptable.own), pixels.values)
    fitted.fit(replace(pixels, values=own))
    space.fit([torch.from_numpy(inputs.offsets(space.adaptable.layout.size))])
    for salt in ("denoiser", "conditioner"):
        fill(getattr(pipeline, salt), salt=salt)
    if not training:
        pipeline.scheduler = generation_scheduler(recipe.generation, pipeline.scheduler)
    pipeline.register_to_config(calibration=((1.0, 5.0), (4.0, 9.0)))
    for module in pipeline._modules():
        module.eval()
    return pipeline


# Subjects.


def method_logits(name: str, pipeline: WeightGenerationPipeline) -> Tensors:
    """A method made of a generator, on all episodes."""
    method = build_methods([name], pipeline)[name]
    return {key: real_logits(method.fit(episode, noise(episode)), episode) for key, episode in episodes().items()}


def written_head(
    recipe: str, space: str, *overrides: str, method: str = "generator", scheduler: str | None = None
) -> Tensors:
    """Heads that a recipe's generator writes, or a method made of it."""
    pipeline = generator(recipe, space, *overrides)
    if scheduler is not None:
        pipeline.scheduler = swap_scheduler(scheduler, pipeline.scheduler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # diffusers' solvers, of numpy
        return method_logits(method, pipeline)


def data_set_head(recipe: str, space: str, method: str) -> Tensors:
    """Heads for whole data sets."""
    pipeline, logits = generator(recipe, space), {}
    for name, counts in DATA_SETS.items():
        train, query = inputs.data_set(counts)
        logits[name] = data_set_logits(method, pipeline, features_of(train), torch.from_numpy(query), noise())
    return logits


def data_set_logits(
    name: str, pipeline: WeightGenerationPipeline | None, train: Features, query: Tensor, rngs: list[torch.Generator]
) -> Tensor:
    """A method fitted to a whole data set; log-probabilities of draws."""
    classifier = build_methods([name], pipeline)[name].fit(data_set_episode(train), rngs)
    drawn = isinstance(classifier, LinearHeads) and classifier.weight.shape[1] > 1
    logits = classifier.logits(query[None])[0]
    return logits.log_softmax(-1) if drawn else logits


def baseline(name: str) -> Tensors:
    """A baseline with options as given."""
    statistics, logits = ClassStatistics.of(base()), {}
    for i, options in enumerate(BASELINES[name]):
        method = registry.get("methods", name)(statistics=statistics, scale=3.0, **options)
        for key, episode in episodes().items():
            if key != "unlabelled" or method.uses_unlabelled:
                logits[f"{i}.{key}"] = real_logits(method.fit(episode, noise(episode)), episode)
    return logits


def tuned_baseline(name: str) -> Tensors:
    """A baseline with the options that folds of the base classes choose."""
    kind = registry.get("methods", name)
    extra = UnlabelledDraw(6, distractors=0.0) if kind.uses_unlabelled else None
    method = BaseClassFolds(base(), ways=3, shots=2, queries=4, episodes=10, seed=0, unlabelled=extra)(kind)
    return {key: real_logits(method.fit(episode, noise(episode)), episode) for key, episode in episodes().items()}


def probe(name: str) -> Tensors:
    """A classifier fitted to whole training sets."""
    logits = {}
    for key, counts in DATA_SETS.items():
        train, query = inputs.data_set(counts)
        rngs = [torch.Generator().manual_seed(0)]
        logits[key] = data_set_logits(PROBES[name], None, features_of(train), torch.from_numpy(query), rngs)
    return logits


def parts(selector: str) -> Tensors:
    """Backbones that the generator adapts, read by the centroids of the support."""
    pipeline, episode = parts_generator(selector), episode_of(inputs.pixel_episodes())
    heads = _part_heads(pipeline, episode)
    return {"offsets": heads.offsets[:, :64], "logits": heads.logits(episode.query)}


def parts_method(name: str) -> Tensors:
    """What a backbone adapted in another way says; fits of two epochs."""
    pipeline, episode = parts_generator("norm_affine"), episode_of(inputs.pixel_episodes())
    fit = FitOptions(epochs=2, learning_rate=0.01, local_targets=1)
    with torch.no_grad():
        if name == "centroid":  # of the backbone as it is
            zero = torch.zeros_like(pipeline.space.adaptable.own).expand(len(episode), -1)
            classifier = pipeline.decode(pipeline.space.encode(zero)[:, None], episode)
        else:
            pixels = features_of(inputs.pixel_classes())
            name = "zoo_mean" if name == "mean_offset" else name
            method = build_methods([name], pipeline, inputs=pixels, fit=fit, zoo_seed=0)[name]
            classifier = method.fit(episode, noise(episode))
        return {"logits": classifier.logits(episode.query)}


@torch.no_grad()
def _part_heads(pipeline: WeightGenerationPipeline, episode: Episode) -> AdaptedHeads:
    return pipeline.heads(episode, noise(episode))


def standardized(space: str) -> Tensors:
    """What a standardizer says that no turn of its axes changes: lengths, distances and scalars."""
    fitted, episode = standardizer(space), episode_of(inputs.episodes()["even"])
    points = torch.cat([
        fitted.support(episode.support[0].flatten(0, 1)), fitted.query(episode.query[0]), fitted.base(base().values[:4])
    ])  # fmt: skip
    return {
        "distances": torch.cdist(points, points[::4], compute_mode="donot_use_mm_for_euclid_dist"),
        "from_origin": (points - fitted.standardized_origin).norm(dim=-1),
        "scalars": torch.stack([fitted.noise_variance[0], fitted.radius, fitted.length, fitted.prior_variance.sum()]),
        "restored": fitted.restore(points)[::5],
    }


def losses(name: str, space: str, *overrides: str) -> Tensors:
    """Losses of one training step, and the lengths of their gradients."""
    recipe, pipeline = recipe_of(name, *overrides), generator(name, space, *overrides, training=True)
    fitted = recipe.zoo.targets == "trajectories"
    points = recipe.zoo.fit.local_targets if fitted else 1
    path = pipeline.standardizer.base(torch.from_numpy(inputs.targets(points=points)))
    module = EpisodeLoss(
        denoiser=pipeline.denoiser,
        conditioner=pipeline.conditioner,
        space=pipeline.space,
        scheduler=pipeline.scheduler,
        objective=build_objective(recipe),
        fitted=fitted,
    )
    return _with_gradient(module, (episodes()["even"], path, pipeline.standardizer, Calibration.flat(1.3)))


def parts_losses() -> Tensors:
    """The same for parameters inside the backbone."""
    pipeline, episode = parts_generator("norm_affine", training=True), episode_of(inputs.pixel_episodes())
    space = pipeline.space
    path = space.encode(torch.from_numpy(inputs.offsets(space.adaptable.layout.size, tasks=2)))
    module = EpisodeLoss(
        denoiser=pipeline.denoiser,
        conditioner=pipeline.conditioner,
        space=space,
        scheduler=pipeline.scheduler,
        objective=build_objective(recipe_of("mcdi_norm_affine")),
    )
    return _with_gradient(module, (space.features(episode), path, pipeline.standardizer, Calibration()))


def _with_gradient(module: nn.Module, arguments: tuple[Any, ...]) -> Tensors:
    values = {}
    for seed in range(3):
        module.zero_grad()
        named = module(*arguments, torch.Generator().manual_seed(seed))
        named["loss"].backward()
        squares = [parameter.grad.square().sum() for parameter in module.parameters() if parameter.grad is not None]
        values |= {f"{seed}.{name}": loss.detach() for name, loss in named.items()}
        values[f"{seed}.gradient"] = torch.stack(squares).sum().sqrt()
    return values


@dataclass(frozen=True, kw_only=True)
class StartedFrom(Source):
    """Fits that start from given values."""

    beginning: Tensor

    def start(self, *, seed: int) -> Tensor:
        return self.beginning


def fitted_rows(space: str, **options: Any) -> Tensors:
    """Members of a zoo of heads, as raw prototypes."""
    space_of, draw = standardizer(space), torch.Generator().manual_seed(5)
    classes, start = torch.tensor([[0, 3, 7], [9, 2, 4]]), space_of.base(torch.from_numpy(inputs.targets())[0, 0, 0])
    fit = FitOptions(epochs=6, learning_rate=0.05, **options)
    rows, prototypes = ClassRows(readout=SPACES[space]["readout"]), ideal_prototypes(base(), space_of)
    source = StartedFrom(rows, base(), space_of, prototypes, Calibration.flat(1.3), beginning=0.1 * start)
    fitted = fit_tasks(source, classes, seed=0, options=fit, draw=draw)
    return {"rows": space_of.restore(fitted.targets)[..., ::3], "accuracy": fitted.accuracy, "loss": fitted.loss}


def chosen_space() -> Tensors:
    """Options of the standardizer and the readout that folds of the base classes choose."""
    shape = {"feature_width": inputs.WIDTH, "map": "whiten", "unit_length": True}
    choice = choose_space(base(), shape, SpaceGrid(), ways=3, shots=(1, 3), seed=0)
    names = ("centring", "within_shrinkage", "between_shrinkage", "support_power")
    values = [choice.shape[name] for name in names]
    return {"values": torch.tensor([*values, float(choice.readout == "cosine")])}


def fold_scales(recipe: str) -> Tensors:
    """What cross-fitting finds for every fold: the sharpness of its space, the scale of its heads."""
    standardizer = Standardizer(feature_width=inputs.WIDTH, map="whiten")
    folds = cross_fitted(
        base(), folds=3, standardizer=standardizer,
        conditioner=generator(recipe, "whiten").conditioner, space=ClassRows(),
        shots=(1, 3), seed=0,
    )  # fmt: skip
    one = torch.ones(1)
    values = [torch.stack([fold.standardizer.likelihood_scale, fold.scale.at(one)[0]]) for fold in folds]
    return {"values": torch.stack(values), "sizes": torch.stack([fold.prototypes.norm() for fold in folds])}


def calibration(recipe: str, *, samples: int = 1) -> Tensors:
    """Knots of the finished generator's calibration."""
    pipeline = generator(recipe, "scale")
    views = [View(features_of(inputs.data_set((8, 8, 8, 8, 8))[0]), pipeline.standardizer)]
    return {"knots": torch.tensor(calibrated(pipeline, views, ways=3, samples=samples, seed=0).knots)}


def parts_calibration() -> Tensors:
    """The same of the generator of parts."""
    pipeline = parts_generator("norm_affine")
    views = [View(features_of(inputs.pixel_classes()), pipeline.standardizer)]
    return {"knots": torch.tensor(calibrated(pipeline, views, ways=3, samples=1, seed=0).knots)}


# Folders written by 0.1, with explicit weights from here.


@contextmanager
def folder_of(name: str) -> Iterator[Path]:
    """A generator's folder as it was written; all have the same backbone, of which one copy is kept."""
    with tempfile.TemporaryDirectory() as place:
        for part in (name, "generator/backbone"):
            target = Path(place) / name / Path(part).relative_to(part.split("/")[0])
            shutil.copytree(FOLDERS / part, target, dirs_exist_ok=True)
        yield Path(place) / name


def read_generator(name: str) -> Tensors:
    """A generator of heads."""
    with folder_of(name) as folder:
        pipeline = WeightGenerationPipeline.from_pretrained(folder)
    pipeline.standardizer = pipeline.standardizer.along_axes()  # as it was written, for the sake of the same noise
    train, query = inputs.data_set()
    whole = data_set_logits("generator", pipeline, features_of(train), torch.from_numpy(query), noise())
    return {**method_logits("generator", pipeline), "data_set": whole}


def read_parts_generator() -> Tensors:
    """A generator of parameters inside the backbone."""
    with folder_of("parts_generator") as folder:
        pipeline = WeightGenerationPipeline.from_pretrained(folder)
    episode = episode_of(inputs.pixel_episodes())
    return {"logits": _part_heads(pipeline, episode).logits(episode.query)}


@torch.no_grad()
def read_head(name: str) -> Tensors:
    """A head folder: the head on features of its backbone, and the whole model."""
    saved = load_head(FOLDERS / name)
    queries = torch.from_numpy(inputs.pixel_episodes().query[0]).unflatten(1, (1, inputs.SIDE, inputs.SIDE))
    images = saved.backbone.preprocess.normalise(queries)
    return {"logits": saved.draws.logits(saved.backbone(images)[None])[0], "model": saved.attach()(images)}


def extended_head() -> Tensors:
    """A head with two further classes, by the generator that wrote it."""
    pipeline, saved = WeightGenerationPipeline.from_pretrained(FOLDERS / "generator"), load_head(FOLDERS / "head")
    with tempfile.TemporaryDirectory() as folder:
        pictures = inputs.write_pictures(Path(folder) / "support", (4, 5))
        larger = pipeline.extend(saved, pictures, generator=noise()[0])
    return {"weight": larger.draws.weight, "bias": larger.draws.bias}


READ: dict[str, Subject] = {
    "folders/generator": partial(read_generator, "generator"),
    "folders/mcdi_generator": partial(read_generator, "mcdi_generator"),
    "folders/parts_generator": read_parts_generator,
    "folders/head": partial(read_head, "head"),
    "folders/parts_head": partial(read_head, "parts_head"),
    "folders/head_extended": extended_head,
}
REFUSED: frozenset[str] = frozenset({"folders/mcdi_generator", "folders/head_extended", "folders/parts_generator"})
"""Those of `READ` that this version no longer reads; it must refuse them in one line that names the version 0.1."""


def _subjects() -> Iterator[tuple[str, Subject]]:
    """Every subject's name, which is the path of its file, and what gives its values."""
    for name in BASELINES:
        yield f"baselines/{name}", partial(baseline, name)
        yield f"baselines_tuned/{name}", partial(tuned_baseline, name)
    for name in PROBES:
        yield f"probes/{name}", partial(probe, name)
    yield from _of_generators()
    for selector in SELECTORS:
        yield f"parts/{selector}", partial(parts, selector)
    for name in PARTS_METHODS:
        yield f"parts_methods/{name}", partial(parts_method, name)
    for space in sorted(SPACES.keys() - {"identity_gaussian"}):  # a readout is no matter of the standardizer
        yield f"standardizers/{space}", partial(standardized, space)
    yield from _of_training()
    yield from ((name, subject) for name, subject in READ.items() if name not in REFUSED)


def _of_generators() -> Iterator[tuple[str, Subject]]:
    for recipe in RECIPES:
        name = recipe.replace("/", "_")
        spaces = ("identity", "identity_gaussian") if recipe == "paper/metadiff" else ("whiten", "scale_power")
        if recipe == "metadiff":
            spaces = ("whiten", "whiten_power", "scale", "scale_power")
        if recipe in ("ablations/mcdi_k1", "ablations/mv_di", "ablations/tw_di"):  # one chain: training alone differs
            spaces = ("scale_power",)
        if recipe.startswith("transfer"):  # its space is the data set's own, and its readout gaussian
            spaces = ("whiten", "scale")
            for method in ("generator", "no_denoiser", "one_step"):
                if (recipe, method) != ("transfer/mcdi", "one_step"):  # a chain in segments has no single step
                    yield f"data_sets/{name}.{method}", partial(data_set_head, recipe, "whiten", method)
        if recipe in ("metadiff", "mcdi", "paper/mcdi_omniglot", "transfer/metadiff", "transfer/mcdi"):
            spaces = (*spaces, "symmetric")
        for space in spaces:
            yield f"generators/{name}.{space}", partial(written_head, recipe, space)
    yield "data_sets/transfer_metadiff.symmetric", partial(data_set_head, "transfer/metadiff", "symmetric", "generator")
    yield "data_sets/metadiff.generator", partial(data_set_head, "metadiff", "scale", "generator")
    yield "generators/metadiff.linear", partial(written_head, "metadiff", "scale", "denoiser.linear=true")
    options = ("conditioner=local_targets", "conditioner.width=8", "denoiser=token_transformer", "denoiser.width=8")
    yield "generators/mcdi.segment", partial(written_head, "mcdi", "scale", *options, "denoiser.knows_segment=true")
    for scheduler in ("DDIMScheduler", "DPMSolverMultistepScheduler"):
        yield f"generators/metadiff.{scheduler}", partial(written_head, "metadiff", "scale", scheduler=scheduler)
    yield from _of_ablations()


def _of_ablations() -> Iterator[tuple[str, Subject]]:
    for recipe, space in (("metadiff", "whiten"), ("metadiff", "scale_power"), ("mcdi", "whiten"), ("mcdi", "scale")):
        for method in ("no_denoiser", "one_step", "draws", "inductive"):
            if (recipe, method) != ("mcdi", "draws"):  # a chain in segments has no noise to draw with
                yield f"ablations/{recipe}.{space}.{method}", partial(written_head, recipe, space, method=method)
    yield (
        "ablations/metadiff.whiten.random_denoiser",
        partial(written_head, "metadiff", "whiten", method="random_denoiser"),
    )
    for method in ("no_denoiser", "one_step", "draws"):
        yield f"ablations/paper_metadiff.{method}", partial(written_head, "paper/metadiff", "identity", method=method)


def _of_training() -> Iterator[tuple[str, Subject]]:
    for recipe in RECIPES:
        space = "identity" if recipe == "paper/metadiff" else "scale"
        yield f"losses/{recipe.replace('/', '_')}", partial(losses, recipe, space)
    yield "losses/metadiff.whiten", partial(losses, "metadiff", "whiten")
    yield "losses/mcdi.symmetric", partial(losses, "mcdi", "symmetric")
    yield "losses/mcdi.literal", partial(losses, "mcdi", "scale", "objective.ranges=literal")
    yield "losses/mcdi_norm_affine", parts_losses
    yield "zoo/gaussian", partial(fitted_rows, "whiten", local_targets=3)
    yield "zoo/cosine", partial(fitted_rows, "scale_power", local_targets=2)
    yield "zoo/noise", partial(fitted_rows, "scale", local_targets=1, feature_noise=4.0, most_images=5)
    yield "zoo/flat", partial(fitted_rows, "scale", local_targets=1, sharpness_aware_radius=0.1, weight_decay=0.01)
    yield "training/space", chosen_space
    yield "training/folds", partial(fold_scales, "metadiff")
    yield "training/folds_of_data_sets", partial(fold_scales, "transfer/metadiff")
    yield "training/calibration", partial(calibration, "metadiff")
    yield "training/calibration_of_draws", partial(calibration, "metadiff", samples=2)
    yield "training/calibration_of_parts", parts_calibration


SUBJECTS: dict[str, Subject] = dict(_subjects())
