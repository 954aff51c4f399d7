"""Run folders for tests of the gallery, with clips of every codec that ffmpeg has really written; and
a page's rows, read back."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from manifests.journal import Journal
from manifests.result import ResultRow
from manifests.run_file import write_json
from manifests.storage import RunFolder
from tasks.assemble import assemble
from tasks.previews import needs_preview, write_preview

CODECS = ("h264", "ffv1", "gif", "webp", "png", "h265", "av1")
FRAMES, FPS = 12, 8.0
SCORE_NAMES = ("clip_score", "frame_consistency", "dynamic_degree")
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def moving(seed: int, frames: int = FRAMES, side: int = 48) -> np.ndarray[Any, Any]:
    """A square that crosses a coloured sky."""
    rng = np.random.default_rng(seed)
    sky, square = rng.integers(40, 200, 3), rng.integers(120, 255, 3)
    clip = np.empty((frames, side, side, 3), np.uint8)
    clip[:] = sky
    for number, frame in enumerate(clip):
        at = 2 + number * (side - 16) // frames
        frame[side // 3 : side // 3 + 14, at : at + 14] = square
    return clip


def clip_row(folder: RunFolder, row_id: str, codec: str = "h264", **more: Any) -> ResultRow:
    """A finished row with its file, and the preview that the codec needs."""
    seed = sum(row_id.encode())
    digest = f"{seed % 256:02x}" + "0" * 30
    frames = moving(seed)
    path = folder.video_path(digest, row_id, codec)
    done = assemble(frames, path, FPS, codec)
    if needs_preview(codec):
        write_preview(frames, folder.preview_path(digest, row_id), FPS)
    values: dict[str, Any] = {
        "file_name": folder.file_name(path),
        "sha256": done.sha256,
        "bytes": done.bytes,
        "num_frames": FRAMES,
        "height": done.height,
        "width": done.width,
        "fps": FPS,
        "prompt": f"a square of {row_id}",
        "seed": 2**62 + seed,
        "model": "zs2-mini",
        "params": params(codec),
        "kl_achieved": tuple(0.01 + 0.001 * i for i in range(FRAMES - 1)),
        "seconds_sample": 1.0 + seed % 7,
        "seconds_assemble": 0.25,
        "device": "cpu",
        "finished_at": NOON,
    }
    return ResultRow(row_id, digest, "ok", **{**values, **more})


def params(codec: str = "h264", **more: Any) -> str:
    """What a row's parameters are, as the ledger has them."""
    known = {
        "model": "zs2-mini",
        "num_frames": FRAMES,
        "segment_frames": 8,
        "noise": "dependency",
        "solver": "expected",
        "kl_target": 0.02,
        "codec": codec,
        "dtype": "auto",
        "safety_checker": True,
    }
    return json.dumps({**known, **more})


def write_run(folder: RunFolder, rows: list[ResultRow], **more: Any) -> None:
    """A run's run.json and journal, as a run that ended left them."""
    folder.create()
    content = {
        "run_id": "r1",
        "state": "finished",
        "manifest": "/data/squares.parquet",
        "rows": len(rows),
        "settings": {"defaults": {"fps": 8.0}, "threads": 2},
        "started_at": NOON.isoformat(),
    }
    write_json(folder.run_file, {**content, **more})
    with Journal(folder.results, "r1") as journal:
        for row in rows:
            journal.append(row)


def data_of(folder: Path) -> dict[str, Any]:
    """The data in a folder's page."""
    page = (folder / "index.html").read_text("utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder's page."""
    return unpacked(data_of(folder))


def unpacked(data: dict[str, Any]) -> list[dict[str, Any]]:
    """A page's rows, as its script unpacks them: without what a row has no value for."""
    return [_unpacked_row(data["columns"], index) for index in range(data["rows"])]


def _unpacked_row(columns: dict[str, Any], index: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, column in columns.items():
        if "in" in column:
            inner = _unpacked_row(column["in"], index)
            value = inner or None
        elif "all" in column:
            value = column["all"]
        else:
            value = column["each"][index] if "each" in column else column["of"][column["at"][index]]
        if value is not None:
            row[name] = value
    return row
