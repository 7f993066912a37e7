"""Rewrites frozen values: `python tests/frozen/make.py NAME…`; without a name it lists those that have changed.

Only for changes that README.md in this folder lists with a reason. The folders of `written_by_0_1` are never rewritten.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys

import frozen_values
from subjects import SUBJECTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a subject, or a pattern such as 'ablations/*'")
    patterns = parser.parse_args().names
    if not patterns:
        for name, subject in SUBJECTS.items():
            expected = frozen_values.read(name) if frozen_values.path_of(name).exists() else {}
            apart = frozen_values.differences(expected, subject(), frozen_values.tolerance_of(name))
            if apart:
                print(name, apart)
        return 0
    unknown = [pattern for pattern in patterns if not fnmatch.filter(SUBJECTS, pattern)]
    if unknown:
        print(f"error: no subject is called {unknown[0]}; those there are: {', '.join(SUBJECTS)}", file=sys.stderr)
        return 2
    for name in SUBJECTS:
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            frozen_values.write(name, SUBJECTS[name]())
            print(frozen_values.path_of(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
