"""What the command line shows: progress, tables, errors."""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from manifests.kinds import count

if TYPE_CHECKING:  # a second of imports, which `--help` does without
    from manifests.result import ResultRow
    from tasks.plan import Plan

PLAIN_EVERY = 5.0  # seconds between progress lines where there is no terminal


class Progress:
    """Rows, frames/s, ETA and failures: a bar on a terminal, plain lines otherwise, or nothing."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.total = self.ended = self.failed = self.invalid = self.frames = 0
        self.started = time.monotonic()
        self.said = 0.0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None, detail="")
        elif not self.quiet:
            say("starting Prefect and Ray …")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def on_plan(self, plan: Plan) -> None:
        """The plan is made: the number of rows is known."""
        self.total = plan.work.rows
        done = f", {plan.done} done before" if plan.done else ""
        bad = f", {plan.invalid_rows} invalid" if plan.invalid_rows else ""
        if self._bar is not None:
            self._bar.update(self._task, description="rendering", total=self.total)
        elif not self.quiet:
            rows, shards = count(plan.work.rows, "row"), count(len(plan.shards), "shard")
            say(f"{rows} to render in {shards}{done}{bad}")
        if not self.quiet and (told := plan.told_of_dropped()):
            say(told)
        self.started = time.monotonic()

    def on_row(self, row: ResultRow) -> None:
        """A row has ended."""
        if row.status == "invalid":
            self.invalid += 1
            return
        self.ended += 1
        self.failed += row.status == "failed"
        self.frames += row.num_frames or 0
        if self._bar is not None:
            failed = f"{self.failed} failed" if self.failed else ""
            detail = f"{self._rate():.1f} frames/s {failed}"
            self._bar.update(self._task, completed=self.ended, detail=detail)
        elif not self.quiet and time.monotonic() - self.said > PLAIN_EVERY:
            self.said = time.monotonic()
            left = (self.said - self.started) / self.ended * (self.total - self.ended)
            say(
                f"{self.ended}/{self.total} rows, {self._rate():.1f} frames/s, "
                f"{duration(left)} left, {self.failed} failed"
            )

    def _rate(self) -> float:
        return self.frames / max(1e-9, time.monotonic() - self.started)


class Counted:
    """Work of a known number of parts, in this process: a bar on a terminal, plain lines otherwise, or
    nothing."""

    def __init__(self, doing: str, total: int, quiet: bool) -> None:
        self.doing, self.total, self.quiet = doing, total, quiet
        self.ended = self.made = 0
        self.started = self.said = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Counted:
        if not self.quiet and sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task(self.doing, total=self.total, detail="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, is_new: bool) -> None:
        """A part has ended; `is_new` where it was not there already."""
        self.ended += 1
        self.made += is_new
        if self._bar is not None:
            self._bar.update(self._task, completed=self.ended)
        elif not self.quiet and is_new and time.monotonic() - self.said > PLAIN_EVERY:
            self.said = time.monotonic()
            left = (self.said - self.started) / self.made * (self.total - self.ended)
            say(f"{self.doing} {self.ended}/{self.total}, {duration(left)} left")


def _bar() -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[detail]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def say(text: str) -> None:
    """A line for the person at the terminal; standard output stays for results."""
    print(printable(text), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Text of others for a terminal: what would move its cursor, colour it, or write to the left is
    shown as an escape; line ends stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c
        if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else _escape(c)
        for c in text
    )


def _escape(character: str) -> str:
    if character in ("\u200c", "\u200d"):  # joiners: emoji and whole scripts need them
        return character
    return character.encode("unicode_escape").decode()


def table(rows: Iterable[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Aligned columns of text."""
    cells = [[str(cell) for cell in row] for row in ([header] if header else []) + [*rows]]
    if not cells:
        return ""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
