"""The crew of a run: whatever ends its thread, who waits for the pipeline or for a row hears of it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.crew import Cluster, Crew
from tests.tasks.conftest import MakeJob


def test_what_cannot_be_imported_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation ends the run, with its own error; nobody waits for a crew that died."""
    monkeypatch.setitem(sys.modules, "tasks.cluster", None)
    with pytest.raises(ImportError):
        Crew(Cluster(), "out", batches=1)


IMPORTS = """
import sys
from importlib import import_module
from tasks.crew import IMPORTED_BEFORE, Cluster, Crew

for name in ("flows.commands.run", *IMPORTED_BEFORE):
    import_module(name)
before = set(sys.modules)
if sys.argv[1] == "caller":
    from flows.embedded import embedded_prefect
    with embedded_prefect():
        import flows.render_manifest
else:
    crew = Crew(Cluster(local_cpus=1), sys.argv[1], 1)
    crew.placement()
    crew.close()
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.slow
def test_two_threads_do_not_import_the_same(tmp_path: Path) -> None:
    """While Ray starts in the crew's thread and Prefect in the caller's: a package whose modules import
    each other in a circle was found half-made once in a few thousand starts."""
    found: list[set[str]] = []
    for who in ("caller", str(tmp_path)):
        command = [sys.executable, "-c", IMPORTS, who]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
        found.append(set(done.stdout.splitlines()[-1].split()))
    caller, crew = found
    assert "prefect.flows" in caller and "ray.dashboard" in crew
    assert not caller & crew


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
