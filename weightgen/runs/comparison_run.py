"""Several recipes trained on the same classes and compared on the same tasks."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from weightgen.config.build import check_components
from weightgen.config.loading import load_recipe
from weightgen.config.names import recipe_path
from weightgen.config.recipe import Recipe
from weightgen.episodes.shots import Shots, fewest_and_most, shots_label
from weightgen.errors import InputError, check_least
from weightgen.evaluation.leaderboard import MethodScores, SeedScore, leaderboard, mean_of, write_leaderboard
from weightgen.evaluation.scoring import EpisodeSizes, Scores, score_all
from weightgen.evaluation.tuning import BaseClassFolds
from weightgen.files import check_folder, new_folder, read_json, text_hash, write_json
from weightgen.records import Progress
from weightgen.runs.evaluation_run import Setting, chosen_sizes
from weightgen.runs.folder import RunFolder, run_folder
from weightgen.runs.memorisation_run import memorisation
from weightgen.runs.methods import GENERATOR, RAW_CENTROID, build_methods, known_methods
from weightgen.runs.training_run import check_run, prepared, train_run
from weightgen.training.learner import new_accelerator

ZOO_MEAN = "zoo_mean"
_PARTS = "parts"


@dataclass(frozen=True)
class Entry:
    """A recipe of a comparison, as named, and its run for every seed."""

    name: str
    recipes: tuple[Recipe, ...]
    runs: tuple[RunFolder, ...]


def compare_recipes(
    names: Sequence[str],
    overrides: Iterable[str] = (),
    *,
    data: str | None = None,
    seeds: int = 1,
    ways: int | None = None,
    shots: Sequence[int | str] | None = None,
    queries: int | None = None,
    episodes: int | None = None,
    baselines: Sequence[str] | None = None,
    runs: Path = Path("runs"),
    out: Path = Path("comparison"),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train each recipe that is not trained yet, evaluate all on the same episodes, and write the page.

    An interrupted comparison goes on by the same call: runs resume, and what is evaluated is kept below `out`.

    Args:
        names: recipes by path or name; the first one is what the others are compared with.
        overrides: `key=value` options, for all recipes.
        data: SPEC for all recipes; the novel classes of its split are the tasks.
        seeds: each recipe is trained with seeds 0, 1, …; a seed decides the split, the weights and the episodes.
        ways, shots, queries, episodes: as in the evaluation section of the first recipe, if None.
        baselines: names of methods; all baselines for episodes if None. The raw cosine centroid is always among them.
        runs: folder of run folders. out: folder of the page.

    Returns:
        As JSON, what `leaderboard.json` holds (`leaderboard`).

    Raises:
        InputError: a recipe that does not fit together or cannot be compared with the first one, or unusable data.
    """
    check_least(1, seeds=seeds)
    _check_out(out)
    entries = _entries(names, list(overrides), data=data, seeds=seeds, runs=runs)
    first = entries[0].recipes[0]
    asked: dict[str, Any] = {"ways": ways, "shots": shots, "queries": queries, "episodes": episodes}
    sizes, total = chosen_sizes(first.evaluation, **asked)
    chosen = _baselines(baselines)
    if not first.data.keeps_novel:
        raise InputError(f"recipe {entries[0].name} keeps no novel classes to compare on; set data.novel")
    for entry in entries:
        check_run(entry.recipes[0])
    for seed in range(seeds):
        for entry in entries:
            share_backbone(entries[0].runs[seed], entry.runs[seed])
            train_run(entry.recipes[seed], entry.runs[seed], progress=progress)
    comparison = _Comparison(entries, sizes, chosen, total, out / _PARTS, progress)
    board = leaderboard(
        comparison.methods(),
        data=first.data.source,
        backbone=first.backbone.model or first.backbone.checkpoint,
        ways=sizes[0]["ways"],
        queries=sizes[0]["queries"],
        episodes=total,
        seeds=seeds,
    )
    write_leaderboard(out, board)
    return board


def _check_out(out: Path) -> None:
    """Raise InputError where the page cannot be written, or would be among other things."""
    check_folder(out, what="the page")
    present = {path.name for path in out.iterdir()} if out.exists() else set()
    if present and not present & {_PARTS, "leaderboard.json"}:
        raise InputError(f"{out}: holds '{min(present)}', which is not of a comparison; name a new or empty folder")


def _entries(
    names: Sequence[str], overrides: list[str], *, data: str | None, seeds: int, runs: Path
) -> tuple[Entry, ...]:
    """The recipes, checked. Raises InputError where they cannot be compared."""
    if not names:
        raise InputError("no recipe is named; give one or more, such as metadiff")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(f"recipe '{twice}' is named twice; name it once")
    given = [*([] if data is None else [f"data={data}"]), *overrides]
    if any(override.split("=")[0] == "seed" for override in given):
        raise InputError("seed: a comparison trains with seeds 0, 1, …; give their number with --seeds")
    entries: list[Entry] = []
    for name in names:
        recipes = tuple(load_recipe(name, [*given, f"seed={seed}"]) for seed in range(seeds))
        check_components(recipes[0])
        stem = recipe_path(name).stem
        shown = name.removeprefix("recipes/").removesuffix(".yaml")
        entries.append(Entry(shown, recipes, tuple(run_folder(recipe, stem, runs) for recipe in recipes)))
        _check_comparable(entries[0], entries[-1])
    return tuple(entries)


def _check_comparable(first: Entry, other: Entry) -> None:
    """Refuse a recipe of other classes or another backbone."""
    for section in ("data", "backbone"):
        ours, theirs = (getattr(entry.recipes[0], section).model_dump() for entry in (first, other))
        for key, value in theirs.items():
            if value != ours[key]:
                what = "learns from other classes" if section == "data" else "has another backbone"
                raise InputError(
                    f"recipe {other.name} {what} than {first.name}: {section}.{key} is {value}, not {ours[key]}; set "
                    f"it for all recipes with {section}.{key}=VALUE, or compare them apart"
                )


def _baselines(asked: Sequence[str] | None) -> list[str]:
    known = known_methods(asked or ())
    serving = [
        name
        for name, (method, _) in known.items()
        if method.kind == "baseline" and not method.uses_unlabelled and not method.inside_backbone
    ]
    for name in asked or ():
        if name not in serving:
            raise InputError(f"method '{name}' is no baseline for episodes; those are: {', '.join(serving)}")
    if asked is None:
        return [name for name in serving if "episodes" in known[name][0].protocols]
    return list(dict.fromkeys([*asked, RAW_CENTROID]))


def share_backbone(source: RunFolder, run: RunFolder) -> None:
    """Spare a run the pretraining of a backbone that another has already, of the same seed, classes and options."""
    done, wanted = source.path / "backbone", run.path / "backbone"
    if done.exists() and not wanted.exists():
        with new_folder(wanted) as path:
            shutil.copytree(done, path, dirs_exist_ok=True)


@dataclass(frozen=True)
class _Seed:
    """What the generators of one seed have in common, opened when it is needed."""

    run: RunFolder
    episodes: int
    seed: int
    progress: Progress | None

    @cached_property
    def setting(self) -> Setting:
        return self.of(self.run)

    def of(self, run: RunFolder) -> Setting:
        """That of another run of the seed."""
        return Setting.of(run, episodes=self.episodes, seed=self.seed, progress=self.progress)


@dataclass(frozen=True)
class _Comparison:
    """All that is measured, each kept in a file of its own so that nothing is measured twice."""

    entries: Sequence[Entry]
    sizes: Sequence[EpisodeSizes]
    baselines: Sequence[str]
    episodes: int
    kept: Path
    progress: Progress | None

    def methods(self) -> list[MethodScores]:
        """Every row of the board, the generators first."""
        seeds = [_Seed(run, self.episodes, number, self.progress) for number, run in enumerate(self.entries[0].runs)]
        rows = []
        for entry in self.entries:
            scored = [self._generators(entry, seed) for seed in seeds]
            facts = [self._facts(entry, seed) for seed in seeds]
            kinds = {entry.name: GENERATOR, f"{entry.name}: {ZOO_MEAN}": "ablation"}
            for name, kind in kinds.items():
                if name in next(iter(scored[0].values())):
                    rows.append(_row(name, kind, scored, mean_of(facts) if kind == GENERATOR else {}))
        scored = [self._tuned(seed) for seed in seeds]
        rows += [_row(name, "baseline", scored, {}) for name in self.baselines]
        return sorted(rows, key=lambda row: row.kind != GENERATOR)

    def _generators(self, entry: Entry, seed: _Seed) -> dict[str, Any]:
        """Scores of a generator, and of its zoo's mean where that is a set of parameters, by number of shots."""
        run = entry.runs[seed.seed]

        def make(sizes: EpisodeSizes) -> dict[str, Any]:
            setting = seed.setting if run == seed.run else seed.of(run)
            wanted = [GENERATOR, *([ZOO_MEAN] if setting.pipeline.space.takes_images else [])]
            methods = build_methods(wanted, setting.pipeline, **setting.fits)
            scores = score_all(methods, setting.tasks(sizes), progress=self.progress)
            names = {GENERATOR: entry.name, ZOO_MEAN: f"{entry.name}: {ZOO_MEAN}"}
            return {names[name]: _plain(each) for name, each in scores.items()}

        return self._by_shots(run.path.name, make, (run.written,))

    def _tuned(self, seed: _Seed) -> dict[str, Any]:
        """Scores of the baselines, tuned on the classes that the generators learnt from."""

        def make(sizes: EpisodeSizes) -> dict[str, Any]:
            setting = seed.setting
            tasks = setting.tasks(sizes)
            assert setting.training is not None, "of a trained run"
            folds = BaseClassFolds(setting.training, seed=setting.seed, **sizes)
            methods = build_methods(self.baselines, None, folds=folds)
            return {name: _plain(each) for name, each in score_all(methods, tasks, progress=self.progress).items()}

        return self._by_shots(f"baselines-{seed.seed}", make, (seed.run.written, *self.baselines))

    def _facts(self, entry: Entry, seed: _Seed) -> dict[str, Any]:
        """Parameters, training time and memorisation of a generator."""
        run, recipe = entry.runs[seed.seed], entry.recipes[seed.seed]
        shots = max(fewest_and_most(sizes["shots"])[1] for sizes in self.sizes)

        def make() -> dict[str, Any]:
            setting = seed.of(run)
            accelerator = new_accelerator(precision=recipe.training.precision)
            training = prepared(setting.recipe, run, accelerator, fresh=False, progress=self.progress)
            pipeline = setting.pipeline
            learnt = [*pipeline.denoiser.parameters(), *pipeline.conditioner.parameters()]
            return {
                "parameters": sum(parameter.numel() for parameter in learnt),
                "training_seconds": run.training_seconds,
                "memorisation": memorisation(training, pipeline, unseen=setting.inputs, shots=shots, seed=seed.seed),
            }

        return self._once(f"{run.path.name}-facts", (run.written, str(shots)), make)

    def _by_shots(
        self, name: str, make: Callable[[EpisodeSizes], dict[str, Any]], key: tuple[str, ...]
    ) -> dict[str, Any]:
        scores = {}
        for sizes in self.sizes:
            label = str(shots_label(sizes["shots"]))
            setting = (*key, str(sizes), str(self.episodes))
            scores[label] = self._once(f"{name}-{label}-shot", setting, lambda sizes=sizes: make(sizes))  # type: ignore[misc]
        return scores

    def _once(self, name: str, key: tuple[str, ...], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` gives, or gave for the same key in an earlier call."""
        path, hashed = self.kept / f"{name}.json", text_hash(*key)
        if path.exists() and (before := read_json(path)).get("key") == hashed:
            return dict(before["value"])
        value = make()
        write_json(path, {"key": hashed, "value": value})
        return value


def _row(name: str, kind: str, scored: Sequence[dict[str, Any]], facts: dict[str, Any]) -> MethodScores:
    labels: list[tuple[str, Shots | str]] = [(label, int(label) if label.isdigit() else label) for label in scored[0]]
    scores = {number: [SeedScore(**each[label][name]) for each in scored] for label, number in labels}
    return MethodScores(name, kind, scores, facts)  # type: ignore[arg-type]


def _plain(scores: Scores) -> dict[str, Any]:
    return {"accuracies": scores.accuracies.tolist(), "ms": 1000 * scores.seconds}
