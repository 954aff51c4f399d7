"""Prefect's own retries of a task: rows that have ended are left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.running import TIME_LIMIT, environment, write_rows

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
from collections import Counter

from flows.embedded import embedded_prefect
from flows.bench.noop_crew import noop_crew
from flows.settings import RenderSettings
from manifests.read import Manifest
from manifests.storage import RunFolder

manifest, out = sys.argv[1:]
ROWS, BREAKS_AT = 30, 12
ended, read = Counter(), []
whole = Manifest.rows_at

def stumbling(self, positions):
    '''A share that answers no more in the midst of a shard, once.'''
    attempt = len(read)
    read.append(0)
    for raw in whole(self, positions):
        if attempt == 0 and read[0] == BREAKS_AT:
            raise OSError("the share is gone for a moment")
        read[attempt] += 1
        yield raw

Manifest.rows_at = stumbling
settings = RenderSettings(samplers=1)
folder = RunFolder(out).create()
crew = noop_crew(settings.cluster(), folder.address, ROWS)
try:
    with embedded_prefect():
        from flows.render_manifest import Caller, caller, render_manifest
        caller.set(Caller(on_row=lambda row: ended.update([row.id]), crew=crew))
        summary = render_manifest(manifest, out, settings)
finally:
    crew.close()
print(json.dumps({"ended": ended, "read": read, "summary": summary}))
"""


def test_a_task_that_is_tried_again_leaves_out_rows_that_have_ended(
    tiny_model: Path, tmp_path: Path
) -> None:
    """A shard's task breaks off after some of its rows, and Prefect, told to by its setting, runs it
    again: the second attempt takes the others alone, every row ends once, and the run is as any."""
    row = {"prompt": "a", "model": str(tiny_model), "num_frames": 2}
    rows = [{"id": f"r{i}", **row} for i in range(30)]
    manifest = write_rows(tmp_path / "m.parquet", rows)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(manifest), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        env=environment(PREFECT_TASKS_DEFAULT_RETRIES="1", PREFECT_HOME=str(tmp_path / "prefect")),
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["read"] == [12, 30]  # it did break, and was read again from its beginning
    assert told["ended"] == {row["id"]: 1 for row in rows}
    assert told["summary"]["rendered"] == {"ok": 30, "failed": 0, "invalid": 0}
    assert told["summary"]["rows"] == {"ok": 30, "failed": 0, "invalid": 0}
