"""Where a recipe's dataset of a date lies, whether it is published, and which date is the latest.

    OUT/<name>/2026-11-21/     videos/, metadata.parquet, manifest.parquet, recipe.toml, README.md,
                               dataset.json: appears at once, and never changes
    OUT/<name>/latest          the newest date: a link, in an object store an object that holds it
    OUT/<name>/.runs/2026-11-21/   the run that it was made in: every clip, ledger, gallery, logs

An object store cannot make many objects appear at once: there dataset.json is put last, and what has
none is not published.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from datetime import date as Date
from pathlib import Path
from typing import Any, NamedTuple

from manifests.files import StorageError, aside_path, sync
from manifests.object_store import ObjectStore, is_url
from manifests.recipe import Recipe
from manifests.run_file import read_json

LATEST = "latest"
MARK = "dataset.json"
RUNS = ".runs"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class PublishedError(ValueError):
    """The date was published from another recipe; a published dataset does not change."""


class Place(NamedTuple):
    """Where the dataset of a date lies. `base` is OUT/<name>: an absolute path, or a URL."""

    base: str
    date: Date

    @property
    def version(self) -> str:
        """Of what is published."""
        return f"{self.base}/{self.date}"

    @property
    def run(self) -> str:
        """Of the run folder."""
        return f"{self.base}/{RUNS}/{self.date}"


def place_of(out: str, recipe: Recipe, date: Date) -> Place:
    """Where a recipe's dataset of a date lies, from any working folder."""
    base = out.rstrip("/") if is_url(out) else str(Path(out).absolute())
    return Place(f"{base}/{recipe.name}", date)


def published(place: Place, recipe: Recipe) -> dict[str, Any] | None:
    """What dataset.json says of the date; None where nothing is published yet.

    Raises:
        PublishedError: it was made from another recipe. StorageError: no dataset stands there.
    """
    if is_url(place.base):
        found = ObjectStore(place.version).read(MARK)
        content = None if found is None else json.loads(found[0])
    else:
        content = read_json(Path(place.version, MARK))
        if content is None and Path(place.version).exists():
            raise StorageError(
                f"{place.version}: expected a published dataset or nothing, found no {MARK} there; "
                "move that folder away"
            )
    if content is not None and content.get("recipe") != recipe.identity:
        raise PublishedError(
            f"{place.version} was published from another recipe, and what is published does not "
            "change: those who load it rely on that. Give the changed recipe another `name`, such "
            f"as {recipe.name}-2, or wait for the next date; to make this date again, first remove "
            f"{place.version}"
        )
    return content


def latest_of(base: str) -> str | None:
    """The date that `latest` names; None where there is none yet.

    Raises:
        StorageError: something else stands there.
    """
    if is_url(base):
        found = ObjectStore(base).read(LATEST)
        return None if found is None else _dated(f"{base}/{LATEST}", found[0].decode().strip())
    path = Path(base, LATEST)
    if path.is_symlink():
        return _dated(str(path), str(path.readlink()))
    if path.exists():
        raise StorageError(f"{path}: expected a link to a date, found a file or folder; remove it")
    return None


def _dated(where: str, text: str) -> str:
    if _DATE.fullmatch(text):
        return text
    raise StorageError(f"{where}: expected a date, found {text[:80]!r}; remove it")


def switch_latest(place: Place) -> bool:
    """Let `latest` name the date, unless it names a later one; whether it was switched."""
    date = str(place.date)
    if is_url(place.base):
        return _switch_object(place.base, date)
    if (latest_of(place.base) or "") >= date:
        return False
    with _alone(Path(place.base)):  # two dates that end at once
        if (latest_of(place.base) or "") >= date:
            return False
        path = Path(place.base, LATEST)
        aside = aside_path(path)
        aside.symlink_to(date)
        aside.replace(path)
        sync(path.parent)
    return True


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _switch_object(base: str, date: str) -> bool:
    store, data = ObjectStore(base), f"{date}\n".encode()
    for _ in range(10):
        found = store.read(LATEST)
        if found is None:
            if store.create(LATEST, data) is not None:
                return True
        elif (latest_of(base) or "") >= date:
            return False
        elif store.replace(LATEST, data, found[1]) is not None:
            return True
    raise StorageError(f"{base}/{LATEST} changes all the time; run the same date again")
