"""Everything that is said of speed, in one run: docs/results/performance.md and performance.json.

python benchmarks/performance.py [OUT]      (make bench)

Needs the extra `peers` (easyfsl). One thread. Features are made up and networks untrained, for time depends on neither;
how accurate methods are stands in the other tables.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from _measured import Rows, Work, machine, megabytes, operations, process, rates, ratio, seconds, slope, table
from _peers import alone
from PIL import Image
from sklearn.linear_model import LogisticRegressionCV, RidgeClassifierCV
from threadpoolctl import threadpool_limits
from two_processes import compared
from zoo_fit import OPTIONS, bare_products, one_at_a_time, support_of, together

from weightgen.backbones.backbone import Backbone, FeatureBackbone
from weightgen.backbones.feature_cache import feature_batches
from weightgen.backbones.packaged import DEFAULT_BACKBONE
from weightgen.config.build import build_generator, build_objective, generation_scheduler
from weightgen.config.loading import load_recipe
from weightgen.data.images import open_folder
from weightgen.denoisers.gradient_mlp import GradientMlp
from weightgen.episodes.dataset_episode import episode_of
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.evaluation.tuning import CrossValidation
from weightgen.features.standardizer import Standardizer
from weightgen.files import write_json, write_text
from weightgen.methods.logistic_regression import LogisticRegression as Probe
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Calibration, Features
from weightgen.seeds import generator
from weightgen.spaces._row_fit import RowLogits
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.learner import Learner, new_accelerator
from weightgen.training.options import ReptileOptions, TrainingOptions
from weightgen.training.reptile import adapted
from weightgen.universal.generator import universal_generator

BATCH = 600
COMMAND = "import sys; from weightgen.cli.main import app; app(sys.argv[1:])"
COMMANDS = ("--help", "components", "recipes ls", "recipes validate metadiff")
IMPORTS = ("torch", "timm", "diffusers.pipelines.pipeline_utils", "datasets")


def made_up(classes: int, images: int, width: int) -> Features:
    """Gaussian classes, cut off at 0 as features of most backbones are."""
    draw = generator(0, "made up", classes, images)
    labels = torch.arange(classes).repeat_interleave(images)
    values = torch.randn(classes, width, generator=draw)[labels] + 2 * torch.randn(len(labels), width, generator=draw)
    return Features(values.relu(), labels, tuple(str(number) for number in range(classes)))


def pipeline_of(recipe: str, base: Features, *overrides: str) -> WeightGenerationPipeline:
    """The generator of a recipe, untrained, on made-up base classes."""
    width = base.values.shape[1]
    standardizer = Standardizer(feature_width=width, within_shrinkage=0.5, between_shrinkage=0.5).fit(base)
    backbone = FeatureBackbone(width)
    options = load_recipe(recipe, overrides)
    pipeline = build_generator(options, backbone, standardizer, readout="gaussian", classes=base.class_names)
    if not pipeline.sees_coordinates:
        pipeline.standardizer = standardizer.along_axes()  # as training leaves it
    pipeline.scheduler = generation_scheduler(options.generation, pipeline.scheduler)
    return pipeline


def few_shot(products: float, copies: float) -> tuple[Rows, Rows]:
    """Peers for one episode, and the generator against its own floor."""
    peers: Rows = []
    own: Rows = []
    for width in (64, 640, 2048):
        base = made_up(40, 20, width)
        pipeline, network = pipeline_of("metadiff", base), GradientMlp(feature_width=width).eval()
        universal = universal_generator(FeatureBackbone(width))
        for ways, shots in ((5, 1), (5, 5), (20, 1)):
            draw = partial(EpisodeSampler(base).sample, ways=ways, shots=shots, queries=15 if width < 2048 else 2)
            batch = BATCH if width * ways < 20_000 else 100
            one, many = (draw(batch=number, generator=generator(0, number)) for number in (1, batch))
            noise = [generator(0, i) for i in range(batch)]
            works: dict[str, Work] = {
                f"batch of {len(given)}": partial(pipeline.heads, given, noise[: len(given)]) for given in (one, many)
            }
            compared_with = (ways, shots) == (5, 5) and width < 2048
            own_peers: dict[str, list[Work]] = {
                "universal generator": [partial(universal.heads, given, noise[: len(given)]) for given in (one, many)],
                "map of the images alone": [
                    partial(pipeline.standardizer.support, given.support) for given in (one, many)
                ],
            }
            beside = {f"{name}, {i}": work for name, pair in own_peers.items() for i, work in enumerate(pair)}
            others = alone(one, network) if compared_with else {}
            print(f"few-shot, {width} features, {ways} ways …", flush=True)
            times = seconds({**works, **others, **(beside if compared_with else {})})
            size = {"ways": ways, "shots": shots, "features": width}
            for name, given in zip(works, (one, many), strict=True):
                bytes_moved = 4 * (given.support.numel() + len(given) * ways * (width + 1))
                floor = max(operations(works[name]) / products, bytes_moved / copies)
                spent = statistics.median(times[name])
                own.append({**size, "batch": len(given), "ms": 1000 * spent / len(given), "floors": spent / floor})
            for name in others:
                one_by_one, in_batch = (ratio(times[name], times[work]) for work in works)
                peers.append({**size, "peer": name, "alone": one_by_one, "batch": in_batch * batch})
            for name in own_peers if compared_with else ():
                pair = [ratio(times[f"{name}, {i}"], times[work]) for i, work in enumerate(works)]
                peers.append({**size, "peer": name, "alone": pair[0], "batch": pair[1]})
    return peers, own


def data_sets() -> Rows:
    """A head for a whole data set of ten classes against tuned probes, and against one product of its features."""
    pipeline, rows = pipeline_of("transfer/metadiff", made_up(60, 40, 1280)), []
    for images in (10, 100, 1000, 5000, 20_000, 50_000):
        data = made_up(10, images // 10, 1280)
        episode, x, y = episode_of(data), data.values.numpy(), data.labels.numpy()
        folds = min(5, images // 10)
        works: dict[str, Work] = {
            "generator": partial(pipeline.dataset_heads, data, [generator(0, "head")]),
            "product": lambda data=data: data.values.mT @ data.values,  # type: ignore[misc]
        }
        probes: dict[str, Work] = {}
        if folds > 1 and images <= 1000:
            probes["LogisticRegressionCV"] = partial(LogisticRegressionCV(cv=folds, max_iter=1000).fit, x, y)
            probes["own probe"] = partial(CrossValidation(Probe).fit, episode, [generator(0, "probe")])
        if folds > 1 and images <= 5000:
            probes["RidgeClassifierCV"] = partial(RidgeClassifierCV(alphas=[10.0**n for n in range(-3, 4)]).fit, x, y)
        times = seconds(works)
        row = {"images": images, "ms": 1000 * statistics.median(times["generator"])}
        row["products"] = ratio(times["generator"], times["product"])
        for name, probe in probes.items():  # of 1,000 images once, for a tuned probe takes minutes
            slow = name != "RidgeClassifierCV" and images == 1000
            pair = {"generator": works["generator"], name: probe}
            both = seconds(pair, repeats=1 if slow else 5, warm_up=not slow)
            row[name] = 100 * ratio(both["generator"], both[name])
        rows.append(row)
    return rows


def training(products: float) -> Rows:
    """A step of the default recipe, and a round of REPTILE, over the chain's length and the inner steps."""
    base, rows = made_up(40, 20, 640), []
    episode = EpisodeSampler(base).sample(batch=8, ways=10, shots=3, queries=10, generator=generator(0, "training"))
    for chain, inner in ((20, 0), (1000, 0), (1000, 1), (1000, 4)):
        pipeline = pipeline_of("metadiff", base, f"scheduler.num_train_timesteps={chain}")
        parts = {name: getattr(pipeline, name) for name in ("denoiser", "conditioner", "space", "scheduler")}
        module = EpisodeLoss(**parts, objective=build_objective(load_recipe("metadiff"))).train()
        learner = Learner(module, TrainingOptions(), new_accelerator(cpu=True))
        path = pipeline.standardizer.base(base.means())[episode.classes][:, None]
        given = (episode, path, pipeline.standardizer, Calibration(), generator(0, "noise"))
        options = ReptileOptions(inner_steps=max(1, inner))

        def step(
            learner: Learner = learner, given: Any = given, options: ReptileOptions = options, inner: int = inner
        ) -> None:
            if inner:
                learner.descend_along(adapted(learner.module, *given, options=options)[1])  # type: ignore[arg-type]
            else:
                learner.descend(learner.wrapped(*given)["loss"])

        spent, extra = statistics.median(seconds({"step": step})["step"]), megabytes(step)
        row = {"chain": chain, "inner_steps": inner, "steps_a_second": 1 / spent, "megabytes": extra}
        rows.append(row if inner else {**row, "floors": spent * products / operations(step)})
    return rows


def growth() -> Rows:
    """Time over one size, all others as they are."""
    base, rows = made_up(1000, 10, 64), []
    pipeline, sampler = pipeline_of("metadiff", base), EpisodeSampler(base)

    def few(ways: int = 5, shots: int = 5, steps: int = 5, batch: int = 20) -> Work:
        episode = sampler.sample(batch=batch, ways=ways, shots=shots, queries=1, generator=generator(0, ways, shots))
        return partial(pipeline.heads, episode, [generator(0, i) for i in range(batch)], steps=steps)

    def zoo(tasks: int) -> Work:
        images, logits = torch.randn(tasks, 100, 64), RowLogits("gaussian", 1.25, torch.zeros(64), 1.0)
        return partial(together, support_of(images, 5), logits, generator(0, "zoo"))

    def wide(width: int) -> Work:
        other = made_up(10, 10, width)
        episode = EpisodeSampler(other).sample(batch=20, ways=5, shots=5, queries=1, generator=generator(0, width))
        return partial(pipeline_of("metadiff", other).heads, episode, [generator(0, i) for i in range(20)])

    whole = pipeline_of("transfer/metadiff", made_up(20, 20, 256))

    def large(images: int) -> Work:
        return partial(whole.dataset_heads, made_up(10, images // 10, 256), [generator(0, "head")])

    curves = {
        "ways": ((5, 10, 25, 50, 100), lambda ways: few(ways, batch=1)),
        "many ways": ((100, 200, 300, 500, 700, 1000), lambda ways: few(ways, batch=1)),
        "shots": ((1, 2, 3, 5, 9), lambda shots: few(shots=shots)),
        "steps": ((1, 2, 5, 10, 20, 50), lambda steps: few(steps=steps)),
        "features": ((64, 128, 256, 512, 1024), wide),
        "images of a data set": ((500, 2000, 8000, 32_000), large),
        "tasks of a zoo": ((32, 128, 512, 2048), zoo),
    }
    for name, (sizes, work) in curves.items():
        times = seconds({str(size): work(size) for size in sizes}, repeats=3)
        medians = [statistics.median(times[str(size)]) for size in sizes]
        rise, half = slope(sizes, medians)
        rows.append({"over": name, "from": sizes[0], "to": sizes[-1], "slope": rise, "half_width": half})
    return rows


def zoos() -> Rows:
    """Tasks fitted together against one at a time, and against the matrix products of every epoch alone."""
    rows, draw = [], torch.Generator().manual_seed(0)
    for ways, shots, width, tasks in ((5, 20, 64, 512), (20, 20, 512, 32)):
        labels = torch.arange(ways).repeat_interleave(shots).expand(tasks, -1)
        images = torch.randn(tasks, ways * shots, width, generator=draw)
        logits = RowLogits("gaussian", 10 / width**0.5, torch.zeros(width), 1.0)
        times = seconds(
            {
                "together": partial(together, support_of(images, ways), logits, draw),
                "alone": partial(one_at_a_time, images, labels, ways, logits),
                "bare": partial(bare_products, images, ways),
            }
        )
        faster = ratio(times["alone"], times["together"]) * tasks / 5  # five tasks are fitted alone
        rate = tasks / statistics.median(times["together"])
        floors = ratio(times["together"], times["bare"])
        rows.append({"ways": ways, "features": width, "epochs": OPTIONS.epochs, "tasks_a_second": rate,
                      "faster": faster, "products": floors})  # fmt: skip
    return rows


def end_to_end(cache: Path) -> Rows:
    """A folder of 27 photographs of 224 pixels to a head, with and without features in the cache."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    import numpy as np
    from photographs import crops, photographs

    folder, random = cache / "photographs", np.random.default_rng(0)
    for name, image in photographs().items():
        (folder / name).mkdir(parents=True)
        for number, crop in enumerate(crops(image, random) + crops(image, random)[:4]):
            crop.save(folder / name / f"{number}.png")
    backbone = Backbone.create(model=DEFAULT_BACKBONE, pretrained=True)
    trunk = timm.create_model(backbone.architecture, num_classes=0).eval()  # for the plain loop, as timm has it
    pipeline, forward, spent = universal_generator(backbone), backbone.forward, []

    def timed(images: torch.Tensor) -> torch.Tensor:
        begin = time.perf_counter()
        features = forward(images)
        spent.append(time.perf_counter() - begin)
        return features

    def forget() -> None:
        for kept in (cache / "weightgen").rglob("*.safetensors"):
            kept.unlink()

    backbone.forward = timed  # type: ignore[method-assign]
    calls: dict[str, list[float]] = {"first": [], "again": []}
    shares = []
    for repeat in range(6):
        forget()
        for name in calls:
            spent.clear()
            begin = time.perf_counter()
            pipeline(folder)
            calls[name].append(time.perf_counter() - begin)
            if name == "first":
                shares.append(sum(spent) / calls[name][-1])
        if not repeat:  # the first of all is not counted
            calls, shares = {"first": [], "again": []}, []
    dataset, transform = (
        open_folder(folder),
        timm.data.create_transform(**timm.data.resolve_data_config({}, model=trunk)),
    )

    paths = sorted(folder.rglob("*.png"))

    def plain_loop() -> None:
        images = [transform(Image.open(path).convert("RGB")) for path in paths]
        torch.cat([trunk(batch) for batch in torch.utils.data.DataLoader(images, batch_size=32)])

    def own_loop() -> None:
        forget()
        torch.cat(list(feature_batches(backbone, dataset)))

    loops = seconds({"own": own_loop, "plain": plain_loop})
    row = {
        "images": len(dataset),
        "seconds": statistics.median(calls["first"]),
        "forward": 100 * statistics.median(shares),
    }
    rate = len(dataset) / statistics.median(loops["own"])
    again, faster = ratio(calls["first"], calls["again"]), ratio(loops["plain"], loops["own"])
    return [{**row, "again": again, "images_a_second": rate, "plain": faster}]


def start_up(cache: Path) -> Rows:
    """User time of commands and imports in processes of their own, and whether they import torch."""
    rows = []
    written = (
        "generate",
        "--generator",
        "universal",
        "--support",
        str(cache / "photographs"),
        "--out",
        str(cache / "head"),
    )
    works = {command: (COMMAND, *command.split()) for command in COMMANDS}
    works |= {f"import {name}": (f"import {name}",) for name in IMPORTS} | {
        "generate, features kept": (COMMAND, *written)
    }
    bare = statistics.median(process("pass")[0] for _ in range(5))
    for command, arguments in works.items():
        runs = [process(*arguments) for _ in range(5)]
        spent = statistics.median(run[0] for run in runs)
        rows.append({"command": command, "seconds": spent, "interpreters": spent / bare,
                      "packages": len(runs[0][1]), "torch": "torch" in runs[0][1]})  # fmt: skip
    return rows


HEADER = """Written by `make bench`. Every ratio is a median of interleaved repeats in one process,
one thread; above 1 the generator is faster. Made-up features, untrained networks: how accurate methods
are stands in the other tables. `load` is that of the machine at the start; above the number of cores the rates are
those of a share of a core, single times are no figures to quote, and floors below 1 are noise."""
SECTIONS = {
    "peers": "One episode, times as long as the generator takes: called for one episode (`alone`), and for each of a "
    "batch (`batch`; 600 episodes, 100 at 20 ways of 2,048 features). Peers take one at a time. MetaDiff's sampler is "
    "the literal one (T = 1000, autograd, `gradient_mlp`). The last two write a batch at once too: the universal "
    "generator, and the product of an episode's images with the matrix of the generator's space, which no generator in "
    "such a space does without: a peer is at most so many times as slow as its row is that one.",
    "generation": "The generator by itself: milliseconds an episode, and how many times its floor: the operations of "
    "its matrix products by the machine's rate, or its bytes by that of a copy, whichever is longer.",
    "data_sets": "A head for a whole data set, ten classes of 1,280 features: its time, in products XᵀX of all "
    "features with themselves, and in percent of the time of tuned probes.",
    "training": "One step of the default recipe (8 episodes, 10 ways, 3 shots, 640 features): steps a second, the "
    "memory that it takes beyond what was there, and times the floor of its matrix products forward and backward, by "
    "the length of the chain; with inner steps a round of REPTILE.",
    "growth": "Slope of log time over log size with the half-width of its 95 % interval; 1 is linear. Beyond a hundred "
    "ways nearly all time goes into pairs of classes.",
    "zoo": "Rows fitted to many tasks at once: how much faster than one at a time by autograd, and how many times the "
    "two matrix products of every epoch.",
    "two_processes": "What processes of `torchrun` share, without their start-up: seconds of one, and how much faster "
    "two are.",
    "end_to_end": "A folder of photographs to a head by the universal generator: percent of the time in the "
    "backbone's forward pass, and how much faster the second call is, whose features are kept on disk (`again`); "
    "images a second to features, and how much faster that is than a plain timm model with a DataLoader (`plain`).",
    "start_up": "User time of a command in a process of its own, in seconds and in times of a bare interpreter; beside "
    "`generate`, whose 27 photographs have their features kept, the imports of the libraries that it stands on, "
    "which are nearly all of it (diffusers imports transformers and peft where they are installed, as for the tests).",
}


def main(arguments: Sequence[str]) -> None:
    out = Path(arguments[0] if arguments else "docs/results")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of probes that have not converged, which is their affair
    with threadpool_limits(1), tempfile.TemporaryDirectory() as cache, torch.no_grad():
        os.environ["WEIGHTGEN_CACHE"] = f"{cache}/weightgen"
        about, (products, copies) = machine(), rates()
        about |= {"gigaflops": products / 1e9, "copied_gigabytes_a_second": copies / 1e9}
        parts: dict[str, Rows] = {}
        with torch.enable_grad():
            parts["peers"], parts["generation"] = few_shot(products, copies)
        works = {"data_sets": data_sets, "growth": growth, "end_to_end": partial(end_to_end, Path(cache))}
        works["two_processes"] = compared
        works["start_up"] = partial(start_up, Path(cache))  # with the photographs and features of the part before
        for name, work in works.items():
            print(f"{name} …", flush=True)
            parts[name] = work()
        with torch.enable_grad():
            parts["zoo"], parts["training"] = zoos(), training(products)
    write_json(out / "performance.json", {"machine": about, **parts})
    lines = ["# Speed", "", HEADER, "", *table([about])]
    for name, text in SECTIONS.items():
        lines += ["", f"## {name.replace('_', ' ').capitalize()}", "", text, "", *table(parts[name])]
    write_text(out / "performance.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
