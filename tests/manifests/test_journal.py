"""manifests.journal: the append-only record of a running flow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from manifests.journal import (
    Journal,
    lines_of,
    list_journals,
    read_header,
    read_journal,
    read_records,
)
from manifests.result import ResultRow
from manifests.storage import StorageError

FULL = ResultRow(
    id="star",
    digest="ab" * 16,
    status="ok",
    stage="assemble",
    attempts=2,
    file_name="videos/ab/star.mp4",
    sha256="cd" * 32,
    bytes=12345,
    num_frames=15,
    height=64,
    width=64,
    fps=16.0,
    prompt="a red star\nover the sea\u2028 \x1b é☃",
    seed=2**63 - 1,
    model="zs2-mini",
    model_revision="ef",
    params='{"a":1}',
    kl_achieved=(0.01, 0.1 + 0.2),
    seconds_sample=1.25,
    device="cpu",
    node="host",
    started_at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
    finished_at=datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
    recipe="1",
    meta={"meta_a": 1, "meta_b": ["x", {"y": None}], "meta_c": "é"},
)


def row(number: int, **values: Any) -> ResultRow:
    return ResultRow(id=f"r{number}", digest=f"{number:032x}", status="ok", **values)


def test_what_is_appended_is_read_in_its_order(tmp_path: Path):
    """Every field survives, also line ends in text, 63-bit seeds and nested meta."""
    with Journal(tmp_path, "run") as journal:
        for result in (FULL, row(1), ResultRow(id="", digest="", status="invalid")):
            journal.append(result)
        assert next(iter(read_journal(journal.path))) == FULL, "readable while it is written"
    assert list(read_journal(journal.path))[1:] == [
        row(1),
        ResultRow(id="", digest="", status="invalid"),
    ]
    assert journal.path == tmp_path / "journal-run.jsonl"


def test_times_of_other_zones_are_the_same_instants(tmp_path: Path):
    """Written as UTC."""
    local = FULL.finished_at.astimezone(timezone(timedelta(hours=9))) if FULL.finished_at else None
    with Journal(tmp_path, "run") as journal:
        journal.append(row(1, finished_at=local))
    assert list(read_journal(journal.path)) == [row(1, finished_at=FULL.finished_at)]


def test_error_texts_of_any_bytes_can_be_written(tmp_path: Path):
    """ffmpeg quotes file names, which need not be UTF-8."""
    with Journal(tmp_path, "run") as journal:
        journal.append(row(1, error_message=b"no \xff file".decode("utf-8", "surrogateescape")))
    assert next(read_journal(journal.path)).error_message == "no ? file"


def test_every_line_is_json(tmp_path: Path):
    """A person can read it with any tool."""
    with Journal(tmp_path, "run") as journal:
        journal.append(FULL)
    lines = journal.path.read_bytes().splitlines()
    assert json.loads(lines[0])["run_id"] == "run"
    assert json.loads(lines[1])["row"]["id"] == "star"


def test_a_journal_cut_anywhere_gives_the_whole_lines_before_the_cut(tmp_path: Path):
    """A crash or a power loss may end the file at any byte: every prefix is readable, no result is
    made up, and a run that goes on in it appends after the last whole line."""
    with Journal(tmp_path, "run") as journal:
        for number in range(3):
            journal.append(row(number))
    whole = journal.path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        journal.path.write_bytes(whole[:cut])
        expected = [row(number) for number in range(3) if ends[number + 1] <= cut]
        assert list(read_journal(journal.path)) == expected, cut
    for cut in (0, 10, ends[0], ends[1] + 7, len(whole) - 1):
        journal.path.write_bytes(whole[:cut])
        before = list(read_journal(journal.path))
        with Journal(tmp_path, "run") as again:
            again.append(row(9))
        assert list(read_journal(journal.path)) == [*before, row(9)]


def test_a_damaged_line_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A flipped bit is found by the checksum: that row is rendered again, its neighbours are not."""
    with Journal(tmp_path, "run") as journal:
        for number in range(3):
            journal.append(row(number))
    content = journal.path.read_bytes()
    journal.path.write_bytes(content.replace(b'"r1"', b'"rX"'))
    assert [r.id for r in read_journal(journal.path)] == ["r0", "r2"]
    assert "damaged" in caplog.text
    journal.path.write_bytes(content.replace(b'"r1"', b"\0\0\0\0"))
    assert [r.id for r in read_journal(journal.path)] == ["r0", "r2"]


def test_many_threads_append_whole_lines(tmp_path: Path):
    """No line is lost or mixed with another."""
    with Journal(tmp_path, "run") as journal:

        def work(first: int) -> None:
            for number in range(first, first + 200):
                journal.append(row(number))

        threads = [threading.Thread(target=work, args=(1000 * k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({r.id for r in read_journal(journal.path)}) == 1600
    assert len(journal.path.read_bytes().splitlines()) == 1601


def test_journals_of_a_folder_are_in_the_order_of_their_making(tmp_path: Path):
    """By a count, not by names or clocks: the newest result of an id is in the last."""
    for run_id in ("b", "a", "c"):
        Journal(tmp_path, run_id).close()
    Journal(tmp_path, "b").close()
    assert [header.run_id for _, header in list_journals(tmp_path)] == ["b", "a", "c"]
    headers = [header for _, header in list_journals(tmp_path)]
    assert len({header.uid for header in headers}) == 3
    assert read_header(tmp_path / "journal-a.jsonl") == headers[1]


def test_a_killed_process_loses_nothing_it_appended(tmp_path: Path):
    """SIGKILL right after append, before any fsync: the row is there."""
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom manifests.journal import Journal\n"
        "from manifests.result import ResultRow\njournal = Journal(Path(sys.argv[1]), 'run')\n"
        "for n in range(100):\n    journal.append(ResultRow(id=f'r{n}', digest='', status='failed'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(read_journal(tmp_path / "journal-run.jsonl"))) == 100


def test_an_append_is_synced_soon_and_syncs_are_grouped(tmp_path: Path, monkeypatch: Any):
    """Group commit: 300 rows in about a second cost a handful of fsyncs, not 300."""
    synced: list[int] = []  # bytes of the journal that each sync made safe
    fsync = os.fsync

    def counted(handle: int) -> None:
        written = os.fstat(handle).st_size
        fsync(handle)
        synced.append(written)

    with Journal(tmp_path, "run") as journal:
        monkeypatch.setattr(os, "fsync", counted)
        for number in range(300):
            journal.append(row(number))
            time.sleep(0.003)
        whole = (tmp_path / "journal-run.jsonl").stat().st_size
        last = time.monotonic()
        while not synced or synced[-1] < whole:
            # a second on an idle machine; a loaded one may let the thread wait
            assert time.monotonic() < last + 60.0, "an append stayed unsynced"
            time.sleep(0.01)
    assert len(synced) < 20


LIMITED = """
import resource, signal, sys
from pathlib import Path
from manifests.journal import Journal
from manifests.result import ResultRow
from manifests.storage import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]), "run")
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
done = 0
try:
    for done in range(1000):
        journal.append(ResultRow(id=f"r{done}", digest="", status="ok"))
except StorageError as error:
    print(done, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append(ResultRow(id="after", digest="", status="ok"))
journal.close()
"""


def test_a_full_disk_is_told_to_the_caller_and_leaves_no_half_line(tmp_path: Path):
    """A write that the system refuses raises from append, with the remedy; when there is space
    again the journal goes on, and what was reported as written is there."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, check=True
    )
    count, message = done.stdout.split(" ", 1)
    assert "make space and run again" in message
    found = [r.id for r in read_journal(tmp_path / "journal-run.jsonl")]
    assert found == [*(f"r{n}" for n in range(int(count))), "after"]


def test_a_failed_fsync_is_raised_by_the_next_call(tmp_path: Path, monkeypatch: Any):
    """The background thread's error is never swallowed, and no later append is believed."""
    journal = Journal(tmp_path, "run")

    def failing(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    journal.append(row(1))
    with pytest.raises(StorageError, match="Input/output"):
        journal.flush()
    monkeypatch.undo()
    with pytest.raises(StorageError, match="Input/output"):
        journal.append(row(2))
    with pytest.raises(StorageError, match="Input/output"):
        journal.close()


def test_a_folder_that_is_not_there_and_a_bad_run_id_are_refused(tmp_path: Path):
    """Before the run begins."""
    with pytest.raises(StorageError, match="make space and run again"):
        Journal(tmp_path / "missing", "run")
    with pytest.raises(ValueError, match="run's id"):
        Journal(tmp_path, "../run")


def test_a_closed_journal_takes_nothing(tmp_path: Path):
    """Closing twice is harmless; appending is an error."""
    journal = Journal(tmp_path, "run")
    journal.close()
    journal.close()
    with pytest.raises(ValueError, match="closed"):
        journal.append(row(1))


def test_a_line_has_the_head_of_its_record(tmp_path: Path):
    """Ids of any text, empty digests, and records that another version wrote with its columns in
    another order: the head is what parsing the record gives."""
    odd = [
        FULL,
        row(1),
        ResultRow('a"b\\é,"status":"failed"', "", "invalid"),
        ResultRow("", "", "ok"),
    ]
    with Journal(tmp_path, "run") as journal:
        for result in odd:
            journal.append(result)
    other = b'{"status":"failed","id":"x","digest":"00","later":{"id":"y"}}'
    with journal.path.open("ab") as file:
        for text in (other, b'["id"]', b'{"id":"z"}'):
            file.write(b'{"crc":"%08x","row":%s}\n' % (crc32(text), text))
    with journal.path.open("rb") as file:
        found = list(lines_of(file))
    assert [head for _, head, _ in found] == [
        *((result.id, result.digest, result.status) for result in odd),
        ("x", "00", "failed"),
    ]
    records = [record for _, record in read_records(journal.path)]
    assert records == [json.loads(text) for *_, text in found]
