"""The files a row reads: found inside the folders that a run allows, and told by their content.

A folder is a local path or the URL of a prefix of an object store; so is the place of a file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from manifests.digest import content_hash
from manifests.fault import Fault
from manifests.files import StorageError
from manifests.kinds import describe
from manifests.object_store import is_url, parse_url
from manifests.row import ManifestRow, RowError
from manifests.stored_inputs import StoredClip, find_clip, join

INPUT_COLUMNS = ("control_video", "source_video", "ip_adapter_image")
PICTURE_COLUMNS = ("ip_adapter_image",)  # these take one picture, no folder

Folder = Path | str  # a local one, or a URL

REMEMBERED = 50_000  # files, about 500 bytes each; one that is met again later is hashed again


MAX_FILES = 100_000  # in a folder of images
MAX_BYTES = 16 * 2**30  # of a clip, whose content is hashed: about 10 seconds


class RootError(ValueError):
    """An input root that is no folder."""


class InputFiles:
    """Finds the clips and pictures of rows. Each file is hashed once (of the last 50,000).

    Args:
        roots: folders that rows may read from, beside their manifest's own; None allows all.

    Raises:
        RootError: a local root that is no folder. StorageError: a URL that is none.
    """

    def __init__(self, roots: Sequence[str | Path] | None = ()) -> None:
        for root in roots or ():
            if not is_url(root) and not Path(root).is_dir():
                found = "is no folder" if Path(root).exists() else "does not exist"
                raise RootError(
                    f"input root {root}: expected a folder, but it {found}; check its name"
                )
        self.roots = None if roots is None else tuple(_rooted(root) for root in roots)
        self._found = lru_cache(REMEMBERED)(self._find)
        self._hash = lru_cache(REMEMBERED)(content_hash)

    def find(self, row: ManifestRow, base: Folder) -> dict[str, Path | StoredClip]:
        """The row's input files by column, links resolved.

        Args:
            base: the folder that relative names count from; the row's manifest lies there. What is
                not there is looked for under each root in turn.

        Raises:
            RowError: for each that is outside the allowed folders or not there.
            StorageError: a store that cannot be asked.
        """
        found: dict[str, Path | StoredClip] = {}
        faults: list[Fault] = []
        for column in INPUT_COLUMNS:
            name: str | None = getattr(row, column)
            if name is not None:
                try:
                    found[column] = self._found(column, name, base)
                except RowError as error:
                    faults += error.faults
        if faults:
            raise RowError(faults)
        return found

    def content(self, column: str, path: Path | StoredClip) -> str:
        """The hash of what `find` found: of a file's bytes, or of a folder's names and bytes; of what
        is on a store, of its etag and size.

        Raises:
            RowError: it cannot be read.
        """
        if isinstance(path, StoredClip):
            return path.content()
        try:
            return self._hash(path)
        except OSError as error:
            reason = f"{path}, which cannot be read ({error.strerror or error})"
            raise RowError([Fault(column, "a readable file", reason)]) from error

    def _find(self, column: str, name: str, base: Folder) -> Path | StoredClip:
        folders = self._folders(base)
        if is_url(name) or any(isinstance(folder, str) for folder in folders):
            stored = self._find_stored(column, name, folders)
            if stored is not None:
                return stored
        return self._find_local(column, name, base)

    def _find_stored(
        self, column: str, name: str, folders: tuple[Folder, ...]
    ) -> StoredClip | None:
        """What is on a store under a name; None where it means something local."""
        places = [name] if is_url(name) else []
        if is_url(name):
            self._check_url_inside(column, name, folders)
        else:
            for folder in folders:
                if isinstance(folder, Path):
                    if os.path.exists(folder / name):  # noqa: PTH110  False for names that cannot be
                        return None
                elif (place := join(folder, name)) is not None:
                    places.append(place)
        for place in places:
            found = find_clip(place, folders=column not in PICTURE_COLUMNS)
            if found is not None:
                return found
        if not is_url(name) and any(isinstance(folder, Path) for folder in folders):
            return None
        if not places:
            raise _outside(column, describe(name), folders)
        found = f"nothing of that name at {places[0]}"
        raise RowError([Fault(column, _expected(column), found, _counted_from(folders))])

    def _find_local(self, column: str, name: str, base: Folder) -> Path:
        try:
            path = self._place(name, base).resolve()
            self._check_inside(column, name, path, base)
            if path.is_dir() and column not in PICTURE_COLUMNS:
                self._check_entries(column, path, base)
                return path
            if path.is_file():
                _check_bytes(column, path, path.stat().st_size)
                return path
            kind = "a folder" if path.is_dir() else "neither a file nor a folder"
            found = kind if path.exists() else "nothing of that name"
        except (OSError, RuntimeError) as error:  # RuntimeError: links that go round
            reason = error.strerror if isinstance(error, OSError) else "its links go round"
            found = f"{describe(name)} ({reason})"
        else:
            found = f"{found} at {path}"
        hint = _counted_from(self._folders(base))
        raise RowError([Fault(column, _expected(column), found, hint)])

    def _check_entries(self, column: str, folder: Path, base: Folder) -> None:
        """That no link in a folder leads out, and that it can be hashed in reasonable time."""
        size = 0
        for index, entry in enumerate(folder.iterdir()):
            if entry.is_symlink():
                self._check_inside(column, str(entry), entry.resolve(), base)
            if index >= MAX_FILES:
                found = f"a folder of more at {folder}"
                hint = "take out what is not part of the clip"
                raise RowError([Fault(column, f"at most {MAX_FILES:,} files", found, hint)])
            if entry.is_file() and not entry.name.startswith("."):
                size += entry.stat().st_size
        _check_bytes(column, folder, size)

    def _folders(self, base: Folder) -> tuple[Folder, ...]:
        return (_rooted(base), *(self.roots or ()))

    def _place(self, name: str, base: Folder) -> Path:
        """Where a name is first found; in the first folder where it is nowhere."""
        places = [folder / name for folder in self._folders(base) if isinstance(folder, Path)]
        return next((place for place in places if place.exists()), places[0])

    def _check_inside(self, column: str, name: str, path: Path, base: Folder) -> None:
        if self.roots is None:
            return
        allowed = self._folders(base)
        if not any(isinstance(f, Path) and path.is_relative_to(f) for f in allowed):
            raise _outside(column, f"{describe(name)}, which is {path}", allowed)

    def _check_url_inside(self, column: str, name: str, allowed: tuple[Folder, ...]) -> None:
        try:
            url = parse_url(name).url
        except StorageError as error:
            raise RowError([Fault(column, "a plain URL of an object store", str(error))]) from error
        inside = (isinstance(f, str) and url.startswith(f"{f}/") for f in allowed)
        if self.roots is not None and not any(inside):
            raise _outside(column, describe(name), allowed)


def _rooted(folder: str | Path) -> Folder:
    return parse_url(str(folder)).url if is_url(folder) else Path(folder).resolve()


def _expected(column: str) -> str:
    return "a picture" if column in PICTURE_COLUMNS else "a video or a folder of images"


def _counted_from(folders: tuple[Folder, ...]) -> str:
    return f"relative names count from {' or '.join(map(str, folders))}"


def _outside(column: str, found: str, allowed: tuple[Folder, ...]) -> RowError:
    expected = f"a path inside {' or '.join(map(str, allowed))}"
    hint = "move it there, or allow its folder with --input-root"
    return RowError([Fault(column, expected, found, hint)])


def _check_bytes(column: str, path: Path, size: int) -> None:
    if size > MAX_BYTES:
        found = f"{size:,} bytes at {path}"
        hint = "cut what is not needed, or convert it"
        raise RowError([Fault(column, f"a clip of at most {MAX_BYTES:,} bytes", found, hint)])
