"""One generator for any ways and shots against generators trained for exactly one setting, on the same episodes.

python benchmarks/ways_and_shots.py [key=value …]      the overrides are those of `weightgen train metadiff`
"""

from __future__ import annotations

import sys

from _trained import trained

from weightgen.evaluation.comparison import paired_difference
from weightgen.evaluation.scoring import score
from weightgen.methods.generated import Generated

SETTINGS = ((2, 1), (5, 1), (5, 5), (20, 1), (20, 5), (50, 1), (5, 20))
QUERIES, EPISODES = 5, 600


def main(overrides: list[str]) -> None:
    general = trained(overrides)
    print("| ways | shots | one for all, accuracy % | less the one trained for it |")
    print("| ---: | ---: | ---: | ---: |")
    for ways, shots in SETTINGS:
        own = [f"training.ways=[{ways}, {ways}]", f"training.shots=[{shots}, {shots}]", f"evaluation.ways={ways}"]
        special = trained([*overrides, *own, f"evaluation.shots=[{shots}]", f"evaluation.queries={QUERIES}"])
        ours, theirs = (
            score(
                Generated(pipeline=run.pipeline),
                general.novel,
                ways=ways,
                shots=shots,
                queries=QUERIES,
                episodes=EPISODES,
                seed=0,
            )
            for run in (general, special)
        )
        difference, half_width = paired_difference(ours, theirs)
        accuracy = 100 * float(ours.accuracies.mean())
        print(f"| {ways} | {shots} | {accuracy:.2f} | {difference:+.2f} ± {half_width:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
