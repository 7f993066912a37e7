"""Heads and trained generators on the hub."""

import shutil
from pathlib import Path
from typing import Any

from weightgen.config.loading import to_yaml, with_portable_paths
from weightgen.files import read_json, write_text
from weightgen.heads.head import load_head
from weightgen.hub import push_folder
from weightgen.runs.folder import RunFolder
from weightgen.runs.training_run import run_card


def publish(folder: Path, repo_id: str, *, private: bool = False, license: str | None = None) -> dict[str, Any]:
    """Push a head folder, or the generator of a run with its recipe and report, to a hub repository.

    Args:
        repo_id: OWNER/NAME; it is made where it does not exist.
        license: for the card, one of the hub's identifiers.

    Returns:
        Address, kind ("head" or "generator"), licence and whether a new repository is private, as JSON values.

    Raises:
        InputError: neither a head nor a finished run, a licence that is not an identifier, or as `hub.push_folder`.
    """
    run = RunFolder(folder)
    if (folder / "recipe.yaml").exists():
        kind, address = "generator", _push_run(run, repo_id, private=private, license=license)
    else:
        kind, address = "head", load_head(folder).push_to_hub(repo_id, private=private, license=license)
    return {"address": address, "kind": kind, "private": private, "license": license}


def _push_run(run: RunFolder, repo_id: str, *, private: bool, license: str | None) -> str:
    """The generator's folder with recipe.yaml and report/ beside its components; no path of this machine is in it."""
    generator = run.generator()
    recipe = with_portable_paths(run.recipe(), run.path.absolute().parent.parent)
    report = run.path / "report"
    evaluations = read_json(report / "results.json") if (report / "results.json").exists() else ()

    def card(name: str) -> str:
        return run_card(recipe, run.path.absolute().name, repository=name, license=license, evaluations=evaluations)

    def save(folder: Path) -> None:
        generator.save_pretrained(folder)
        write_text(folder / "recipe.yaml", to_yaml(recipe))
        if evaluations:
            shutil.copytree(report, folder / "report")

    card(repo_id)  # refuses the licence before anything is made
    return push_folder(save, repo_id, card=card, private=private)
