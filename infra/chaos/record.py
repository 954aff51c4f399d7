"""Everything that Python does to a folder, recorded, and the folders that a power loss may leave of it.

The model is POSIX at its strictest: a file's contents outlast a power loss only as they were at its last
fsync, and a name (made, changed or removed) only once its folder has been fsynced. Whatever writes without
Python's knowledge (ffmpeg, Arrow) is seen too, at the next recorded step: contents are read from the disk.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

STEPS = ("fsync", "rename", "replace", "mkdir", "unlink", "remove", "rmdir", "ftruncate", "pwrite")
Kind = Literal["kill", "strictest", "torn", "mixed"]
KINDS: tuple[Kind, ...] = ("kill", "strictest", "torn", "mixed")

Names = dict[str, int]  # of a folder: name → number of a file or folder
Tree = dict[str, bytes | None]  # relative path → contents; None for a folder


@dataclass(frozen=True)
class Moment:
    """The disk between two steps.

    Attributes:
        step: the one just before.
        folders, files: as a process sees them, by number; 0 is the disk's root.
        synced_folders, synced_files: as they were when they were last fsynced.
        synced_at: moment at which a folder was last fsynced.
    """

    step: str
    folders: dict[int, Names]
    files: dict[int, bytes]
    synced_folders: dict[int, Names]
    synced_files: dict[int, bytes]
    synced_at: dict[int, int]


class Recorder:
    """Records what is done below a folder. Nothing in it counts as synced at the beginning.

    Args:
        disk: the folder; it stands for the whole disk.
    """

    def __init__(self, disk: Path) -> None:
        self.disk = disk
        self.moments: list[Moment] = []
        self._numbers: dict[int, int] = {}  # inode → our number, which is never given twice
        self._count = 0
        self._folders: set[int] = set()
        self._synced_folders: dict[int, Names] = {}
        self._synced_files: dict[int, bytes] = {}
        self._synced_at: dict[int, int] = {}
        self._lock = threading.RLock()

    @contextmanager
    def recording(self) -> Generator[None]:
        """Record meanwhile: one moment before and one after each step."""
        self._look("begin")
        patches = [patch.object(os, name, self._recorded(name)) for name in STEPS]
        for each in patches:
            each.start()
        try:
            yield
        finally:
            for each in patches:
                each.stop()
            self._look("end")

    def _recorded(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def step(*arguments: Any, **more: Any) -> Any:
            with self._lock:
                self._look(f"before {name}")
                answer = real(*arguments, **more)
                if name == "fsync":
                    self._synced(os.fstat(arguments[0]).st_ino)
                self._look(f"{name} {_shown(arguments)}")
            return answer

        return step

    def _look(self, step: str) -> None:
        folders: dict[int, Names] = {}
        files: dict[int, bytes] = {}
        inodes: dict[int, int] = {}
        self._read(self.disk, self._number(self.disk.stat().st_ino, inodes), folders, files, inodes)
        self._folders |= set(folders)
        self._numbers = inodes  # those that are gone may be given to new files
        self.moments.append(
            Moment(
                step,
                folders,
                files,
                dict(self._synced_folders),
                dict(self._synced_files),
                dict(self._synced_at),
            )
        )

    def _read(
        self,
        folder: Path,
        number: int,
        folders: dict[int, Names],
        files: dict[int, bytes],
        inodes: dict[int, int],
    ) -> None:
        names = folders[number] = {}
        for entry in os.scandir(folder):
            try:
                below = self._number(entry.inode(), inodes)
                if entry.is_dir(follow_symlinks=False):
                    self._read(Path(entry.path), below, folders, files, inodes)
                else:
                    files[below] = Path(entry.path).read_bytes()
            except FileNotFoundError:  # a program that is not Python has just removed it
                continue
            names[entry.name] = below

    def _number(self, inode: int, inodes: dict[int, int]) -> int:
        if inode not in inodes:
            if inode not in self._numbers:
                self._numbers[inode] = self._count
                self._count += 1
            inodes[inode] = self._numbers[inode]
        return inodes[inode]

    def _synced(self, inode: int) -> None:
        last = self.moments[-1]
        number = self._numbers.get(inode)
        if number in last.folders:
            self._synced_folders[number] = last.folders[number]
            self._synced_at[number] = len(self.moments)
        elif number in last.files:
            self._synced_files[number] = last.files[number]

    def state(self, at: int, kind: Kind, draw: random.Random) -> Tree:
        """The disk that is found after a crash at a moment.

        kill: of the processes alone; all that they did is there. strictest: a power loss that
        leaves what was synced and no more. torn: all names survived, unsynced contents did not.
        mixed: of every folder the names of some moment since its last fsync, contents as in torn.
        """
        moment = self.moments[at]
        if kind == "kill":
            return self._tree(moment.folders, lambda number: moment.files[number])
        if kind == "strictest":
            return self._tree(moment.synced_folders, lambda n: moment.synced_files.get(n, b""))
        folders = moment.folders if kind == "torn" else self._some_names(at, draw)
        return self._tree(folders, lambda number: self._torn(at, number, draw))

    def _tree(self, folders: dict[int, Names], contents: Callable[[int], bytes]) -> Tree:
        tree: Tree = {}
        todo = [("", 0)]
        for path, number in todo:  # grows meanwhile
            for name, below in sorted(folders.get(number, {}).items()):
                there = f"{path}/{name}" if path else name
                if below in self._folders:
                    todo.append((there, below))
                tree[there] = None if below in self._folders else contents(below)
        return tree

    def _some_names(self, at: int, draw: random.Random) -> dict[int, Names]:
        folders: dict[int, Names] = {}
        for number in sorted(self._folders):
            then = draw.randint(self.moments[at].synced_at.get(number, 0), at)
            folders[number] = self.moments[then].folders.get(number, {})
        return folders

    def _torn(self, at: int, number: int, draw: random.Random) -> bytes:
        """Contents of which what was not synced is lost from a random byte on, or is zeros."""
        moment = self.moments[at]
        safe = moment.synced_files.get(number, b"")
        now = moment.files.get(number)
        if now is None or now == safe:
            return safe
        same = next((n for n, (a, b) in enumerate(zip(safe, now, strict=False)) if a != b), None)
        same = min(len(safe), len(now)) if same is None else same
        cut = draw.randint(same, len(now))
        return now[:cut] + draw.choice([b"", bytes(len(now) - cut)])


def _shown(arguments: tuple[Any, ...]) -> str:
    return " ".join(Path(a).name for a in arguments if isinstance(a, str | os.PathLike))
