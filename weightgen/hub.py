"""The Hugging Face hub: folders pushed to it, and taken from it.

HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE count, as everywhere.
"""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from weightgen.errors import InputError, reason
from weightgen.files import write_text
from weightgen.specs import HUB


def push_folder(
    save: Callable[[Path], None],
    repo_id: str,
    *,
    card: Callable[[str], str] | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Save into a temporary folder and upload it to a hub repository, which is made where it does not exist.

    Args:
        save: writes the folder. card: makes its README.md, given the repository's full name.

    Returns:
        The repository's address.

    Raises:
        InputError: not a repository's name, HF_HUB_OFFLINE is set, or the hub refuses or cannot be reached; nothing
            is made when saving fails.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is not the name of a repository ({reason(error)}); give OWNER/NAME") from error
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{repo_id}: cannot be pushed while HF_HUB_OFFLINE is set; unset it")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "files"
        save(folder)
        remedy = "check the connection and the name, and log in with hf auth login"
        with _one_line(f"{repo_id}: cannot be pushed", remedy):
            api = HfApi(token=token)
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            if card is not None:
                write_text(folder / "README.md", card(address.repo_id))
            api.upload_folder(repo_id=address.repo_id, folder_path=folder)
    return str(address)


def local_folder(place: Path | str) -> Path:
    """A folder as it is; one on the hub from its cache, or fetched into it.

    Raises InputError where the hub has no such repository or cannot be reached.
    """
    name = str(place)
    if not name.startswith(HUB):
        return Path(place)
    repository, _, revision = name.removeprefix(HUB).partition("@")
    with _one_line(f"{name}: cannot be fetched", "is there such a repository, and a network?"):
        return Path(snapshot_download(repository, revision=revision or None))


def card_header(license: str | None, **fields: str) -> str:
    """The YAML block that a card for the hub begins with.

    Raises InputError for a licence that is not an identifier as the hub has them.
    """
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.\-]*", license):
        raise InputError(f"--license {license!r} is not one of the hub's identifiers; give one such as apache-2.0")
    lines = [f"license: {license}"] if license else []
    return "\n".join(["---", *lines, *(f"{key}: {value}" for key, value in fields.items()), "---"])


@contextlib.contextmanager
def _one_line(what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the hub raises a dozen unrelated types, other ones in every version
        raise InputError(f"{what} ({reason(error)}); {remedy}") from error
