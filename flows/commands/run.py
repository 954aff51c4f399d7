"""`zs2 render` and `zs2 retry`: the flow in this process, with progress and exit codes."""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from flows.console import Progress, duration, say
from flows.earlier_run import earlier_run
from flows.errors import UsageError
from flows.settings import RenderSettings, default_out
from flows.verdict import RowsFailedError, has_failed, result_of
from manifests.journal import list_journals
from manifests.kinds import count
from manifests.ledger import known
from manifests.object_store import is_url
from manifests.read import open_manifest
from manifests.row import check_defaults, parse_defaults
from manifests.run_file import read_derived, read_json, write_json
from manifests.storage import RunFolder
from manifests.validate import format_problems
from tasks.codecs import check_encoders
from tasks.crew import Crew
from tasks.job import Job
from tasks.plan import jobs_of, make_plan
from tasks.startup import mark
from zs2.compiler import check_compiler

log = logging.getLogger("zs2.flow")

# Manifests up to this size are checked before Prefect and Ray are started, which takes seconds.
QUICK_CHECK_ROWS = 50_000


def settings_of(
    *, defaults: Sequence[str] | None, input_roots: Sequence[str] = (), **values: Any
) -> RenderSettings:
    """RenderSettings from options. Input roots are made absolute, for `zs2 retry` from elsewhere.

    Raises:
        UsageError, RowError: saying which option is wrong and what it takes.
    """
    roots = [root if is_url(root) else str(Path(root).absolute()) for root in input_roots]
    try:
        return RenderSettings(defaults=parse_defaults(defaults or []), input_roots=roots, **values)
    except ValidationError as error:
        raise UsageError(_faults(error)) from error


def _faults(error: ValidationError) -> str:
    """What is wrong with settings, by option, in lines."""
    return "\n".join(
        f"--{'-'.join(str(part) for part in fault['loc']).replace('_', '-')}: "
        f"{_expected(fault['msg'])}, found {fault['input']!r}"
        for fault in error.errors()
    )


def _expected(told: str) -> str:
    """What a setting takes, from pydantic's sentence."""
    told = told.lower().replace("input should be ", "expected ")
    return told.replace("expected greater", "expected a number greater").replace(
        "expected less", "expected a number less"
    )


def switch(option: str, value: str) -> bool:
    """on or off."""
    if value not in ("on", "off"):
        raise UsageError(f"{option}: expected on or off, found {value!r}")
    return value == "on"


def run(
    manifest: str, out: str | None, settings: RenderSettings, *, quiet: bool, as_json: bool
) -> int:
    """Render, and return the exit code: 0 all ok, 3 more failed than `fail_if` lets pass, 130
    interrupted."""
    folder = RunFolder(out or default_out(manifest))
    with folder.view() as seen:
        quick = _quick_look(manifest, seen, settings)
        settled = None if quick.batches else _settled(manifest, seen)
        if settled is not None and quick.invalid not in (None, settled.summary["rows"]["invalid"]):
            settled = None
    folder.create()
    with folder.lock("starting"):  # refused now rather than after Prefect and Ray have started
        if settled is not None:
            folder.sweep_temporary()  # what orphans of a killed run left since
            now = {"settings": settings.model_dump(mode="json")}  # for `retry` and `show`
            for path, content in (
                (folder.summary_file, settled.summary),
                (folder.run_file, settled.run_file | now),
            ):
                write_json(path, content)
                folder.upload(path)
    started = time.monotonic()
    if settled is not None:
        none = settled.summary
        return _end(none, folder, manifest, settings, 0.0, quiet=quiet, as_json=as_json)
    # Ray starts in the background while Prefect does in the foreground.
    tell = log.info if quiet else say
    show = (lambda _: None) if quiet else say
    try:
        with Progress(quiet) as progress:
            crew = None
            if quick.batches:
                more: dict[str, Any] = {"first": quick.first, "shares": quick.shares}
                more |= {"rows": quick.rows, "tell": tell, "show": show}
                crew = Crew(settings.cluster(), folder.address, quick.batches, **more)
            summary = _run_flow(manifest, folder, settings, progress, crew)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on where it stopped")
        return 130
    seconds = time.monotonic() - started
    return _end(summary, folder, manifest, settings, seconds, quiet=quiet, as_json=as_json)


def _end(
    summary: Mapping[str, Any],
    folder: RunFolder,
    manifest: str,
    settings: RenderSettings,
    seconds: float,
    *,
    quiet: bool,
    as_json: bool,
) -> int:
    """Say how a run ended; returns its exit code."""
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
    elif not quiet:
        say(_closing_lines(summary, folder, manifest, seconds))
    if summary["state"] == "interrupted":
        return 130
    return 3 if has_failed(settings.fail_if, summary["rows"], summary["left"]) else 0


def run_again(out: str, *, quiet: bool, as_json: bool) -> int:
    """`zs2 retry`: the run folder's own manifest and settings, failed rows only.

    Raises:
        UsageError: no run was there, or one of another version of zs2 whose settings are none of this.
    """
    with earlier_run(out).view() as folder:
        content = read_json(folder.run_file) or {}
    try:
        settings = RenderSettings.model_validate({**content["settings"], "only_failed": True})
    except ValidationError as error:
        raise UsageError(
            f"{out}: this version of zs2 does not take the settings in run.json: {_faults(error)}; "
            "render the manifest again, with options"
        ) from error
    return run(content["manifest"], out, settings, quiet=quiet, as_json=as_json)


class _QuickLook(NamedTuple):
    """What is left to render, as far as it is known before anything heavy is started.

    Attributes:
        batches, rows: see `tasks.work.Work`; of a large manifest its rows, or those that failed.
        shares: over how many samplers one row can be spread.
        first: the first row. None where it is not known, as are the
        invalid: rows.
    """

    batches: int
    rows: int
    shares: int = 1
    first: Job | None = None
    invalid: int | None = None


def _quick_look(manifest: str, folder: RunFolder, settings: RenderSettings) -> _QuickLook:
    """Plan the run, if its manifest is small or all was done before: else that is the flow's first task.

    Raises:
        UsageError: bad rows. AssembleError: no encoder for a row's codec on this machine, where the
            run is local.
    """
    source = open_manifest(manifest)
    defaults = check_defaults(settings.defaults)
    if source.num_rows > QUICK_CHECK_ROWS and _settled(manifest, folder) is None:
        most = _most_rows(source.num_rows, folder, settings)
        return _QuickLook(most, most)
    catalogue, engine = settings.catalogue(), settings.computing()
    made = make_plan(
        source,
        catalogue,
        defaults=defaults,
        engine=engine,
        known=known(folder.root),
        folder=folder,
        only_failed=settings.only_failed,
    )
    if made.invalid_rows and settings.on_invalid == "fail":
        raise UsageError(
            f"{manifest}: {format_problems(made.problems)}\n"
            "nothing was rendered; mend the rows, or render the others with --on-invalid=skip"
        )
    if settings.cluster().address is None:
        check_encoders(made.codecs)
        if settings.engine == "compiled" and made.work.rows:
            check_compiler()
    mark("checked")
    if not made.shards:
        return _QuickLook(0, 0, invalid=made.invalid_rows)
    first = next(jobs_of(made.shards[0], source, catalogue, defaults, engine))
    work = made.work
    return _QuickLook(work.batches, work.rows, work.most_shares, first, made.invalid_rows)


def _most_rows(rows: int, folder: RunFolder, settings: RenderSettings) -> int:
    """How many of so many rows a run renders at most, as far as that is known without a plan."""
    if not settings.only_failed:
        return rows
    counts = known(folder.root).counts()
    return min(rows, counts["failed"] + counts["invalid"])


class _Settled(NamedTuple):
    """A run that has ended: its summary as of a run without work, and its run.json."""

    summary: dict[str, Any]
    run_file: dict[str, Any]


def _settled(manifest: str, folder: RunFolder) -> _Settled | None:
    """The run of the same manifest that has ended before, where nothing of it is left to publish.

    Where a plan finds no row to render, whatever settings have changed, neither Prefect nor Ray need to
    start then.
    """
    run_file, summary = read_json(folder.run_file), read_derived(folder.summary_file)
    if run_file is None or summary is None or run_file.get("state") != "finished":
        return None
    same = (
        run_file["identity"] == open_manifest(manifest).identity()
        and sum(summary["rows"].values()) == run_file["rows"]
        and not list_journals(folder.results)
        and folder.exists(folder.metadata_file)
        and folder.exists(folder.gallery_file)
    )
    none = dict.fromkeys(summary["rows"], 0)
    ended = {**summary, "rendered": none, "state": "finished", "left": 0}
    return _Settled(ended, run_file) if same else None


def _run_flow(
    manifest: str,
    folder: RunFolder,
    settings: RenderSettings,
    progress: Progress,
    crew: Crew | None,
) -> dict[str, Any]:
    from flows.embedded import embedded_prefect

    try:
        with embedded_prefect():
            from flows.render_manifest import Caller, caller, render_manifest

            token = caller.set(
                Caller(progress.on_plan, progress.on_row, _say_what_ctrl_c_does, crew)
            )
            try:
                return result_of(render_manifest, manifest, folder.name, settings)
            except RowsFailedError as failed:  # the exit code tells it
                return failed.summary
            finally:
                caller.reset(token)
    finally:
        if crew is not None:
            crew.close()


def _say_what_ctrl_c_does() -> None:
    say("ending the rows in flight; Ctrl-C again stops at once")


def _closing_lines(
    summary: Mapping[str, Any], folder: RunFolder, manifest: str, seconds: float
) -> str:
    rows, rendered = summary["rows"], summary["rendered"]
    named = shlex.quote(folder.name)
    total = sum(rows.values()) + summary["left"]
    if not any(rendered.values()) and summary["state"] == "interrupted":
        lines = [f"no row was rendered; {rows['ok']} of {total} are ok"]
    elif not any(rendered.values()):
        lines = [f"nothing to do: {rows['ok']} of {total} rows are ok"]
    else:
        rate, starting = summary["frames_per_second"], max(0.0, seconds - summary["wall_seconds"])
        lines = [
            f"{count(rendered['ok'], 'row')} rendered in {duration(seconds)} "
            f"({count(summary['frames'], 'frame')}, {rate:.1f} frames/s but for {duration(starting)} "
            f"of starting and ending); {rows['ok']} of {total} are ok"
        ]
    if noted := summary.get("noted"):
        lines.append(f"{noted} of these with a note: `zs2 status {named}` says what of")
    if rows["failed"] or rows["invalid"]:
        lines.append(
            f"{rows['failed']} failed, {rows['invalid']} invalid: `zs2 status {named}` says why"
            + (f", `zs2 retry {named}` tries again" if rows["failed"] else "")
            + ("; an invalid row has to be mended in the manifest" if rows["invalid"] else "")
        )
    if summary["state"] == "interrupted":
        lines.append("interrupted; the same command goes on where it stopped")
    elif summary["left"]:
        were = "row was" if summary["left"] == 1 else "rows were"
        lines.append(
            f"{summary['left']} {were} never rendered, which a retry leaves: "
            f"`zs2 render {shlex.quote(manifest)} -o {named}` does it"
        )
    lines.append(f"look at {folder.address_of(folder.gallery_file)}")
    return "\n".join(lines)
