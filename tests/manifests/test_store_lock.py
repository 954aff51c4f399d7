"""manifests.store_lock: one run at a time on a store, also after kills, pauses and outages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from manifests.files import LockedError
from manifests.object_store import ObjectStore
from manifests.store_lock import FREE, NAME, StoreLock, store_holder
from tests.object_server import Fault, Store

QUICK = {"renew_seconds": 0.2, "stale_seconds": 1.0}


@pytest.fixture
def store(bucket: str) -> ObjectStore:
    return ObjectStore(f"{bucket}/run")


def content(store: ObjectStore) -> dict[str, Any]:
    found = store.read(NAME)
    assert found is not None
    return json.loads(found[0])


def put_lock(store: ObjectStore, **changed: Any) -> None:
    """A lock that another run took, as its object says."""
    other = StoreLock(store, "other")
    store.write(NAME, json.dumps({**json.loads(other._content()), **changed}).encode())


def test_a_second_run_is_refused_and_told_who_holds_it(store: ObjectStore):
    """One run at a time; the refusal and `store_holder` name it; a released lock is free."""
    first = StoreLock(store, "first")
    first.take()
    with pytest.raises(LockedError, match=rf"in use by run first \(pid {os.getpid()} on "):
        StoreLock(store, "second").take()
    holder = store_holder(store)
    assert holder is not None
    assert holder["run_id"] == "first"
    first.release()
    assert store.read(NAME) == (FREE, store.read(NAME)[1])  # type: ignore[index]
    assert store_holder(store) is None
    second = StoreLock(store, "second")
    second.take()
    second.release()


def test_of_many_that_want_it_one_gets_it(store: ObjectStore):
    """Eight runs begin at once, on a free store and on a stale lock: one is let in."""
    for stale in (False, True):
        if stale:
            put_lock(store, machine="elsewhere", renewed="2020-01-01T00:00:00+00:00")
        barrier = threading.Barrier(8)
        locks = [StoreLock(store, f"run-{number}", **QUICK) for number in range(8)]
        won: list[StoreLock] = []

        def attempt(lock: StoreLock, barrier: Any = barrier, won: Any = won) -> None:
            barrier.wait()
            try:
                lock.take()
            except LockedError:
                return
            won.append(lock)

        threads = [threading.Thread(target=attempt, args=[lock]) for lock in locks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        won[0].release()


def test_a_lock_is_renewed_while_it_is_held(store: ObjectStore):
    """Its object changes, and a run that watches it as if it were stale is refused: a living holder
    whose clock is an hour behind keeps its lock."""
    first = StoreLock(store, "first", **QUICK)
    first._holder["machine"] = "elsewhere"
    first.take()
    before = content(store)["renewed"]
    time.sleep(0.5)
    assert content(store)["renewed"] > before
    second = StoreLock(store, "second", renew_seconds=0.4, stale_seconds=-3600)
    with pytest.raises(LockedError, match="run first"):
        second.take()
    first.check()
    first.release()


def test_a_lock_of_elsewhere_that_nobody_renews_is_taken_over(store: ObjectStore):
    """Once it is old and stays as it is; one that is young is not."""
    put_lock(store, machine="elsewhere")
    with pytest.raises(LockedError):
        StoreLock(store, "second", **QUICK).take()
    time.sleep(1.0)
    second = StoreLock(store, "second", **QUICK)
    second.take()
    assert content(store)["run_id"] == "second"
    second.release()


HOLD = """
import sys, time
from manifests.object_store import ObjectStore
from manifests.store_lock import StoreLock
StoreLock(ObjectStore(sys.argv[1]), "killed").take()
print("held", flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_taken_over_at_once(store: ObjectStore):
    """On its own machine, without a wait; while it lives it is refused. `store_holder` sees none."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, store.url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=f"run killed .pid {process.pid} "):
        StoreLock(store, "second").take()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert store_holder(store) is None
    second = StoreLock(store, "second")
    second.take()
    second.release()


def test_a_number_that_another_process_has_now_is_not_the_holder(store: ObjectStore):
    """A pid comes again: one that began at another time is another process."""
    put_lock(store, born="1")
    second = StoreLock(store, "second")
    second.take()
    second.release()


def test_a_run_that_lost_its_lock_hears_of_it_and_leaves_it(store: ObjectStore):
    """`on_lost` is called once, `check` raises, and releasing does not free the other's lock."""
    told: list[bool] = []
    first = StoreLock(store, "first", **QUICK)
    first.on_lost = lambda: told.append(True)
    first.take()
    put_lock(store)
    end = time.monotonic() + 10
    while not told and time.monotonic() < end:
        time.sleep(0.05)
    for _ in range(2):
        with pytest.raises(LockedError, match="taken over by another run"):
            first.check()
    first.release()
    assert told == [True]
    assert content(store)["run_id"] == "other"


def test_a_run_that_slept_asks_before_it_writes(store: ObjectStore):
    """Its renewals stood still for half of the time: `check` asks the store, and does not go by what
    it knew."""
    first = StoreLock(store, "first", renew_seconds=60, stale_seconds=1)
    first.take()
    put_lock(store)
    first.check()  # it was renewed just now
    time.sleep(0.6)
    with pytest.raises(LockedError):
        first.check()
    first.release()


def test_a_lock_outlives_an_outage(s3: Store, store: ObjectStore, monkeypatch: pytest.MonkeyPatch):
    """Taking, renewing and freeing pass errors and lost answers; a holder that could not renew for a
    while goes on when the store is back and nobody took the lock."""
    monkeypatch.setenv("ZS2_STORE_RETRY_SECONDS", "0.2")
    s3.faults = [Fault("cut-answer", 3, "PUT"), Fault("503", 2, "GET")]
    first = StoreLock(ObjectStore(store.url), "first", **QUICK)
    first.take()
    s3.is_dead = True
    time.sleep(1.2)
    s3.is_dead = False
    first.check()
    s3.faults = [Fault("cut-answer", 2, "PUT")]
    first.release()
    assert store_holder(store) is None
