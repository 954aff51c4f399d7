"""What in a run folder leads out of it, or is no file at all: shared storage has other users."""

from __future__ import annotations

import stat
from pathlib import Path

MAX_JSON_BYTES = 16 * 2**20


class LinkError(OSError):
    """A link, a pipe or a device where a run's own file or folder should be; says what to do."""


def check_own(root: Path, path: Path) -> Path:
    """`path`, if no folder from `root` (itself not counted) to it is a link: nothing is written
    through links. What `path` itself is does not matter: files are renamed over it.

    Raises:
        LinkError: with the link and what to do.
    """
    for folder in path.parents:
        if folder == root:
            return path
        if folder.is_symlink():
            raise LinkError(
                f"{folder} is a link to {folder.readlink()}: expected a folder of the run's own; "
                "remove the link, or link the whole run folder instead"
            )
    raise LinkError(f"{path} is not in {root}: expected a path of the run folder")


def is_own_file(path: Path) -> bool:
    """Whether a regular file stands there, and no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_small(path: Path, most: int = MAX_JSON_BYTES) -> str:
    """The text of a file that is read whole: a regular one, of at most `most` bytes.

    Raises:
        OSError: no such file, or one that could be without end. UnicodeDecodeError: no UTF-8.
    """
    status = path.stat()  # of a link's target: hubs keep their files behind links
    if not stat.S_ISREG(status.st_mode):
        raise LinkError(f"{path} is no regular file; remove it")
    if status.st_size > most:
        raise LinkError(
            f"{path} has {status.st_size:,} bytes: expected at most {most:,}; remove it"
        )
    with path.open("rb") as file:
        return file.read(most + 1).decode("utf-8")
