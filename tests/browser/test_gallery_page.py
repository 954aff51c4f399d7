"""The gallery in a true browser: what people see of a run, from a folder, without a network."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from manifests.result import ResultRow
from manifests.storage import RunFolder
from tasks.gallery import choose, write_gallery
from tests.browser.conftest import OpenPage
from tests.gallery_folder import CODECS, FPS, FRAMES, NOON, clip_row, params, write_run

SUMMARY = {"frames": 60, "frames_per_second": 12.5, "clips_per_second": 1.25, "wall_seconds": 4.0}
ERROR = "expected finite latents, found NaN\n" + "see <b>the log</b> " * 40
SCORES = {
    row_id: {"clip_score": 20.0 + i, "frame_consistency": 99.0 - i, "dynamic_degree": 0.1 * i}
    for i, row_id in enumerate(f"clip-{codec}" for codec in CODECS)
}
TIMES = "() => [...document.querySelectorAll('#compare video')].map((v) => v.currentTime)"


def rows_of_every_kind(folder: RunFolder) -> list[ResultRow]:
    """A clip of every codec, a storyboard, a failed row and an invalid one."""
    rows = [clip_row(folder, f"clip-{c}", c, meta={"meta_codec": c, "meta_n": 7}) for c in CODECS]
    story = "dawn\nnoon 'o clock"
    rows.append(clip_row(folder, "story", prompt=story, meta={"meta_codec": "h264"}))
    failed = {"stage": "sample", "error_type": "SamplingError", "error_message": ERROR}
    rows.append(ResultRow("bad", "ab" * 16, "failed", prompt="no", params=params(), **failed))
    rows.append(ResultRow("odd", "", "invalid", stage="validate", error_message="height: 37"))
    return rows


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that ended, with its page."""
    folder = RunFolder(tmp_path_factory.mktemp("gallery") / "out")
    rows = rows_of_every_kind(folder)
    write_run(folder, rows)
    write_gallery(folder, rows, title="squares.parquet", summary=SUMMARY, scores=SCORES)
    return folder.root


def ids(page: Page) -> list[str]:
    """The cards in the order in which they stand."""
    return page.eval_on_selector_all("article.card", "cards => cards.map((c) => c.dataset.id)")


def nodes(page: Page) -> int:
    """Elements and texts of the whole document."""
    return page.evaluate(
        """() => { let n = 0; const walker = document.createTreeWalker(document);
        while (walker.nextNode()) n++; return n; }"""
    )


def settle(page: Page) -> None:
    """Until typing, scrolling and drawing have had their effect."""
    page.wait_for_timeout(300)


def test_every_codec_plays_when_pointed_at(out: Path, open_page: OpenPage):
    """Each codec's clip has a first picture at rest, plays while the pointer is on it, and rests
    again: ffv1, GIF, WebP and PNG by their previews."""
    page = open_page(out)
    for codec in CODECS:
        card = page.locator(f'[data-id="clip-{codec}"]')
        video = card.locator("video")
        page.wait_for_function("v => v.poster || v.readyState >= 2", arg=video.element_handle())
        assert video.evaluate("v => v.paused")
        card.hover()
        page.wait_for_function("v => v.currentTime > 0.2", arg=video.element_handle())
        assert video.evaluate("v => v.videoWidth") == 48
        page.mouse.move(2, 2)
        page.wait_for_function("v => v.paused && v.currentTime === 0", arg=video.element_handle())


def test_play_all(out: Path, open_page: OpenPage):
    """The switch plays every clip in sight, and stops them."""
    page = open_page(out)
    page.get_by_role("button", name="Play all").click()
    playing = (
        "() => [...document.querySelectorAll('article video')].filter((v) => !v.paused).length"
    )
    page.wait_for_function(f"() => ({playing})() === 8")
    page.keyboard.press("p")
    page.wait_for_function(f"() => ({playing})() === 0")


def test_search_filters_and_order(out: Path, open_page: OpenPage):
    """Words, status, a meta column and the order choose what is shown; the address keeps them, and
    the same address shows the same."""
    page = open_page(out)
    everything = sorted([*(f"clip-{codec}" for codec in CODECS), "story", "bad", "odd"])
    assert ids(page) == everything
    page.get_by_label("Search").fill("SQUARE png")
    settle(page)
    assert ids(page) == ["clip-png"]
    page.get_by_label("Search").fill("finite latents")
    settle(page)
    assert ids(page) == ["bad"]
    page.get_by_label("Search").fill("")
    page.get_by_role("button", name="failed 1").click()
    settle(page)
    assert ids(page) == ["bad"]
    page.get_by_role("button", name="all 10").click()
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("group", name="codec").get_by_role("button", name="h264").click()
    settle(page)
    assert ids(page) == ["clip-h264", "story"]
    page.get_by_role("group", name="codec").get_by_role("button", name="h264").click()
    page.keyboard.press("Escape")
    page.get_by_label("Sort by").select_option("clip_score")
    page.get_by_role("button", name="ascending").click()
    settle(page)
    by_score = [f"clip-{codec}" for codec in reversed(CODECS)]
    assert ids(page) == [*by_score, "bad", "odd", "story"]
    assert page.get_by_role("button", name="descending").is_visible()
    again = open_page(out, page.evaluate("location.hash"))
    assert ids(again) == ids(page)


def test_consistency_is_never_alone(out: Path, open_page: OpenPage):
    """Sorted by consistency, cards say how much moves as well; so does the list of scores."""
    page = open_page(out, "#sort=-frame_consistency")
    facts = page.locator('[data-id="clip-h264"] .facts').inner_text()
    assert facts.startswith("99.0 consistency, 0.00")
    page.locator('[data-id="clip-gif"]').click()
    assert page.locator("#detail .scores dt").all_inner_texts() == [
        *("clip score", "frame consistency", "dynamic degree"),
    ]


def test_a_clip_in_full(out: Path, open_page: OpenPage):
    """Every parameter, λ and α as plots, the stages' seconds, the user's own columns and the file;
    the clip plays; the address names it, and opens it."""
    page = open_page(out)
    page.locator('[data-id="clip-ffv1"]').click()
    assert page.evaluate("location.hash") == "#clip-ffv1"
    page = open_page(out, "#clip-ffv1")
    page.wait_for_function("() => document.querySelector('#player').currentTime > 0.2")
    text = page.locator("#detail").inner_text()
    for word in (
        "a square of clip-ffv1",
        "kl_target",
        "0.02",
        "segment_frames",
        "zs2-mini",
        "sample",
    ):
        assert word in text, word
    labels = page.locator("#detail svg").evaluate_all("s => s.map((e) => e.ariaLabel)")
    assert labels[0].startswith("λ reached: 0.0100 to 0.0200") and labels[1].startswith("α")
    path = page.locator("#detail svg .line").first.get_attribute("d") or ""
    assert path.count("L") == FRAMES - 2
    assert page.locator("#detail .bars .track").count() == 2
    page.keyboard.press("ArrowRight")
    assert page.evaluate("location.hash") == "#clip-gif"
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.querySelector('#detail') && location.hash === ''")


def test_frame_by_frame(out: Path, open_page: OpenPage):
    """The keys , and . show the frame before and the next one, and no further than there are."""
    page = open_page(out, "#clip-h264")
    page.wait_for_function("() => document.querySelector('#player')?.readyState >= 2")
    page.keyboard.press(" ")
    # at the last frame Chromium may say that it has ended
    at = f"Math.floor(document.querySelector('#player').currentTime * {FPS})"
    frame = f"() => Math.min({FRAMES - 1}, {at})"
    for _ in range(FRAMES + 1):
        page.keyboard.press(".")
    assert page.evaluate(frame) == FRAMES - 1
    page.keyboard.press(",")
    assert page.evaluate(frame) == FRAMES - 2


def test_a_failed_row_says_why(out: Path, open_page: OpenPage):
    """The whole text of the error, as text."""
    page = open_page(out, "#bad")
    assert page.locator("#detail pre").inner_text().strip() == ERROR.strip()
    assert "SamplingError in sample" in page.locator("#detail .error h3").inner_text()
    assert page.locator("#detail b").count() == 0


def copied(page: Page, button: str) -> str:
    page.get_by_role("button", name=button).click()
    expect(page.locator("#news")).to_contain_text("copied")
    return page.evaluate("navigator.clipboard.readText()")


def test_what_renders_a_clip_again_can_be_copied(out: Path, open_page: OpenPage):
    """The command has the row's words, seed and parameters, whole and in shell's quotes; of a
    storyboard, the manifest and its row. The row is JSON with every digit of its seed."""
    allowed = {"permissions": ["clipboard-read", "clipboard-write"]}
    page = open_page(out, "#clip-gif", **allowed)
    words = shlex.split(copied(page, "Copy command"))
    assert words[:6] == [
        "zs2",
        "sample",
        "-o",
        "clip-gif.gif",
        "--seed",
        str(2**62 + sum(b"clip-gif")),
    ]
    assert words[-2:] == ["--", "a square of clip-gif"] and "kl_target=0.02" in words
    assert words[words.index("--threads") + 1] == "2"
    row = json.loads(copied(page, "Copy row"))
    assert row["seed"] == 2**62 + sum(b"clip-gif") and row["prompt"] == "a square of clip-gif"
    assert row["meta_n"] == 7 and row["num_frames"] == FRAMES and "dtype" not in row
    page = open_page(out, "#story", **allowed)
    words = shlex.split(copied(page, "Copy command"))
    assert words[2:8] == [
        *("--from", "/data/squares.parquet", "--id", "story", "-o", "story.mp4"),
    ]
    assert json.loads(copied(page, "Copy row"))["prompt"] == ["dawn", "noon 'o clock"]


def test_clips_side_by_side_in_step(out: Path, open_page: OpenPage):
    """Four clips chosen with a key play on one clock, within a frame of each other; one frame on is
    one frame on in each."""
    page = open_page(out)
    for codec in CODECS[:4]:
        page.locator(f'[data-id="clip-{codec}"]').focus()
        page.keyboard.press("c")
    page.keyboard.press("v")
    assert page.locator("#compare video").count() == 4
    page.wait_for_function(f"() => ({TIMES})().every((t) => t > 0.2)")
    spread = 0.0
    for _ in range(6):
        page.wait_for_timeout(60)
        times = sorted(page.evaluate(TIMES))
        spread = max(spread, min(times[-1] - times[0], FRAMES / FPS - times[-1] + times[0]))
    assert spread < 2 / FPS, spread
    page.keyboard.press(" ")
    page.locator("#scrub").fill("5")
    for at in (5, 6):
        page.wait_for_function(
            f"() => ({TIMES})().every((t) => Math.floor(t * {FPS}) === {at})"
            " && [...document.querySelectorAll('#compare video')].every((v) => v.paused)"
        )
        assert page.locator("#frame").inner_text() == f"{at + 1} / {FRAMES}"
        page.keyboard.press(".")
    assert "codec ffv1" in page.locator("#compare .differs").nth(1).inner_text()
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.querySelector('#compare')")


def test_the_keyboard_alone(out: Path, open_page: OpenPage):
    """Tab comes to the clips, arrows go from one to the next, Enter opens, Escape gives the focus
    back, Space plays, / searches, ? tells the keys; the focus can be seen."""
    page = open_page(out)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.id"):
            break
    focus = "document.activeElement.dataset.id"
    order = ids(page)
    assert page.evaluate(focus) == order[0]
    for key, at in (("ArrowRight", 1), ("ArrowDown", 7), ("ArrowUp", 1), ("End", 9), ("Home", 0)):
        page.keyboard.press(key)
        assert page.evaluate(focus) == order[at], key
    page.keyboard.press("ArrowRight")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    assert page.locator("#detail h2").inner_text() == order[1]
    page.keyboard.press("Escape")
    page.wait_for_function(f"() => {focus} === '{order[1]}'")
    paused = "() => document.activeElement.querySelector('video').paused"
    page.wait_for_function(f"() => !({paused})()")
    page.keyboard.press(" ")
    assert page.evaluate(paused)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert "side by side" in page.locator("#keys").inner_text()


def test_who_wants_calm_has_it(out: Path, open_page: OpenPage):
    """With reduced motion asked for, nothing plays by itself, not when pointed at either."""
    page = open_page(out, reduced_motion="reduce")
    card = page.locator('[data-id="clip-h264"]')
    card.hover()
    page.wait_for_timeout(400)
    assert card.locator("video").evaluate("v => v.paused")
    card.click()
    page.wait_for_timeout(300)
    assert page.locator("#player").evaluate("v => v.paused")


# The contrast of every text with what is painted behind it (WCAG 2, 1.4.3).
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => (v /= 255) <= 0.04045
    ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
      if (color[3] !== 0) return null;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility({ visibilityProperty: true })) continue;
    if (["SCRIPT", "STYLE", "NOSCRIPT", "TEMPLATE"].includes(node.tagName) || node.disabled) continue;
    const back = behind(node), front = rgba(getComputedStyle(node).color);
    const [a, b] = [light(back), light(front)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walker.currentNode.data.slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read(out: Path, open_page: OpenPage, scheme: Any):
    """Every text has a contrast of at least 4.5 with its ground, in the grid, the filters, a clip, a
    failed row and the comparison."""
    page = open_page(out, "#compare=clip-gif,clip-png", color_scheme=scheme)
    page.get_by_role("button", name="Filters").click()

    def check(where: str, least: int) -> None:
        found = page.evaluate(CONTRAST)
        assert len(found) >= least, where
        assert not [each for each in found if each[0] < 4.5], where

    check("grid", 25)
    page.keyboard.press("Escape")
    page.keyboard.press("v")
    check("comparison", 30)
    page.keyboard.press("Escape")
    for row_id in ("clip-ffv1", "bad"):
        page.locator(f'[data-id="{row_id}"]').click()
        check(row_id, 30)
        page.keyboard.press("Escape")


def test_a_small_screen(out: Path, open_page: OpenPage):
    """On a phone nothing is wider than the screen, and a tap opens a clip that fits."""
    phone = {"width": 390, "height": 844}
    page = open_page(out, viewport=phone, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator('[data-id="clip-gif"]').tap()
    box = page.locator("#detail").bounding_box()
    assert box is not None and box["width"] <= 390
    inner = "() => [...document.querySelectorAll('#detail *')].every((e) => e.scrollWidth <= 390)"
    assert page.evaluate(inner)


HOSTILE = [
    "<script>document.title='ran'; alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "<!-- <script> ]]> {{data}} {{script}} ${alert(1)}",
    "\u2028\u2029\x00\x1b[31m \u202eright to left\u202c שלום 🌌",
    "x" * 100_000,
    "word " * 20_000,
]


def test_nothing_in_a_row_runs(tmp_path: Path, open_page: OpenPage):
    """Markup, scripts, marks of direction, NULs and 100 kB in prompts, errors, models, meta names and
    values are text wherever they are shown: no dialog, no error, no request, nothing wider than the
    page, the title its own."""
    rows: list[ResultRow] = []
    for i, text in enumerate(HOSTILE):
        own: dict[str, Any] = {"prompt": text, "model": text, "meta": {f"meta_{text}": text}}
        rows.append(clip_row(RunFolder(tmp_path), f"a{i}", **own))
        rows.append(ResultRow(f"b{i}", "", "failed", stage=text, error_message=text, **own))
    write_gallery(RunFolder(tmp_path), rows, title=HOSTILE[1], summary=SUMMARY)
    page = open_page(tmp_path)
    page.get_by_role("button", name="Filters").click()
    settle(page)
    page.keyboard.press("Escape")
    for row in rows:
        page.evaluate("id => { location.hash = '#' + id; }", row.id)
        page.wait_for_selector(f"#detail[aria-label='clip {row.id}']")
        assert page.evaluate("document.documentElement.scrollWidth") <= 1440
    page.keyboard.press("Escape")
    assert page.evaluate("document.scripts.length") == 2
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.title() == f"{HOSTILE[1]} · zs2"


def many(folder: RunFolder, count: int) -> list[ResultRow]:
    """So many rows as a run has them, all with one and the same file."""
    one = clip_row(folder, "one")
    return [
        ResultRow(
            f"clip-{i:06}",
            f"{i:032x}",
            "ok",
            file_name=one.file_name,
            num_frames=FRAMES,
            height=48,
            width=48,
            fps=FPS,
            prompt=f"a {('red', 'blue', 'green')[i % 3]} square, number {i}, over the sea at night",
            seed=i,
            model="zs2-mini",
            params=one.params,
            kl_achieved=tuple(0.01 + ((i * 31 + j) % 97) / 1e4 for j in range(7)),
            seconds_sample=1 + (i % 89) / 100,
            seconds_assemble=0.1 + (i % 17) / 1000,
            finished_at=NOON,
            meta={"meta_colour": ("red", "blue", "green")[i % 3], "meta_number": i},
        )
        for i in range(count)
    ]


def test_ten_thousand_rows(tmp_path: Path, open_page: OpenPage):
    """The page of 10,000 rows stays below 6 MB, and below 500 nodes at every place of it; the last
    row can be reached, found and opened."""
    folder = RunFolder(tmp_path)
    write_gallery(folder, many(folder, 10_000), title="many", summary=SUMMARY)
    assert folder.gallery_file.stat().st_size < 6_000_000
    page = open_page(tmp_path)
    height = page.evaluate("document.documentElement.scrollHeight")
    for part in (0, 0.013, 0.5, 0.77, 1):
        page.evaluate("y => scrollTo(0, y)", height * part)
        settle(page)
        assert len(ids(page)) >= 12 and nodes(page) <= 500, part
    assert ids(page)[-1] == "clip-009999"
    page.get_by_label("Search").fill("number 7123,")
    settle(page)
    assert ids(page) == ["clip-007123"]
    page.locator("article").click()
    assert "7123" in page.locator("#detail").inner_text()


@pytest.mark.parametrize("size", [(3840, 2160), (1200, 3000), (390, 844)])
def test_nodes_on_any_screen(tmp_path: Path, open_page: OpenPage, size: tuple[int, int]):
    """Large, tall and small screens alike hold at most 500 nodes."""
    folder = RunFolder(tmp_path)
    write_gallery(folder, many(folder, 2000), title="many", summary=SUMMARY)
    page = open_page(tmp_path, viewport=dict(zip(("width", "height"), size, strict=True)))
    page.evaluate("scrollTo(0, 9000)")
    settle(page)
    assert nodes(page) <= 500


def test_a_run_without_news(tmp_path: Path, open_page: OpenPage):
    """The page of a run that was killed an hour ago says that nothing was heard since."""
    news = {"total": 6, "written": time.time() - 3600, "every": 4.0}
    write_gallery(RunFolder(tmp_path), [], title="r", summary={}, state="running", news=news)
    page = open_page(tmp_path)
    assert "no news for 1 h 0 min" in page.locator("#how").inner_text()
    assert "No row has ended yet" in page.locator("#grid").inner_text()


def test_news_of_a_run(tmp_path: Path, open_page: OpenPage):
    """An open page takes up the rows that end, keeps what its user does meanwhile, and asks no more
    when the run is over."""
    folder = RunFolder(tmp_path)
    rows = [clip_row(folder, f"c{i}") for i in range(6)]

    def write(count: int, state: str) -> None:
        news = {"total": 6, "written": time.time(), "every": 4.0}
        choice = choose(rows[:count])
        write_gallery(folder, choice, title="r", summary=SUMMARY, state=state, news=news)

    write(2, "running")
    page = open_page(tmp_path, "#sort=-id")
    assert "2 of 6 rows" in page.locator("#how").inner_text()
    page.get_by_label("Search").fill("square")
    page.locator('[data-id="c1"]').click()
    page.wait_for_function("() => document.querySelector('#player')?.readyState >= 2")
    page.evaluate("document.querySelector('#player').mark = 1")
    write(4, "running")
    page.wait_for_function("() => document.querySelectorAll('article').length === 4")
    assert ids(page) == ["c3", "c2", "c1", "c0"]
    assert page.evaluate("document.querySelector('#player').mark") == 1
    assert page.get_by_label("Search").input_value() == "square"
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.activeElement.dataset.id === 'c1'")
    write(6, "finished")
    page.wait_for_function("() => document.querySelectorAll('article').length === 6")
    write(5, "finished")
    page.wait_for_timeout(4000)
    assert len(ids(page)) == 6 and page.locator("iframe").count() == 0
    assert page.locator("#how").inner_text().startswith("finished")
