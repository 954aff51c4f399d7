"""manifests.remote: the ledger, videos and latents of a run on a store, as another machine sees them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from manifests import remote
from manifests.files import LockedError, StorageError
from manifests.journal import Journal
from manifests.ledger import ResultRow, compact, iter_results, known
from manifests.object_store import ObjectStore, UnreachableError
from manifests.storage import RunFolder
from manifests.store_lock import NAME
from tests.object_server import Fault, Store

DIGEST = "ab" * 16
Machine = Callable[[], RunFolder]


@pytest.fixture
def machine(bucket: str, tmp_path: Path) -> Machine:
    """The run folder as a machine sees it that has never heard of it."""
    return lambda: RunFolder(f"{bucket}/runs/one", tmp_path / uuid4().hex).create()


def row(name: str, number: int = 0, **values: Any) -> ResultRow:
    return ResultRow(id=name, digest=f"{number:032x}", status="ok", **values)


def seen(machine: Machine) -> dict[str, int]:
    """id → digest as a number, of the store's ledger, which must have each id once."""
    with machine().view() as folder:
        pairs = [(result.id, int(result.digest, 16)) for result in iter_results(folder.root)]
        assert len(known(folder.root)) == len(pairs) == len(dict(pairs))
    return dict(pairs)


def objects(folder: RunFolder) -> list[str]:
    assert folder.remote is not None
    return sorted(folder.remote.store.name_of(found) for found in folder.remote.store.list())


def run(folder: RunFolder, run_id: str, *rows: ResultRow, publish: bool = True) -> None:
    """What a driver does with its ledger."""
    with folder.lock(run_id):
        folder.pull()
        with Journal(folder.results, run_id, folder.commit_journal) as journal:
            for result in rows:
                journal.append(result)
        if publish:
            compact(folder.root)
            folder.push_ledger()


def test_a_run_goes_on_from_another_machine(machine: Machine):
    """What one machine recorded, published or not, the next one knows; its results replace and join;
    after publishing one generation of parts is all that is left."""
    run(machine(), "first", row("a", 1), row("b", 1))
    assert seen(machine) == {"a": 1, "b": 1}
    run(machine(), "second", row("b", 2), publish=False)
    assert seen(machine) == {"a": 1, "b": 2}
    run(machine(), "third", row("c", 3))
    assert seen(machine) == {"a": 1, "b": 2, "c": 3}
    assert objects(machine()) == [
        "results/part-000002-00000-of-00001.parquet",
        "run.lock",
    ]


def test_what_staging_holds_gives_way_to_the_store(machine: Machine):
    """A machine that was left behind takes the store's ledger for its own: rows that never reached
    the store count as not done."""
    folder = machine()
    run(folder, "first", row("a", 1))
    with Journal(folder.results, "lost") as journal:
        journal.append(row("a", 2))
        journal.append(row("b", 2))
    folder.remote.store.write("results/part-x.parquet", b"no part")  # type: ignore[union-attr]
    folder.remote.store.write("results/journal-..-000000.jsonl", b"no id")  # type: ignore[union-attr]
    run(folder, "second", row("c", 3))
    assert seen(machine) == {"a": 1, "c": 3}


def test_a_row_is_in_the_store_within_a_second_or_two(machine: Machine):
    """While the run goes on: nothing was closed, and another machine knows the row."""
    folder = machine()
    with folder.lock("first"), Journal(folder.results, "first", folder.commit_journal) as journal:
        for number in range(3):
            journal.append(row("a", number))
            end = time.monotonic() + 10
            while seen(machine) != {"a": number} and time.monotonic() < end:
                time.sleep(0.1)
            assert seen(machine) == {"a": number}


def test_the_journal_goes_in_chunks(
    s3: Store, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A full chunk is never put again, and the chunks one after the other are the journal, byte by
    byte; a chunk that is gone ends it there."""
    monkeypatch.setattr(remote, "CHUNK_BYTES", 2000)
    folder = machine()
    with folder.lock("first"):
        journal = Journal(folder.results, "first", folder.commit_journal)
        for number in range(100):
            journal.append(row(f"row-{number}", number, prompt="x" * (number % 7 * 50)))
            if number % 10 == 0:
                journal.flush()
        journal.close()
        whole = journal.path.read_bytes()
    chunks = [name for name in objects(folder) if "journal" in name]
    assert len(chunks) > 5
    sizes = [len(folder.remote.store.read(name)[0]) for name in chunks]  # type: ignore
    assert all(2000 <= size < 3000 for size in sizes[:-1])
    other = machine()
    other.pull()
    assert (other.results / "journal-first.jsonl").read_bytes() == whole
    assert len(seen(machine)) == 100
    folder.remote.store.delete([chunks[3]])  # type: ignore[union-attr]
    assert 0 < len(seen(machine)) < 100
    run(machine(), "second", row("z", 1))
    assert not [name for name in objects(folder) if "journal" in name]


def test_a_publishing_that_breaks_off_anywhere_loses_nothing(
    s3: Store, machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    """The store dies at each request of the publishing in turn: the ledger is as it was, and the next
    run goes on."""
    monkeypatch.setenv("ZS2_STORE_RETRY_SECONDS", "0.3")
    run(machine(), "first", row("a", 1), row("b", 1), publish=False)
    run(machine(), "second", row("b", 2), row("c", 2), publish=False)
    expected = {"a": 1, "b": 2, "c": 2}
    for survived in range(20):
        folder = machine()
        with folder.lock("publisher"):
            folder.pull()
            compact(folder.root)
            allowed = len(s3.log) + survived
            with monitor(s3, allowed):
                try:
                    folder.push_ledger()
                    is_through = True
                except StorageError:
                    is_through = False
            assert seen(machine) == expected
        if is_through:
            break
    assert is_through
    assert survived >= 2, "a part and a deletion at least"
    assert [name for name in objects(machine()) if "journal" in name] == []


class monitor:  # noqa: N801  reads as a verb where it stands
    """Lets so many requests through, and kills the store after them."""

    def __init__(self, s3: Store, allowed: int) -> None:
        self.s3, self.allowed = s3, allowed

    def __enter__(self) -> None:
        s3, allowed = self.s3, self.allowed
        s3.faults = [_After(s3, allowed)]

    def __exit__(self, *_: object) -> None:
        self.s3.faults = []


class _After(Fault):
    def __init__(self, s3: Store, allowed: int) -> None:
        super().__init__("500", 10**6)
        self.s3, self.allowed = s3, allowed

    def matches(self, method: str, path: str) -> bool:
        return len(self.s3.log) >= self.allowed


def test_a_run_that_lost_its_lock_writes_nothing_more(machine: Machine):
    """Neither its journal nor its ledger nor a file: all raise, and the store stays as the other run
    has it."""
    folder, told = machine(), threading.Event()
    with folder.lock("first"):
        folder.when_lost(told.set)
        folder.summary_file.write_text("{}")
        journal = Journal(folder.results, "first", folder.commit_journal)
        lock: Any = folder.remote._lock  # type: ignore[union-attr]
        folder.remote.store.write(NAME, b'{"run_id": "other"}')  # type: ignore[union-attr]
        lock._renew()
        assert told.is_set()
        before = objects(folder)
        journal.append(row("a", 1))
        with pytest.raises(LockedError, match="taken over"):
            journal.flush()
        with pytest.raises(LockedError, match="taken over"):
            journal.append(row("b", 1))
        with pytest.raises(LockedError):
            journal.close()
        compact(folder.root)
        for write in (
            folder.push_ledger,
            lambda: folder.upload(folder.summary_file),
            lambda: folder.remove(folder.metadata_file),
        ):
            with pytest.raises(LockedError):
                write()
    assert objects(folder) == before
    assert folder.remote.store.read(NAME)[0] == b'{"run_id": "other"}'  # type: ignore


def test_two_publishings_do_not_mix(machine: Machine):
    """A run that another one overtook unnoticed finds the parts written, and leaves them."""
    slow, quick = machine(), machine()
    slow.pull()
    with Journal(slow.results, "slow", slow.commit_journal) as journal:
        journal.append(row("a", 1))
    compact(slow.root)
    quick.pull()
    with Journal(quick.results, "quick", quick.commit_journal) as journal:
        journal.append(row("a", 2))
    compact(quick.root)
    quick.push_ledger()
    with pytest.raises(LockedError, match="written by another run"):
        slow.push_ledger()
    assert seen(machine) == {"a": 2}


def test_after_a_store_has_failed_a_run_ends_soon(
    s3: Store, machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    """The first write that fails was tried for the time allowed, those after it are not tried."""
    monkeypatch.setenv("ZS2_STORE_RETRY_SECONDS", "0.5")
    folder = machine()
    folder.summary_file.write_text("{}")
    s3.is_dead = True
    journal = Journal(folder.results, "first", folder.commit_journal)
    journal.append(row("a", 1))
    with pytest.raises(UnreachableError):
        journal.flush()
    tried = len(s3.log)
    for attempt in (
        lambda: journal.append(row("b", 1)),
        journal.close,
        lambda: folder.upload(folder.summary_file),
    ):
        with pytest.raises(UnreachableError, match="run the same command again"):
            attempt()
    assert len(s3.log) == tried


def test_a_video_is_there_whole_or_not_at_all(machine: Machine):
    """It is in the store when the delivery ends, under its name; one that fails leaves nothing there;
    staging keeps none of them."""
    folder = machine()
    with folder.delivery(DIGEST, "a", "h264") as path:
        path.write_bytes(b"video")
        assert objects(folder) == []
    with pytest.raises(RuntimeError), folder.delivery(DIGEST, "b", "h264") as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert objects(folder) == ["videos/ab/a.mp4"]
    assert folder.remote.store.read("videos/ab/a.mp4")[0] == b"video"  # type: ignore
    assert [p for p in folder.root.rglob("*") if p.is_file()] == []


def test_frames_of_an_earlier_video_go(machine: Machine):
    """A folder of frames is what was delivered last, and nothing beside it."""
    folder = machine()
    for count in (12, 3):
        with folder.delivery(DIGEST, "a", "png") as path:
            path.mkdir()
            for number in range(count):
                (path / f"{number:05d}.png").write_bytes(b"%d" % count)
    assert objects(folder) == [f"videos/ab/a/0000{number}.png" for number in range(3)]
    assert folder.remote.store.read("videos/ab/a/00001.png")[0] == b"3"  # type: ignore


def test_one_listing_tells_which_videos_are_there(s3: Store, machine: Machine):
    """Asking for each of many rows is one request; files and folders of frames are found, of others
    with the same beginning nothing is thought."""
    folder = machine()
    store: ObjectStore = folder.remote.store  # type: ignore
    for name in ("videos/ab/a.mp4", "videos/ab/b/00000.png", "videos/ab/cc.mp4"):
        store.write(name, b"x")
    before = len(s3.log)
    assert folder.has_video(DIGEST, "a", "h264")
    assert folder.has_video(DIGEST, "b", "png")
    assert not folder.has_video(DIGEST, "a", "gif")
    assert not folder.has_video(DIGEST, "c", "h264")
    assert not folder.has_video("cd" * 16, "a", "h264")
    assert len(s3.log) == before + 1


def test_latents_are_found_from_anywhere_and_forgotten_after_the_row(machine: Machine):
    """What one node sampled another reads; nothing is put twice; they go when the journal with their
    row is in the store, and not before."""
    first, second = machine(), machine()
    with first.latents_file(DIGEST) as path:
        assert not path.exists()
        path.write_bytes(b"latents")
    with second.latents_file(DIGEST) as path:
        assert path.read_bytes() == b"latents"
    name = f"latents/{DIGEST}.safetensors"
    assert objects(first) == [name]
    journal = Journal(first.results, "first", first.commit_journal)
    journal.append(row("a", 1))
    first.forget_latents(DIGEST)
    journal.close()
    assert objects(first) == ["results/journal-first-000000.jsonl"]
    assert [p for p in second.root.rglob("*") if p.is_file()] == []
