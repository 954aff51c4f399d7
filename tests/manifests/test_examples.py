"""The bundled example manifests are what their sources say."""

from __future__ import annotations

from pathlib import Path

from manifests.build import build
from manifests.read import open_manifest
from manifests.row import ManifestRow
from manifests.validate import check_rows

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"


def rows_of(path: Path) -> list[ManifestRow]:
    rows = [row for _, row in check_rows(open_manifest(path))]
    assert all(isinstance(row, ManifestRow) for row in rows)
    return rows  # pyright: ignore[reportReturnType]


def test_the_demo_is_built_from_its_source(tmp_path: Path):
    """demo.parquet holds the rows of demo.jsonl, in order, all valid."""
    build(EXAMPLES / "demo.jsonl", tmp_path / "demo.parquet")
    assert rows_of(EXAMPLES / "demo.parquet") == rows_of(tmp_path / "demo.parquet")


def test_the_demo_shows_what_there_is_to_see():
    """At least eight rows: plain clips, three chained segments, a storyboard, a λ that speeds up, a
    still, temporal ×2, spatial ×2, a GIF, and columns of one's own."""
    rows = rows_of(EXAMPLES / "demo.parquet")
    assert len(rows) >= 8
    assert any(r.num_frames == 24 and r.num_segments == 3 and len(r.prompt) == 1 for r in rows)
    assert any(len(r.prompt) == 3 for r in rows)
    assert any(
        isinstance(r.kl_target, tuple) and list(r.kl_target) == sorted(r.kl_target) for r in rows
    )
    assert any(r.kl_target == 0 for r in rows)
    assert any(r.temporal_scale == 2 for r in rows)
    assert any(r.spatial_scale == 2 for r in rows)
    assert any(r.codec == "gif" for r in rows)
    assert all(r.meta for r in rows)
