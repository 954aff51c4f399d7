"""The table says what was measured, of how many, and what of it is more than chance."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from tasks.compare_table import (
    Column,
    as_json,
    as_markdown,
    interval_text,
    p_text,
    table_of,
)
from tasks.methods import METHODS
from zs2.statistics import Interval, bootstrap_interval, paired_test

COLUMNS = (
    Column("clip_score", "CLIP score", "higher", "100·cos"),
    Column("frame_consistency", "frame consistency", "higher", "100·cos"),
    Column("dynamic_degree", "dynamic degree", None, "px/frame"),
)
NAMES = ("ddim", "zs2", "progressive-matched")
PICKED = [METHODS[name] for name in NAMES]


def row(method: str, prompt: str, take: int, *scores: float | None) -> dict[str, Any]:
    names = (column.name for column in COLUMNS)
    return {
        "method": method,
        "prompt_id": prompt,
        "take": take,
        **dict(zip(names, scores, strict=True)),
    }


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """20 prompts of two takes: ddim moves ten times as far, its consistency is 5 below; CLIP scores
    are those of ZS² and a coin's."""
    rng = np.random.default_rng(0)
    found: list[dict[str, Any]] = []
    for number in range(20):
        for take in range(2):
            ours = rng.normal(25, 1), rng.normal(95, 0.5), rng.normal(0.5, 0.1)
            coin = rng.choice([-0.3, 0.3])
            found.append(row("zs2", f"p{number}", take, *ours))
            found.append(row("progressive-matched", f"p{number}", take, *ours))
            theirs = ours[0] + coin, ours[1] - 5, ours[2] * 10
            found.append(row("ddim", f"p{number}", take, *theirs))
    return found


def test_means_are_over_prompts_and_differences_within_them(rows: list[dict[str, Any]]):
    """A cell is the interval of the prompts' means over takes, its difference that of the pairs: n is
    20, not 40."""
    table = table_of(rows, PICKED, COLUMNS)
    ours = np.array([r["clip_score"] for r in rows if r["method"] == "zs2"]).reshape(20, 2).mean(1)
    theirs = np.array([r["clip_score"] for r in rows if r["method"] == "ddim"])
    theirs = theirs.reshape(20, 2).mean(1)
    assert table.cells["zs2", "clip_score"].interval == bootstrap_interval(ours)
    assert table.cells["zs2", "clip_score"].interval.n == 20
    assert table.cells["ddim", "clip_score"].paired == paired_test(theirs, ours)


def test_only_what_is_more_than_chance_is_bold(rows: list[dict[str, Any]]):
    """Consistency and motion differ, the CLIP score does not; p is Holm's over the tests there are."""
    table = table_of(rows, PICKED, COLUMNS)
    assert [table.cells["ddim", c.name].is_significant for c in COLUMNS] == [False, True, True]
    assert table.tests == 3
    least = table.cells["ddim", "frame_consistency"]
    assert least.paired is not None
    assert least.p == pytest.approx(3 * least.paired.p)
    text = as_markdown(table, {"model": "m"})
    line = next(x for x in text.split("Method − ZS²")[1].splitlines() if x.startswith("| ddim"))
    cells = line.split(" | ")
    assert "**" not in cells[1] and "**-5" in cells[2] and "p < 0.001" in cells[2]


def test_clips_that_are_zs2s_own_are_no_test(rows: list[dict[str, Any]]):
    """Where every difference is zero the table says so, and corrects nothing for it."""
    table = table_of(rows, PICKED, COLUMNS)
    cell = table.cells["progressive-matched", "clip_score"]
    assert cell.same and math.isnan(cell.p)
    assert "| progressive-matched | same | same | same |" in as_markdown(table, {})


def test_scores_that_are_not_there_leave_their_prompt_out():
    """One-frame clips have no consistency: a dash, not 0; a prompt without a score on one side is in
    no pair."""
    some = [
        row("zs2", "a", 0, 1.0, None, None),
        row("zs2", "b", 0, 2.0, None, None),
        row("ddim", "a", 0, 3.0, None, None),
    ]
    table = table_of(some, PICKED[:2], COLUMNS)
    cell = table.cells["ddim", "clip_score"]
    assert cell.paired is not None and cell.paired.n == 1 and cell.paired.difference.mean == 2
    lines = as_markdown(table, {}).splitlines()
    assert "| ddim | 3.00 | – | – |" in lines
    assert all(json.loads(json.dumps(as_json(table), allow_nan=False)))


def test_consistency_stands_beside_the_dynamic_degree(rows: list[dict[str, Any]]):
    """In every table of the text, the column after consistency is the motion that it is read with,
    and a note says why."""
    text = as_markdown(table_of(rows, PICKED, COLUMNS), {})
    heads = [line for line in text.splitlines() if line.startswith("| method")]
    assert len(heads) == 2
    for head in heads:
        names = [cell.split("<br>")[0] for cell in head.strip("| ").split(" | ")]
        assert names[names.index("frame consistency ↑") + 1] == "dynamic degree"
    assert "never alone" in text


def test_the_tables_say_how_they_were_made(rows: list[dict[str, Any]]):
    """Settings, methods, intervals, the test and its correction are named."""
    text = as_markdown(table_of(rows, PICKED, COLUMNS), {"model": "m@1", "prompts": 20})
    for said in ("model m@1, prompts 20.", "BCa", "sign-flip", "Holm over the table's 3 tests"):
        assert said in text
    assert all(f"- `{name}`: " in text for name in NAMES)


def test_figures_have_the_digits_that_their_intervals_allow():
    """Two figures of the half width; signs where they are differences."""
    assert interval_text(Interval(25.1234, 24.9, 25.4, 9)) == "25.12 [24.90, 25.40]"
    assert interval_text(Interval(0.00312, 0.0029, 0.0034, 9)) == "0.00312 [0.00290, 0.00340]"
    assert interval_text(Interval(512.3, 480.0, 540.0, 9)) == "512 [480, 540]"
    assert (
        interval_text(Interval(100.0000006, 100.0, 100.0000012, 9)) == "100.000 [100.000, 100.000]"
    )
    assert interval_text(Interval(1.5, 1.0, 2.0, 9), signed=True) == "+1.50 [+1.00, +2.00]"
    assert interval_text(Interval(7.0, math.nan, math.nan, 1)) == "7.00"
    assert interval_text(Interval(math.nan, math.nan, math.nan, 0)) == "–"
    assert [p_text(p) for p in (0.0004, 0.05, math.nan)] == ["< 0.001", "= 0.050", "–"]
