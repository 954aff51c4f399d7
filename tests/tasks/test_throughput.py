"""The picture of a run over time, from ledgers whose figures are known."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from manifests.journal import Journal
from manifests.result import STAGES, ResultRow, Status
from manifests.storage import RunFolder
from tasks.throughput import LEAST_BINS, MOST_BINS, data_uri, draw, timeline, write_throughput

DIGEST = "ab" + "0" * 30
BEGUN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return BEGUN + timedelta(seconds=seconds)


def folder_with(tmp_path: Path, *rows: ResultRow) -> RunFolder:
    folder = RunFolder(tmp_path / "out").create()
    with Journal(folder.results, "r1") as journal:
        for row in rows:
            journal.append(row)
    return folder


def row(number: int, begun: float, ended: float, status: Status = "ok", **more: Any) -> ResultRow:
    times = {"started_at": after(begun), "finished_at": after(ended)}
    return ResultRow(f"r{number}", DIGEST, status, **times, **more)


def test_every_row_frame_and_second_is_there_once(tmp_path: Path) -> None:
    """Rows and frames by when they ended, failed ones apart; a stage's busy time adds up to its
    seconds in the ledger; later stages lie after earlier ones."""
    seconds: dict[str, Any] = {
        "seconds_sample": 3.0,
        "seconds_temporal": 1.0,
        "seconds_assemble": 0.5,
    }
    many = [row(n, n, n + 5, num_frames=8, **seconds) for n in range(200)]
    others = [row(900, 10, 20, "failed", stage="decode"), row(901, 30, 30, "invalid")]
    made = timeline(folder_with(tmp_path, *many, *others))
    assert made is not None
    assert (made.ok.sum(), made.failed.sum(), made.frames.sum()) == (200, 2, 1600)
    assert made.begin == BEGUN
    assert made.span * len(made.ok) == pytest.approx(204)
    busy = {stage: figures.sum() * made.span for stage, figures in made.busy.items()}
    assert busy == pytest.approx(
        {"sample": 600, "temporal": 200, "spatial": 0, "assemble": 100}, rel=1e-6
    )
    assert np.allclose(made.busy["sample"][10:-10], 3)
    spans = np.arange(len(made.ok))
    middles = {stage: np.sum(spans * f) / max(f.sum(), 1e-9) for stage, f in made.busy.items()}
    assert middles["sample"] < middles["temporal"] < middles["assemble"]


def test_only_the_run_asked_for(tmp_path: Path) -> None:
    """Rows that ended before `since` are another run's; where none is left there is no timeline."""
    rows = [row(0, 0, 5, num_frames=8), row(1, 1000, 1010, num_frames=8)]
    folder = folder_with(tmp_path, *rows)
    made = timeline(folder, since=after(100))
    assert made is not None
    assert (made.begin, made.ok.sum()) == (after(1000), 1)
    assert timeline(folder, since=after(2000)) is None


@pytest.mark.parametrize(("count", "bins"), [(1, LEAST_BINS), (200, 50), (3000, MOST_BINS)])
def test_the_spans_fit_the_rows(tmp_path: Path, count: int, bins: int) -> None:
    """As many spans as the rows can fill: a few for a short run, never more than a picture shows."""
    made = timeline(folder_with(tmp_path, *(row(n, n, n + 1) for n in range(count))))
    assert made is not None and len(made.ok) == bins


def test_the_picture(tmp_path: Path) -> None:
    """An SVG with a name for what is in it and no more, the same from the same figures; as an
    address of itself it holds the same text. Rows that took no time at all do not break it."""
    seconds: dict[str, Any] = {"seconds_sample": 3600.0, "seconds_spatial": 30.0}
    rows = [row(n, 4000 * n, 4000 * n + 3700, num_frames=8, **seconds) for n in range(30)]
    folder = folder_with(tmp_path, *rows, row(99, 5, 5, "invalid"))
    svg = write_throughput(folder)
    assert svg is not None
    assert folder.throughput_file.read_text("utf-8") == svg == write_throughput(folder)
    words = {text.strip() for text in ElementTree.fromstring(svg).itertext()}
    assert {"rows ok", "failed", "frames", "sample", "spatial"} <= words
    assert not {"temporal", "assemble"} & words & set(STAGES)
    assert {"rows a day", "frames a day", "actors at work"} <= words
    head, data = data_uri(svg).split(",")
    assert head == "data:image/svg+xml;base64" and base64.b64decode(data).decode() == svg
    still = timeline(folder_with(tmp_path / "still", row(0, 7, 7)))
    assert still is not None and "actors at work" in draw(still)


def test_nothing_ended(tmp_path: Path) -> None:
    """No row, no picture and no file."""
    folder = folder_with(tmp_path)
    assert write_throughput(folder) is None
    assert not folder.throughput_file.exists()


def test_each_actor_has_its_row(tmp_path: Path) -> None:
    """Where it is known what each actor did, the picture names their stages; else it does not."""
    made = timeline(folder_with(tmp_path, row(0, 0, 30, num_frames=8)))
    assert made is not None
    actors = [
        {"stage": stage, "actor": 0, "busy_percent": [0, 100]} for stage in ("sample", "post")
    ]
    record = {"begin": after(-5).isoformat(), "span_seconds": 10.0, "actors": actors}
    words = {element.text for element in ElementTree.fromstring(draw(made, record)).iter()}
    assert {"each actor", "sample", "post"} <= words
    assert "each actor" not in draw(made)
