"""`zs2 export`: finished clips in shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from flows.console import say
from flows.console import size as size_text
from flows.earlier_run import earlier_run
from flows.errors import UsageError
from manifests.best_by import SCORE_NAMES
from manifests.kinds import count
from tasks.export import export as write_shards
from tasks.export import shard_size
from tasks.export_choice import conditions_of


def export(
    out: str,
    dest: str,
    form: str,
    size: str,
    where: Sequence[str],
    min_score: Sequence[str],
    *,
    skip_damaged: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Write the shards; returns what was written.

    Raises:
        UsageError: no run folder, a score that there is not.
        ExportError, StorageError: see `tasks.export.export`.
    """
    conditions = list(where)
    for text in min_score:
        name, equals, value = text.partition("=")
        if not equals or name.strip() not in SCORE_NAMES:
            raise UsageError(
                f"--min-score: expected {', '.join(SCORE_NAMES)}, each as NAME=NUMBER, found {text!r}"
            )
        if not _is_number(value):
            raise UsageError(
                f"--min-score: expected a number after {name.strip()}=, found {value!r}, as in "
                f"--min-score {name.strip()}=0.5"
            )
        conditions.append(f"{name}>={value}")
    chosen, limit = conditions_of(conditions), shard_size(size)
    run_folder = earlier_run(out)
    with run_folder.view() as folder:
        tell = (lambda name: None) if quiet else say
        done = write_shards(folder, dest, form, limit, chosen, tell, skip_damaged=skip_damaged)
    return {
        "dest": dest,
        "format": form,
        "clips": done.clips,
        "bytes": done.bytes,
        "shards": done.shards,
        "made": done.made,
        "damaged": done.damaged,
        "frames_left_out": done.frames_left_out,
    }


def _is_number(value: str) -> bool:
    try:
        return not isnan(float(value))  # which no score is at least
    except ValueError:
        return False


def text(report: Mapping[str, Any]) -> str:
    """The report as lines for people."""
    shards, made = len(report["shards"]), len(report["made"])
    kept = f", {shards - made} of them from before" if made < shards else ""
    lines = [
        f"{report['dest']}: {count(report['clips'], 'clip')} in {count(shards, 'shard')}{kept}, "
        f"{size_text(report['bytes'])}, {report['format']}"
    ]
    if report["frames_left_out"]:
        lines.append(
            f"{count(report['frames_left_out'], 'folder')} of PNGs left out, no videos to a videofolder: "
            "--format parquet has them as `frames`"
        )
    if report["damaged"]:
        lines.append(f"{count(len(report['damaged']), 'clip')} left out, gone or damaged:")
        lines += [f"  {name}" for name in report["damaged"]]
    return "\n".join(lines)
