"""`zs2 dataset`: the flow in this process, with progress and exit codes."""

from __future__ import annotations

import datetime
import json
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.console import Progress, duration, say
from flows.errors import UsageError
from flows.settings import RenderSettings
from flows.verdict import RowsFailedError, has_failed, result_of
from manifests.kinds import count
from manifests.object_store import is_url
from manifests.recipe import Recipe
from manifests.recipe_file import read_recipe
from manifests.recipe_rows import parse_date
from tasks.dataset_place import Place, latest_of, place_of, published

OK, SOME_FAILED, INTERRUPTED = 0, 3, 130


def run(
    recipe: str,
    out: str,
    date: str | None,
    settings: RenderSettings,
    *,
    scoring_workers: int | None,
    scoring_device: str,
    quiet: bool,
    as_json: bool,
) -> int:
    """Make and publish the dataset; the exit code: 0 published or there already, 3 and some rows
    failed, 130 interrupted.

    Raises:
        RecipeError, PublishedError, UsageError: nothing was rendered. TooFewError: nothing published.
    """
    if scoring_workers is not None and scoring_workers < 1:
        raise UsageError(f"--scoring-workers: expected at least 1, found {scoring_workers}")
    said, _ = read_recipe(recipe)
    day = parse_date(date) if date else datetime.datetime.now(datetime.UTC).date()
    place = place_of(out, said, day)
    answer = _nothing_to_do(place, said)
    started = time.monotonic()
    if answer is None:
        parameters: dict[str, Any] = {
            "recipe": recipe,
            "out": out if is_url(out) else str(Path(out).absolute()),
            "date": day,
            "settings": settings,
            "scoring_workers": scoring_workers,
            "scoring_device": scoring_device,
        }
        try:
            answer = _run_flow(parameters, quiet)
        except KeyboardInterrupt:
            say("interrupted; the same command goes on where it stopped")
            return INTERRUPTED
    if as_json:
        print(json.dumps(answer, ensure_ascii=False))
    elif not quiet:
        say(_told(answer, time.monotonic() - started))
    if answer["state"] == "interrupted":
        return INTERRUPTED
    return SOME_FAILED if has_failed(settings.fail_if, answer["rows"]) else OK


def _nothing_to_do(place: Place, recipe: Recipe) -> dict[str, Any] | None:
    """What there is to say where the date is published and `latest` knows; Prefect need not start."""
    content = published(place, recipe)
    if content is None or (latest_of(place.base) or "") < str(place.date):
        return None
    return {**content, "at": place.version, "state": "unchanged", "latest": False}


def _run_flow(parameters: Mapping[str, Any], quiet: bool) -> dict[str, Any]:
    from flows.embedded import embedded_prefect

    with Progress(quiet) as progress, embedded_prefect():
        from flows.nightly_dataset import nightly_dataset
        from flows.render_manifest import Caller, caller

        token = caller.set(Caller(progress.on_plan, progress.on_row, _say_what_ctrl_c_does))
        try:
            return result_of(nightly_dataset, **parameters)
        except RowsFailedError as failed:  # the exit code tells it
            return failed.summary
        finally:
            caller.reset(token)


def _say_what_ctrl_c_does() -> None:
    say("ending the rows in flight; Ctrl-C again stops at once")


def _told(answer: Mapping[str, Any], seconds: float) -> str:
    at, rows = shlex.quote(answer["at"]), answer["rows"]
    if answer["state"] == "interrupted":
        return "interrupted; the same command goes on where it stopped"
    if answer["state"] == "unchanged":
        lines = [f"nothing to do: {at} is published, with {count(answer['kept'], 'clip')}"]
    else:
        lines = [
            f"{count(answer['kept'], 'clip')} of {count(sum(rows.values()), 'row')} published in "
            f"{duration(seconds)}: {at}"
        ]
        lines += [f"not kept: {lack}: {clips}" for lack, clips in answer["rejected"].items()]
        if rows["failed"] or rows["invalid"]:
            lines.append(f"{rows['failed']} failed, {rows['invalid']} invalid: README.md says why")
    if answer["latest"]:
        lines.append(f"latest is {answer['date']} now")
    return "\n".join(lines)
