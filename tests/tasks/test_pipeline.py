"""The pool and the pipeline on a real Ray, with actors that fail in every way they can."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from tasks import pipeline as pipeline_module
from tasks.actors import StageFailure
from tasks.disk import DiskFullError
from tasks.ending import Ending
from tasks.job import Job
from tasks.pipeline import MAX_ROW_CRASHES, Interrupted, Pipeline, Stage
from tasks.pool import SLOTS, ActorPool, PoolError

pytestmark = pytest.mark.usefixtures("local_ray")


class Actor:
    """A stage that does to each row what the row's `meta_<stage>` says; ok when it says nothing.

    `die` ends the process, `die first` only at the first attempt; `hang` never returns; `fail`,
    `fatal` (or `fatal first`), `full disk`, and `again` and `again first`, such as another attempt may
    not have, are failures as data; `raise` lets an exception out; a number is seconds of work. Every
    call leaves a file in `folder`, so that a test can count them.
    """

    def __init__(self, stage: str, folder: Path, born: str = "") -> None:
        if born == "raise":
            raise ValueError("no such model")
        if born == "die":
            os._exit(1)
        time.sleep(float(born or 0))
        self.stage = stage
        self.folder = folder
        (folder / f"pid-{os.getpid()}").touch()

    @ray.method(num_returns="streaming")
    def run(self, job: Job, chunks: list[Any]) -> Iterator[Any]:
        attempt = len(list(self.folder.glob(f"call-{self.stage}-{job.row.id}-*")))
        (self.folder / f"call-{self.stage}-{job.row.id}-{attempt}").touch()
        do = str(job.row.meta.get(f"meta_{self.stage}", ""))
        if do == "die" or (do == "die first" and attempt == 0):
            time.sleep(0.5)  # a death at once may take the answer of the row before with it
            os._exit(1)
        if do == "hang":
            time.sleep(600)
        if do == "raise":
            raise KeyError("not expected")
        if do in ("fail", "fatal", "full disk") or (do == "fatal first" and attempt == 0):
            fatal, full = do.startswith("fatal"), do == "full disk"
            kind = "DiskFullError" if full else "Bad"
            yield StageFailure(self.stage, kind, "wrong", "details", fatal, ends_run=full)
            return
        if do == "again" or (do == "again first" and attempt == 0):
            yield StageFailure(self.stage, "EncoderKilled", "shot", "details", again=True)
            return
        if do.replace(".", "").isdigit():
            time.sleep(float(do))
        frames = [ray.get(chunk) for chunk in chunks] or [np.zeros((2, 256, 256, 3), np.uint8)] * 2
        for chunk in frames:
            yield chunk + 1
        yield {f"pid_{self.stage}": os.getpid(), "sum": sum(int(chunk.sum()) for chunk in frames)}


# Ray's workers do not import test modules.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Bench:
    """Pipelines of `Actor`s that are closed when the test ends, and what they left in `folder`."""

    def __init__(self, folder: Path, make_job: Callable[..., Job]) -> None:
        self.folder = folder
        self.make_job = make_job
        self.pipelines: list[Pipeline] = []

    def pool(
        self, stage: str, size: int = 1, kind: type[ActorPool] = ActorPool, **more: Any
    ) -> ActorPool:
        born = more.pop("born", "")
        options = {"num_cpus": 0.05, "num_gpus": 0, "max_restarts": 0}
        return kind(
            stage,
            lambda: ray.remote(Actor).options(**options).remote(stage, self.folder, born),
            size,
            **more,
        )

    def pipeline(self, *stages: Stage | ActorPool) -> Pipeline:
        made = Pipeline([s if isinstance(s, Stage) else Stage(s) for s in stages])
        self.pipelines.append(made)
        return made

    def jobs(self, fates: dict[str, str | dict[str, str]]) -> list[Job]:
        """A job per id; its fate is what `sample` does to it, or what each stage does."""
        return [
            self.make_job(
                row_id,
                **{f"meta_{stage}": do for stage, do in _fate(fate).items()},
            )
            for row_id, fate in fates.items()
        ]

    def calls(self, row_id: str, stage: str = "sample") -> int:
        return len(list(self.folder.glob(f"call-{stage}-{row_id}-*")))

    def pids(self) -> list[int]:
        return [int(path.name[4:]) for path in self.folder.glob("pid-*")]


def _fate(fate: str | dict[str, str]) -> dict[str, str]:
    return fate if isinstance(fate, dict) else {"sample": fate}


@pytest.fixture
def bench(tmp_path: Path, make_job: Callable[..., Job]) -> Iterator[Bench]:
    made = Bench(tmp_path, make_job)
    yield made
    for pipeline in made.pipelines:
        pipeline.close()


def render(pipeline: Pipeline, jobs: Iterable[Job]) -> dict[str, Ending]:
    """Render, and return how each row ended; a row that ends twice fails the test."""
    ended: list[Ending] = []
    pipeline.render(iter(jobs), ended.append)
    counts = Counter(ending.job.row.id for ending in ended)
    assert not [row_id for row_id, count in counts.items() if count > 1], "ended more than once"
    return {ending.job.row.id: ending for ending in ended}


def statuses(ended: dict[str, Ending]) -> dict[str, str]:
    return {row_id: ending.status for row_id, ending in ended.items()}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_every_row_ends_exactly_once(bench: Bench):
    """Of 30 rows from three shards rendered at once, with deaths, failures and exceptions in two
    stages, each ends once: `ok` unless its own fate says otherwise, whatever its neighbours did."""
    pipeline = bench.pipeline(bench.pool("sample", 2), bench.pool("assemble"))
    fates: dict[str, str | dict[str, str]] = {
        "die": "die",
        "fail": "fail",
        "raise": {"assemble": "raise"},
        "once": {"assemble": "die first"},
        "fatal": "fatal",
    }
    shards = [
        bench.jobs({f"{shard}-{i}-{name}": fates.get(name, "") for i, name in enumerate(names)})
        for shard, names in enumerate(
            [
                ["-", "die", "-", "-", "once", "-", "-", "-", "-", "-"],
                ["-", "-", "fail", "-", "-", "-", "-", "raise", "-", "-"],
                ["-", "-", "-", "fatal", "-", "-", "-", "-", "once", "-"],
            ]
        )
    ]
    ended: list[dict[str, Ending]] = []
    threads = [
        threading.Thread(target=lambda jobs=jobs: ended.append(render(pipeline, jobs)))
        for jobs in shards
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ended) == 3
    assert sorted(map(len, ended)) == [10, 10, 10]
    failed = {i for one in ended for i, status in statuses(one).items() if status != "ok"}
    assert failed == {"0-1-die", "1-2-fail", "1-7-raise", "2-3-fatal"}
    assert bench.calls("0-4-once", "assemble") == bench.calls("2-8-once", "assemble") == 2


def test_a_shard_hears_of_its_own_rows_only(bench: Bench):
    """Rows of several render() calls share the actors; each call's on_end gets its own rows."""
    pipeline = bench.pipeline(bench.pool("sample", 2))
    results: dict[str, dict[str, Ending]] = {}

    def run(name: str) -> None:
        results[name] = render(pipeline, bench.jobs({f"{name}{i}": "0.02" for i in range(8)}))

    threads = [threading.Thread(target=run, args=(name,)) for name in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {n: set(r) for n, r in results.items()} == {
        name: {f"{name}{i}" for i in range(8)} for name in "xyz"
    }


def test_actors_keep_to_their_signatures(bench: Bench):
    """Of shards of two signatures that are open at once, two actors take one signature each, though
    the older shards' rows would come first."""
    pipeline = bench.pipeline(bench.pool("sample", 2))
    assert until(lambda: pipeline.samplers_up() == 2)
    ended: list[Ending] = []

    def run(name: str, signature: str) -> None:
        jobs = [
            replace(job, model=replace(job.model, location=signature))
            for job in bench.jobs({f"{name}{i}": "0.05" for i in range(6)})
        ]
        pipeline.render(iter(jobs), ended.append, jobs[0].signature)

    shards = [("1", "x"), ("2", "y"), ("3", "x"), ("4", "y")]
    threads = [threading.Thread(target=run, args=shard) for shard in shards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ended) == 24
    by_actor: dict[int, list[str]] = {}
    for ending in ended:
        assert ending.report is not None
        locations = by_actor.setdefault(ending.report["pid_sample"], [])
        locations.append(ending.job.signature.location)
    assert len(by_actor) == 2
    switches = [sum(a != b for a, b in pairwise(each)) for each in by_actor.values()]
    assert sum(switches) <= 2  # at the start while one shard is open, and at the end, for company


class Pulled:
    """An iterator that counts what was taken from it, and the most that was in flight at once."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.jobs = iter(jobs)
        self.taken = self.ended = self.most = 0

    def __iter__(self) -> Pulled:
        return self

    def __next__(self) -> Job:
        job = next(self.jobs)
        self.taken += 1
        self.most = max(self.most, self.taken - self.ended)
        return job

    def end(self, ending: Ending) -> None:
        self.ended += 1


def test_no_row_is_pulled_before_an_actor_has_room(bench: Bench):
    """While the actors are busy with their first rows, exactly two rows an actor have been taken
    from the manifest, and no more are taken however long it lasts."""
    pipeline = bench.pipeline(bench.pool("sample", 2))
    pulled = Pulled(bench.jobs({f"{i}": "hang" for i in range(8)}))

    def run() -> None:
        with pytest.raises(Interrupted):
            pipeline.render(pulled, pulled.end)

    thread = threading.Thread(target=run)
    thread.start()
    assert until(lambda: pulled.taken == 2 * SLOTS)
    time.sleep(1)
    assert pulled.taken == 2 * SLOTS
    pipeline.close()
    thread.join(20)


def test_sampling_pauses_while_later_stages_lag(bench: Bench):
    """With one slow assembler behind two fast samplers, rows in flight stay within two slots an
    actor and two more, however long the manifest; and the slots are used."""
    pipeline = bench.pipeline(bench.pool("sample", 2), bench.pool("assemble"))
    pulled = Pulled(bench.jobs({f"{i}": {"assemble": "0.05"} for i in range(40)}))
    pipeline.render(pulled, pulled.end)
    assert pulled.ended == 40
    assert 3 * SLOTS <= pulled.most < SLOTS * (3 + 1)


def test_neighbours_of_a_poison_row_survive(bench: Bench):
    """A row that ends its process every time is `failed` after three attempts, with the stage, the
    reason and the number; rows before, beside and behind it are `ok`, and the one that waited
    beside it carries no blame."""
    pipeline = bench.pipeline(bench.pool("sample"))
    fates = {"a": "", "b": "", "poison": "die", "beside": "", "c": "", "d": ""}
    ended = render(pipeline, bench.jobs(fates))
    assert statuses(ended) == {**dict.fromkeys("abcd", "ok"), "beside": "ok", "poison": "failed"}
    poison = ended["poison"]
    assert (poison.stage, poison.error_type) == ("sample", "ActorDied")
    assert poison.attempts == MAX_ROW_CRASHES == bench.calls("poison")
    assert "its actor died" in str(poison.error_message)
    assert "(3 times)" in str(poison.error_message)
    assert ended["beside"].attempts == ended["c"].attempts == 1


def test_a_suspect_runs_alone(bench: Bench):
    """A row that died with its actor once is tried again with no other row on the same actor, ends
    `ok` with two attempts, and is told from a row that was only there."""
    pipeline = bench.pipeline(bench.pool("sample"))
    ended = render(pipeline, bench.jobs({"a": "die first", "b": "", "c": ""}))
    assert statuses(ended) == dict.fromkeys("abc", "ok")
    assert (ended["a"].attempts, ended["b"].attempts) == (2, 1)
    assert next(iter(ended)) == "a"  # those behind it waited until it was done


def test_a_row_that_kills_a_later_stage_keeps_its_frames(bench: Bench):
    """A death in assembly repeats assembly alone: the row is sampled once."""
    pipeline = bench.pipeline(bench.pool("sample"), bench.pool("assemble"))
    ended = render(pipeline, bench.jobs({"a": {"assemble": "die first"}}))
    assert (ended["a"].status, ended["a"].attempts) == ("ok", 2)
    assert (bench.calls("a"), bench.calls("a", "assemble")) == (1, 2)


def test_a_stage_failure_is_a_failed_row(bench: Bench):
    """A stage that gives up a row names itself, the kind and the reason, in one attempt; the actor
    lives on; later stages do not see the row."""
    pipeline = bench.pipeline(bench.pool("sample"), bench.pool("assemble"))
    ended = render(pipeline, bench.jobs({"a": "", "bad": "fail", "b": ""}))
    bad = ended["bad"]
    assert (bad.status, bad.stage, bad.error_type, bad.error_message) == (
        *("failed", "sample", "Bad", "wrong"),
    )
    assert bad.attempts == 1 and bench.calls("bad", "assemble") == 0
    assert ended["a"].report and ended["b"].report
    assert ended["a"].report["pid_sample"] == ended["b"].report["pid_sample"]


def test_a_fatal_failure_replaces_the_actor(bench: Bench):
    """An actor whose failure makes it useless is ended, and its row tried again on another, three
    times in all: then it is `failed` with what the stage said. The row that waited behind it runs
    on a new actor and carries no blame; a row that met a broken actor once is `ok`."""
    pipeline = bench.pipeline(bench.pool("sample"))
    fates = {"a": "", "bad": "fatal", "b": "0.1", "unlucky": "fatal first"}
    ended = render(pipeline, bench.jobs(fates))
    assert statuses(ended) == {"a": "ok", "bad": "failed", "b": "ok", "unlucky": "ok"}
    bad = ended["bad"]
    assert (bad.stage, bad.error_type, bad.error_message) == ("sample", "Bad", "wrong (3 times)")
    assert {row: ending.attempts for row, ending in ended.items()} == {
        **{"a": 1, "bad": MAX_ROW_CRASHES, "b": 1, "unlucky": 2}
    }
    assert ended["a"].report and ended["b"].report
    assert ended["a"].report["pid_sample"] != ended["b"].report["pid_sample"]


def test_what_was_ended_from_outside_is_tried_again(bench: Bench):
    """A failure that the row is not to blame for (an encoder that was killed) costs an attempt, as
    the actor's death does, and three of them end the row; the actor lives on."""
    pipeline = bench.pipeline(bench.pool("sample"), bench.pool("assemble"))
    fates = {"once": "again first", "always": "again"}
    ended = render(pipeline, bench.jobs({i: {"assemble": do} for i, do in fates.items()}))
    assert statuses(ended) == {"once": "ok", "always": "failed"}
    assert (ended["once"].attempts, ended["always"].attempts) == (2, MAX_ROW_CRASHES)
    assert (ended["always"].stage, ended["always"].error_type) == ("assemble", "EncoderKilled")
    assert ended["always"].error_message == "shot (3 times)"
    assert bench.calls("once") == 1 and len(bench.pids()) == 2


def test_a_full_disk_ends_the_run(bench: Bench):
    """Where no further row would fit, the run ends with that error at once, and the row that met it
    has no result: after space is made the same command renders it."""
    pipeline = bench.pipeline(bench.pool("sample"))
    ended: list[Ending] = []
    jobs = bench.jobs({"a": "", "full": "full disk", **{f"b{i}": "" for i in range(20)}})
    with pytest.raises(DiskFullError, match="wrong"):
        pipeline.render(iter(jobs), ended.append)
    assert "full" not in {ending.job.row.id for ending in ended} and len(ended) < 10


def test_an_exception_that_gets_out_fails_its_row(bench: Bench):
    """An exception that a stage did not turn into data fails that row, with its type; the actor and
    the row behind it are not touched."""
    pipeline = bench.pipeline(bench.pool("sample"))
    ended = render(pipeline, bench.jobs({"bad": "raise", "b": ""}))
    bad = ended["bad"]
    assert (bad.status, bad.stage, bad.error_type) == ("failed", "sample", "KeyError")
    assert "not expected" in str(bad.error_message)
    assert ended["b"].status == "ok" and len(bench.pids()) == 1


def test_a_hung_call_ends_at_its_deadline(bench: Bench):
    """A call that takes longer than the deadline loses its actor; the row is tried three times in
    all, then `failed` with the deadline as the reason. Its neighbours are `ok`, and the seconds in
    which an actor starts count for no row."""
    pipeline = bench.pipeline(bench.pool("sample", deadline=0.4, born="0.8"))
    ended = render(pipeline, bench.jobs({"a": "", "hung": "hang", "b": ""}))
    assert statuses(ended) == {"a": "ok", "hung": "failed", "b": "ok"}
    assert ended["hung"].attempts == MAX_ROW_CRASHES
    assert "deadline of 0.4 s" in str(ended["hung"].error_message)
    assert ended["b"].attempts == 1


@pytest.mark.parametrize("born", ["raise", "die"])
def test_actors_that_cannot_live_end_the_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, born: str
):
    """When actors die in their constructor time after time, render() raises PoolError with the
    reason and a remedy, and no row is blamed for it: none ends."""
    monkeypatch.setattr(pipeline_module, "MAX_POOL_CRASHES", 4)
    pipeline = bench.pipeline(bench.pool("sample", born=born))
    ended: list[Ending] = []
    reason = "no such model" if born == "raise" else "died"
    with pytest.raises(PoolError, match=rf"(?s)4 sample actors died.*{reason}.*zs2 doctor"):
        pipeline.render(iter(bench.jobs({"a": "", "b": ""})), ended.append)
    assert ended == []
    with pytest.raises(PoolError):  # and so does every later call
        pipeline.render(iter(bench.jobs({"c": ""})), ended.append)


def test_poison_rows_that_lie_together_do_not_end_the_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    """A pool that has done a row is not given up for the next rows' sake, also where more actors die
    of them than would end a run that never began: each poison row fails, the others are ok."""
    monkeypatch.setattr(pipeline_module, "MAX_POOL_CRASHES", 4)
    pipeline = bench.pipeline(bench.pool("sample"))
    fates = {"a": "", "bad-1": "die", "bad-2": "die", "b": ""}
    ended = render(pipeline, bench.jobs(fates))
    assert statuses(ended) == {"a": "ok", "bad-1": "failed", "bad-2": "failed", "b": "ok"}


def test_an_actor_that_never_comes_up_ends_the_run(bench: Bench):
    """A cluster that has no room for an actor makes a run fail in so many words, not wait forever."""

    def too_large() -> Any:
        return ray.remote(Actor).options(num_cpus=1000).remote("sample", bench.folder)

    pipeline = bench.pipeline(ActorPool("sample", too_large, 1, start_deadline=1.0))
    with pytest.raises(PoolError, match="no sample actor came up within 1 s"):
        render(pipeline, bench.jobs({"a": ""}))


def test_a_damaged_manifest_ends_its_shard_only(bench: Bench):
    """What the jobs iterator raises comes out of its own render() after the rows before it ended;
    other calls go on."""
    pipeline = bench.pipeline(bench.pool("sample"))

    def damaged() -> Iterator[Job]:
        yield from bench.jobs({"a": "0.1"})
        raise OSError("the file is truncated")

    ended: list[Ending] = []
    other: list[dict[str, Ending]] = []
    jobs = bench.jobs({f"{i}": "0.05" for i in range(6)})
    thread = threading.Thread(target=lambda: other.append(render(pipeline, jobs)))
    thread.start()
    with pytest.raises(OSError, match="truncated"):
        pipeline.render(damaged(), ended.append)
    thread.join(60)
    assert [(e.job.row.id, e.status) for e in ended] == [("a", "ok")]
    assert len(other[0]) == 6


def test_a_journal_that_cannot_be_written_ends_the_run(bench: Bench):
    """What on_end raises comes out of render(); nobody waits for ever."""
    pipeline = bench.pipeline(bench.pool("sample"))

    def full(ending: Ending) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        pipeline.render(iter(bench.jobs({"a": "", "b": ""})), full)


def test_drain_ends_what_is_in_flight(bench: Bench):
    """After drain() no row is taken any more; every row that was taken ends, through all stages;
    then render() raises Interrupted."""
    pipeline = bench.pipeline(bench.pool("sample"), bench.pool("assemble"))
    pulled = Pulled(bench.jobs({f"{i}": "0.1" for i in range(50)}))
    taken: list[int] = []

    def end(ending: Ending) -> None:
        pulled.end(ending)
        assert ending.status == "ok"
        if not taken:
            pipeline.drain()
            taken.append(pulled.taken)

    with pytest.raises(Interrupted):
        pipeline.render(pulled, end)
    assert pulled.taken == pulled.ended == taken[0] < 10
    with pytest.raises(Interrupted):  # a shard that comes later renders nothing
        render(pipeline, bench.jobs({"late": ""}))
    assert bench.calls("late") == 0


def test_close_leaves_no_actor_alive(bench: Bench):
    """close() in the middle of a run ends the process of every actor, waiting ones included; the
    render() that was going on, and one that comes too late, raise Interrupted."""
    pipeline = bench.pipeline(bench.pool("sample", 2), bench.pool("assemble"))
    errors: list[BaseException] = []

    def run() -> None:
        try:
            pipeline.render(iter(bench.jobs({f"{i}": "hang" for i in range(4)})), lambda _: None)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert until(lambda: len(list(bench.folder.glob("call-*"))) == 2)
    assert until(lambda: len(bench.pids()) == 3)
    pipeline.close()
    thread.join(10)
    assert [type(error) for error in errors] == [Interrupted]
    assert until(lambda: not any(map(alive, bench.pids())))
    with pytest.raises(Interrupted):
        pipeline.render(iter(bench.jobs({"late": ""})), lambda _: None)


class Watched(ActorPool):
    """A pool that notes what it hands to its actors as frames."""

    def submit(self, worker: Any, flight: Any, *args: Any, **more: Any) -> None:
        self.handed = [*getattr(self, "handed", []), flight.chunks]
        super().submit(worker, flight, *args, **more)


def test_frames_travel_as_references(bench: Bench):
    """Each stage gets the frames of the one before it, and the driver hands on references to them,
    never pixels; a stage that a row does not need is skipped."""
    pools = [bench.pool(name, kind=Watched) for name in ("sample", "temporal", "assemble")]
    sample, temporal, assemble = pools
    needed = Stage(temporal, lambda job: job.row.id == "long")
    ended = render(
        bench.pipeline(Stage(sample), needed, assemble), bench.jobs({"long": "", "short": ""})
    )
    pixels = 4 * 256 * 256 * 3
    sums = {row_id: ending.report["sum"] for row_id, ending in ended.items() if ending.report}
    assert sums == {"long": 2 * pixels, "short": pixels}  # every stage adds 1 to each
    assert [bench.calls(row_id, "temporal") for row_id in ("long", "short")] == [1, 0]
    for pool in (temporal, assemble):
        handed: list[list[ray.ObjectRef]] = pool.handed  # pyright: ignore
        assert all(isinstance(ref, ray.ObjectRef) for refs in handed for ref in refs)
        assert all(len(refs) == 2 for refs in handed)


LOST_NODE = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import ray
from ray.cluster_utils import Cluster

cluster = Cluster()
cluster.add_node(num_cpus=1, resources=dict(steady=1), include_dashboard=False)
spot = cluster.add_node(num_cpus=1, resources=dict(spot=1))
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

from tests.tasks.test_pipeline import Actor, ActorPool, Pipeline, Stage
from manifests.row import parse_row
from tasks.job import Engine, resolve
from zs2.models import ModelInfo

folder = Path({folder!r})

def pool(stage, node):
    options = dict(num_cpus=0.1, num_gpus=0, max_restarts=0, resources={{node: 0.1}})
    return ActorPool(stage, lambda: ray.remote(Actor).options(**options).remote(stage, folder), 1)

info = ModelInfo("tiny", "/models/tiny", None, 32, 32, 4, 2)
def job(row_id, **columns):
    row = parse_row(dict(id=row_id, prompt="p", **columns))
    return resolve(row, 0, info, "0" * 32, Engine())

pipeline = Pipeline([Stage(pool("sample", "spot")), Stage(pool("assemble", "steady"))])
ended = []
# The assembler has its two rows while the frames of the third wait on the node that will be lost.
jobs = [job("a", meta_assemble="4"), job("b"), job("c")]
import threading
thread = threading.Thread(target=pipeline.render, args=(iter(jobs), ended.append))
thread.start()
while not (list(folder.glob("call-assemble-a-*")) and list(folder.glob("call-sample-c-*"))):
    time.sleep(0.05)
time.sleep(1)
cluster.remove_node(spot, allow_graceful=False)
cluster.add_node(num_cpus=1, resources=dict(spot=1))
thread.join(60)
for e in sorted(ended, key=lambda e: e.job.row.id):
    print("ROW", e.job.row.id, e.status, e.attempts, e.stage, e.error_message)
pipeline.close()
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_rows_survive_the_loss_of_a_node(tmp_path: Path):
    """When a node dies with the sampled frames of a row that waits for assembly, on a cluster of
    two nodes, the row begins again from the first stage and every row ends `ok`."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", LOST_NODE.format(root=root, folder=str(tmp_path))],
        capture_output=True,
        text=True,
        timeout=180,
    )
    rows = [line.split()[1:4] for line in done.stdout.splitlines() if line.startswith("ROW")]
    statuses = [(name, status) for name, status, _ in rows]
    assert statuses == [("a", "ok"), ("b", "ok"), ("c", "ok")], done.stdout + done.stderr
    assert int(rows[2][2]) >= 2  # its frames were lost indeed
    assert len(list(tmp_path.glob("call-sample-c-*"))) == 2
