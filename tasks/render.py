"""The Prefect tasks of a run: plan → render_shard → publish, and what they share."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from manifests.journal import Journal
from manifests.ledger import known
from manifests.read import Manifest
from manifests.result import ResultRow
from manifests.storage import RunFolder
from manifests.validate import Problem, format_problems
from tasks.artifacts import leave_artifacts
from tasks.codecs import check_encoders
from tasks.crew import Cluster, Crew
from tasks.ending import Ending, result_row
from tasks.job import Engine
from tasks.pipeline import Interrupted, Pipeline
from tasks.plan import SHARD_ROWS, Catalogue, Plan, Shard, jobs_of, make_plan
from tasks.publish import Tally, publish
from tasks.startup import mark, marks
from tasks.telemetry import Telemetry, endpoint
from tasks.work import Work
from zs2.compiler import check_compiler

log = logging.getLogger("zs2.render")

Observer = Callable[[ResultRow], None]


class InvalidManifestError(ValueError):
    """Bad rows in a manifest: `plan.problems`."""

    def __init__(self, made: Plan) -> None:
        super().__init__(format_problems(made.problems))
        self.plan = made


@dataclass
class ShardTally:
    """What became of a shard.

    Attributes:
        statuses: of the rows that have ended.
        ended: their ids, while it goes on: a task that Prefect retries leaves these out.
    """

    index: int
    rows: int
    model: str
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter[str])
    ended: set[str] = field(default_factory=set[str])

    def cells(self) -> dict[str, Any]:
        """Its row of a table."""
        counts = {status: self.statuses[status] for status in ("ok", "failed")}
        own = {"shard": self.index, "model": self.model, "rows": self.rows}
        return {**own, **counts, "seconds": round(self.seconds, 1)}


class RenderRun:
    """What the tasks of one run share: its folder, journal, actors and tally.

    A context manager: actors are gone and the journal is closed when it is left, however.

    Args:
        defaults: run defaults of manifest columns (`--set`).
        observer: told of every row that ends, for progress; called in the pipeline's thread.
        crew: one that was begun already; else the first shard begins it.
    """

    def __init__(
        self,
        run_id: str,
        manifest: Manifest,
        folder: RunFolder,
        *,
        defaults: Mapping[str, Any],
        engine: Engine,
        catalogue: Catalogue,
        cluster: Cluster,
        only_failed: bool = False,
        keep_latents: bool = False,
        shard_rows: int = SHARD_ROWS,
        observer: Observer | None = None,
        crew: Crew | None = None,
    ) -> None:
        self.run_id = run_id
        self.manifest = manifest
        self.folder = folder
        self.defaults = defaults
        self.engine = engine
        self.catalogue = catalogue
        self.cluster = cluster
        self.only_failed = only_failed
        self.keep_latents = keep_latents
        self.shard_rows = shard_rows
        self.observer = observer
        self.tally = Tally()
        self.shards: dict[int, ShardTally] = {}
        self.left = 0
        self.journal = Journal(folder.results, run_id, folder.commit_journal)
        # One that was closed served an earlier attempt, where Prefect retries the flow.
        self._crew = None if crew is None or crew.is_closed else crew
        self._opening = threading.Lock()
        self._interrupted = threading.Event()
        self.began = datetime.now(UTC)
        self._started = 0.0

    def __enter__(self) -> RenderRun:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._crew is not None:
                self._crew.close()
        finally:
            self.journal.close()

    def pipeline(self, work: Work) -> Pipeline:
        """The actors' pipeline, for so much work; the run's clock starts when it is open.

        Raises:
            ClusterError: no cluster, or no room in it. Interrupted: before actors were started.
        """
        with self._opening:
            if self._crew is None:
                if self.is_interrupted:
                    raise Interrupted("the run was interrupted")
                self._crew = Crew(
                    self.cluster,
                    self.folder.address,
                    work.batches,
                    shares=work.most_shares,
                    rows=work.rows,
                )
                if self.is_interrupted:  # meanwhile: whoever did found none to tell
                    self._crew.interrupt()
            pipeline = self._crew.pipeline()
            if not self._started:
                log.info("Ray: %s", self._crew.description())
                self._begin(self._crew.telemetry())
        if self.is_interrupted:
            pipeline.drain()
        return pipeline

    def _begin(self, telemetry: Telemetry) -> None:
        self._started = time.monotonic()
        telemetry.count(self.tally.statuses)  # refused while the cluster was not there yet
        telemetry.left(self.left)
        log.info("metrics for Prometheus: %s", endpoint() or "none: Ray serves none on this node")

    def shard(self, shard: Shard) -> ShardTally:
        """A shard's tally: the same one where its task is tried again."""
        made = ShardTally(shard.index, len(shard.positions), shard.signature.location)
        return self.shards.setdefault(shard.index, made)

    def interrupt(self) -> None:
        """Finish what is in flight and take no further rows. Safe in a signal handler's thread."""
        self._interrupted.set()
        if self._crew is not None:
            # In a thread of its own: a signal handler must not wait for a lock.
            threading.Thread(target=self._crew.interrupt).start()

    def utilisation(self) -> dict[str, Any] | None:
        """What the actors did, and for how long they had nothing to do; None where there are none."""
        if self._crew is None or not self._started:
            return None
        return self._crew.pipeline().utilisation.record()

    @property
    def is_interrupted(self) -> bool:
        """Whether the run takes no further rows; see `interrupt`."""
        return self._interrupted.is_set()

    def end(self, shard: ShardTally, ending: Ending) -> None:
        """A row has ended: into the journal first, then everything else."""
        row = result_row(ending)
        self.journal.append(row)
        shard.ended.add(row.id)
        shard.statuses[row.status] += 1
        self.left -= 1
        if ending.status == "ok" and not self.keep_latents:
            self.folder.forget_latents(ending.job.sample_digest)
        self.tally.add(row, ending.report)
        self._clock()
        if self._crew is not None:
            self._crew.telemetry().end(row)
            self._crew.telemetry().left(self.left)
        _say(row)
        if self.observer is not None:
            self.observer(row)

    def _clock(self) -> None:
        wall = time.monotonic() - self._started
        if self._crew is not None:  # what it holds by now: on a shared cluster samplers come later
            held = self._crew.pipeline().samplers_up()
            self.tally.device_seconds += (wall - self.tally.wall_seconds) * held
        self.tally.wall_seconds = wall

    def end_invalid(self, row_id: str, problems: list[Problem]) -> None:
        """A row that validation refused goes to the ledger as `invalid`."""
        now = datetime.now(UTC)
        row = ResultRow(
            id=row_id,
            digest="",
            status="invalid",
            stage="validate",
            error_type="InvalidRow",
            error_message="\n".join(map(str, problems)),
            started_at=now,
            finished_at=now,
        )
        self.journal.append(row)
        self.tally.add(row)
        if self.observer is not None:
            self.observer(row)


def _say(row: ResultRow) -> None:
    """Into the log: a failure, and what an actor noted of a row that is ok. Where it is read by
    people, rows with the same cause are summed up."""
    if row.status == "ok" and not row.error_message:
        return
    told = next(iter((row.error_message or "").splitlines()), "")
    what = "ok, with a note" if row.status == "ok" else f"{row.status} at {row.stage}"
    cause = (row.status, row.stage, row.error_type)
    log.warning(
        "row %s: %s: %s: %s", row.id, what, row.error_type, told, extra={"zs2_cause": cause}
    )


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan(run: RenderRun, skip_invalid: bool) -> Plan:
    """Validate the manifest, drop what is done, cut the rest into shards.

    Raises:
        InvalidManifestError: bad rows, unless they are to be skipped (then they are in the journal).
        AssembleError: this machine, where the run is, has no encoder for a row's codec. ModelError: it
            has no C++ compiler, which the engine needs.
    """
    run.tally = Tally()  # a second attempt counts anew
    made = make_plan(
        run.manifest,
        run.catalogue,
        defaults=run.defaults,
        engine=run.engine,
        known=known(run.folder.root),
        folder=run.folder,
        only_failed=run.only_failed,
        shard_rows=run.shard_rows,
        samplers=run.cluster.samplers or 1,
        on_invalid=run.end_invalid if skip_invalid else None,
    )
    if made.invalid_rows and not skip_invalid:
        raise InvalidManifestError(made)
    if run.cluster.address is None:  # the nodes of another cluster have an ffmpeg of their own
        check_encoders(made.codecs)
        if run.engine.engine == "compiled" and made.work.rows:
            check_compiler()
    run.left = made.work.rows
    mark("planned")
    return made


@task(
    name="render_shard",
    task_run_name="shard-{shard.index}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def render_shard(run: RenderRun, shard: Shard, work: Work) -> int:
    """Render one shard's rows; returns how many there were.

    Args:
        work: of the whole run, which the first shard starts the actors for.
    """
    tally = run.shard(shard)
    jobs = jobs_of(shard, run.manifest, run.catalogue, run.defaults, run.engine)
    started = time.monotonic()
    try:
        run.pipeline(work).render(
            (job for job in jobs if job.row.id not in tally.ended),
            partial(run.end, tally),
            shard.signature,
        )
    finally:
        tally.seconds += time.monotonic() - started
    tally.ended.clear()
    return tally.rows


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish_run(
    run: RenderRun, plan: Plan, title: str, price_per_hour: float | None
) -> dict[str, Any]:
    """Compact the ledger and write metadata, summary and gallery, and Prefect's artifacts."""
    run.journal.close()
    summary = publish(
        run.folder,
        plan.digests,
        run.tally,
        run_id=run.run_id,
        title=title,
        price_per_hour=price_per_hour,
        since=run.began,
        is_interrupted=run.is_interrupted,
        utilisation=run.utilisation(),
        startup=marks(),
    )
    shards = [shard.cells() for _, shard in sorted(run.shards.items())]
    leave_artifacts(run.folder, title, summary, shards)
    return summary
