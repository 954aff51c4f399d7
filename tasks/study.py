"""The paper's study of a model: what λ and μ do (Fig. 4), and what long clips keep (Figs. 7-9).

Points of the grid and noise models are methods like those of a comparison: columns laid over a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tasks.methods import METHODS, Method, fixed
from zs2.statistics import Interval, Paired, bootstrap_interval, paired_test

if TYPE_CHECKING:
    from zs2.clip_score import ClipScorer

Frames = np.ndarray[Any, Any]

KL_TARGETS = (0.0, 0.01, 0.05, 0.1, 0.25)  # the paper's range, its own 0.01 among them
MOMENTUMS = (0.0, 0.5, 0.9, 0.98, 1.0)
LONG_FRAMES = 64
LONG_MOMENTUM = 0.95  # of figures 7-9, by the paper's list of prompts
ENDS = 8  # frames at either end whose semantic scores are compared
SEMANTIC = "clip_score_by_frame"  # the column: a list, one CLIP score a frame
IDENTICAL = (
    "At matched α, progressive noise and the dependency model with the solver `expected` are the same "
    "noise: their clips are the same to the bit, and one curve is both."
)


class Point(NamedTuple):
    """One point of the grid: its λ and μ, and its scores' intervals by name."""

    kl_target: float
    momentum: float
    scores: dict[str, Interval]


class Course(NamedTuple):
    """One noise model over a long clip.

    Attributes:
        by_frame: the CLIP score of each frame, over prompts.
        first, last: its mean over the first and the last frames of a clip.
        change: last − first, paired by prompt.
        scores: of whole clips, by name.
    """

    method: Method
    by_frame: list[Interval]
    first: Interval
    last: Interval
    change: Paired
    scores: dict[str, Interval]


def grid_methods(kl_targets: Sequence[float], momentums: Sequence[float]) -> list[Method]:
    """A method for every λ and μ, λ by λ."""
    return [
        Method(
            point_name(kl_target, momentum),
            f"ZS² at λ={kl_target:g}, μ={momentum:g}",
            fixed(noise="dependency", kl_target=kl_target, momentum=momentum),
        )
        for kl_target in kl_targets
        for momentum in momentums
    ]


def point_name(kl_target: float, momentum: float) -> str:
    """What a point of the grid is called in file names."""
    return f"kl{kl_target:g}-mu{momentum:g}"


def long_methods() -> list[Method]:
    """The noise models of figures 7-9, and the dependency model as the paper searches it."""
    exact = Method(
        "dependency-exact",
        "the dependency model as the paper searches it: 10 candidates, the solver `exact`",
        fixed(noise="dependency", solver="exact", noise_candidates=10),
    )
    ours = Method(
        "dependency",
        "the dependency model, solver `expected`",
        fixed(noise="dependency", solver="expected", noise_candidates=1),
    )
    others = ("mixed", "mixed-matched", "progressive", "progressive-matched")
    return [ours, exact, *(METHODS[name] for name in others)]


def semantic_scores(
    frames: Frames, prompts: str | Sequence[str], scorer: ClipScorer
) -> list[float]:
    """100·max(cos, 0) of each frame and its prompt, as `zs2.clip_score.clip_score` before its mean."""
    images = scorer.image_embeddings(frames)
    texts = scorer.text_embeddings([prompts] if isinstance(prompts, str) else list(prompts))
    return [float(value) for value in 100 * np.maximum((images * texts).sum(-1), 0)]


def points_of(
    rows: Iterable[Mapping[str, Any]],
    kl_targets: Sequence[float],
    momentums: Sequence[float],
    names: Sequence[str],
) -> list[Point]:
    """The grid's points from its scored clips, a prompt's takes averaged first."""
    rows = list(rows)
    return [
        Point(
            kl_target,
            momentum,
            {
                name: bootstrap_interval(
                    list(_by_prompt(rows, point_name(kl_target, momentum), name).values())
                )
                for name in names
            },
        )
        for kl_target in kl_targets
        for momentum in momentums
    ]


def courses_of(
    rows: Iterable[Mapping[str, Any]], methods: Sequence[Method], names: Sequence[str]
) -> list[Course]:
    """The noise models' courses from their scored clips, a prompt's takes averaged first."""
    rows = list(rows)
    courses: list[Course] = []
    for method in methods:
        curves = np.array([*_by_prompt(rows, method.name, SEMANTIC).values()])
        ends = min(ENDS, curves.shape[1] // 2 or 1)
        first, last = curves[:, :ends].mean(1), curves[:, -ends:].mean(1)
        courses.append(
            Course(
                method,
                [bootstrap_interval(column, resamples=2000) for column in curves.T],
                bootstrap_interval(first),
                bootstrap_interval(last),
                paired_test(last, first),
                {
                    name: bootstrap_interval(list(_by_prompt(rows, method.name, name).values()))
                    for name in names
                },
            )
        )
    return courses


def _by_prompt(rows: Iterable[Mapping[str, Any]], method: str, name: str) -> dict[str, Any]:
    """A score by prompt, averaged over its takes; the scores of frames stay apart."""
    takes: dict[str, list[Any]] = {}
    for row in rows:
        if row["method"] == method:
            value = row[name]
            takes.setdefault(row["prompt_id"], []).append(np.nan if value is None else value)
    return {prompt: np.mean(values, axis=0) for prompt, values in takes.items()}
