"""What a run folder holds that no row names any more: videos and previews of superseded digests and of
rows that left the manifest, and, where that is asked for, the latents that were kept."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from manifests.columns import is_id
from manifests.files import remove
from manifests.ledger import ledger_batches
from manifests.links import check_own
from manifests.storage import SUFFIXES, RunFolder
from tasks.previews import CLIP, POSTER

_DIGITS = re.compile("[0-9a-f]{2}")
_FRAME = re.compile(r"\d{5,}\.png")
_HIDDEN = ".tmp-"  # an attempt at work; what dead ones left, the next run sweeps


class Found(NamedTuple):
    """A file, or a folder of them, by its name in the run folder."""

    name: str
    bytes: int


def superseded(folder: RunFolder, latents: bool = False) -> list[Found]:
    """What can go, in the order of the names. What the newest results name stays: their videos, and
    the previews of these.

    Args:
        latents: also all kept latents. Which of them a row still needs only its manifest can tell.
    """
    named = _named(folder)
    found = [each for each in _there(folder) if each.name not in named]
    if latents:
        found += _files_under(folder, "latents")
    return sorted(found)


def prune(folder: RunFolder, latents: bool = False) -> list[Found]:
    """Delete what `superseded` finds, under the folder's lock; returns what it was.

    Raises:
        LockedError: a run is going on.
    """
    with folder.lock(f"prune-{uuid4().hex[:8]}"):
        folder.pull()
        doomed = superseded(folder, latents)
        if folder.remote is None:
            for each in doomed:
                path = check_own(folder.root, folder.root / each.name)
                remove(path)
                with suppress(OSError):  # others are still in it
                    path.parent.rmdir()
        else:
            store = folder.remote.store
            for each in doomed:
                below = [store.name_of(stored) for stored in store.list(each.name)]
                store.delete([each.name, *below])
    return doomed


def _named(folder: RunFolder) -> set[str]:
    names: set[str] = set()
    for batch in ledger_batches(folder.root, ["id", "digest", "file_name"], statuses=["ok"]):
        for row in batch.to_pylist():
            names.add(str(row["file_name"]))
            names.add(folder.file_name(folder.preview_path(row["digest"], row["id"])))
    return names


def _there(folder: RunFolder) -> Iterator[Found]:
    """videos/<dd>/<name> and previews/<dd>/<name>, files and folders, of names that a run gives; what
    else lies there is somebody's own."""
    for top in ("videos", "previews"):
        sizes: dict[str, int] = {}
        others: set[str] = set()
        for each in _files_under(folder, top):
            name = "/".join(each.name.split("/")[:3])
            sizes[name] = sizes.get(name, 0) + each.bytes
            if not _is_given_by_a_run(each.name):
                others.add(name)
        yield from (Found(name, size) for name, size in sizes.items() if name not in others)


def _is_given_by_a_run(name: str) -> bool:
    top, digits, *below = name.split("/")
    if not _DIGITS.fullmatch(digits) or len(below) not in (1, 2):
        return False
    if len(below) == 2:
        known = below[1] in (CLIP, POSTER) if top == "previews" else _FRAME.fullmatch(below[1])
        return is_id(below[0]) and bool(known)
    suffix = Path(below[0]).suffix
    is_video = top == "videos" and suffix != "" and suffix in SUFFIXES.values()
    return is_video and is_id(below[0].removesuffix(suffix))


def _files_under(folder: RunFolder, top: str) -> Iterator[Found]:
    if folder.remote is not None:
        store = folder.remote.store
        yield from (Found(store.name_of(each), each.size) for each in store.list(top))
        return
    for where, folders, files in os.walk(check_own(folder.root, folder.root / top)):
        folders[:] = sorted(name for name in folders if not name.startswith(_HIDDEN))
        for name in sorted(files):
            path = Path(where, name)
            if not name.startswith(_HIDDEN):
                yield Found(folder.file_name(path), path.lstat().st_size)
