"""The steps of `zs2 bench scale`, each in a process of its own: `python -m flows.bench.scale_steps`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.result import ResultRow

REAL_FRAMES = 8


def sleeping(actors: int, batches: int, seconds: float) -> dict[str, Any]:
    """Samplers that sleep over each row, driven by the whole flow.

    Returns:
        `busy`, see `busy_share`; and from the moment when each actor has had time for two rows until the
        last rows are handed out, `driver`, the processor's seconds of this process in each second,
        `rows_per_second`, and `ideal`.
    """
    from flows.bench.flow_run import run_flow
    from flows.bench.noop_crew import noop_crew
    from flows.settings import RenderSettings
    from tasks.crew import Crew

    rows = actors * batches
    settings = RenderSettings(samplers=actors)  # pyright: ignore[reportCallIssue]
    marks: list[Mark] = []

    def on_row(row: ResultRow) -> None:
        slept, actor = row.seconds_sample or 0.0, row.node or ""
        marks.append(Mark(time.perf_counter(), time.process_time(), slept, actor))

    def crew(root: str) -> Crew:
        cluster = replace(settings.cluster(), local_cpus=actors, local_gpus=0)
        return noop_crew(cluster, root, rows, seconds)

    with tempfile.TemporaryDirectory(prefix="zs2-bench-") as folder:
        manifest = write_rows(Path(folder, "m.parquet"), rows)
        summary = run_flow(manifest, Path(folder, "out"), settings, crew, on_row)
    assert summary["rows"]["ok"] == rows
    first, last = marks[2 * actors], marks[rows - 2 * actors]
    length = last.at - first.at
    return {
        "rows": rows,
        "seconds": length,
        "busy": busy_share(marks),
        "driver": (last.used - first.used) / length,
        "rows_per_second": (rows - 4 * actors) / length,
        "ideal": actors / seconds,
        "waited_seconds": summary["utilisation"]["sampler_waited_seconds"],
    }


@dataclass(frozen=True)
class Mark:
    """A row's end: when, the processor's seconds of this process by then, how long the row was slept
    over by the actor's own clock, and by which."""

    at: float
    used: float
    slept: float
    actor: str


def busy_share(marks: Sequence[Mark]) -> float:
    """The share of their time that actors slept, each from the end of the row that ends its first third
    to that of its last but one: before, actors come up, those after it too, and rows end late; after,
    rows run out."""
    by_actor: dict[str, list[Mark]] = {}
    for mark in marks:
        by_actor.setdefault(mark.actor, []).append(mark)
    counted = [own[len(own) // 3 : -1] for own in by_actor.values() if len(own) >= 4]
    slept = sum(mark.slept for own in counted for mark in own[1:])
    return slept / sum(own[-1].at - own[0].at for own in counted)


def real(rows: int, pairs: int) -> dict[str, Any]:
    """Clips of zs2-mini by one sampler actor and by two, of one thread each, in turn.

    Args:
        rows: for each actor of a round.

    Returns:
        `one` and `two`: clips a second of each round; `efficiency`: two ÷ (2 × one) of each pair.
    """
    from tasks.cluster import connect, disconnect

    with tempfile.TemporaryDirectory(prefix="zs2-bench-") as folder:
        many = (1 + 2) * rows * (pairs + 1)
        jobs = zs2_mini_jobs(write_rows(Path(folder, "m.parquet"), many, num_frames=REAL_FRAMES))
        connect(local_cpus=max(2, len(os.sched_getaffinity(0))))
        try:
            return _in_pairs(Path(folder), jobs, rows, pairs)
        finally:
            disconnect()


def _in_pairs(folder: Path, jobs: Iterator[Any], rows: int, pairs: int) -> dict[str, Any]:
    from manifests.storage import RunFolder
    from tasks.pipeline import Pipeline, Stage
    from tasks.placement import Placement
    from tasks.pool import ActorPool

    root = RunFolder(folder / "out").create().address
    spawn = Placement(2, 1.0, 0.0, 1, 1).spawners(root)["sample"]
    actors = [spawn() for _ in range(2)]
    pipelines = [
        Pipeline([Stage(ActorPool("sample", iter(actors[:size]).__next__, size))])
        for size in (1, 2)
    ]
    try:
        found: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(pairs + 1):  # the first one warms up
            for size, pipeline in enumerate(pipelines, 1):
                batch = [next(jobs) for _ in range(rows * size)]
                found[size].append(rate(pipeline, batch, skip=size))
    finally:
        for pipeline in pipelines:
            pipeline.close()
    one, two = found[1][1:], found[2][1:]
    return {
        "rows": rows,
        "one": one,
        "two": two,
        "efficiency": [b / (2 * a) for a, b in zip(one, two, strict=True)],
    }


def rate(pipeline: Any, jobs: Sequence[Any], skip: int) -> float:
    """Rows a second of a pipeline that renders these, from the end of its first `skip` rows to that
    of the last one."""
    ends: list[float] = []
    failed: list[str] = []

    def on_end(ending: Any) -> None:
        ends.append(time.perf_counter())
        if ending.status != "ok":
            failed.append(str(ending.error_message))

    thread = threading.Thread(target=pipeline.render, args=(iter(jobs), on_end))
    thread.start()
    thread.join()
    assert not failed and len(ends) == len(jobs), failed[:1]
    return (len(ends) - skip) / (ends[-1] - ends[skip - 1])


def zs2_mini_jobs(manifest: Path) -> Iterator[Any]:
    """The jobs of a manifest, in order."""
    from manifests.read import open_manifest
    from tasks.catalogue import Catalogue
    from tasks.job import Engine
    from tasks.plan import jobs_of, make_plan

    source, catalogue, engine = open_manifest(manifest), Catalogue(), Engine()
    made = make_plan(source, catalogue, defaults={}, engine=engine)
    for shard in made.shards:
        yield from jobs_of(shard, source, catalogue, {}, engine)


def write_rows(path: Path, rows: int, **columns: Any) -> Path:
    """A manifest of rows that differ in id and seed."""
    table: dict[str, Any] = {
        "id": [f"clip-{row:06d}" for row in range(rows)],
        "prompt": ["a red star over the sea at night"] * rows,
        "seed": list(range(rows)),
    }
    pq.write_table(
        pa.table(table | {name: [value] * rows for name, value in columns.items()}), path
    )
    return path


def main() -> None:
    """Run the step that the arguments name, with its numbers."""
    name, *numbers = sys.argv[1:]
    if name == "sleeping":
        made = sleeping(int(numbers[0]), int(numbers[1]), float(numbers[2]))
    else:
        made = real(int(numbers[0]), int(numbers[1]))
    print(json.dumps(made))


if __name__ == "__main__":
    main()
