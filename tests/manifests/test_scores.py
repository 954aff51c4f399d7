"""scores.parquet and its journal: what is scored stays, what has changed goes, damage costs itself."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.scores import (
    SCORE_NAMES,
    SCORES_SCHEMA,
    ScoreJournal,
    ScoreRow,
    compact_scores,
    iter_scores,
    read_scores,
    scores_file,
)

OLD, NEW = "aa" * 16, "bb" * 16
SCORER = "tiny@0123"


def row(row_id: str, digest: str = OLD, scorer: str = SCORER, value: float = 1.5) -> ScoreRow:
    values = {name: value + number for number, name in enumerate(SCORE_NAMES)}
    return ScoreRow(row_id, digest, scorer, values)


def note(root: Path, *rows: ScoreRow) -> None:
    with ScoreJournal(root) as journal:
        for each in rows:
            journal.append(each)


def everything() -> Callable[[str, str], bool]:
    return lambda row_id, digest: True


def test_what_is_noted_is_read_and_survives_compaction(tmp_path: Path):
    """The very numbers, and whether the prompt was cut, from the journal at once and from scores.parquet
    after; a row without a score
    has no key for it; scores are of one digest and one scorer."""
    single = row("b")._replace(values={**row("b").values, "frame_consistency": math.nan})
    note(tmp_path, row("a")._replace(truncated=True), single)
    for _ in range(2):
        assert {each.id: each.truncated for each in iter_scores(tmp_path)} == {
            "a": True,
            "b": False,
        }
        scores = read_scores(tmp_path)
        assert scores["a"] == row("a").values
        assert set(SCORE_NAMES) - set(scores["b"]) == {"frame_consistency"}
        assert sorted(scores) == ["a", "b"] and len(scores) == 2
        assert scores.of("a", OLD) == scores["a"] and scores.of("a", NEW) is None
        assert scores.has("a", OLD, SCORER) and not scores.has("a", OLD, "other@1")
        assert "c" not in scores and scores.get("c") is None
        assert compact_scores(tmp_path, everything) == 2
    assert pq.read_schema(scores_file(tmp_path)) == SCORES_SCHEMA
    assert not (tmp_path / "scores.jsonl").exists()
    nulls = pq.read_table(scores_file(tmp_path)).column("frame_consistency").null_count
    assert nulls == 1


def test_the_newest_row_of_an_id_counts(tmp_path: Path):
    """A second evaluation, of another digest or by another scorer, replaces the first: one row an id."""
    note(tmp_path, row("a"), row("b"))
    compact_scores(tmp_path, everything)
    note(tmp_path, row("a", NEW, value=7.0), row("b", scorer="other@1", value=8.0))
    assert compact_scores(tmp_path, everything) == 2
    found = {each.id: each for each in iter_scores(tmp_path)}
    assert found["a"] == row("a", NEW, value=7.0)
    assert found["b"] == row("b", scorer="other@1", value=8.0)


def test_scores_of_changed_clips_go(tmp_path: Path):
    """Only current digests stay; when none does, the file goes, too."""
    note(tmp_path, row("a"), row("b"))
    assert compact_scores(tmp_path, lambda: lambda row_id, _: row_id == "a") == 1
    assert list(read_scores(tmp_path)) == ["a"]
    assert compact_scores(tmp_path, lambda: lambda _, digest: digest == NEW) == 0
    assert not scores_file(tmp_path).exists()


def test_nothing_new_writes_nothing(tmp_path: Path):
    """A compaction that would change nothing leaves the file as it is; a folder without scores gets
    none, and the ledger is not even asked."""

    def unasked() -> Callable[[str, str], bool]:
        raise AssertionError

    assert compact_scores(tmp_path, unasked) == 0
    note(tmp_path, row("a"))
    compact_scores(tmp_path, everything)
    before = scores_file(tmp_path).stat().st_mtime_ns
    assert compact_scores(tmp_path, everything) == 1
    assert scores_file(tmp_path).stat().st_mtime_ns == before


def test_a_crash_between_the_two_files_doubles_nothing(tmp_path: Path):
    """A journal that is already in scores.parquet adds nothing."""
    note(tmp_path, row("a"), row("b"))
    journal = (tmp_path / "scores.jsonl").read_bytes()
    compact_scores(tmp_path, everything)
    (tmp_path / "scores.jsonl").write_bytes(journal)
    assert compact_scores(tmp_path, everything) == 2
    assert [each.id for each in iter_scores(tmp_path)] == ["a", "b"]


def test_a_torn_line_costs_itself(tmp_path: Path):
    """Half a line, as a crash leaves it, and lines that no evaluation wrote count for nothing, those
    before and after them do."""
    note(tmp_path, row("a"))
    bad = [
        b'{"id": "x"}',
        b"[1]",
        b'{"id": "../y", "digest": "d", "scorer": "s"}',
        b'{"id": "z", "di',
    ]
    with (tmp_path / "scores.jsonl").open("ab") as file:
        file.write(b"\n".join(bad))
    note(tmp_path, row("b"))
    assert sorted(read_scores(tmp_path)) == ["a", "b"]
    assert compact_scores(tmp_path, everything) == 2


def test_absurd_numbers_are_no_scores(tmp_path: Path):
    """Infinite and endless ones, which no mean survives."""
    line = '{"id": "a", "digest": "%s", "scorer": "s", "clip_score": %s, "flicker": Infinity}\n'
    (tmp_path / "scores.jsonl").write_text(line % (OLD, "9" * 400))
    assert read_scores(tmp_path)["a"] == {}


@pytest.mark.parametrize("content", [b"PAR1 but no more", b""], ids=["damaged", "empty"])
def test_a_damaged_file_counts_as_none(tmp_path: Path, content: bytes):
    """It does not stop a run from publishing, and the next evaluation replaces it."""
    scores_file(tmp_path).write_bytes(content)
    assert len(read_scores(tmp_path)) == 0
    note(tmp_path, row("a"))
    assert compact_scores(tmp_path, everything) == 1
    assert list(read_scores(tmp_path)) == ["a"]


def test_other_tables_are_not_taken_for_scores(tmp_path: Path):
    """A Parquet file of other columns under that name holds no scores."""
    pq.write_table(pa.table({"id": ["a"], "clip_score": [1.0]}), scores_file(tmp_path))
    assert len(read_scores(tmp_path)) == 0


def test_nothing_is_read_or_written_through_links(tmp_path: Path):
    """A journal or table that is a link to a file elsewhere is no journal and no table; the file
    stays as it is."""
    inside, outside = tmp_path / "out", tmp_path / "secret"
    inside.mkdir()
    note(tmp_path, row("x"))
    outside.write_bytes((tmp_path / "scores.jsonl").read_bytes())
    before = outside.read_bytes()
    for name in ("scores.jsonl", "scores.parquet"):
        (inside / name).symlink_to(outside)
    assert len(read_scores(inside)) == 0
    note(inside, row("a"))
    compact_scores(inside, everything)
    assert list(read_scores(inside)) == ["a"]
    assert outside.read_bytes() == before and not scores_file(inside).is_symlink()


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    """A FIFO under a file's name would block its reader for ever."""
    os.mkfifo(scores_file(tmp_path))
    assert len(read_scores(tmp_path)) == 0
