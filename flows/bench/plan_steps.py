"""The steps of `zs2 bench plan`, each run in a process of its own: `python -m flows.bench.plan_steps`.

A step prints one JSON object: its seconds, its processor's seconds, its peak memory, and what else
it has to say.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.journal import Journal
from manifests.ledger import known
from manifests.read import open_manifest
from manifests.result import ResultRow
from manifests.run_file import write_json
from manifests.storage import RunFolder
from tasks.catalogue import Catalogue
from tasks.ending import parameters
from tasks.job import RECIPE, Engine
from tasks.kin import Kind, PlannedRow, planned_rows
from tasks.plan import make_plan
from tasks.publish import Tally, publish

if TYPE_CHECKING:
    from tasks.crew import Crew

MANIFEST, RUN_MANIFEST, OUT, RUN_OUT = "manifest.parquet", "run.parquet", "out", "run"
CHUNK = 100_000  # rows written at once
WARM_ROWS = 10_000  # of the run: by then Prefect and Ray have what memory they take


def memory(what: str) -> float:
    """MB of this process: `VmRSS` now, `VmHWM` at its peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{what}:")[2].split()[0]) / 1024


def make(folder: Path, rows: int, run_rows: int) -> dict[str, Any]:
    """A manifest of `rows` for planning and one of `run_rows` for the run."""
    for name, count in ((MANIFEST, rows), (RUN_MANIFEST, run_rows)):
        writer: pq.ParquetWriter | None = None
        for start in range(0, count, CHUNK):
            table = _table(start, min(start + CHUNK, count))
            writer = writer or pq.ParquetWriter(folder / name, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()
    return {"rows": rows}


def _table(start: int, end: int) -> pa.Table:
    """Rows that differ in words and seed, of 48 sets of parameters, with two columns of the user's."""
    rng = np.random.default_rng(start)
    rows = range(start, end)
    return pa.table(
        {
            "id": [f"clip-{row:07d}" for row in rows],
            "prompt": [f"a red star over the sea at night, take {row}" for row in rows],
            "seed": rng.integers(0, 2**62, len(rows)),
            "num_frames": rng.choice([8, 16, 24], len(rows)),
            "kl_target": rng.choice([0.005, 0.01], len(rows)),
            "momentum": rng.choice([0.95, 0.98], len(rows)),
            "guidance_scale": rng.choice([3.0, 7.5], len(rows)),
            "codec": pa.array(rng.choice(["h264", "webp"], len(rows)).tolist()),
            "meta_source": [f"set-{row % 7}" for row in rows],
            "meta_number": list(rows),
        }
    )


def plan(folder: Path, rows: int, run_rows: int) -> dict[str, Any]:
    """Plan a manifest of which nothing is done."""
    made = make_plan(
        open_manifest(folder / MANIFEST), Catalogue(), defaults={}, engine=Engine("auto")
    )
    assert made.work.rows == rows and not made.invalid_rows
    return {"rows": rows}


def record(folder: Path, rows: int, run_rows: int) -> dict[str, Any]:
    """Leave what a run leaves that was killed after its last row: a journal, and (empty) videos."""
    out = RunFolder(folder / OUT).create()
    manifest = open_manifest(folder / MANIFEST)
    now = datetime.now(UTC)
    write_json(
        out.run_file,
        {
            "run_id": "bench",
            "state": "running",
            "manifest": str(folder / MANIFEST),
            "rows": rows,
            "started_at": now.isoformat(),
        },
    )
    for number in range(256):
        (out.videos / f"{number:02x}").mkdir(exist_ok=True)
    texts: dict[Kind, str] = {}
    with Journal(out.results, "bench") as journal:
        for row in planned_rows(manifest, Catalogue(), {}, Engine("auto")):
            assert isinstance(row, PlannedRow)
            job = row.kind.job
            if row.kind not in texts:
                texts[row.kind] = parameters(job)
            path = out.video_path(row.digest, row.id, job.row.codec)
            os.mknod(path)
            journal.append(
                ResultRow(
                    row.id,
                    row.digest,
                    "ok",
                    file_name=out.file_name(path),
                    sha256=row.digest * 2,
                    bytes=0,
                    num_frames=job.row.num_frames,
                    height=job.row.height,
                    width=job.row.width,
                    fps=job.row.fps,
                    prompt="a red star over the sea at night",
                    seed=row.position,
                    model=job.row.model,
                    model_revision=job.revision,
                    params=texts[row.kind],
                    kl_achieved=(0.01,) * (job.row.num_frames - 1),
                    seconds_sample=0.1,
                    seconds_assemble=0.1,
                    device="none",
                    node="bench",
                    started_at=now,
                    finished_at=now,
                    recipe=RECIPE,
                    meta={"meta_source": "bench", "meta_number": row.position},
                )
            )
    return {"rows": rows}


def resume(folder: Path, rows: int, run_rows: int) -> dict[str, Any]:
    """Find that all rows are done: ledger, plan, and a look for each video."""
    out = RunFolder(folder / OUT)
    made = make_plan(
        open_manifest(folder / MANIFEST),
        Catalogue(),
        defaults={},
        engine=Engine("auto"),
        known=known(out.root),
        folder=out,
    )
    assert made.done == rows
    return {"rows": rows}


def status(folder: Path, rows: int, run_rows: int) -> dict[str, Any]:
    """What `zs2 status` says."""
    from flows.commands.status import status as status_of

    assert status_of(str(folder / OUT))["ok"] == rows
    return {"rows": rows}


def publish_all(folder: Path, rows: int, run_rows: int) -> dict[str, Any]:
    """Plan, then compact the ledger and write metadata, summary and gallery."""
    out = RunFolder(folder / OUT)
    made = make_plan(
        open_manifest(folder / MANIFEST), Catalogue(), defaults={}, engine=Engine("auto")
    )
    started, used = time.perf_counter(), time.process_time()
    summary = publish(out, made.digests, Tally(), run_id="bench", title="bench")
    assert summary["rows"]["ok"] == rows
    return {
        "rows": rows,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - used,
    }


def run(folder: Path, rows: int, run_rows: int) -> dict[str, Any]:
    """The flow itself, with actors that do nothing: Prefect, Ray, pools, pipeline and journal."""
    from flows.bench.flow_run import run_flow
    from flows.bench.noop_crew import noop_crew
    from flows.settings import RenderSettings

    settings = RenderSettings()  # pyright: ignore[reportCallIssue]
    marks: list[tuple[int, float, float, float]] = []  # rows, seconds, processor seconds, MB
    early_row = WARM_ROWS if run_rows > WARM_ROWS else max(1, run_rows // 10)
    wanted = {1, early_row, *(run_rows * tenth // 10 for tenth in range(1, 11))}
    ended = 0

    def on_row(row: ResultRow) -> None:
        nonlocal ended
        ended += 1
        if ended in wanted:
            now = time.perf_counter(), time.process_time()
            marks.append((ended, *now, memory("VmRSS")))

    def crew(root: str) -> Crew:
        return noop_crew(settings.cluster(), root, run_rows)

    summary = run_flow(folder / RUN_MANIFEST, folder / RUN_OUT, settings, crew, on_row)
    assert summary["rows"]["ok"] == run_rows
    (_, begun, used, _), *_, late = marks
    mb_by_row = {row: mb for row, _, _, mb in marks}
    return {
        "rows": run_rows,
        "seconds": late[1] - begun,
        "cpu_seconds": late[2] - used,
        "early_row": early_row,
        "mb_early": mb_by_row[early_row],
        "mb_late": late[3],
        "mb_by_row": mb_by_row,
    }


STEPS: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
    "make": make,
    "plan": plan,
    "record": record,
    "status after a kill": status,
    "resume after a kill": resume,
    "publish": publish_all,
    "resume": resume,
    "status": status,
    "run": run,
}


def main() -> None:
    """Run the step that the arguments name: step, folder, rows, rows of the run."""
    name, folder, rows, run_rows = sys.argv[1:]
    started, used, loaded = time.perf_counter(), time.process_time(), memory("VmHWM")
    found = STEPS[name](Path(folder), int(rows), int(run_rows))
    measured = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - used,
        "mb_loaded": loaded,
        "mb_peak": memory("VmHWM"),
    }
    print(json.dumps(measured | found))


if __name__ == "__main__":
    main()
