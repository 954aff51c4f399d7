"""The study's pictures: a contact sheet of the λ × μ grid, its curves, and long clips' semantics."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manifests.storage import write_aside
from tasks.study import Course, Frames, Point
from zs2.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_FRAMES = 4  # of a clip on the contact sheet
# Okabe and Ito's colours, which most people can tell apart
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b7280")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "zs2",  # the same file from the same figures
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# Side by side, always: a clip that stands still is consistent.
PAIR = {
    "dynamic_degree": "dynamic degree, px a frame",
    "frame_consistency": "frame consistency, 100·cos",
}


def draw_sheet(path: Path, clips: Mapping[tuple[float, float], Frames], title: str) -> None:
    """The grid as a PNG: a row for each λ, a column for each μ, a few frames of each clip.

    Args:
        clips: frames by λ and μ, all of one size.
    """
    kl_targets = sorted({kl_target for kl_target, _ in clips})
    momentums = sorted({momentum for _, momentum in clips})
    with _figure((2.4 * len(momentums), 0.66 * len(kl_targets) + 0.7)) as figure:
        axes = figure.subplots(len(kl_targets), len(momentums), squeeze=False)
        for row, kl_target in enumerate(kl_targets):
            for column, momentum in enumerate(momentums):
                ax = axes[row][column]
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
                ax.imshow(_strip(clips[kl_target, momentum]), interpolation="nearest")
                if row == 0:
                    ax.set_title(f"μ = {momentum:g}", fontsize=9)
                if column == 0:
                    ax.set_ylabel(f"λ = {kl_target:g}")
        figure.suptitle(title, fontsize=9)
        figure.set_layout_engine("constrained")
        _save(figure, path, "png", dpi=150)


def _strip(frames: Frames) -> Frames:
    chosen = np.linspace(0, len(frames) - 1, min(SHOWN_FRAMES, len(frames))).round().astype(int)
    return np.concatenate([frames[i] for i in chosen], axis=1)


def draw_curves(path: Path, points: Sequence[Point]) -> None:
    """Dynamic degree and consistency against λ, a line for each μ, and against μ, a line for each λ;
    bars are 95 % intervals over prompts. An SVG."""
    with _figure((10.0, 6.6)) as figure:
        axes = figure.subplots(2, 2)
        for row, (axis, other, symbol, line) in enumerate(
            (("kl_target", "momentum", "λ", "μ"), ("momentum", "kl_target", "μ", "λ"))
        ):
            for ax, (name, label) in zip(axes[row], PAIR.items(), strict=True):
                for number, value in enumerate(sorted({getattr(p, other) for p in points})):
                    on_line = sorted(
                        (p for p in points if getattr(p, other) == value),
                        key=lambda p: getattr(p, axis),
                    )
                    _line(
                        ax,
                        [getattr(p, axis) for p in on_line],
                        [p.scores[name] for p in on_line],
                        number,
                        f"{line} = {value:g}",
                    )
                ax.set(xlabel=symbol, ylabel=label)
                ax.set_ylim(**({"bottom": 0} if name == "dynamic_degree" else {"top": 100.1}))
            axes[row][1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.set_layout_engine("constrained")
        _save(figure, path, "svg")


def _line(ax: Axes, x: Sequence[float], y: Sequence[Interval], number: int, label: str) -> None:
    mean = np.array([i.mean for i in y])
    # one prompt has no interval: a point without a bar
    ends = np.array([[i.mean - i.low, i.high - i.mean] for i in y]).T
    ax.errorbar(
        x,
        mean,
        yerr=np.maximum(np.nan_to_num(ends), 0),
        color=COLOURS[number % len(COLOURS)],
        marker=MARKS[number % len(MARKS)],
        markersize=4,
        linewidth=1.3,
        capsize=2,
        label=label,
    )


def draw_semantics(path: Path, courses: Sequence[Course]) -> None:
    """CLIP score against frame index, a line for each noise model with its 95 % interval; beside it
    each model's dynamic degree. An SVG."""
    with _figure((10.5, 4.2)) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(3, 1))
        seen: dict[tuple[float, ...], str] = {}
        drawn: list[tuple[str, str, Interval]] = []
        for course in courses:
            means = tuple(i.mean for i in course.by_frame)
            if means in seen:
                continue
            same = [c.method.name for c in courses if tuple(i.mean for i in c.by_frame) == means]
            label, colour = " = ".join(same), COLOURS[len(seen) % len(COLOURS)]
            seen[means] = label
            x = np.arange(1, len(means) + 1)
            left.plot(x, means, color=colour, linewidth=1.4, label=label)
            low = [i.low for i in course.by_frame]
            left.fill_between(
                x, low, [i.high for i in course.by_frame], color=colour, alpha=0.13, linewidth=0
            )
            drawn.append((label, colour, course.scores["dynamic_degree"]))
        left.set(xlabel="frame", ylabel="CLIP score of the frame, 100·cos")
        left.legend(frameon=False, fontsize=8)
        for number, (_, colour, interval) in enumerate(drawn):
            ends = [[max(0, interval.mean - interval.low)], [max(0, interval.high - interval.mean)]]
            xerr = None if np.isnan(ends).any() else ends
            right.barh(number, interval.mean, xerr=xerr, color=colour, height=0.6, capsize=2)
        right.set(yticks=[], xlabel=PAIR["dynamic_degree"])
        right.invert_yaxis()
        figure.set_layout_engine("constrained")
        _save(figure, path, "svg")


@contextmanager
def _figure(size: tuple[float, float]) -> Generator[Figure]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        yield Figure(figsize=size)


def _save(figure: Figure, path: Path, kind: str, **options: Any) -> None:
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with write_aside(path) as aside:
        figure.savefig(aside, format=kind, metadata=metadata, facecolor="white", **options)
