"""What a run reads from an object store: manifests, kept in a local cache by etag, and clips."""

from __future__ import annotations

import fnmatch
import glob
import os
import posixpath
import re
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from manifests.digest import digest_of
from manifests.files import aside_path, make_folder
from manifests.object_store import ObjectStore, Stored, parse_url
from manifests.remote import staging_base

UNUSED_AFTER = 30 * 86400.0  # seconds after which a cached manifest that nobody opened is removed


class NothingThereError(ValueError):
    """A URL under which there is no manifest; the message says what to do."""


@dataclass(frozen=True)
class StoredClip:
    """A clip on a store as it was found: one object, or the images of a folder."""

    url: str
    files: tuple[Stored, ...]
    is_folder: bool

    def content(self) -> str:
        """What tells its content from another: etags and sizes; nothing is downloaded for it."""
        return digest_of({"stored": [[_last(f.url), f.size, f.etag] for f in self.files]})

    @contextmanager
    def local_copy(self) -> Generator[Path]:
        """The file or folder, downloaded to a temporary place; gone afterwards.

        Raises:
            ChangedError: an object is another now, or gone. StorageError.
        """
        with TemporaryDirectory(prefix="zs2-clip-") as folder:
            store = ObjectStore(self.url)
            place = Path(folder, "clip") if self.is_folder else Path(folder)
            place.mkdir(exist_ok=True)
            for found in self.files:
                store.fetch(found, place / _last(found.url))
            yield place if self.is_folder else place / _last(self.url)


def find_clip(url: str, *, folders: bool = True) -> StoredClip | None:
    """The object at a URL, or the files that lie directly below it; None where there is neither.

    Args:
        folders: whether a folder will do.

    Raises:
        StorageError: not a URL of a store, or one that cannot be asked.
    """
    url = parse_url(url).url
    parent, _, name = url.rpartition("/")
    if not parse_url(url).key:
        return None
    found = ObjectStore(parent).head(name)
    if found is not None:
        return StoredClip(url, (found,), is_folder=False)
    store = ObjectStore(url)
    files = sorted(f for f in store.list() if "/" not in store.name_of(f)) if folders else []
    return StoredClip(url, tuple(files), is_folder=True) if files else None


def join(folder: str, name: str) -> str | None:
    """The URL of a relative name below a folder's; None for one that leads out of it."""
    path = posixpath.normpath(name)
    if path.startswith(("/", "..")) or path == ".":
        return None
    return f"{folder}/{path}"


def fetch_manifests(source: str) -> list[tuple[str, Path]]:
    """(URL, local copy) of the Parquet files at a URL: an object, a folder (all below it but for names
    that begin with `.` or `_`) or a glob, in the order of their URLs.

    Raises:
        NothingThereError: no such object. StorageError: the store cannot be asked.
    """
    found = sorted(_list_manifests(source))
    cache = staging_base() / "manifests"
    make_folder(cache)
    _remove_unused(cache)
    return [(object_.url, _cached(object_, cache)) for object_ in found]


def _list_manifests(source: str) -> list[Stored]:
    if glob.has_magic(source) and not re.search(r"\?[^/]*=", source):
        fixed, pattern = _split_glob(source)
        store = ObjectStore(fixed)
        matching = _pattern(pattern)
        found = [f for f in store.list() if matching.fullmatch(store.name_of(f))]
        if not found:
            raise NothingThereError(f"no object matches {source}")
        return found
    url = parse_url(source).url
    single = None
    if parse_url(url).key and not source.endswith("/"):
        parent, _, name = url.rpartition("/")
        single = ObjectStore(parent).head(name)
    if single is not None:
        return [single]
    store = ObjectStore(url)
    found = [f for f in store.list() if _is_manifest(store.name_of(f))]
    if not found:
        raise NothingThereError(
            f"{url} is not there, and no *.parquet below it: give an object, a folder or a glob"
        )
    return found


def _is_manifest(name: str) -> bool:
    parts = name.split("/")
    return name.endswith(".parquet") and not any(part.startswith((".", "_")) for part in parts)


def _split_glob(source: str) -> tuple[str, list[str]]:
    scheme, _, rest = source.partition("://")
    parts = rest.split("/")
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return f"{scheme}://{'/'.join(parts[:first])}", parts[first:]


def _pattern(parts: Sequence[str]) -> re.Pattern[str]:
    """A glob's parts as `glob` means them: `*` within a name, `**` for any folders, hidden names only
    where they are asked for."""
    steps: list[str] = []
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
        if part == "**" and not is_last:
            steps.append(r"(?:(?!\.)[^/]+/)*")
            continue
        hidden = "" if part.startswith(".") else r"(?!\.)"
        name = fnmatch.translate(part).removeprefix("(?s:").removesuffix(r")\Z")
        steps.append(hidden + name.replace(".*", "[^/]*") + ("" if is_last else "/"))
    return re.compile("".join(steps), re.DOTALL)


def _cached(found: Stored, cache: Path) -> Path:
    """A local copy of this very content, downloaded once."""
    key = sha256(f"{found.url}\0{found.size}\0{found.etag}".encode()).hexdigest()[:32]
    path = cache / f"{key}.parquet"
    if found.etag and path.exists():
        os.utime(path)
        return path
    aside = aside_path(path)
    try:
        ObjectStore(found.url.rpartition("/")[0]).fetch(found, aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _remove_unused(cache: Path) -> None:
    for path in _files(cache):
        try:
            if time.time() - path.stat().st_mtime > UNUSED_AFTER:
                path.unlink()
        except FileNotFoundError:  # another process did
            continue


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_file())


def _last(url: str) -> str:
    return url.rpartition("/")[2]
