"""The Hugging Face Hub: models fetched from it by name, and folders pushed to it.

The Hub's address is that of `HF_ENDPOINT`, if set; tokens are those of its own client.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ganzoo.errors import UserError
from ganzoo.sharing.loading import CONFIG, WEIGHTS

SCHEME = "hf:"
# Names become parts of paths and addresses: two parts that start with a letter or digit, no `..`.
PART = r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.))*"
REPOSITORY = re.compile(rf"{PART}/{PART}")
REVISION = re.compile(rf"{PART}(?:/{PART})*")


def check_repository(name: str) -> None:
    """Raise `UserError` unless `name` is USER/NAME."""
    if not REPOSITORY.fullmatch(name):
        raise UserError(f"{name!r} is not a repository on the Hub: give USER/NAME.")


def fetched(name: str) -> Path:
    """The folder of a model on the Hub, downloaded unless the client's cache has it.

    Args:
        name: `hf:USER/NAME` or `hf:USER/NAME@REVISION`, a branch, tag or commit.

    Raises:
        UserError: not such a name, no such model, or no connection.
    """
    repository, at, revision = name.removeprefix(SCHEME).partition("@")
    check_repository(repository)
    if at and not REVISION.fullmatch(revision):
        raise UserError(f"{revision!r} is not a revision: give a branch, a tag or a commit.")
    from huggingface_hub import snapshot_download  # takes a second

    with _in_a_sentence(f"{name} could not be fetched"):
        folder = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=[CONFIG, WEIGHTS],  # nothing else is read, least of all pickles
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    if not (Path(folder) / WEIGHTS).is_file():
        raise UserError(f"{name} has no {WEIGHTS}: give a model that ganzoo.export pushed.")
    return Path(folder)


def push(folder: Path, names: Sequence[str], repository: str, private: bool) -> str:
    """Upload files of a folder to the Hub, in one commit; returns the address.

    Args:
        folder: where the files are.
        names: names of the files.
        repository: USER/NAME, created if it does not exist.
        private: whether a repository that is created is private.

    Raises:
        UserError: no token, no connection, or no permission.
    """
    check_repository(repository)
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    with _in_a_sentence(f"{repository} could not be pushed"):
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(names),
            commit_message="Add a model trained with ganzoo",
        )
    return str(done).partition("/commit/")[0]


def check_token() -> None:
    """Raise `UserError` unless there is a token, before anything takes time."""
    from huggingface_hub import get_token

    if not get_token():
        raise UserError("There is no token for the Hub: run hf auth login, or set HF_TOKEN.")


@contextmanager
def _in_a_sentence(what: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise UserError(f"{what}: there is no such model, or it is private.") from error
    except Exception as error:  # the client's, and those of the libraries that it uses
        if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
            why = f"the Hub answered {error.response.status_code}"
        else:
            why = "no connection to the Hub"
        raise UserError(f"{what}: {why} ({type(error).__name__}).") from error
