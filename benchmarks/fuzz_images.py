"""EXIF blocks of any content, and cut or changed images of every format: is each read, or refused in one line?

python benchmarks/fuzz_images.py --cases 20000 [--seed 0]      about half an hour on one core; the suite runs a few
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import image_fuzz


def main(cases: int, seed: int) -> None:
    start = time.perf_counter()

    def say(what: str) -> None:
        print(f"{time.perf_counter() - start:6.0f} s  {what}", flush=True)

    say(f"{image_fuzz.check_exif(image_fuzz.exif_blocks(cases, seed))} files with random EXIF, all read and upright")
    say(f"{image_fuzz.check_exif(image_fuzz.grid())} files with one odd tag each, all read and upright")
    say(f"{image_fuzz.check_truncations(step=1)} files cut short, each read or refused in one line")
    counted = image_fuzz.check_mutations(cases, seed)
    say(f"{cases} changed files, {counted['read']} of them read and {counted['refused']} refused in one line")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", type=int, default=20_000)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    main(given.cases, given.seed)
