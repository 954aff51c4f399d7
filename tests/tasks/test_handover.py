"""Split rows on a real Ray: what shares hand on, and what becomes of a row that loses a sampler."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from tasks.actors import StageFailure
from tasks.ending import Ending
from tasks.handover import ROOM, Attempt, HandoverError, Line
from tasks.job import Job
from tasks.pipeline import MAX_ROW_CRASHES, Pipeline, Stage
from tasks.pool import ActorPool
from tests.tasks.conftest import MakeJob

pytestmark = pytest.mark.usefixtures("local_ray")
OPTIONS = {"num_cpus": 0, "num_gpus": 0, "max_restarts": 0}
STEPS = 9


class Sampler:
    """A sampler whose clip is one number a segment: a running sum, handed on step by step. The row's
    `meta_do` is what its second share does at its first attempt, or `always` what it does at each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @ray.method(num_returns="streaming")
    def run(self, job: Job, chunks: Any, line: Line | None = None) -> Iterator[Any]:
        index = 0 if line is None else line.index
        mark = self.folder / f"call-{job.row.id}-{index}-{time.monotonic_ns()}-{os.getpid()}"
        mark.touch()
        attempt = len(list(self.folder.glob(f"call-{job.row.id}-{index}-*"))) - 1
        try:
            total = self._sample(job, line, attempt)
        except HandoverError as error:
            (self.folder / f"given-up-{job.row.id}-{index}-{os.getpid()}").touch()
            yield StageFailure("sample", "HandoverError", str(error), "", again=True)
            return
        except MemoryError as error:
            yield StageFailure("sample", "OutOfMemory", str(error), "")
            return
        yield np.full((1, 2, 2, 3), total)
        share = {} if line is None else {"share": line.report()}
        yield {"seconds_sample": 1.0, "node": "n", "note": "once", "pids": 1, **share}

    def _sample(self, job: Job, line: Line | None, attempt: int) -> int:
        total = 0
        for step in range(STEPS):
            total = step
            if line is not None and not line.is_first:
                total += int(line.receive(step)["sum"][0])
                do = job.row.meta.get("meta_do")
                if step == 2 and do and (attempt == 0 or "always" in do):
                    if "die" in do:
                        os._exit(1)
                    raise MemoryError("no room")
            if line is not None and not line.is_last:
                array = np.full(1000, total)
                line.send(step, {"sum": array}, [array])
        if line is not None:
            line.settle()
        return total


class Post:
    @ray.method(num_returns="streaming")
    def run(self, job: Job, chunks: list[Any]) -> Iterator[Any]:
        yield {"numbers": [int(ray.get(chunk).flat[0]) for chunk in chunks]}


ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def render(tmp_path: Path) -> Iterator[Callable[..., dict[str, Ending]]]:
    """Rows through two samplers that share each."""
    sampler = ray.remote(Sampler).options(**OPTIONS)
    pool = ActorPool("sample", lambda: sampler.remote(tmp_path), 2)
    post = ActorPool("post", lambda: ray.remote(Post).options(**OPTIONS).remote(), 1)
    pipeline = Pipeline([Stage(pool), Stage(post)], splits=True)

    def run(*jobs: Job) -> dict[str, Ending]:
        ended: dict[str, Ending] = {}
        pipeline.render(iter(jobs), lambda ending: ended.update({ending.job.row.id: ending}))
        return ended

    yield run
    pipeline.close()


def numbers(ending: Ending) -> list[int]:
    assert ending.report is not None, ending.error_message
    return ending.report["numbers"]


def test_shares_come_together(
    render: Callable[..., dict[str, Ending]], make_job: MakeJob, tmp_path: Path
) -> None:
    """Every actor has a share of every row; chunks are in the order of the frames, seconds add up, what
    all say is said once, and what was handed on is counted. A row of one segment goes to one actor."""
    ended = render(*(make_job(name, num_frames=20) for name in "abc"), make_job("short"))
    assert {name: numbers(ending) for name, ending in ended.items()} == {
        **{name: [8, 16] for name in "abc"},
        "short": [8],
    }
    report = ended["a"].report or {}
    assert report["seconds_sample"] == 2.0 and report["node"] == "n"
    assert ended["a"].error_message == "once"
    assert [share["bytes"] for share in report["shares"]] == [STEPS * 8000, 0]
    pids = {path.name.rpartition("-")[2] for path in tmp_path.glob("call-a-*")}
    assert len(pids) == 2
    assert {ending.attempts for ending in ended.values()} == {1}


def test_a_lost_sampler_costs_the_row_an_attempt(
    render: Callable[..., dict[str, Ending]], make_job: MakeJob, tmp_path: Path
) -> None:
    """Its other shares are given up at once, also one that waits for room, and the row is tried again,
    split as before; the rows behind it carry no blame. One that does so each time fails."""
    fates = {"a": "die", "b": "", "c": "die always", "d": ""}
    rows = [
        make_job(name, num_frames=20, **({"meta_do": do} if do else {}))
        for name, do in fates.items()
    ]
    ended = render(*rows)
    assert {name: ending.status for name, ending in ended.items()} == {
        **dict.fromkeys("abd", "ok"),
        "c": "failed",
    }
    attempts = {name: ending.attempts for name, ending in ended.items()}
    assert attempts == {"a": 2, "b": 1, "c": MAX_ROW_CRASHES, "d": 1}
    assert numbers(ended["a"]) == numbers(ended["d"]) == [8, 16]
    assert list(tmp_path.glob("given-up-a-0-*"))  # it had not done all its steps by itself


def test_out_of_memory_makes_a_row_whole(
    render: Callable[..., dict[str, Ending]], make_job: MakeJob
) -> None:
    """A share cannot begin again with less while others wait: the row goes to one sampler, who can."""
    ended = render(make_job("a", num_frames=20, meta_do="no memory always"))
    assert numbers(ended["a"]) == [8]
    assert ended["a"].attempts == 1


def test_a_share_ahead_waits() -> None:
    """There is room for a few messages; who would put more waits until one is taken, and hears when
    the row is given up; who waits for a message, too."""
    attempt = Attempt(2, OPTIONS)
    first, last = attempt.line(0), attempt.line(1)
    for number in range(ROOM):
        first.send(number, number)
    sent: list[Any] = []

    def ahead() -> None:
        try:
            for number in range(ROOM, ROOM + 9):
                first.send(number, number)
                sent.append(number)
        except HandoverError as error:
            sent.append(error)

    thread = threading.Thread(target=ahead)
    thread.start()
    assert [last.receive(number) for number in range(3)] == [0, 1, 2]
    end = time.monotonic() + 60
    while len(sent) < 4 and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    # one more than there is room for is on its way, which the next one waits for
    assert sent == list(range(ROOM, ROOM + 4))
    with pytest.raises(HandoverError, match="expected message 7 of the share before, found 3"):
        last.receive(7)
    attempt.end()
    thread.join(60)
    assert isinstance(sent[-1], HandoverError)
    with pytest.raises(HandoverError, match="share 2 of 2 was given up"):
        last.receive(4)
