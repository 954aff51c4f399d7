"""The flow `render-manifest`: a manifest becomes a folder of finished videos."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect import flow
from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from flows.run_log import RunLog
from flows.settings import RenderSettings, default_out
from flows.verdict import RowsFailedError, has_failed, interrupted, told_of_failures
from manifests.object_store import is_url
from manifests.read import Manifest, open_manifest
from manifests.row import check_defaults
from manifests.run_file import write_json
from manifests.storage import RunFolder, StorageError
from tasks.artifacts import Progress, progress_artifact
from tasks.crew import Crew
from tasks.live_gallery import live_gallery
from tasks.pipeline import Interrupted
from tasks.plan import Plan
from tasks.publish import failures_by_cause, state_of, versions
from tasks.render import Observer, RenderRun, plan, publish_run, render_shard
from tasks.startup import mark

log = logging.getLogger("zs2.flow")

ECHO = 0.5  # seconds; `timeout` and other wrappers pass one Ctrl-C on that we have had already
# The next shard's rows follow without a gap, and actors choose among these by what they have loaded.
SHARDS_AT_ONCE = 4


@dataclass(frozen=True)
class Caller:
    """A caller in this process: what it hears of the run, and a crew that it has begun already."""

    on_plan: Callable[[Plan], None] = lambda plan: None
    on_row: Observer = lambda row: None
    on_interrupt: Callable[[], None] = lambda: None
    crew: Crew | None = None


NOBODY = Caller()
caller: ContextVar[Caller] = ContextVar("caller", default=NOBODY)


def absolute_source(manifest: str) -> str:
    """The manifest as any working folder finds it; a glob keeps its pattern, a URL is itself."""
    return manifest if is_url(manifest) else str(Path(manifest).absolute())


@flow(  # pyright: ignore[reportCallIssue, reportUntypedFunctionDecorator]
    name="render-manifest",
    flow_run_name="render {manifest}",
    task_runner=ThreadPoolTaskRunner(max_workers=SHARDS_AT_ONCE),  # pyright: ignore[reportArgumentType]
    persist_result=False,
)
def render_manifest(
    manifest: str, out: str | None = None, settings: RenderSettings | None = None
) -> dict[str, Any]:
    """Render every row of a manifest that has no finished video yet.

    Args:
        manifest: a Parquet file, a folder of them, or a glob; local, or on an object store.
        out: the run folder, or its URL; default renders/<manifest name>.
        settings: how; see RenderSettings.

    Returns:
        The summary, with `state` (`tasks.publish.state_of`) and `left`, the rows without a result. An
        interrupted run is Cancelled, as Completed would not be true: `flows.verdict.result_of` has its
        summary.

    Raises:
        ManifestError, InvalidManifestError, ModelError, StorageError: nothing was rendered.
        LockedError: another run holds the folder. ClusterError, PoolError: it could not go on.
        RowsFailedError: it ended, all is published, and more rows failed than `fail_if` lets pass.
    """
    mark("flow begun")
    settings = settings or RenderSettings()  # pyright: ignore[reportCallIssue]
    source = open_manifest(manifest)
    folder = RunFolder(out or default_out(manifest)).create()
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"
    called_by = caller.get()
    with folder.lock(run_id), _log_file(folder, run_id), _flow_run_log(called_by):
        folder.pull()
        folder.sweep_temporary()
        run_file = _begin_run_file(folder, run_id, manifest, source, settings)
        with (
            _told_how_it_ended(folder, run_file),
            _render_run(run_id, source, folder, settings, called_by) as run,
        ):
            folder.when_lost(run.interrupt)
            made = plan(run, settings.on_invalid == "skip")
            called_by.on_plan(made)
            log.info(
                "%s: %d rows, %d done, %d invalid, %d to render in %d shards",
                *(manifest, made.rows, made.done, made.invalid_rows),
                *(made.work.rows, len(made.shards)),
            )
            if told := made.told_of_dropped():
                log.warning(told)
            title = Path(manifest).name
            with _interruptible(run, called_by):
                summary = _render_and_publish(run, made, title, settings.price_per_hour)
        folder.sweep_temporary()  # what actors that died in this run left
        left = max(0, made.rows - sum(summary["rows"].values()))
        state = state_of(left, run.is_interrupted)
        summary = {**summary, "state": state, "left": left}
        log.info("%s: this run %s", state, summary["rendered"])
        _end_run_file(folder, run_file, state)
        failed = _failure(folder, settings, summary)
    if failed is not None:
        raise failed
    if summary["state"] == "interrupted":
        return interrupted(summary, f"{summary['left']} rows are left")
    return summary


def _render_and_publish(
    run: RenderRun, made: Plan, title: str, price_per_hour: float | None
) -> dict[str, Any]:
    """Render the shards while a gallery and an artifact follow them; the summary."""
    with (
        live_gallery(run.folder, title, made.rows),
        progress_artifact(lambda: _progress(run, made)),
    ):
        _render_shards(run, made)
    return publish_run(run, made, title, price_per_hour)


def _failure(
    folder: RunFolder, settings: RenderSettings, summary: dict[str, Any]
) -> RowsFailedError | None:
    """What a run that has ended fails with, if so many of its rows did."""
    rows, left = summary["rows"], summary["left"]
    if summary["state"] == "interrupted" or not has_failed(settings.fail_if, rows, left):
        return None
    causes = failures_by_cause(folder)
    return RowsFailedError(
        told_of_failures(folder.address, settings.fail_if, rows, causes, left), summary
    )


@contextmanager
def _told_how_it_ended(folder: RunFolder, run_file: dict[str, Any]) -> Generator[None]:
    """Should the run break off, say so in run.json and in its log."""
    try:
        yield
    except BaseException as error:  # Ctrl-C and Prefect's cancellation too
        ended: dict[str, Any] = {"state": "interrupted"}
        if isinstance(error, Exception):
            ended = {"state": "failed", "error": f"{type(error).__name__}: {error}"}
        log.error("%s", ended["state"], exc_info=error)
        try:
            write_json(folder.run_file, {**run_file, **ended})
        except OSError as full:  # what ended the run is what the user has to hear
            log.error("run.json stays as it is: %s", full)
        _upload_if_possible(folder, folder.run_file)
        raise


def _upload_if_possible(folder: RunFolder, path: Path) -> None:
    """What a run that broke off has to say goes to the store, unless that is what broke it."""
    try:
        folder.upload(path)
    except StorageError as error:
        log.warning("%s was not uploaded: %s", path.name, error)


def _progress(run: RenderRun, made: Plan) -> Progress:
    ended = run.tally.statuses
    bad = ended["failed"] + ended["invalid"]
    return Progress(made.done + ended["ok"] + bad, made.rows, bad)


def _render_shards(run: RenderRun, made: Plan) -> None:
    futures = [render_shard.submit(run, shard, made.work) for shard in made.shards]
    errors: list[Exception] = []
    for future in futures:
        try:
            future.result()
        except Interrupted:
            continue
        except Exception as error:  # the others' rows end first, then this is raised
            errors.append(error)
    if errors:
        raise errors[0]


def _render_run(
    run_id: str,
    source: Manifest,
    folder: RunFolder,
    settings: RenderSettings,
    caller: Caller,
) -> RenderRun:
    return RenderRun(
        run_id,
        source,
        folder,
        defaults=check_defaults(settings.defaults),
        engine=settings.computing(),
        catalogue=settings.catalogue(),
        cluster=settings.cluster(),
        only_failed=settings.only_failed,
        keep_latents=settings.keep_latents,
        shard_rows=settings.shard_rows,
        observer=caller.on_row,
        crew=caller.crew,
    )


def _begin_run_file(
    folder: RunFolder, run_id: str, manifest: str, source: Manifest, settings: RenderSettings
) -> dict[str, Any]:
    """Write run.json, which `status` and `retry` read."""
    content = {
        "run_id": run_id,
        "state": "running",
        "manifest": absolute_source(manifest),
        "working_folder": str(Path.cwd()),  # relative names of models count from here
        "identity": source.identity(),
        "rows": source.num_rows,
        "settings": settings.model_dump(mode="json"),
        "versions": versions(),
        "started_at": datetime.now(UTC).isoformat(),
    }
    write_json(folder.run_file, content)
    folder.upload(folder.run_file)
    return content


def _end_run_file(folder: RunFolder, content: dict[str, Any], state: str) -> None:
    """Write into run.json how the run has ended, and when."""
    ended = {"state": state, "finished_at": datetime.now(UTC).isoformat()}
    write_json(folder.run_file, {**content, **ended})
    folder.upload(folder.run_file)


class _LogFile(logging.FileHandler):
    """A run's log. Where it cannot be written, the disk is full: the run itself says so, and the log
    must not hide it behind an error of its own."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Leave the record out."""

    def close(self) -> None:
        """Close the file; what could not be flushed is left out."""
        with suppress(OSError):
            super().close()


@contextmanager
def _log_file(folder: RunFolder, run_id: str) -> Generator[None]:
    path = folder.logs / f"{run_id}.log"
    handler = _LogFile(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("zs2")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False  # progress and errors are all that the command line shows
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
        handler.close()
        if path.exists():
            _upload_if_possible(folder, path)


@contextmanager
def _flow_run_log(caller: Caller) -> Generator[None]:
    """Into the flow run's log in Prefect, unless a command line shows what there is to see."""
    if caller is not NOBODY:
        yield
        return
    handler, logger = RunLog(get_run_logger().log), logging.getLogger("zs2")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


@contextmanager
def _interruptible(run: RenderRun, caller: Caller) -> Generator[None]:
    """Ctrl-C once: what is in flight ends, and what there is is published. Twice: stop at once."""
    # SIGTERM too on the command line; in a deployment it is Prefect's, who cancels runs with it.
    signals = [signal.SIGINT] if caller is NOBODY else [signal.SIGINT, signal.SIGTERM]
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    heard = 0.0

    def stop(number: int, frame: object) -> None:
        nonlocal heard
        if not run.is_interrupted:
            heard = time.monotonic()
            run.interrupt()
            caller.on_interrupt()
        elif time.monotonic() - heard > ECHO:
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
