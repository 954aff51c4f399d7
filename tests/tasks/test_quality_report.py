"""report.html: duplicates are shown, values counted, worst and best told, nothing runs."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests.scores import SCORE_NAMES, read_scores
from tasks.evaluate import evaluate
from tasks.quality_page import histograms
from tasks.quality_report import write_report
from tasks.survey import survey
from tests import tiny_models
from tests.tasks.test_evaluate import add, run_folder


class Tags(HTMLParser):
    """Tags of a page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def tiny_scorer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.clip(tmp_path_factory.mktemp("scorer") / "tiny-clip"))


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, tiny_scorer: str) -> Path:
    """A run of three codecs, two clips of which have the same frames, with hostile texts; reported."""
    folder = run_folder(tmp_path_factory.mktemp("run") / "out", [])
    hostile = "<script>alert(1)</script>"
    add(folder, ["gif", "png"], prompt=hostile, meta={"meta_x": hostile, "meta_y": "1"})
    add(folder, ["h264"], "r2", prompt="b", meta={"meta_x": "b", "meta_y": "2"})
    evaluate(folder, tiny_scorer, workers=1)
    heard: list[int] = []
    path = write_report(
        folder, tiny_scorer, title="A & <B>", workers=1, threshold=0.9999, on_clip=heard.append
    )
    assert heard == [1, 2, 3]
    return path


def test_the_report_stands_alone(reported: Path):
    """No script, no address on a network; every clip it shows is a file of the run folder or says
    what makes it; texts of the manifest are texts."""
    page = reported.read_text("utf-8")
    tags = Tags()
    tags.feed(page)
    names = {tag for tag, _ in tags.tags}
    assert "script" not in names and {"svg", "video", "img", "table"} <= names
    sources = [attrs["src"] for _, attrs in tags.tags if "src" in attrs]
    assert sources and all((reported.parent / source).is_file() for source in sources)
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "A &amp; &lt;B&gt;" in page and "&lt;script&gt;alert" in page


def test_the_report_says_what_there_is(reported: Path):
    """Scores with the motion beside the consistency, the pair that looks the same, the values of each
    column and the pairs of values that are missing, the worst and the best clips."""
    page = reported.read_text("utf-8")
    assert page.index("frame consistency") < page.index("dynamic degree") < page.index("warp error")
    assert "2 of 3 clips look like another one: 1 pairs" in page
    assert "meta_x × meta_y: 2 of 4 pairs; missing:" in page
    worst, best = page.index("Worst clips"), page.index("Best clips")
    assert page[worst:best].count("<figure>") == page[best:].count("<figure>") == 3


def test_clips_are_counted_in_whole_numbers():
    """The axis of a histogram of two clips has no half clip."""
    values = {name: np.array([100.0, 200.0]) for name in SCORE_NAMES}
    ticks = re.findall(r">([\d.]+)</text>", histograms(values))
    assert "0" in ticks and "1" in ticks and not [tick for tick in ticks if "." in tick]


def test_a_run_of_alike_clips_has_no_slots_to_cover(tmp_path: Path, tiny_scorer: str):
    """Two seeds and two prompts of one model are no slots: the page says what it looked at."""
    folder = run_folder(tmp_path / "out", [])
    add(folder, ["gif"], prompt="a")
    add(folder, ["gif"], "r2", prompt="b")
    evaluate(folder, tiny_scorer, workers=1)
    page = write_report(folder, tiny_scorer, title="alike", workers=1).read_text("utf-8")
    assert "No parameter and no meta_ column has between 2 and 60 values; seeds and prompts" in page


def test_worst_and_best_are_in_order(reported: Path):
    """By CLIP score: the worst from below, the best from above."""
    scores = read_scores(reported.parent)
    scorer = re.search(r"scored by <code>(.*?)</code>", reported.read_text("utf-8"))
    assert scorer is not None
    made = survey(reported.parent, scorer[1])
    by_score = sorted(scores, key=lambda row_id: scores[row_id]["clip_score"])
    assert [row["id"] for row in made.worst] == by_score
    assert [row["id"] for row in made.best] == by_score[::-1]
