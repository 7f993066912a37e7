"""What each ingredient of a generator is worth: trained without it, judged on the same episodes, paired.

python benchmarks/ablations.py [key=value …]      the overrides are those of `weightgen train metadiff`
"""

from __future__ import annotations

import sys
from pathlib import Path

from weightgen.backbones.feature_cache import features_of
from weightgen.data.sources import data_fingerprint
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.evaluation.comparison import paired_difference
from weightgen.evaluation.scoring import Scores, score
from weightgen.options.data_parts import open_parts
from weightgen.options.loading import load_recipe
from weightgen.options.rivals import GeneratorMethod
from weightgen.options.runs import run_folder
from weightgen.options.training_run import train_run

RUNS = Path("runs/ablations")
UNLABELLED = UnlabelledDraw(75)
WITHOUT = {
    "full": [],
    "choice of origin and readout": ["standardizer.centring=1.0", "generation.readout=gaussian"],
    "support power": ["standardizer.support_power=1.0"],
    "choice of shrinkages (both 0.5)": ["standardizer.within_shrinkage=0.5", "standardizer.between_shrinkage=0.5"],
    "unit length of supports": ["standardizer.unit_length=false"],
    "cross-fitting": ["training.folds=1"],
    "query loss": ["objective.weight=0.0"],
    "linear map of rows": ["denoiser.linear=false"],
    "training on unlabelled images": ["training.unlabelled=[0, 0]"],
}


def scores(overrides: list[str]) -> dict[tuple[int, bool], Scores]:
    """Of the generator of a recipe on its novel classes, by shots and with or without unlabelled images."""
    recipe = load_recipe("metadiff", overrides)
    run = run_folder(recipe, "metadiff", RUNS)
    train_run(recipe, run)
    pipeline, chosen = run.generator(), recipe.evaluation
    novel = open_parts(recipe.data, seed=recipe.seed, pretraining=recipe.backbone.pretraining is not None).novel
    sampler = EpisodeSampler(features_of(pipeline.backbone, novel, data_fingerprint=data_fingerprint(novel)))
    sizes = {"ways": chosen.ways, "queries": chosen.queries, "episodes": chosen.episodes, "seed": 0}
    return {
        (shots, unlabelled is not None): score(
            GeneratorMethod(pipeline), sampler, shots=shots, unlabelled=unlabelled, **sizes
        )
        for shots in chosen.shots
        for unlabelled in (None, UNLABELLED)
    }


def main(overrides: list[str]) -> None:
    full = scores(overrides)
    settings = [f"{shots}-shot{', unlabelled' if unlabelled else ''}" for shots, unlabelled in full]
    print("| without | " + " | ".join(settings) + " |")
    print("| --- |" + " ---: |" * len(settings))
    for name, changes in WITHOUT.items():
        cells = []
        for key, own in (scores([*overrides, *changes]) if changes else full).items():
            difference, half_width = paired_difference(own, full[key])
            mean = f"{100 * float(own.episode_accuracies.mean()):.2f}"
            cells.append(mean if not changes else f"{difference:+.2f} ± {half_width:.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
