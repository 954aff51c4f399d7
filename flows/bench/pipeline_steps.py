"""The measuring of `zs2 bench pipeline`: `python -m flows.bench.pipeline_steps ROWS SAMPLERS`."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flows.bench.flow_run import run_flow
from flows.bench.scale_steps import rate, write_rows, zs2_mini_jobs
from flows.settings import RenderSettings
from manifests.result import ResultRow
from manifests.storage import RunFolder
from tasks.cluster import connect, disconnect
from tasks.crew import Crew
from tasks.pipeline import Pipeline, Stage
from tasks.placement import Placement
from tasks.pool import ActorPool

POST = {"temporal_scale": 2, "spatial_scale": 2}


def bare(folder: Path, rows: int, samplers: int) -> float:
    """Rows a second of samplers that nothing comes after, from the end of their first rows on."""
    root = RunFolder(folder / "out").create().address
    connect(local_gpus=0)
    try:
        spawn = Placement(samplers, 1.0, 0.0, 1, 1).spawners(root)["sample"]
        made = Pipeline([Stage(ActorPool("sample", spawn, samplers))])
        try:
            jobs = list(zs2_mini_jobs(write_rows(folder / "m.parquet", rows, **POST)))
            return rate(made, jobs, skip=samplers)
        finally:
            made.close()
    finally:
        disconnect()


def whole(folder: Path, rows: int, samplers: int) -> tuple[float, dict[str, Any]]:
    """Rows a second of the flow, counted in the same way, and its utilisation."""
    settings = RenderSettings(samplers=samplers, local_gpus=0)  # pyright: ignore[reportCallIssue]
    ends: list[float] = []

    def on_row(row: ResultRow) -> None:
        ends.append(time.perf_counter())

    def crew(root: str) -> Crew:
        return Crew(settings.cluster(), root, rows)

    manifest = write_rows(folder / "m.parquet", rows, **POST)
    summary = run_flow(manifest, folder / "out", settings, crew, on_row)
    assert summary["rows"]["ok"] == rows
    return (rows - samplers) / (ends[-1] - ends[samplers - 1]), summary["utilisation"]


def main() -> None:
    """Samplers alone with a quarter of the rows, the flow, samplers alone once more."""
    rows, samplers = map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="zs2-bench-") as name:
        folders = [Path(name, each) for each in ("before", "whole", "after")]
        for folder in folders:
            folder.mkdir()
        few = max(2 * samplers, rows // 4)
        before = bare(folders[0], few, samplers)
        found, utilisation = whole(folders[1], rows, samplers)
        after = bare(folders[2], few, samplers)
    report = {
        "rows": rows,
        "samplers": samplers,
        "bare": [before, after],
        "whole": found,
        "utilisation": utilisation,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
