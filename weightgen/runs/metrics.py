"""metrics.jsonl: one record per line, rewound to the checkpoint that a run resumes from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from weightgen.files import write_text


class MetricsFile:
    """Appends records; a killed run leaves at most one torn line, which the next start drops."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def extend(self, stage: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Append the records of a stage as they come; the first one replaces what stood from its step on."""
        for i, record in enumerate(records):
            if i == 0:
                self._rewind(stage, record["step"])
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"stage": stage, **record}) + "\n")

    def _rewind(self, stage: str, step: int) -> None:
        """Drop the records of `stage` from `step` on, and torn lines."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["stage"] != stage or record["step"] < step:
                kept.append(line + "\n")
        write_text(self.path, "".join(kept))
