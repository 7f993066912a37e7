"""Every step's record shown to a tracker of accelerate, beside metrics.jsonl."""

import contextlib
import importlib
import io
import logging
from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator

from weightgen.config.loading import dotted
from weightgen.config.recipe import Recipe
from weightgen.errors import InputError, reason
from weightgen.runs.folder import RunFolder

PROJECT = "weightgen"
FOLDER = "tracking"
"""Of a run folder: files of trackers that write some."""


def check_tracker(recipe: Recipe) -> None:
    """Refuse wandb where it could not start after the work that comes before training; a terminal is asked for its key.

    Raises InputError.
    """
    if recipe.training.tracker == "wandb":
        wandb = importlib.import_module("wandb")
        with _refused("wandb", "; or set WANDB_MODE=offline, and its files stay in the run folder"):
            if wandb.setup().settings.mode == "online":
                wandb.login()


def tracked(
    records: Iterator[dict[str, Any]], accelerator: Accelerator, recipe: Recipe, run: RunFolder
) -> Iterator[dict[str, Any]]:
    """The same records, each shown to the tracker, which knows the recipe's options by their dotted names."""
    tracker, name = recipe.training.tracker, run.path.name
    (run.path / FOLDER).mkdir(exist_ok=True)  # wandb takes one that is there
    options = {"trackio": {"name": name}, "wandb": {"name": name, "dir": str(run.path / FOLDER)}}
    with _unprinted(), _refused(str(tracker), "; the same command goes on from here"):
        accelerator.init_trackers(PROJECT, config=dotted(recipe), init_kwargs=options)
    if accelerator.is_main_process:
        logging.getLogger(__name__).warning(f"training.tracker: {tracker}, project {PROJECT}, run {name}")
    try:
        for record in records:
            accelerator.log({key: value for key, value in record.items() if key != "step"}, step=record["step"])
            yield record
    finally:
        with _unprinted():
            accelerator.end_training()
            if tracker == "trackio" and accelerator.is_main_process:
                importlib.import_module("trackio").finish()  # or it would finish, and print, as Python ends


def _unprinted() -> contextlib.redirect_stdout[io.StringIO]:
    """Drop what a tracker prints to stdout, which is for results."""
    return contextlib.redirect_stdout(io.StringIO())


@contextlib.contextmanager
def _refused(tracker: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of the tracker's own kinds
        raise InputError(f"training.tracker: {tracker}: {reason(error).rstrip('.')}{remedy}") from error
