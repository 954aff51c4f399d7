"""The page of a comparison in a true browser, from file://: clips side by side, in step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.assemble import assemble
from tasks.compare_page import write_page
from tasks.compare_table import Column, table_of
from tasks.methods import METHODS

NAMES = ("ddim", "text2video-zero", "zs2")
HOSTILE = "</script><img src=x onerror=\"document.title='ran'\"> {{data}} \u202e 🌌"
COLUMNS = (
    Column("clip_score", "CLIP score", "higher", "100·cos"),
    Column("frame_consistency", "frame consistency", "higher", "100·cos"),
    Column("dynamic_degree", "dynamic degree", None, "px/frame"),
)
PROMPTS = 40


def write_comparison(out: Path) -> Path:
    """A page of forty prompts by three methods; the clips are eight grey frames at 8 frames/s."""
    frames = np.repeat(np.arange(8, dtype=np.uint8) * 30, 32 * 32 * 3).reshape(8, 32, 32, 3)
    rows: list[dict[str, Any]] = []
    for name in NAMES:
        (out / "videos" / name).mkdir(parents=True)
        assemble(frames, out / "videos" / name / "clip #1.mp4", fps=8)
        for number in range(PROMPTS):
            rows.append(
                {
                    "method": name,
                    "prompt_id": f"p{number}",
                    "take": 0,
                    "prompt": HOSTILE if number == 0 else f"prompt {number}",
                    "seed": 2**63 - 1,
                    "file_name": f"videos/{name}/clip #1.mp4",
                    "clip_score": 20.0 + number + len(name),
                    "frame_consistency": None if number == 1 else 95.0,
                    "dynamic_degree": float("nan") if number == 2 else 0.5,
                }
            )
    methods = [METHODS[name] for name in NAMES]
    table = table_of(rows, methods, COLUMNS)
    write_page(
        out / "index.html", table, rows, title="<i>m</i>", settings={"model": "<b>"}, fps=8.0
    )
    return out / "index.html"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_comparison(tmp_path_factory.mktemp("comparison"))


@pytest.fixture
def page(open_page: Any, page_file: Path) -> Any:
    return open_page(page_file.parent)


def test_the_page_is_one_file_and_texts_are_data(page_file: Path):
    """No address of another place stands in it, and no text ends its script tag; NaN and null are no
    scores, a seed beyond what JavaScript counts to is text."""
    text = page_file.read_text("utf-8")
    assert "http" not in text
    assert text.count("</script>") == 2
    assert "<title>&lt;i&gt;m&lt;/i&gt;" in text and "<img src=x" not in text
    assert '"NaN"' not in text and ": NaN" not in text
    assert f'"{2**63 - 1}"' in text


def test_a_prompts_clips_play_in_step(page: Any):
    """Each method's clip of a prompt plays, all at the same time of the clip; paused, all stand still;
    a frame forth moves all by one frame."""
    videos = "[...document.querySelector('section').querySelectorAll('video')]"
    page.wait_for_function(f"{videos}.length === 3 && {videos}.every(v => v.readyState >= 2)")
    before = page.evaluate(f"{videos}.map(v => v.currentTime)")
    page.wait_for_function(f"{videos}.every((v, i) => v.currentTime !== {before}[i])")
    page.keyboard.press("Space")
    page.wait_for_function(f"{videos}.every(v => v.paused)")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{videos}.every(v => !v.seeking)")
    times = page.evaluate(f"{videos}.map(v => v.currentTime)")
    assert max(times) - min(times) < 0.05
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{videos}.every((v, i) => !v.seeking && v.currentTime !== {times}[i])")
    step = page.evaluate(f"{videos}.map(v => v.currentTime)")[0] - times[0]
    assert step % 1.0 == pytest.approx(1 / 8, abs=0.01)
    assert page.get_by_role("button", name="play", exact=True).is_visible()


def test_only_prompts_near_the_screen_have_clips(page: Any):
    """Of forty prompts a few have video elements; after scrolling to the end, the last ones have, and
    the first have none any more."""
    count = "document.querySelectorAll('video').length"
    page.wait_for_function(f"{count} > 0")
    assert page.evaluate(count) < 3 * PROMPTS / 2
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    last = "document.querySelector('section:last-child').querySelectorAll('video').length"
    page.wait_for_function(f"{last} === 3")
    page.wait_for_function(
        "document.querySelector('section').querySelectorAll('video').length === 0"
    )


def test_prompts_and_methods_can_be_chosen(page: Any):
    """Words leave the prompts that have them all; a method's box takes its clips away."""
    page.get_by_role("searchbox").fill("prompt 17")
    assert page.locator("section h2").all_inner_texts() == [f"prompt 17 seed {2**63 - 1}"]
    assert page.get_by_role("status").inner_text() == f"1 of {PROMPTS}"
    page.get_by_role("checkbox", name="ddim").uncheck()
    page.wait_for_function("document.querySelectorAll('figure').length === 2")
    assert page.locator("figcaption b").all_inner_texts() == ["text2video-zero", "zs2"]


def test_texts_of_others_do_nothing(page: Any):
    """A prompt of HTML is shown as it was written; the title is the page's."""
    page.wait_for_function("document.querySelectorAll('video').length > 0")
    assert HOSTILE.split(" \u202e")[0] in page.locator("h2").first.inner_text()
    assert page.title().startswith("<i>m</i>")
    assert page.locator("h1").inner_text() == "<i>m</i>"


def test_the_table_has_a_row_a_method_and_scores_their_motion(page: Any):
    """Means with intervals, and what differs; each clip says its consistency and its dynamic degree
    together, and a dash where it has no score."""
    rows = page.locator("#table tbody tr")
    assert rows.count() == 3
    assert "p < 0.001" in rows.nth(0).inner_text()
    page.get_by_role("searchbox").fill("prompt 1")
    page.wait_for_function("document.querySelectorAll('figcaption').length >= 3")
    text = page.locator("section").first.locator("figcaption").first.inner_text()
    assert "frame consistency –" in text and "dynamic degree 0.5" in text


def test_a_small_screen_has_nothing_beside_it(page: Any):
    """At 390 pixels the page does not scroll sideways; the table does in its own frame."""
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
