"""All processes of a training fit its zoo together."""

from __future__ import annotations

from collections.abc import Callable

from accelerate import Accelerator

from weightgen.zoo.build import Plan, build_zoo
from weightgen.zoo.members import Zoo
from weightgen.zoo.store import ZooFolder


def fitted_zoo(
    folder: ZooFolder,
    plan: Plan,
    accelerator: Accelerator,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> Zoo:
    """Fit what is missing of a zoo, every process its share, and read the whole."""
    build_zoo(
        folder,
        plan,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
        progress=progress if accelerator.is_main_process else None,
    )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.finish(plan.shards, key=plan.key(), class_names=plan.class_names)
    accelerator.wait_for_everyone()
    return folder.read()
