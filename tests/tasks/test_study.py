"""The study's grid and courses are read from scored clips as they are, and drawn whole."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from manifests.row import parse_row
from tasks.compare_table import Column
from tasks.study import (
    IDENTICAL,
    SEMANTIC,
    courses_of,
    grid_methods,
    long_methods,
    point_name,
    points_of,
    semantic_scores,
)
from tasks.study_pictures import draw_curves, draw_semantics, draw_sheet
from tasks.study_report import as_markdown, as_page, grid_section, long_section
from zs2.statistics import bootstrap_interval

KL_TARGETS, MOMENTUMS = (0.0, 0.1), (0.0, 0.98, 1.0)
NAMES = ("dynamic_degree", "frame_consistency")
COLUMNS = [
    Column("frame_consistency", "frame consistency", "higher", "100·cos"),
    Column("dynamic_degree", "dynamic degree", None, "px/frame"),
]


def grid_rows(prompts: int = 6) -> list[dict[str, Any]]:
    """Clips that move by 10·λ·(1 − μ/2), and by their prompt's own little."""
    return [
        {
            "method": point_name(kl_target, momentum),
            "prompt_id": f"p{number}",
            "take": 0,
            "dynamic_degree": 10 * kl_target * (1 - momentum / 2) * (1 + number / 10),
            "frame_consistency": 100 - 5 * kl_target - number / 10,
        }
        for kl_target in KL_TARGETS
        for momentum in MOMENTUMS
        for number in range(prompts)
    ]


def course_rows(frames: int = 20, prompts: int = 8) -> list[dict[str, Any]]:
    """`mixed` stays at 30, `progressive` loses half a point a frame, the others are `dependency`."""
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (prompts, frames))
    for method in long_methods():
        slope = {"mixed": 0.0, "progressive": -0.5}.get(method.name, -0.1)
        for number in range(prompts):
            scores = 30 + slope * np.arange(frames) + noise[number]
            rows.append(
                {
                    "method": method.name,
                    "prompt_id": f"p{number}",
                    "take": 0,
                    SEMANTIC: scores.tolist(),
                    "dynamic_degree": 1.0 + number,
                    "frame_consistency": 99.0,
                }
            )
    return rows


def test_every_point_of_the_grid_is_a_valid_row():
    """λ and μ of each, everything else ZS²'s own."""
    methods = grid_methods(KL_TARGETS, MOMENTUMS)
    assert len({method.name for method in methods}) == 6
    plain = parse_row({"id": "a", "prompt": "a"})
    for method in methods:
        row = parse_row({"id": "a", "prompt": "a", **method.columns(plain)})
        assert method.name == point_name(float(str(row.kl_target)), float(str(row.momentum)))
        assert row.solver == "expected" and row.noise == "dependency"


def test_the_noise_models_of_long_clips_are_the_papers():
    """Mixed and progressive at α=0.5 and matched, and dependency by both solvers; all at the row's μ."""
    plain = parse_row({"id": "a", "prompt": "a", "num_frames": 64, "momentum": 0.95})
    rows = {
        m.name: parse_row(
            {"id": "a", "prompt": "a", "num_frames": 64, "momentum": 0.95, **m.columns(plain)}
        )
        for m in long_methods()
    }
    assert {row.momentum for row in rows.values()} == {0.95}
    assert rows["mixed"].alpha == rows["progressive"].alpha == 0.5
    assert rows["progressive-matched"].alpha == pytest.approx(0.988, abs=1e-3)
    assert (rows["dependency-exact"].solver, rows["dependency-exact"].noise_candidates) == (
        "exact",
        10,
    )


def test_points_are_intervals_over_prompts():
    """Each point's interval is that of its own clips."""
    points = points_of(grid_rows(), KL_TARGETS, MOMENTUMS, NAMES)
    assert [(p.kl_target, p.momentum) for p in points] == [
        (kl_target, momentum) for kl_target in KL_TARGETS for momentum in MOMENTUMS
    ]
    values = [10 * 0.1 * (1 - 0.49) * (1 + number / 10) for number in range(6)]
    at = next(p for p in points if (p.kl_target, p.momentum) == (0.1, 0.98))
    assert at.scores["dynamic_degree"] == bootstrap_interval(values)


def test_courses_tell_loss_from_none():
    """Over 20 frames a loss of half a point a frame is found with its size and its p, and none is
    found where there is none; frame 1 is first."""
    courses = {c.method.name: c for c in courses_of(course_rows(), long_methods(), NAMES)}
    lost = courses["progressive"].change
    assert lost.difference.mean == pytest.approx(-0.5 * 12, abs=0.2)  # last 8 of 20 to first 8
    assert lost.p == pytest.approx(2 / 2**8)
    assert abs(courses["mixed"].change.difference.mean) < 0.2
    assert courses["progressive"].by_frame[0].mean == pytest.approx(30, abs=0.2)
    assert len(courses["progressive"].by_frame) == 20


def test_a_short_clip_has_ends_that_do_not_meet():
    """Of four frames the ends are two and two."""
    courses = {c.method.name: c for c in courses_of(course_rows(frames=4), long_methods(), NAMES)}
    assert courses["progressive"].change.difference.mean == pytest.approx(-1.0, abs=0.2)


class Directions:
    """A scorer whose texts and frames are directions in a plane: grey level and text length are angles."""

    def image_embeddings(self, frames: Any) -> Any:
        return self._at(frames.reshape(len(frames), -1).mean(1))

    def text_embeddings(self, prompts: Any) -> Any:
        return self._at(np.array([len(text) for text in prompts], dtype=float))

    def _at(self, degrees: Any) -> Any:
        radians = np.radians(degrees)
        return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_semantic_scores_are_each_frames_own():
    """100·cos of frame and prompt, never negative; of a storyboard each frame has its segment's."""
    frames = np.stack([np.full((2, 2, 3), grey, np.uint8) for grey in (0, 60, 180)])
    scorer: Any = Directions()
    assert semantic_scores(frames, "", scorer) == pytest.approx([100, 50, 0])
    assert semantic_scores(frames, ["", "x" * 60, "x" * 180], scorer) == pytest.approx([100] * 3)


def test_pictures_are_whole_and_the_same_again(tmp_path: Path):
    """The sheet is a PNG with a cell for each point, the curves and courses are SVGs with their axes'
    names; drawn twice they are the same bytes."""
    points = points_of(grid_rows(), KL_TARGETS, MOMENTUMS, NAMES)
    courses = courses_of(course_rows(), long_methods(), NAMES)
    clips = {
        (p.kl_target, p.momentum): np.full((8, 16, 16, 3), 40 * number, np.uint8)
        for number, p in enumerate(points)
    }
    for name in ("one", "two"):
        draw_sheet(tmp_path / f"{name}.png", clips, "a <prompt> $x$")
        draw_curves(tmp_path / f"{name}-grid.svg", points)
        draw_semantics(tmp_path / f"{name}-long.svg", courses)
    for suffix in (".png", "-grid.svg", "-long.svg"):
        one, two = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two
    with Image.open(tmp_path / "one.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
        greys = {tuple(p) for p in np.unique(pixels.reshape(-1, 3), axis=0)}
    assert all((40 * number,) * 3 in greys for number in range(6))
    for name, words in (
        ("one-grid.svg", ("dynamic degree", "frame consistency", "λ = 0.1", "μ = 0.98")),
        (
            "one-long.svg",
            ("frame", "dependency = dependency-exact", "progressive", "dynamic degree"),
        ),
    ):
        texts = " ".join(ElementTree.parse(tmp_path / name).getroot().itertext())
        assert all(word in texts for word in words), name


def test_one_prompt_is_drawn_without_bars(tmp_path: Path):
    """A study of one prompt has points without intervals, not a failure."""
    points = points_of(grid_rows(prompts=1), KL_TARGETS, MOMENTUMS, NAMES)
    assert math.isnan(points[0].scores["dynamic_degree"].low)
    draw_curves(tmp_path / "grid.svg", points)
    ElementTree.parse(tmp_path / "grid.svg")


def test_the_report_says_what_is_the_same(tmp_path: Path):
    """Page and text have both sections, pictures inside the page, and the sentence that progressive
    noise at matched α is the dependency model; prompts are text."""
    points = points_of(grid_rows(), KL_TARGETS, MOMENTUMS, NAMES)
    courses = courses_of(course_rows(), long_methods(), NAMES)
    for name in ("grid.png", "grid.svg", "long.svg"):
        (tmp_path / name).write_bytes(b"x")
    sections = [
        grid_section(points, COLUMNS, {"model": "m"}, "<script>alert(1)</script>"),
        long_section(courses, {"model": "m"}),
    ]
    text, page = as_markdown(sections), as_page("m <b>", sections, tmp_path)
    assert IDENTICAL in text and IDENTICAL in page
    assert "| progressive | " in text
    assert re.search(r"\| last − first \| p \|", text) and re.search(r"\] \| [01]\.\d{3} \|", text)
    assert "| = " not in text
    assert page.count('src="data:image/') == 3
    assert "<script" not in page and "<b>" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
