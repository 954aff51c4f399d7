"""`zs2 eval`: scores of a run's finished clips, in this process and its own; neither Prefect nor Ray."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from flows.console import PLAIN_EVERY, printable, say
from flows.earlier_run import earlier_run
from flows.errors import UsageError
from manifests.kinds import count
from manifests.run_file import read_json
from tasks import score_table
from tasks.evaluate import Evaluation, evaluate

DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")  # and torch says whether it is there
OK, SOME_FAILED, INTERRUPTED = 0, 3, 130
MOST_NAMED = 10


def evaluate_run(
    out: str,
    *,
    scorer: str,
    by: str | None,
    report: bool,
    trust_pickles: list[str],
    workers: int | None,
    device: str,
    quiet: bool = True,
) -> dict[str, Any]:
    """Score a run folder; what `zs2 eval --json` prints and the flow returns.

    Raises:
        LockedError: a run goes on. ModelError: no such scorer. ColumnError: `by` is none.
        UsageError: no run is there, `workers` is no number of processes, or `device` is none.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers: expected at least 1, found {workers}")
    if not DEVICE.fullmatch(device):
        raise UsageError(f"--device: expected cpu or cuda, found {device!r}")
    folder = earlier_run(out)
    with folder.view() as seen:
        score_table.check_column(seen.root, by)
    progress = _Progress(quiet)
    done = evaluate(
        folder, scorer, trusted=trust_pickles, workers=workers, device=device, on_clip=progress
    )
    summaries = score_table.summarise_scores(folder.root, done.scorer, by)
    answer: dict[str, Any] = {
        "out": folder.address,
        "scorer": done.scorer,
        "clips": done.ok,
        "scored": done.scored,
        "scored_before": done.had,
        "failed": done.failed,
        "truncated_prompts": done.truncated,
        "by": by,
        "groups": score_table.as_json(summaries),
        "table": score_table.text(summaries, by),
        "markdown": score_table.markdown(summaries, by),
        "report": None,
    }
    if report and summaries:
        from tasks.quality_report import write_report

        title = Path(str((read_json(folder.run_file) or {}).get("manifest") or folder.name)).name
        path = write_report(
            folder, scorer, title=title, trusted=trust_pickles, workers=workers, device=device
        )
        answer["report"] = folder.address_of(path)
    return answer


def run(out: str, *, quiet: bool, as_json: bool, **options: Any) -> int:
    """The command: prints the table, or JSON; returns the exit code."""
    try:
        answer = evaluate_run(out, quiet=quiet or as_json, **options)
    except KeyboardInterrupt:
        say("interrupted; what was scored is kept, and the same command goes on from there")
        return INTERRUPTED
    failed: dict[str, str] = answer["failed"]
    if as_json:
        shown = {k: v for k, v in answer.items() if k not in ("table", "markdown")}
        print(json.dumps(shown, ensure_ascii=False))
    elif not quiet:
        print(printable(_told(answer)))
    for name in list(failed)[:MOST_NAMED]:
        say(f"{name}: {failed[name]}")
    if failed:
        more = f" ({len(failed) - MOST_NAMED} more)" if len(failed) > MOST_NAMED else ""
        say(
            f"{count(len(failed), 'clip')} could not be scored{more}; remove their files and render "
            "again"
        )
    return SOME_FAILED if failed else OK


def _told(answer: dict[str, Any]) -> str:
    if not answer["clips"]:
        return f"{answer['out']}: nothing to score, no clip is finished"
    lines = [
        f"{count(answer['scored'], 'clip')} scored by {answer['scorer']}, "
        f"{answer['scored_before']:,} scored before",
        "",
        answer["table"],
    ]
    if answer["truncated_prompts"]:
        lines.append(
            f"{count(answer['truncated_prompts'], 'prompt')} longer than the scorer reads: "
            "the CLIP score does not know their ends."
        )
    if answer["report"]:
        lines.append(f"report: {answer['report']}")
    return "\n".join(lines)


class _Progress:
    """A line every few seconds."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._said = time.monotonic()

    def __call__(self, done: Evaluation) -> None:
        now = time.monotonic()
        if not self._quiet and now - self._said > PLAIN_EVERY:
            self._said = now
            ended, total = done.scored + len(done.failed), done.ok - done.had
            say(f"{ended:,}/{total:,} clips scored")
