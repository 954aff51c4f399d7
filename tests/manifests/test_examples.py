"""The bundled example manifests are what their sources say."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from manifests.build import build
from manifests.read import open_manifest
from manifests.row import ManifestRow
from manifests.study import build_study
from manifests.validate import check_rows
from tasks.job import Engine
from tasks.plan import Catalogue, make_plan

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


def test_the_study_is_what_the_command_writes(tmp_path: Path):
    """study-grid.parquet and study-prompts.parquet hold the tables that `zs2 manifest build --study`
    writes, value by value and type by type, in at most 20 kB."""
    written = build_study(tmp_path)
    assert [path.name for path, _ in written] == ["study-grid.parquet", "study-prompts.parquet"]
    for path, count in written:
        bundled = EXAMPLES / path.name
        assert pq.read_table(bundled).equals(pq.read_table(path))
        assert len(rows_of(bundled)) == count
        assert bundled.stat().st_size < 20_000


def test_the_study_is_ready_to_render():
    """Both manifests plan without a fault on the bundled model: every row becomes work, and their
    ids are apart, so that the folder of both is one manifest, too."""
    ids: set[str] = set()
    for name, rows in (("study-grid", 28), ("study-prompts", 98)):
        manifest = open_manifest(EXAMPLES / f"{name}.parquet")
        plan = make_plan(manifest, Catalogue(), defaults={}, engine=Engine("float32"))
        assert (plan.rows, plan.invalid_rows, plan.work.rows) == (rows, 0, rows)
        assert plan.work.frames == 8 * rows
        ids |= {row.id for row in rows_of(EXAMPLES / f"{name}.parquet")}
    assert len(ids) == 28 + 98
