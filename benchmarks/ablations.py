"""What each ingredient of a generator is worth: trained without it, judged on the same episodes, paired.

python benchmarks/ablations.py [key=value …]      the overrides are those of `weightgen train metadiff`
"""

from __future__ import annotations

import sys

from _trained import trained

from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.evaluation.comparison import paired_difference
from weightgen.evaluation.scoring import Scores, score
from weightgen.methods.generated import Generated

UNLABELLED = UnlabelledDraw(75)
WITHOUT = {
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
    """Of a generator on its novel classes, by shots and with or without unlabelled images."""
    run = trained(overrides)
    chosen = run.recipe.evaluation
    sizes = {"ways": chosen.ways, "queries": chosen.queries, "episodes": chosen.episodes, "seed": 0}
    return {
        (shots, unlabelled is not None): score(
            Generated(pipeline=run.pipeline), run.novel, shots=shots, unlabelled=unlabelled, **sizes
        )
        for shots in chosen.shots
        for unlabelled in (None, UNLABELLED)
    }


def main(overrides: list[str]) -> None:
    full = scores(overrides)
    settings = [f"{shots}-shot{', unlabelled' if unlabelled else ''}" for shots, unlabelled in full]
    print("| without | " + " | ".join(settings) + " |")
    print("| --- |" + " ---: |" * len(settings))
    accuracies = (f"{100 * float(own.accuracies.mean()):.2f}" for own in full.values())
    print("| nothing (accuracy) | " + " | ".join(accuracies) + " |", flush=True)
    for name, changes in WITHOUT.items():
        differences = (paired_difference(own, full[key]) for key, own in scores([*overrides, *changes]).items())
        cells = (f"{difference:+.2f} ± {half_width:.2f}" for difference, half_width in differences)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
