"""The lock of a run on an object store: an object that is made, renewed and freed by conditional puts.

Nothing frees it when its run is killed, so its holder renews it. One whose process is gone from this
machine is taken over at once; one of elsewhere when it is 90 s old by our clock and then is not
renewed while we watch, so that clocks need not agree. Of two that try, the store lets one win.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from manifests.files import LockedError, is_alive
from manifests.lock import Holder, holder_now, in_use
from manifests.object_store import ObjectStore, UnreachableError

NAME = "run.lock"
RENEW_SECONDS = 20.0
STALE_SECONDS = 90.0
assert 4 * RENEW_SECONDS < STALE_SECONDS  # four renewals may go wrong before anyone thinks it dead

FREE = b""  # what a released lock holds: an object cannot be deleted on a condition everywhere

log = logging.getLogger("zs2.lock")


class StoreLock:
    """Holds `run.lock` from `take` to `release`; a thread renews it between.

    Attributes:
        on_lost: called once, in that thread, should another run have taken it over.

    Raises:
        LockedError: from `take`, naming the run that holds it; from `check`, once it is lost.
    """

    def __init__(
        self,
        store: ObjectStore,
        run_id: str,
        *,
        renew_seconds: float = RENEW_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        self.on_lost: Callable[[], None] = lambda: None
        self._store = store
        self._renew_seconds = renew_seconds
        self._stale_seconds = stale_seconds
        self._holder: Holder = {**holder_now(run_id), **_this_process(), "nonce": uuid4().hex}
        self._etag = ""
        self._renewed = 0.0
        self._lost = False
        self._renewing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="zs2-lock", daemon=True)

    def take(self) -> None:
        """Take the lock, or be refused."""
        for _ in range(10):
            found = self._store.read(NAME)
            if found is None:
                etag = self._store.create(NAME, self._content())
            else:
                if not self._may_take(*found):
                    raise in_use(self._store.url, _read(found[0]))
                etag = self._store.replace(NAME, self._content(), found[1])
            if etag is not None:
                self._etag, self._renewed = etag, _now()
                self._thread.start()
                return
        raise in_use(self._store.url, None)  # others took it each time, and let it go

    def _may_take(self, data: bytes, etag: str) -> bool:
        if data == FREE:
            return True
        holder = _read(data)
        if _is_dead(holder):
            return True
        if _age(holder) < self._stale_seconds:
            return False
        log.info("%s: watching the lock of run %s", self._store.url, holder.get("run_id"))
        time.sleep(1.5 * self._renew_seconds)
        found = self._store.read(NAME)
        return found is None or found[1] == etag

    def check(self, known_for: float | None = None) -> None:
        """Before anything is written: the lock is still ours.

        Args:
            known_for: asked anew if it was last seen to be ours longer ago, in seconds; half the time
                after which others may take it, if None.
        """
        trusted = self._stale_seconds / 2 if known_for is None else known_for
        if not self._lost and _now() - self._renewed > trusted:
            self._renew()
        if self._lost:
            raise LockedError(
                f"{self._store.url} was taken over by another run, since this one could not renew "
                "its lock; nothing more is written there"
            )

    def release(self, store: ObjectStore | None = None) -> None:
        """Free the lock, if it is ours.

        Args:
            store: the same one with another patience.
        """
        self._ended.set()
        self._thread.join()
        if not self._lost:
            (store or self._store).replace(NAME, FREE, self._etag)

    def _content(self) -> bytes:
        renewed = datetime.now(UTC).isoformat()
        return json.dumps({**self._holder, "renewed": renewed}).encode()

    def _renew(self) -> None:
        with self._renewing:
            etag = None if self._lost else self._store.replace(NAME, self._content(), self._etag)
            if etag is not None:
                self._etag, self._renewed = etag, _now()
            elif not self._lost:
                self._lost = True
                log.error("%s was taken over by another run", self._store.url)
                self.on_lost()

    def _live(self) -> None:
        while not self._ended.wait(self._renew_seconds) and not self._lost:
            try:
                self._renew()
            except UnreachableError as error:  # whoever wants the lock cannot reach it, either
                log.warning("the lock could not be renewed: %s", error)


def store_holder(store: ObjectStore) -> Holder | None:
    """Who holds the lock right now, or None: also where its process is dead or long silent."""
    found = store.read(NAME)
    if found is None or found[0] == FREE:
        return None
    holder = _read(found[0])
    return None if _is_dead(holder) or _age(holder) > STALE_SECONDS else holder


def _read(data: bytes) -> Holder:
    try:
        holder = json.loads(data)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _age(holder: Mapping[str, Any]) -> float:
    """Seconds since a lock was renewed, by our clock; of one that does not say, without end."""
    try:
        renewed = datetime.fromisoformat(holder["renewed"])
        return (datetime.now(UTC) - renewed).total_seconds()
    except (KeyError, TypeError, ValueError):
        return float("inf")


def _is_dead(holder: Mapping[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    here = _this_process()
    if holder.get("machine") != here["machine"] or not isinstance(holder.get("pid"), int):
        return False
    pid: int = holder["pid"]
    return not is_alive(pid) or _born(pid) != holder.get("born")


def _this_process() -> Holder:
    """What tells this machine and process from others: names and numbers alone come again."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    parts = [
        socket.gethostname(),
        boot.read_text() if boot.exists() else "",
        str(space.readlink()) if space.exists() else "",  # pids of other containers are not ours
    ]
    machine = sha256("\n".join(parts).encode()).hexdigest()[:16]
    return {"machine": machine, "born": _born(os.getpid())}


def _born(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where it has ended or none can be told."""
    try:
        state, *figures = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else figures[18]


def _now() -> float:
    """Seconds on a clock that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
