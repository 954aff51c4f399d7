"""manifests.ledger: merged reading and compaction that survives a crash at any step."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import ledger
from manifests.journal import Journal
from manifests.ledger import (
    LEDGER_SCHEMA,
    Known,
    ResultRow,
    compact,
    iter_results,
    known,
    ledger_batches,
)
from manifests.storage import RunFolder, StorageError


def row(name: str, number: int = 0, status: Any = "ok", **values: Any) -> ResultRow:
    return ResultRow(id=name, digest=f"{number:032x}", status=status, **values)


def record(out: Path, run_id: str, *rows: ResultRow) -> None:
    """What a run writes."""
    with Journal(RunFolder(out).create().results, run_id) as journal:
        for result in rows:
            journal.append(result)


def merged(out: Path) -> dict[str, str]:
    """id → digest of the merged view, which must have each id once."""
    pairs = [(result.id, result.digest) for result in iter_results(out)]
    assert len(dict(pairs)) == len(pairs)
    found = known(out)
    assert len(found) == len(pairs)
    assert all(found.get(name) == (digest, "ok") for name, digest in pairs)
    return {name: str(int(digest, 16)) for name, digest in pairs}


def files(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "results").iterdir())


def test_the_schema_is_the_documented_one():
    """Names and their order are public."""
    # fmt: off
    assert LEDGER_SCHEMA.names == [
        "id", "digest", "status", "stage", "error_type", "error_message", "attempts", "file_name",
        "sha256", "bytes", "num_frames", "height", "width", "fps", "prompt", "seed", "model",
        "model_revision", "params", "kl_achieved", "seconds_sample", "seconds_temporal",
        "seconds_spatial", "seconds_assemble", "device", "node", "started_at", "finished_at",
        "recipe",
    ]
    # fmt: on


def test_every_field_survives_compaction(tmp_path: Path):
    """A result reads the same from the journal and from the parts."""
    full = row(
        "star",
        7,
        "failed",
        stage="sample",
        error_type="RuntimeError",
        error_message="out of memory",
        attempts=3,
        bytes=5,
        fps=8.0,
        prompt="a\nb é",
        seed=2**63 - 1,
        params='{"a":1}',
        kl_achieved=(0.1, 0.25),
        seconds_sample=1.5,
        started_at=datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
        meta={"meta_n": 3, "meta_t": ["x", "y"], "meta_d": {"k": 1}, "meta_f": 0.5, "meta_b": True},
    )
    record(tmp_path, "one", full, row("plain"))
    before = list(iter_results(tmp_path))
    assert before == [full, row("plain")]
    assert compact(tmp_path) == 2
    assert files(tmp_path) == ["part-000001-00000-of-00001.parquet"]
    assert list(iter_results(tmp_path)) == before
    table = pq.read_table(tmp_path / "results")
    assert table.schema.names == [*LEDGER_SCHEMA.names, *sorted(full.meta)]
    assert table.column("meta_t").type == pa.list_(pa.string())


def test_the_newest_result_of_an_id_wins(tmp_path: Path):
    """Within a journal the later line, among journals the later run, before any part."""
    record(tmp_path, "b", row("x", 1), row("y", 1), row("x", 2))
    assert merged(tmp_path) == {"y": "1", "x": "2"}
    compact(tmp_path)
    record(tmp_path, "z", row("y", 3))
    record(tmp_path, "a", row("y", 4), row("new", 1))
    assert merged(tmp_path) == {"x": "2", "y": "4", "new": "1"}
    assert compact(tmp_path) == 3
    assert merged(tmp_path) == {"x": "2", "y": "4", "new": "1"}


def test_only_the_ids_of_the_manifest_stay(tmp_path: Path):
    """Rows that left the manifest leave the ledger, down to none; a mapping or a function tells."""
    record(tmp_path, "one", *(row(f"r{n}", n) for n in range(10)))
    assert [r.id for r in iter_results(tmp_path, keep={"r3": "digest"})] == ["r3"]
    assert compact(tmp_path, keep=lambda name: name != "r0") == 9
    assert compact(tmp_path, keep={"r1": "", "r2": ""}) == 2
    assert set(merged(tmp_path)) == {"r1", "r2"}
    assert compact(tmp_path, keep=set[str]()) == 0
    assert merged(tmp_path) == {}
    assert pq.read_table(tmp_path / "results").num_rows == 0


def test_compaction_of_nothing_new_writes_nothing(tmp_path: Path):
    """A rerun with nothing to do leaves the ledger's files as they are."""
    assert compact(RunFolder(tmp_path).create().root) == 0
    assert files(tmp_path) == []
    record(tmp_path, "one", row("a"))
    compact(tmp_path)
    before = files(tmp_path)
    record(tmp_path, "two")
    assert compact(tmp_path, keep={"a": "", "b": ""}) == 1
    assert files(tmp_path) == before


def test_an_empty_or_missing_ledger_reads_as_empty(tmp_path: Path):
    """Before the first run."""
    assert list(iter_results(tmp_path / "missing")) == []
    assert len(known(tmp_path / "missing")) == 0


def test_large_ledgers_have_several_parts_and_read_as_one(tmp_path: Path, monkeypatch: Any):
    """Every id once over all parts, across generations."""
    monkeypatch.setattr(ledger, "PART_ROWS", 10)
    monkeypatch.setattr(ledger, "BATCH_ROWS", 4)
    record(tmp_path, "one", *(row(f"r{n}", n) for n in range(35)))
    assert compact(tmp_path) == 35
    assert len(files(tmp_path)) == 3
    record(tmp_path, "two", *(row(f"r{n}", n + 100) for n in range(0, 35, 2)))
    assert compact(tmp_path, keep=lambda name: name != "r34") == 34
    expected = {f"r{n}": str(n + 100 if n % 2 == 0 else n) for n in range(34)}
    assert merged(tmp_path) == expected
    assert pq.read_table(tmp_path / "results").num_rows == 34


def test_columns_can_be_chosen(tmp_path: Path):
    """Readers of a million rows take what they need."""
    record(tmp_path, "one", row("a", meta={"meta_k": 1}))
    record(tmp_path, "two", row("b"))
    (batch,) = ledger_batches(tmp_path, columns=["status", "id", "meta_k"])
    assert batch.to_pylist() == [
        {"status": "ok", "id": "a", "meta_k": 1},
        {"status": "ok", "id": "b", "meta_k": None},
    ]
    compact(tmp_path)
    (again,) = ledger_batches(tmp_path, columns=["status", "id", "meta_k"])
    assert again.equals(batch)


def test_meta_values_of_several_types_become_text(tmp_path: Path):
    """Whole numbers and doubles meet as doubles; all else that differs as text; nothing is lost."""
    values = {
        "meta_mixed": [1, "one", None, [1], True],
        "meta_number": [1, 2.5, None, 3, 4],
        "meta_huge": [2**70, 1, None, -1, 0],
        "meta_struct": [{"a": 1}, {"b": [2]}, None, {}, {"a": "x"}],
        "meta_empty": [{}, {}, {}, None, {}],
        "meta_lists": [[], None, [], [], []],
    }
    for number in range(5):
        meta = {name: column[number] for name, column in values.items()}
        record(tmp_path, f"run{number}", row(f"r{number}", meta=meta))
        if number % 2:
            compact(tmp_path)
    compact(tmp_path)
    table = pq.read_table(tmp_path / "results").sort_by("id")
    assert table.column("meta_mixed").to_pylist() == ["1", "one", None, "[1]", "true"]
    assert table.column("meta_number").to_pylist() == [1.0, 2.5, None, 3.0, 4.0]
    assert table.column("meta_huge").to_pylist() == [str(2**70), "1", None, "-1", "0"]
    assert table.column("meta_struct").to_pylist()[:2] == ['{"a": 1}', '{"b": [2]}']
    assert table.column("meta_empty").to_pylist() == ["{}", "{}", "{}", None, "{}"]
    assert list(iter_results(tmp_path))


def test_reading_goes_on_while_a_run_appends_and_compacts(tmp_path: Path):
    """A reading that began sees its own moment, whatever is replaced under it."""
    record(tmp_path, "one", *(row(f"r{n}", n) for n in range(9000)))
    reading = iter_results(tmp_path)
    first = next(reading)
    record(tmp_path, "one", row("r0", 77), row("late", 1))
    compact(tmp_path)
    rest = list(reading)
    assert {first.id, *(r.id for r in rest)} == {f"r{n}" for n in range(9000)}
    assert len(rest) == 8999
    assert merged(tmp_path)["r0"] == "77"


def test_a_journal_that_goes_on_after_compaction_is_read_on(tmp_path: Path, monkeypatch: Any):
    """Where the removal of a merged journal failed and its run goes on, only what is new counts."""
    record(tmp_path, "one", row("a", 1), row("gone", 1))
    monkeypatch.setattr(ledger, "_remove_merged", lambda _: None)
    compact(tmp_path, keep={"a": ""})
    monkeypatch.undo()
    assert merged(tmp_path) == {"a": "1"}, "the journal is in the parts already"
    record(tmp_path, "one", row("b", 2))
    assert merged(tmp_path) == {"a": "1", "b": "2"}
    compact(tmp_path)
    assert files(tmp_path) == ["part-000002-00000-of-00001.parquet"]


KILLED = """
import os, signal, sys
from pathlib import Path
from manifests import ledger
ledger.PART_ROWS, ledger.BATCH_ROWS = 4, 4
step, left = sys.argv[2], int(sys.argv[3])
def hook(event, args):
    global left
    if event in ("os.rename", "os.remove") or (event == "open" and ".tmp-" in str(args[0])):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
sys.addaudithook(hook)
ledger.compact(Path(sys.argv[1]), keep=lambda name: name != "old0")
"""


def test_a_kill_at_any_step_of_compaction_changes_no_answer(tmp_path: Path):
    """SIGKILL before each file that compaction opens aside, renames or removes: reading gives the
    old state or the new one and nothing else, and the next compaction gives the new one with one
    row an id and no file left over."""
    old = {f"old{n}": str(n) for n in range(10)}
    new = {name: number for name, number in old.items() if name != "old0"}
    new |= {"old1": "50"} | {f"new{n}": "60" for n in range(6)}
    finished = False
    for step in range(40):
        out = tmp_path / str(step)
        record(out, "one", *(row(name, int(number)) for name, number in old.items()))
        ledger.PART_ROWS, parts = 4, ledger.PART_ROWS
        try:
            compact(out)
        finally:
            ledger.PART_ROWS = parts
        record(out, "two", row("old1", 50))
        record(out, "three", *(row(f"new{n}", 60) for n in range(6)))
        before = merged(out)
        done = subprocess.run([sys.executable, "-c", KILLED, out, "x", str(step)], check=False)
        state = merged(out)
        assert state in (before, new), step
        assert compact(out, keep=lambda name: name != "old0") == len(new)
        assert merged(out) == new
        RunFolder(out).sweep_temporary()
        table = pq.read_table(out / "results")
        assert sorted(table.column("id").to_pylist()) == sorted(new)
        assert not [name for name in files(out) if not name.startswith("part-")]
        if done.returncode == 0:
            finished = True
            break
        assert done.returncode == -signal.SIGKILL
    assert finished and step >= 12, "the kills did not reach every step"


def test_a_damaged_part_is_an_error_with_a_remedy(tmp_path: Path):
    """Never a silent loss of rows."""
    record(tmp_path, "one", *(row(f"r{n}", n) for n in range(1000)))
    compact(tmp_path)
    (part,) = (tmp_path / "results").iterdir()
    content = part.read_bytes()
    part.write_bytes(content[:-10])
    with pytest.raises(StorageError, match="remove that part"):
        list(iter_results(tmp_path))
    part.write_bytes(content[:100] + b"\x99" * 3000 + content[3100:])
    with pytest.raises(StorageError, match="remove that part"):
        list(iter_results(tmp_path))


def test_known_keeps_the_newest_digest_and_status():
    """And counts by status."""
    found = Known()
    found.put("a", "00" * 16, "failed")
    found.put("a", "ab" * 16, "ok")
    found.put("b", "", "invalid")
    assert found.get("a") == ("ab" * 16, "ok") and found.is_done("a", "ab" * 16)
    assert not found.is_done("a", "00" * 16) and not found.is_done("c", "00" * 16)
    assert found.get("b") == ("", "invalid") and found.get("c") is None
    assert "a" in found and "c" not in found and len(found) == 2
    assert found.counts() == {"ok": 1, "failed": 0, "invalid": 1}


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("run"), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99)), max_size=6)
        ),
        st.tuples(st.just("compact"), st.sets(st.integers(0, 5))),
    ),
    max_size=8,
)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(STEPS)
def test_any_sequence_of_runs_and_compactions_is_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
):
    """The ledger behaves as a mapping from id to the newest result, restricted when compacted."""
    out = tmp_path_factory.mktemp("ledger")
    model: dict[str, str] = {}
    for number, (kind, what) in enumerate(steps):
        if kind == "run":
            record(out, f"run{number}", *(row(f"r{name}", digest) for name, digest in what))
            for name, digest in what:
                model[f"r{name}"] = str(digest)
        else:
            keep = {f"r{name}" for name in what}
            model = {name: digest for name, digest in model.items() if name in keep}
            assert compact(out, keep=keep) == len(model)
        assert merged(out) == model


def test_results_of_some_statuses_are_of_the_newest_alone(tmp_path: Path):
    """From parts and journals: a failure that was mended later is none; columns are as asked for."""
    record(tmp_path, "1", row("a", 1, "failed"), row("b", 1, "failed"), row("c"))
    compact(tmp_path)
    record(tmp_path, "2", row("a", 2), row("d", 1, "invalid", stage="validate"), row("e"))

    def of(*statuses: str) -> list[tuple[Any, ...]]:
        batches = ledger_batches(tmp_path, ["id", "stage"], statuses=statuses)
        return sorted(tuple(record.values()) for b in batches for record in b.to_pylist())

    assert of("failed", "invalid") == [("b", None), ("d", "validate")]
    assert of("ok") == [("a", None), ("c", None), ("e", None)]
    compact(tmp_path)
    assert of("failed", "invalid") == [("b", None), ("d", "validate")]


def test_a_digest_of_another_length_is_never_a_rows():
    """What another program wrote into a ledger is kept apart from a digest that begins so."""
    found = Known()
    found.put("a", "ab" * 32, "ok")
    assert not found.is_done("a", "ab" * 16)
    found.put("a", "ab" * 15, "ok")
    assert not found.is_done("a", "ab" * 15 + "00") and found.get("a") == ("ab" * 15, "ok")
