"""The table of scores: honest means, and consistency never without motion."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from manifests.journal import Journal
from manifests.result import ResultRow
from manifests.scores import SCORE_NAMES, ScoreJournal, ScoreRow
from manifests.storage import RunFolder
from tasks import score_table

DIGEST, SCORER = "cd" * 16, "tiny@1"


def run_of(tmp_path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A run folder with a ledger and scores of rows: prompt, score, meta and params."""
    folder = RunFolder(tmp_path / "out").create()
    now = datetime.now(UTC)
    with Journal(folder.results, "r1") as ledger, ScoreJournal(folder.root) as scores:
        for number, each in enumerate(rows):
            name = f"r{number}"
            file = folder.file_name(folder.video_path(DIGEST, name, "h264"))
            ledger.append(
                ResultRow(
                    *(name, DIGEST, "ok"),
                    file_name=file,
                    sha256="0" * 64,
                    bytes=1,
                    prompt=each["prompt"],
                    model=each.get("model", "m"),
                    params=json.dumps(each.get("params", {})),
                    started_at=now,
                    finished_at=now,
                    meta=each.get("meta", {}),
                )
            )
            values = dict.fromkeys(SCORE_NAMES, each["score"])
            scores.append(ScoreRow(name, DIGEST, each.get("scorer", SCORER), values))
    return folder.root


def test_consistency_is_never_shown_without_motion(tmp_path: Path):
    """Whatever columns are asked for, in text and in Markdown: where the frame consistency is, the
    dynamic degree is the next column."""
    root = run_of(tmp_path, [{"prompt": str(i), "score": float(i)} for i in range(3)])
    summaries = score_table.summarise_scores(root, SCORER)
    for names in (None, ["frame_consistency"], ["frame_consistency", "flicker"], ["clip_score"]):
        shown = [score.name for score in score_table.columns_shown(names)]
        for made in (
            score_table.text(summaries, names=names),
            score_table.markdown(summaries, names=names),
        ):
            told = made.replace(score_table.NOTE, "")
            assert ("frame consistency" in told) == ("frame_consistency" in shown)
            assert ("frame consistency" in told) <= ("dynamic degree" in told)
        if "frame_consistency" in shown:
            assert shown[shown.index("frame_consistency") + 1] == "dynamic_degree"


def test_clips_and_prompts_are_counted_in_words(tmp_path: Path):
    """One clip and one prompt are one."""
    rows = [{"prompt": "a", "score": 1.0, "meta": {"meta_k": k}} for k in ("x", "y", "y")]
    told = score_table.text(score_table.summarise_scores(run_of(tmp_path, rows), SCORER, "meta_k"))
    assert "x: 1 clip, 1 different prompt\n" in told and "y: 2 clips, 1 different prompt\n" in told


def test_clips_of_one_prompt_are_one_draw(tmp_path: Path):
    """Two prompts, one with nine seeds: the mean is of the two prompts' means, and n is 2, so that
    more seeds do not make an interval of prompts narrower."""
    rows = [{"prompt": "a", "score": 1.0 + i % 3} for i in range(9)] + [
        {"prompt": "b", "score": 8.0}
    ]
    (summary,) = score_table.summarise_scores(run_of(tmp_path, rows), SCORER)
    interval = summary.scores["clip_score"]
    assert (summary.clips, summary.prompts, interval.n) == (10, 2, 2)
    assert interval.mean == pytest.approx((2 + 8) / 2)
    assert interval.low < interval.mean < interval.high


def test_missing_scores_are_left_out(tmp_path: Path):
    """A clip of one frame has no consistency: the mean is of the others; of none at all there is no
    figure, and JSON says null."""
    rows = [{"prompt": "a", "score": 4.0}, {"prompt": "b", "score": math.nan}]
    (summary,) = score_table.summarise_scores(run_of(tmp_path, rows), SCORER)
    assert summary.scores["frame_consistency"].mean == 4.0
    assert summary.scores["frame_consistency"].n == 1
    only = score_table.summarise_scores(
        run_of(tmp_path / "b", [{"prompt": "b", "score": math.nan}]), SCORER
    )
    (told,) = json.loads(json.dumps(score_table.as_json(only), allow_nan=False))
    assert told["scores"]["flicker"]["mean"] is None and told["scores"]["flicker"]["n"] == 0
    assert "–" in score_table.text(only)


def test_groups_by_a_column(tmp_path: Path):
    """By a meta_ column, a column of the ledger and a parameter; numbers in their order; a scorer's
    own scores only."""
    rows = [
        {"prompt": "a", "score": 1.0, "meta": {"meta_x": "u"}, "params": {"momentum": 10}},
        {"prompt": "b", "score": 3.0, "meta": {"meta_x": "v"}, "params": {"momentum": 9}},
        {"prompt": "c", "score": 5.0, "meta": {"meta_x": "v"}, "params": {"momentum": 9}},
        {"prompt": "d", "score": 99.0, "meta": {"meta_x": "v"}, "scorer": "other@2"},
    ]
    root = run_of(tmp_path, rows)

    def means(by: str) -> dict[str, float]:
        score_table.check_column(root, by)
        made = score_table.summarise_scores(root, SCORER, by)
        return {summary.group: summary.scores["sharpness"].mean for summary in made}

    assert means("meta_x") == {"u": 1.0, "v": 4.0}
    assert list(means("momentum").items()) == [("9", 4.0), ("10", 1.0)]
    assert means("model") == {"m": 3.0}


def test_columns_that_cannot_group(tmp_path: Path):
    """One that is not there, with those that are; one with more values than a table has room for."""
    rows = [{"prompt": str(i), "score": 1.0, "meta": {"meta_x": i}} for i in range(101)]
    root = run_of(tmp_path, rows)
    with pytest.raises(score_table.ColumnError, match="meta_x"):
        score_table.check_column(root, "meta_y")
    with pytest.raises(score_table.ColumnError, match="at most 100 values"):
        score_table.summarise_scores(root, SCORER, "meta_x")


def test_markdown_keeps_its_columns(tmp_path: Path):
    """A value with a bar does not open a column of its own."""
    rows = [{"prompt": "a", "score": 1.0, "meta": {"meta_x": "u|v"}}]
    made = score_table.markdown(
        score_table.summarise_scores(run_of(tmp_path, rows), SCORER, "meta_x"), "meta_x"
    )
    head, line, body = made.splitlines()[:3]
    assert head.count("|") == line.count("|") == body.replace("\\|", "").count("|")
