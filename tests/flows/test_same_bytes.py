"""Same row, same bytes: whatever ran before it, beside it, on how many actors, in which order."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from manifests.ledger import iter_results
from tasks.assemble import decode
from tests.flows.running import write_rows, zs2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def rows_of(model: Path) -> list[dict[str, Any]]:
    """Ten rows of several lengths, sizes, segments, schedulers and codecs."""
    common = {"model": str(model), "num_inference_steps": 3}
    return [
        {
            "id": f"r{i}",
            "prompt": ["a b", "c"][: 1 + i % 2],
            "num_frames": 8,
            "segment_frames": 4 if i % 2 else 8,
            "scheduler": ["ddim", "euler_a", "dpm++"][i % 3],
            "codec": ["h264", "ffv1", "gif", "png"][i % 4],
            "temporal_scale": 1 + i % 2,
            "height": [32, 48][i % 5 == 0],
            **common,
        }
        for i in range(10)
    ]


def frames_of(out: Path) -> dict[str, str]:
    """The sha256 of each row's decoded frames; every row is ok and there once."""
    found: dict[str, str] = {}
    for row in iter_results(out):
        assert row.status == "ok" and row.file_name, row.error_message
        assert row.id not in found
        frames, _ = decode(out / row.file_name)
        found[row.id] = hashlib.sha256(frames.tobytes()).hexdigest()
    return found


def test_neighbours_order_actors_and_resumes_change_no_byte(
    tiny_model: Path, tmp_path: Path
) -> None:
    """One sampler and the manifest's order; two samplers and a shuffled manifest; a run of half the
    rows that the whole manifest then continues: the decoded frames of every row are equal."""
    rows = rows_of(tiny_model)
    shuffled = random.Random(1).sample(rows, len(rows))

    def render(name: str, rows: list[dict[str, Any]], out: str, samplers: int) -> dict[str, str]:
        manifest = write_rows(tmp_path / f"{name}.parquet", rows)
        done = zs2("render", manifest, "-o", tmp_path / out, "--samplers", samplers, time_limit=400)
        assert done.code == 0, done.err
        return frames_of(tmp_path / out)

    alone = render("one", rows, "one", 1)
    assert len(set(alone.values())) == len(rows)
    assert render("two", shuffled, "two", 2) == alone
    half = render("half", shuffled[:5], "resumed", 2)
    assert half.items() < alone.items()
    assert render("whole", rows, "resumed", 1) == alone
