"""Draw what the stages of training logged.

    python -m infra.mini.training_curves infra/mini/training_curves.svg

One panel a stage, over the minutes that its schedule counted. `evaluate_sr --curve` draws mini-sr's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from infra.mini.command import RecipeError, run
from infra.mini.data import WORK

# By panel: the stage whose log it draws, and the figure of it.
PANELS = {
    "autoencoder: weighted error": ("autoencoder", "loss"),
    "its decoder alone, on noisy latents": ("decoder", "loss"),
    "denoiser: weighted error in v": ("unet", "loss"),
    "scorer: captions found in a batch": ("clip", "right"),
}
SMOOTH = 5  # logged points that the dark line averages
STYLE: dict[Any, Any] = {"svg.hashsalt": "zs2", "font.size": 9.0, "svg.fonttype": "none"}


def read_log(path: Path) -> list[dict[str, float]]:
    """Return the logged points of a stage, each with its `step` and `minutes`.

    A run that was cut off logs some steps twice, for it goes on from its checkpoint: the later point counts.
    """
    points: dict[float, dict[str, float]] = {}
    for line in path.read_text().splitlines():
        pairs = (part.split("=") for part in line.split()[1:])
        point = {name: float(value) for name, value in pairs}
        points[point["step"]] = points.get(point["step"], {}) | point
    return [points[step] for step in sorted(points)]


def draw_panel(axes: Axes, title: str, points: list[dict[str, float]], name: str) -> None:
    """Draw one figure of a log, as logged and averaged."""
    kept = [point for point in points if name in point]
    minutes = [point["minutes"] for point in kept]
    values = [point[name] for point in kept]
    smooth = [
        sum(values[max(0, end - SMOOTH) : end]) / min(end, SMOOTH)
        for end in range(1, len(values) + 1)
    ]
    axes.plot(minutes, values, color="#9ecae1", linewidth=0.8)
    axes.plot(minutes, smooth, color="#08519c", linewidth=1.4)
    if name == "loss":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("minutes")
    axes.grid(alpha=0.3, which="both")


def draw_curves(path: Path, logs: Path = WORK) -> None:
    """Draw every panel whose stage has a log.

    Raises:
        RecipeError: there is none.
    """
    panels = {
        title: source for title, source in PANELS.items() if (logs / f"{source[0]}.log").exists()
    }
    if not panels:
        raise RecipeError(
            f"{logs}: expected logs of training, which are not shipped, found none; "
            "run `python -m infra.mini.train`"
        )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.4 * ((len(panels) + 1) // 2)), layout="constrained")
        spots = list(figure.subplots((len(panels) + 1) // 2, 2, squeeze=False).flat)
        for axes, (title, (stage, name)) in zip(spots, panels.items(), strict=False):
            draw_panel(axes, title, read_log(logs / f"{stage}.log"), name)
        for axes in spots[len(panels) :]:
            axes.set_axis_off()
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Draw the curves into the named file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, help="the .svg or .png to write")
    draw_curves(parser.parse_args().picture)


if __name__ == "__main__":
    run(main)
