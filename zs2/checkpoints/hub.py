"""Repositories on a Hugging Face hub: a name to a commit, a commit to files, one clear error each.

HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE hold as everywhere: huggingface_hub reads them.
What is in its cache is not fetched again, and serves where the hub does not answer.
"""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_cached_repo_tree, snapshot_download
from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE, is_offline_mode
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import tqdm

from zs2.checkpoints.weights import names_in
from zs2.models import ModelError

# Its lines of retries say less than the errors below.
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Repository:
    """A hub repository at one commit.

    Attributes:
        name: as the user wrote it, for messages.
    """

    id: str
    commit: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.id}@{self.commit}"


def find(name: str) -> Repository:
    """Resolve `owner/name` or `owner/name@revision` (a branch, tag or commit) to its commit.

    Raises:
        ModelError: unknown repository or revision, no access, a hub that does not answer.
    """
    repo, _, revision = name.partition("@")
    with _errors_of(name):
        found = HfApi().resolve_revision(repo, revision=revision or None)
    return Repository(repo, found.resolved, name)


def fetch(repository: Repository, files: Iterable[str], *, quiet: bool = False) -> Path:
    """Download those of the named files that the repository has and the cache has not.

    Args:
        quiet: no progress bar, for small files.

    Returns:
        The folder with the repository's files as far as they have been downloaded.

    Raises:
        ModelError: see `find`.
    """
    with _errors_of(repository.name or repository.id):
        folder = snapshot_download(
            repository.id,
            revision=repository.commit,
            allow_patterns=[glob.escape(file) for file in files],
            tqdm_class=_NoBar if quiet else None,
        )
    return Path(folder)


def file_names(repository: Repository) -> list[str]:
    """All files of a repository, by the listing that `fetch` left in the cache; those in the
    cache where another tool filled it and left none."""
    try:
        tree = get_cached_repo_tree(repository.id, revision=repository.commit)
    except CachedRepoTreeNotFoundError:
        return names_in(folder_of(repository))
    return sorted(file.path for file in tree)


def folder_of(repository: Repository) -> Path:
    """Where the cache has a repository's files."""
    repo = f"models--{repository.id.replace('/', '--')}"
    return Path(HF_HUB_CACHE, repo, "snapshots", repository.commit)


def cached() -> list[tuple[Repository, Path]]:
    """Every snapshot in the cache, named by a branch or tag where one points to it, and its
    folder."""
    found: list[tuple[Repository, Path]] = []
    for snapshot in sorted(Path(HF_HUB_CACHE).glob("models--*/snapshots/*")):
        root = snapshot.parents[1]
        repo = root.name.removeprefix("models--").replace("--", "/")
        refs = root / "refs"
        named = [ref for ref in names_in(refs) if (refs / ref).read_text() == snapshot.name]
        revision = "main" if "main" in named else (named or [snapshot.name])[0]
        name = repo if revision == "main" else f"{repo}@{revision}"
        found.append((Repository(repo, snapshot.name, name), snapshot))
    return found


class _NoBar(tqdm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


@contextmanager
def _errors_of(name: str) -> Generator[None]:
    """What the hub's client raises, as one ModelError with what to do."""
    try:
        yield
    except GatedRepoError as error:
        raise ModelError(
            f"model {name!r}: expected access to it on {ENDPOINT}, found that it is gated; accept "
            "its terms there, then set HF_TOKEN to a token of that account"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"model {name!r}: expected a folder {Path(name).absolute()}, or a repository on {ENDPOINT}; "
            "found no such folder, and the hub gave no such model; check the name and the folder from "
            "which you name it, or set HF_TOKEN to a token that may read it if it is private"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"model {name!r}: expected a branch, tag or commit after '@', found none of that name "
            f"on {ENDPOINT}; check the revision, or leave it out"
        ) from error
    except HFValidationError as error:
        raise ModelError(
            f"model {name!r}: expected a hub id 'owner/name', found {error}"
        ) from error
    except HfHubHTTPError as error:
        raise ModelError(f"model {name!r}: {_refusal(error)}") from error
    except json.JSONDecodeError as error:
        raise ModelError(
            f"model {name!r}: expected a hub at {ENDPOINT}, found a server that does not speak its "
            "language; check HF_ENDPOINT"
        ) from error
    except (RevisionResolutionError, LocalEntryNotFoundError, HTTPError, ConnectionError) as error:
        if is_offline_mode():
            reason = "HF_HUB_OFFLINE is set"
            remedy = "unset it and run once with a network, or copy the cache of another machine"
        else:
            reason = f"{ENDPOINT} does not answer ({_last_line(error)})"
            remedy = "check the network and HF_ENDPOINT, or name a local folder"
        raise ModelError(
            f"model {name!r}: expected it in the cache {HF_HUB_CACHE}, since {reason}; found it not "
            f"there, or not whole; {remedy}"
        ) from error


def _refusal(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status in (401, 403):
        return (
            f"expected a token that {ENDPOINT} accepts, it refused HF_TOKEN ({status}); set "
            "HF_TOKEN to a valid one that may read the model, or unset it if the model is public"
        )
    return f"expected files from {ENDPOINT}, it answered {status}; check HF_ENDPOINT, or try again later"


def _last_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__
