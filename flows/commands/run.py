"""`zs2 render` and `zs2 retry`: the flow in this process, with progress and exit codes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.console import Progress, duration, say
from flows.errors import UsageError
from flows.settings import RenderSettings
from manifests.read import open_manifest
from manifests.row import parse_defaults
from manifests.run_file import read_json
from manifests.storage import RunFolder
from tasks.job import Engine
from tasks.plan import Catalogue, make_plan

# Manifests up to this size are checked before Prefect and Ray are started, which takes seconds.
QUICK_CHECK_ROWS = 50_000


def settings_of(*, defaults: Sequence[str] | None, **values: Any) -> RenderSettings:
    """RenderSettings from options.

    Raises:
        UsageError, RowError: saying which option is wrong and what it takes.
    """
    try:
        return RenderSettings(defaults=parse_defaults(defaults or []), **values)
    except ValidationError as error:
        faults = [
            f"--{'-'.join(str(part) for part in fault['loc']).replace('_', '-')}: "
            f"{fault['msg'].lower()}, found {fault['input']!r}"
            for fault in error.errors()
        ]
        raise UsageError("\n".join(faults)) from error


def switch(option: str, value: str) -> bool:
    """on or off."""
    if value not in ("on", "off"):
        raise UsageError(f"{option}: expected on or off, found {value!r}")
    return value == "on"


def run(
    manifest: str, out: str | None, settings: RenderSettings, *, quiet: bool, as_json: bool
) -> int:
    """Render, and return the exit code: 0 all ok, 3 some failed, 130 interrupted."""
    _check_quickly(manifest, settings)
    started = time.monotonic()
    with Progress(quiet) as progress:
        summary = _run_flow(manifest, out, settings, progress)
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
    from flows.render_manifest import default_out

    folder = out or default_out(manifest)
    if not quiet and not as_json:
        say(_closing_lines(summary, folder, time.monotonic() - started))
    if summary["state"] == "interrupted":
        return 130
    rows = summary["rows"]
    return 3 if rows["failed"] or rows["invalid"] else 0


def run_again(out: Path, *, quiet: bool, as_json: bool) -> int:
    """`zs2 retry`: the run folder's own manifest and settings, failed rows only.

    Raises:
        UsageError: no run was there.
    """
    content = read_json(RunFolder(out).run_file)
    if content is None:
        raise UsageError(f"{out}: expected the folder of an earlier run, found no run.json")
    settings = RenderSettings.model_validate({**content["settings"], "only_failed": True})
    return run(content["manifest"], str(out), settings, quiet=quiet, as_json=as_json)


def _check_quickly(manifest: str, settings: RenderSettings) -> None:
    source = open_manifest(manifest)
    if source.num_rows > QUICK_CHECK_ROWS or settings.on_invalid == "skip":
        return
    made = make_plan(
        source,
        Catalogue(settings.allow_models),
        defaults=parse_defaults_of(settings),
        engine=Engine(settings.dtype, settings.safety_checker),
    )
    if made.invalid_rows:
        from manifests.validate import format_problems

        raise UsageError(
            f"{manifest}: {format_problems(made.problems)}\n"
            "nothing was rendered; mend the rows, or render the others with --on-invalid=skip"
        )


def parse_defaults_of(settings: RenderSettings) -> Mapping[str, Any]:
    """The run's column defaults, parsed."""
    from manifests.row import check_defaults

    return check_defaults(settings.defaults)


def _run_flow(
    manifest: str, out: str | None, settings: RenderSettings, progress: Progress
) -> dict[str, Any]:
    from flows.embedded import embedded_prefect

    with embedded_prefect():
        from flows.render_manifest import Watcher, render_manifest, watcher

        token = watcher.set(Watcher(progress.on_plan, progress.on_row))
        try:
            return render_manifest(manifest, out, settings)
        finally:
            watcher.reset(token)
            _stop_ray()


def _stop_ray() -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()


def _closing_lines(summary: Mapping[str, Any], folder: str, seconds: float) -> str:
    rows, rendered = summary["rows"], summary["rendered"]
    total = sum(rows.values())
    if not any(rendered.values()):
        lines = [f"nothing to do: {rows['ok']} of {total} rows are ok"]
    else:
        rate = summary["frames_per_second"]
        lines = [
            f"{rendered['ok']} rows rendered in {duration(seconds)} "
            f"({summary['frames']} frames, {rate:.1f} frames/s); {rows['ok']} of {total} are ok"
        ]
    if rows["failed"] or rows["invalid"]:
        lines.append(
            f"{rows['failed']} failed, {rows['invalid']} invalid: `zs2 status {folder}` says why"
            + (f", `zs2 retry {folder}` tries again" if rows["failed"] else "")
        )
    if summary["state"] == "interrupted":
        lines.append("interrupted; the same command goes on where it stopped")
    lines.append(f"look at {Path(folder, 'index.html')}")
    return "\n".join(lines)
