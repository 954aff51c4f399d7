"""The files a row reads: found inside the folders that a run allows, and told by their content."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from manifests.digest import content_hash
from manifests.kinds import describe
from manifests.row import Fault, ManifestRow, RowError

INPUT_COLUMNS = ("control_video", "source_video", "ip_adapter_image")
PICTURE_COLUMNS = ("ip_adapter_image",)  # these take one picture, no folder

REMEMBERED = 50_000  # files, about 500 bytes each; one that is met again later is hashed again


class RootError(ValueError):
    """An input root that is no folder."""


class InputFiles:
    """Finds the clips and pictures of rows. Each file is hashed once (of the last 50,000).

    Args:
        roots: folders that rows may read from, beside their manifest's own; None allows all.

    Raises:
        RootError: a root that is no folder.
    """

    def __init__(self, roots: Sequence[str | Path] | None = ()) -> None:
        for root in roots or ():
            if not Path(root).is_dir():
                found = "is no folder" if Path(root).exists() else "does not exist"
                raise RootError(
                    f"input root {root}: expected a folder, but it {found}; check its name"
                )
        self.roots = None if roots is None else tuple(Path(root).resolve() for root in roots)
        self._found = lru_cache(REMEMBERED)(self._find)
        self._hash = lru_cache(REMEMBERED)(content_hash)

    def find(self, row: ManifestRow, base: Path) -> dict[str, Path]:
        """The row's input files by column, links resolved.

        Args:
            base: the folder that relative names count from; the row's manifest lies there. What is
                not there is looked for under each root in turn.

        Raises:
            RowError: for each that is outside the allowed folders or not there.
        """
        found: dict[str, Path] = {}
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

    def content(self, column: str, path: Path) -> str:
        """The hash of what `find` found: of a file's bytes, or of a folder's names and bytes.

        Raises:
            RowError: it cannot be read.
        """
        try:
            return self._hash(path)
        except OSError as error:
            reason = f"{path}, which cannot be read ({error.strerror or error})"
            raise RowError([Fault(column, "a readable file", reason)]) from error

    def _find(self, column: str, name: str, base: Path) -> Path:
        try:
            path = self._place(name, base).resolve()
            self._check_inside(column, name, path, base)
            if path.is_dir() and column not in PICTURE_COLUMNS:
                for entry in path.iterdir():
                    if entry.is_symlink():
                        self._check_inside(column, str(entry), entry.resolve(), base)
                return path
            if path.is_file():
                return path
            kind = "a folder" if path.is_dir() else "neither a file nor a folder"
            found = kind if path.exists() else "nothing of that name"
        except (OSError, RuntimeError) as error:  # RuntimeError: links that go round
            reason = error.strerror if isinstance(error, OSError) else "its links go round"
            found = f"{describe(name)} ({reason})"
        else:
            found = f"{found} at {path}"
        expected = "a picture" if column in PICTURE_COLUMNS else "a video or a folder of images"
        hint = f"relative names count from {' or '.join(map(str, self._folders(base)))}"
        raise RowError([Fault(column, expected, found, hint)])

    def _folders(self, base: Path) -> tuple[Path, ...]:
        return (base.resolve(), *(self.roots or ()))

    def _place(self, name: str, base: Path) -> Path:
        """Where a name is first found; beside the manifest where it is nowhere."""
        places = [folder / name for folder in self._folders(base)]
        return next((place for place in places if place.exists()), places[0])

    def _check_inside(self, column: str, name: str, path: Path, base: Path) -> None:
        if self.roots is None:
            return
        allowed = self._folders(base)
        if not any(path.is_relative_to(folder) for folder in allowed):
            expected = f"a path inside {' or '.join(map(str, allowed))}"
            found = f"{describe(name)}, which is {path}"
            hint = "move it there, or allow its folder with --input-root"
            raise RowError([Fault(column, expected, found, hint)])
