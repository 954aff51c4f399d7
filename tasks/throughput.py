"""What a run did over time: rows and frames that ended, and how many actors of each stage were at work.

Everything is read from the ledger, so that it can be asked of any run folder, at any time.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from manifests.ledger import ledger_batches
from manifests.result import STAGES, TIMES
from manifests.storage import RunFolder, write_aside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray[Any, Any]

MOST_BINS = 120
LEAST_BINS = 12

# Okabe and Ito's colours, which most people can tell apart
_COLOURS = {
    "sample": "#0072b2",
    "temporal": "#009e73",
    "spatial": "#e69f00",
    "assemble": "#cc79a7",
    "failed": "#d55e00",
    "ok": "#56b4e9",
}
_LEGEND: dict[str, Any] = {
    "ncols": 4,
    "frameon": False,
    "loc": "lower right",
    "bbox_to_anchor": (1, 1),
    "borderaxespad": 0,
}
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "zs2",  # the same file from the same figures
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Timeline:
    """Figures of equal spans of time.

    Attributes:
        begin: of the first span; aware.
        span: seconds of each.
        ok, failed: rows that ended in it; failed counts invalid ones too.
        frames: of videos that were finished in it.
        busy: for each stage how many of its actors were at work, on average.
    """

    begin: datetime
    span: float
    ok: Array
    failed: Array
    frames: Array
    busy: dict[str, Array]


def timeline(folder: RunFolder, since: datetime | None = None) -> Timeline | None:
    """The timeline of the rows that ended after `since`, of all by default; None where there are none.

    A row's stages are taken to have followed each other without a pause before its end: the ledger
    has their seconds, not when they began. In memory: a batch of the ledger.
    """
    first, last, rows = np.inf, -np.inf, 0
    for columns in _columns(folder, since):
        first = min(first, columns["started_at"].min())
        last = max(last, columns["finished_at"].max())
        rows += len(columns["status"])
    if not rows:
        return None
    bins = int(np.clip(rows // 4, LEAST_BINS, MOST_BINS))
    edges = np.linspace(first, max(last, first + 1e-3 * bins), bins + 1)
    span = float(edges[1] - edges[0])
    ok, failed, frames = np.zeros(bins), np.zeros(bins), np.zeros(bins)
    busy = {stage: np.zeros(bins) for stage in STAGES}
    for columns in _columns(folder, since):
        until = columns["finished_at"]
        at = np.clip(np.searchsorted(edges, until, side="right") - 1, 0, bins - 1)
        is_ok = columns["status"] == "ok"
        np.add.at(ok, at[is_ok], 1)
        np.add.at(failed, at[~is_ok], 1)
        np.add.at(frames, at[is_ok], columns["num_frames"][is_ok])
        for stage in reversed(STAGES):
            begun = until - columns[f"seconds_{stage}"]
            busy[stage] += _overlaps(edges, begun, until) / span
            until = begun
    begin = datetime.fromtimestamp(float(first), UTC)
    return Timeline(begin, span, ok, failed, frames, busy)


_NUMBERS = ("num_frames", *(f"seconds_{stage}" for stage in STAGES))


def _columns(folder: RunFolder, since: datetime | None) -> Iterator[dict[str, Array]]:
    """The rows wanted, a batch at a time: times in seconds since 1970, 0 where a number is missing."""
    for batch in ledger_batches(folder.root, ["status", *TIMES, *_NUMBERS]):
        found = {name: _seconds(batch.column(name)) for name in TIMES}
        found |= {
            name: np.nan_to_num(batch.column(name).cast(pa.float64()).to_numpy(False))
            for name in _NUMBERS
        }
        found["status"] = batch.column("status").to_numpy(False)
        after = -np.inf if since is None else since.timestamp()
        wanted = (found["finished_at"] >= after) & ~np.isnan(found["started_at"])
        if wanted.any():
            yield {name: values[wanted] for name, values in found.items()}


def _seconds(times: pa.Array) -> Array:
    """Seconds since 1970; NaN where there is no time."""
    micro = times.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return micro.cast(pa.float64()).to_numpy(False) / 1e6


def _overlaps(edges: Array, begins: Array, ends: Array) -> Array:
    """For each span the seconds of it that lie in the intervals, added up."""
    before = [float(np.clip(edge - begins, 0, ends - begins).sum()) for edge in edges]
    return np.diff(before)


def write_throughput(
    folder: RunFolder,
    since: datetime | None = None,
    utilisation: Mapping[str, Any] | None = None,
) -> str | None:
    """Draw throughput.svg into the run folder; returns the picture, None where no row had ended.

    Args:
        utilisation: the record of what each actor did; see `tasks.utilisation`.
    """
    made = timeline(folder, since)
    if made is None:
        return None
    svg = draw(made, utilisation)
    with write_aside(folder.throughput_file) as aside:
        aside.write_text(svg, "utf-8")
    return svg


def draw(made: Timeline, utilisation: Mapping[str, Any] | None = None) -> str:
    """A timeline as a picture, with what each actor did where that is known: an SVG document."""
    # Of fonts it looks for and finds elsewhere, and of folders for them, nobody needs to hear.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib
    from matplotlib.figure import Figure

    edges = np.arange(len(made.ok) + 1) * made.span
    scale, time_unit = next(
        unit for unit in _TIME_UNITS if edges[-1] >= 2 * unit[0] or unit[0] == 1
    )
    with matplotlib.rc_context(_STYLE):
        actors = utilisation["actors"] if utilisation else []
        figure = Figure(figsize=(8, 5.4 if actors else 4.2), layout="constrained")
        top, middle, *more = figure.subplots(3 if actors else 2, 1, sharex=True)
        _draw_rates(top, made, edges / scale)
        _draw_actors(middle, made, edges / scale)
        bottom = middle
        if utilisation and more:
            bottom = more[0]
            _draw_each_actor(bottom, utilisation, made.begin, scale)
            bottom.set_xlim(0, edges[-1] / scale)
        bottom.set_xlabel(f"{time_unit} since {made.begin:%Y-%m-%d %H:%M:%S} UTC")
        bottom.margins(x=0)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _draw_rates(axes: Axes, made: Timeline, edges: Array) -> None:
    unit, seconds = _unit(made)
    per = seconds / made.span
    axes.stairs(made.ok * per, edges, fill=True, color=_COLOURS["ok"], label="rows ok")
    if made.failed.any():
        ended = (made.ok + made.failed) * per
        red = _COLOURS["failed"]
        axes.stairs(ended, edges, baseline=made.ok * per, fill=True, color=red, label="failed")
    each = "an" if unit == "hour" else "a"
    axes.set_ylabel(f"rows {each} {unit}")
    right = axes.twinx()
    right.spines["right"].set_visible(True)
    right.stairs(made.frames * per, edges, color="#444", label="frames", linewidth=1)
    right.set_ylabel(f"frames {each} {unit}")
    right.set_ylim(bottom=0)
    handles, labels = axes.get_legend_handles_labels()
    more_handles, more_labels = right.get_legend_handles_labels()
    axes.legend(handles + more_handles, labels + more_labels, **_LEGEND)


def _draw_actors(axes: Axes, made: Timeline, edges: Array) -> None:
    floor = np.zeros_like(made.ok)
    for stage, busy in made.busy.items():
        if busy.any():
            level, colour = floor + busy, _COLOURS[stage]
            axes.stairs(level, edges, baseline=floor, fill=True, color=colour, label=stage)
            floor = level
    axes.set_ylabel("actors at work")
    axes.set_ylim(bottom=0)
    if floor.any():
        axes.legend(**_LEGEND)


def _draw_each_actor(
    axes: Axes, utilisation: Mapping[str, Any], begin: datetime, scale: float
) -> None:
    """A row for each actor, samplers above: the darker, the more of that time it had a row."""
    actors = utilisation["actors"]
    spans = max(len(actor["busy_percent"]) for actor in actors)
    busy = np.zeros((len(actors), spans))
    for line, actor in zip(busy, actors, strict=True):
        line[: len(actor["busy_percent"])] = actor["busy_percent"]
    left = (datetime.fromisoformat(utilisation["begin"]) - begin).total_seconds()
    right = left + spans * utilisation["span_seconds"]
    extent = (left / scale, right / scale, len(actors), 0)
    axes.imshow(
        busy, cmap="Blues", vmin=0, vmax=100, aspect="auto", extent=extent, interpolation="nearest"
    )
    stages = [actor["stage"] for actor in actors]
    names = sorted(set(stages), key=stages.index)
    axes.set_yticks([stages.index(name) + stages.count(name) / 2 for name in names], names)
    axes.tick_params("y", length=0)
    axes.set_ylabel("each actor")


_TIME_UNITS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def _unit(made: Timeline) -> tuple[str, float]:
    """The unit of time in which the rate is a number that people read, and its seconds."""
    rows = float((made.ok + made.failed).sum())
    rate = rows / (made.span * len(made.ok))
    return next(
        (name, seconds)
        for name, seconds in (("second", 1.0), ("minute", 60.0), ("hour", 3600.0), ("day", 86400.0))
        if rate * seconds >= 1 or name == "day"
    )


def data_uri(svg: str) -> str:
    """A picture as the address of itself, for pages and artifacts that can hold no file."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
