"""The crew of a run: whatever ends its thread, who waits for the pipeline or for a row hears of it."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from tasks.crew import Cluster, Crew
from tests.tasks.conftest import MakeJob


def test_what_cannot_be_imported_is_raised_where_the_pipeline_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broken installation ends the run, with its own error; nobody waits for a crew that died."""
    monkeypatch.setitem(sys.modules, "tasks.cluster", None)
    crew = Crew(Cluster(), "out", rows=1)
    with pytest.raises(ImportError):
        crew.pipeline()
    crew.close()


WATCH_FAILS = """
import time
import ray
from tasks import cluster, crew
from tasks.crew import Cluster, Crew

class Sleeper:
    def __init__(self):
        time.sleep(3)

    @ray.method(num_returns="streaming")
    def run(self, job, chunks):
        yield time.sleep(600)

def no_answer():
    if pipeline.has_begun():
        raise OSError("who watches the watch")

def spawners(placement, root):
    start = lambda: ray.remote(Sleeper).options(num_cpus=0).remote()
    return {stage: start for stage in placement.spawners(root)}

crew.WATCH_SECONDS, crew.SHOW_SECONDS = 0.5, 1.0
cluster.cluster_fault = no_answer
crew = Crew(Cluster(), "out", 1, spawners, show=print)
pipeline = crew.pipeline()
try:
    pipeline.render(iter([JOB]), print)
except OSError as error:
    print("heard:", error)
crew.close()
print("left:", ray.is_initialized())
"""


def test_a_watch_that_fails_ends_the_run(make_job: MakeJob) -> None:
    """While no sampler is up, who watches hears of that. An error nobody thought of while the cluster
    is watched reaches the rows in flight: the run ends, and leaves the cluster, instead of going on
    unwatched or waiting for ever."""
    job = pickle.dumps(make_job())
    script = f"import pickle\nJOB = pickle.loads({job!r})\n{WATCH_FAILS}"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert "heard: who watches the watch" in done.stdout, done.stderr
    assert "starting 1 sampler …\nstill starting 1 sampler: " in done.stdout
    assert "left: False" in done.stdout
