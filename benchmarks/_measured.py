"""Timing side by side: interleaved repeats, the machine, its matrix-product and copy rates, growth, and tables."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], object]
Rows = list[dict[str, Any]]
REPEATS = 5


def seconds(works: Mapping[str, Work], *, repeats: int = REPEATS, warm_up: bool = True) -> dict[str, list[float]]:
    """Times of every work, by turns, after one call of each that is not counted."""
    for work in works.values() if warm_up else ():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - begin)
    return times


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """The median of what each repeat of one says of the other's: what disturbs a machine disturbs neighbours alike."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def rates() -> tuple[float, float]:
    """Multiply-adds a second of a 1,024-wide product in single precision, and bytes a second of a copy, each twice."""
    one, large = torch.randn(1024, 1024), torch.randn(2**24)
    into = torch.empty_like(large)
    times = seconds({"product": lambda: one @ one, "copy": lambda: into.copy_(large)}, repeats=9)
    return 2 * 1024**3 / statistics.median(times["product"]), 8 * 2**24 / statistics.median(times["copy"])


def operations(work: Work) -> int:
    """Multiplications and additions in the matrix products of a call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def megabytes(work: Work) -> float:
    """How far the memory of the process rises during a call, of a kernel that lets its peak be forgotten (Linux)."""
    work()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls have left is no memory that was there
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / 1024


def _resident(which: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(which))


def slope(sizes: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """Of the logarithm of time over that of size, and the half-width of its 95 % interval."""
    fitted = stats.linregress(np.log(sizes), np.log(times))
    return float(fitted.slope), float(fitted.stderr * stats.t.ppf(0.975, len(sizes) - 2))


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    load = os.getloadavg()[0]
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(load, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def process(code: str, *arguments: str) -> tuple[float, list[str]]:
    """Seconds of user time of Python code in a process of its own, and the packages that it imported."""
    listing = "import json, sys; print(json.dumps(sorted({n.partition('.')[0] for n in sys.modules})), file=sys.stderr)"
    wrapped = f"try:\n    {code}\nfinally:\n    {listing}"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", wrapped, *arguments], capture_output=True, text=True, check=True)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    return spent, json.loads(done.stderr.splitlines()[-1])


def table(rows: Rows) -> Iterator[str]:
    """Markdown; keys are headings, and numbers have three digits."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    yield "| " + " | ".join(heads) + " |"
    yield "| " + " | ".join("---" if isinstance(rows[0].get(head), str) else "---:" for head in heads) + " |"
    for row in rows:
        yield "| " + " | ".join(_cell(row.get(head, "")) for head in heads) + " |"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
