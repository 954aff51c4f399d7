"""What a run shows from outside, as it happens: inotify on its folder, and its journals read along."""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{8}-(\d+)-[0-9a-f]{12}-(.+)")

_CREATE, _MOVED_FROM, _MOVED_TO, _DELETE, _MODIFY = 0x100, 0x40, 0x80, 0x200, 0x2
_FOLDER = 0x40000000
_HEAD = struct.Struct("iIII")


@dataclass(frozen=True)
class Event:
    """Something appeared, went or got its name.

    Attributes:
        pid: whose attempt it is, as the temporary name tells; 0 where there is none.
        name: the final name, also of a file that is still aside.
    """

    what: Literal["created", "named", "deleted"]
    folder: str  # relative to the run folder: "", "results", "latents", "videos/ab"
    name: str
    aside: bool
    pid: int
    time: float


@dataclass(frozen=True)
class Result:
    """A line that a run added to a journal."""

    time: float
    record: dict[str, Any]


class Watcher:
    """Watches a run folder in a thread of its own until it is closed.

    Args:
        on_event: called in that thread, at once.

    Attributes:
        results: lines of the journals, as they come.
        error: what ended the thread, if anything did.
    """

    def __init__(self, out: Path, on_event: Callable[[Event], None]) -> None:
        self.out = out
        self.on_event = on_event
        self.results: list[Result] = []
        self.error: Exception | None = None
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(os.O_CLOEXEC)
        self._folders: dict[int, str] = {}
        self._moves: dict[int, int] = {}  # cookie → pid
        self._journals: dict[str, BinaryIO] = {}
        self._stop, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="chaos-watcher", daemon=True)
        out.mkdir(parents=True, exist_ok=True)
        self._watch("")
        self._thread.start()

    def close(self) -> None:
        """Stop watching, when the thread has dealt with the event it is at."""
        os.write(self._wake, b"x")
        self._thread.join()
        for handle in (self._handle, self._stop, self._wake):
            os.close(handle)
        for file in self._journals.values():
            file.close()

    def _watch(self, folder: str) -> None:
        mask = _CREATE | _MOVED_FROM | _MOVED_TO | _DELETE | (_MODIFY if folder == "results" else 0)
        path = self.out / folder
        number = self._libc.inotify_add_watch(self._handle, os.fsencode(path), mask)
        if number < 0:
            return  # gone again
        self._folders[number] = folder
        for each in path.iterdir():  # what was there before the watch
            self._appeared(folder, each.name, each.is_dir(), "created", 0)

    def _run(self) -> None:
        try:
            self._watch_on()
        except Exception as error:  # whoever waits for what is seen here has to hear of it
            self.error = error

    def _watch_on(self) -> None:
        while True:
            ready, _, _ = select.select([self._handle, self._stop], [], [])
            if self._stop in ready:
                return
            data, at = os.read(self._handle, 1 << 16), 0
            while at < len(data):
                number, mask, cookie, length = _HEAD.unpack_from(data, at)
                at += _HEAD.size + length
                name = os.fsdecode(data[at - length : at].rstrip(b"\0"))
                if number in self._folders:
                    self._see(self._folders[number], name, mask, cookie)

    def _see(self, folder: str, name: str, mask: int, cookie: int) -> None:
        if mask & _MODIFY:
            self._read_journal(name)
        elif mask & _MOVED_FROM:
            found = TEMPORARY.fullmatch(name)
            self._moves[cookie] = int(found[1]) if found else 0
        elif mask & (_CREATE | _MOVED_TO):
            what = "created" if mask & _CREATE else "named"
            self._appeared(folder, name, bool(mask & _FOLDER), what, self._moves.pop(cookie, 0))
        elif mask & _DELETE:
            self._tell("deleted", folder, name, 0)

    def _appeared(
        self, folder: str, name: str, is_folder: bool, what: Literal["created", "named"], pid: int
    ) -> None:
        self._tell(what, folder, name, pid)
        watched = not folder and name in ("results", "latents", "videos")
        if is_folder and (watched or folder == "videos"):
            self._watch(f"{folder}/{name}" if folder else name)
        if folder == "results":
            self._read_journal(name)

    def _tell(self, what: Any, folder: str, name: str, pid: int) -> None:
        found = TEMPORARY.fullmatch(name)
        if found:
            pid, name = int(found[1]), found[2]
        self.on_event(Event(what, folder, name, bool(found), pid, time.monotonic()))

    def _read_journal(self, name: str) -> None:
        if not name.startswith("journal-"):
            return
        if name not in self._journals:
            with suppress(FileNotFoundError):
                self._journals[name] = (self.out / "results" / name).open("rb")
        file = self._journals.get(name)
        if file is None:
            return
        while True:
            at = file.tell()
            line = file.readline()
            if not line.endswith(b"\n"):
                file.seek(at)
                return
            content = json.loads(line)
            if "row" in content:
                self.results.append(Result(time.monotonic(), content["row"]))
