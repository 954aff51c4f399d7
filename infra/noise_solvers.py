"""What each solver of the dependency noise does: `python -m infra.noise_solvers [--write]`.

Prints two tables: for every solver, latent size and λ, the α it reaches, how far KL is from λ and the
64th frame from N(0, I); and what Algorithm 1 does as printed. `--write` puts them into
infra/sampler.md and draws the paper's Fig. 10, error against iteration, as infra/noise_solvers.svg.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from infra.reports import write_tables
from zs2.noise import (
    LINE_SEARCH_ITERATIONS,
    SOLVERS,
    SQRT_E,
    Pair,
    algorithm1_steps,
    dependency_noise,
    nearest,
    search_steps,
)

REPORT = Path(__file__).with_name("sampler.md")
PICTURE = Path(__file__).with_name("noise_solvers.svg")
NUM_FRAMES = 64
CANDIDATES = 10  # the paper's
CASES = [("expected", 1), ("exact", 1), ("exact", 10), ("search", 10), ("algorithm1", 10)]
SEEDS = {(4, 16, 16): 32, (4, 64, 64): 8}  # clips of 64 frames
PAIR_SEEDS = 100  # pairs of two frames
PAIR_TARGETS = (0.01, 0.1)
STILL = 1e-9  # 1 − α of a pair that stands still

# the picture: Okabe and Ito's colours, on white wherever it is shown
COLOURS = {
    "stage 1": "#6b7280",
    "expected": "#0072b2",
    "exact": "#009e73",
    "search": "#e69f00",
    "algorithm1": "#d55e00",
}
FLOOR = 1e-7  # smaller errors are drawn here
SPREAD = (10, 90)  # percentiles of the seeds
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "svg.hashsalt": "zs2",  # the same file from the same numbers
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "text.color": "#111827",
    "xtick.color": "#374151",
    "ytick.color": "#374151",
}


@dataclass(frozen=True)
class Search:
    """The second frame of a clip: its λ, the noises drawn for it, and the one that stage 1 kept."""

    kl_target: float
    drawn: tuple[Pair, ...]
    kept: Pair

    @classmethod
    def of(cls, shape: tuple[int, int, int], kl_target: float, seed: int) -> Search:
        """Draw the noises of a seed, each (channel, h, w), and keep the one that stage 1 would."""
        generator = torch.Generator().manual_seed(seed)
        previous, *noises = torch.randn((1 + CANDIDATES, *shape), generator=generator)
        drawn = tuple(Pair.of(previous, noise) for noise in noises)
        return cls(kl_target, drawn, drawn[nearest(drawn, kl_target)])

    def alpha(self, solver: str) -> float:
        """What a solver finds; `expected` for the first noise, the others for the kept one."""
        return SOLVERS[solver](self._pair(solver), self.kl_target)

    def error(self, solver: str) -> float:
        """|KL − λ| of that α."""
        return abs(self._pair(solver).kl(self.alpha(solver)) - self.kl_target)

    def stage1(self) -> list[float]:
        """|KL − λ| of the best noise after 1..10 draws, at α = 0."""
        counts = range(1, CANDIDATES + 1)
        best = (self.drawn[nearest(self.drawn[:k], self.kl_target)] for k in counts)
        return [abs(pair.kl(0.0) - self.kl_target) for pair in best]

    def stage2(self, solver: str) -> list[float]:
        """|KL − λ| after each iteration of `search` or `algorithm1`."""
        steps = {"search": search_steps, "algorithm1": algorithm1_steps}[solver]
        alphas = steps(self.kept, self.kl_target)
        return [abs(self.kept.kl(alpha) - self.kl_target) for alpha in alphas]

    def _pair(self, solver: str) -> Pair:
        return self.drawn[0] if solver == "expected" else self.kept


def searches(shape: tuple[int, int, int], kl_target: float) -> list[Search]:
    """One search for each of the pair seeds."""
    return [Search.of(shape, kl_target, seed) for seed in range(PAIR_SEEDS)]


def moments_rows(shape: tuple[int, int, int]) -> Iterator[str]:
    """For every λ and solver: the α reached, the error, and the moments of frame 64."""
    for kl_target in (1e-4, 0.01, 0.1):
        expected = 1 - (1 - kl_target / SQRT_E) ** 2
        for solver, candidates in CASES:
            drawn = [
                dependency_noise(
                    shape,
                    NUM_FRAMES,
                    kl_target,
                    torch.Generator().manual_seed(seed),
                    solver,
                    candidates,
                )
                for seed in range(SEEDS[shape])
            ]
            last = torch.stack([eps[-1] for eps, _ in drawn]).double()
            reached = 1 - torch.stack([trace.alpha for _, trace in drawn]).mean()
            error = (torch.stack([trace.kl for _, trace in drawn]).double() - kl_target).abs()
            drift = last.mean().item() * math.sqrt(math.prod(shape))
            yield (
                f"| {_name(shape)} | {kl_target:g} | {solver} | {candidates} "
                f"| {reached:.4f} ({expected:.4f}) | {_error(error.median().item())} "
                f"| {drift:+.2f} | {last.std():.3f} |"
            )


def moments_table() -> str:
    """`moments_rows` of both latent sizes as Markdown."""
    head = (
        "| latents | λ | solver | candidates | mean 1−α (expected) | median error | mean, σ of a clip "
        "| std |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    return "\n".join([head, *(row for shape in SEEDS for row in moments_rows(shape))])


def algorithm1_table() -> str:
    """What the printed search does with the pairs of Fig. 10, beside the α that meets λ."""
    head = (
        "| latents | λ | α it ends at: median (lowest to highest) | α that meets λ | pairs that stand "
        "still | error in % of λ: median | worst |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    return "\n".join([head, *_algorithm1_rows()])


def _algorithm1_rows() -> Iterator[str]:
    for shape in SEEDS:
        for kl_target in PAIR_TARGETS:
            found = searches(shape, kl_target)
            alphas = [search.alpha("algorithm1") for search in found]
            exact = median(search.alpha("exact") for search in found)
            off = [100 * search.error("algorithm1") / kl_target for search in found]
            still = sum(1 - alpha < STILL for alpha in alphas)
            yield (
                f"| {_name(shape)} | {kl_target:g} "
                f"| {median(alphas):.4f} ({min(alphas):.4f} to {max(alphas):.4f}) "
                f"| {exact:.4f} | {still} of {len(found)} | {median(off):.1f} | {max(off):.1f} |"
            )


def _name(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _error(value: float) -> str:
    return "< 1e-6" if value < 1e-6 else f"{value:.1e}"  # float32 noise resolves no less


def draw(path: Path) -> None:
    """Error against iteration, as the paper's Fig. 10: a panel for each λ and latent size."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 6.4), facecolor="white")
        panels = figure.subplots(2, 2, sharex=True, sharey=True)
        for row, kl_target in zip(panels, PAIR_TARGETS, strict=True):
            for axes, shape in zip(row, SEEDS, strict=True):
                _draw_panel(axes, searches(shape, kl_target))
                axes.set_title(f"λ = {kl_target:g}, latents {_name(shape)}", fontsize=10.5)
        for axes in panels[:, 0]:
            axes.set_ylabel("error |KL − λ|")
        for axes in panels[-1]:
            axes.set_xlabel("iteration")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=5, frameon=False)
        words = f"median of {PAIR_SEEDS} seeds; shaded, or a bar: {SPREAD[0]} to {SPREAD[1]} %"
        figure.text(0.99, 0.012, words, ha="right", fontsize=8.5, color="#6b7280")
        figure.tight_layout(rect=(0, 0.01, 1, 0.95), w_pad=2.0, h_pad=1.6)
        figure.savefig(path, metadata={"Date": None})


def _draw_panel(axes: Axes, found: Sequence[Search]) -> None:
    first, last = CANDIDATES + 1, CANDIDATES + LINE_SEARCH_ITERATIONS
    axes.axvspan(0, first - 0.5, color="#f3f4f6", lw=0, zorder=0)
    _draw_step(axes, "expected", 1, last, [search.error("expected") for search in found])
    _draw_step(axes, "exact", first, last, [search.error("exact") for search in found])
    _draw_line(axes, "stage 1", 1, [search.stage1() for search in found])
    for solver in ("search", "algorithm1"):
        # from the last draw of stage 1 on, where α = 0
        errors = [[search.stage1()[-1], *search.stage2(solver)] for search in found]
        _draw_line(axes, solver, first - 1, errors)
    if 1 - median(search.alpha("algorithm1") for search in found) < STILL:
        y = found[0].kl_target * 2  # above its line, whose error is λ
        axes.text(last, y, "a still clip", ha="right", color=COLOURS["algorithm1"])
    axes.set_yscale("log")
    axes.set_ylim(FLOOR / 2, 6)
    axes.set_xlim(0.3, last + 0.7)
    axes.set_xticks([1, 5, 10, 15, 20, 25])
    axes.yaxis.set_major_locator(LogLocator(100))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color="#e5e7eb", lw=0.6)
    axes.set_axisbelow(True)


def _draw_line(axes: Axes, name: str, start: int, errors: Sequence[Sequence[float]]) -> None:
    low, middle, high = np.percentile(errors, (SPREAD[0], 50, SPREAD[1]), axis=0).clip(FLOOR)
    x = range(start, start + len(middle))
    label = f"{name}: random draws" if name == "stage 1" else name
    axes.fill_between(x, low, high, color=COLOURS[name], alpha=0.18, lw=0)
    axes.plot(x, middle, color=COLOURS[name], lw=1.8, marker="o", ms=3, label=label)


def _draw_step(axes: Axes, name: str, at: int, last: int, errors: Sequence[float]) -> None:
    """A solver of one step: a mark with its spread, and a thin line to read it by."""
    low, middle, high = np.percentile(errors, (SPREAD[0], 50, SPREAD[1])).clip(FLOOR)
    colour = COLOURS[name]
    axes.plot((at, last), (middle, middle), color=colour, lw=1, ls=(0, (4, 3)))
    spread = [[middle - low], [high - middle]]
    mark = "v" if middle == FLOOR else "D"
    axes.errorbar([at], [middle], spread, color=colour, fmt=mark, ms=6, lw=1.6, label=name)
    if middle == FLOOR:
        words = f"one step, below {_power(max(errors))}"
        axes.annotate(words, (at, middle), (8, 5), textcoords="offset points", color=colour)


def _power(value: float) -> str:
    return f"1e{math.ceil(math.log10(value))}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables as Markdown, or write them and the picture."""
    parser = argparse.ArgumentParser(description="What each solver of the dependency noise does.")
    parser.add_argument(
        "--write", action="store_true", help="into sampler.md and noise_solvers.svg"
    )
    write: bool = parser.parse_args(arguments).write
    torch.set_num_threads(1)
    tables = {"moments": moments_table(), "algorithm1": algorithm1_table()}
    if write:
        write_tables(REPORT, tables)
        draw(PICTURE)
    else:
        print("\n\n".join(tables.values()))


if __name__ == "__main__":
    main()
