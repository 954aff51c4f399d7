"""The gallery's page: what is in it, and that nothing in it can do harm. No browser is needed."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from manifests.result import ResultRow
from manifests.storage import RunFolder
from tasks import gallery
from tasks.gallery import PARTS, alpha_of, choose, packed, write_gallery
from tests.gallery_folder import rows_of, unpacked
from zs2.noise import Pair, solve_expected

SUMMARY = {"rows": {"ok": 1, "failed": 0, "invalid": 0}, "frames": 8, "versions": {}}
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "<!-- <script>",
    "]]> {{data}} {{title}} \\u003c &lt;",
    "\u2028\u2029\x00\x1b[31m \u202eright to left\u202c שלום 🌌",
    "'\"` ${alert(1)} \\",
]


class Page(HTMLParser):
    """Every tag of a page in order, and the text inside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.title = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "title":
            self.title += data

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])


def ok_row(row_id: str = "a", **more: Any) -> ResultRow:
    values = {"file_name": f"videos/ab/{row_id}.mp4", "prompt": "a star", "seed": 2**62, **more}
    return ResultRow(id=row_id, digest="0" * 32, status="ok", **values)


def write(folder: Path, rows: list[ResultRow], title: str = "demo", **more: Any) -> Page:
    write_gallery(RunFolder(folder), rows, title=title, summary={**SUMMARY, **more})
    return Page((folder / "index.html").read_text("utf-8"))


def test_every_row_is_in_the_page(tmp_path: Path):
    """The ok rows first, each group by id, with what the cards show; seeds as text, since
    JavaScript cannot count so far."""
    rows = [
        ResultRow("z", "", "invalid", stage="validate", error_message="no prompt"),
        ok_row("b", num_frames=8, width=64, height=32, fps=8.0, params='{"codec": "h264"}'),
        ResultRow("c", "0" * 32, "failed", stage="sample", error_message="NaN"),
        ok_row("a", kl_achieved=(0.012345,), meta={"meta_x": [1, None]}),
    ]
    page = write(tmp_path, rows)
    data = page.data
    rows_there = unpacked(data)
    assert [row["id"] for row in rows_there] == ["a", "b", "c", "z"]
    a, b, c, _ = rows_there
    assert (a["seed"], a["kl"], a["meta"]) == (str(2**62), [0.0123], {"meta_x": [1, None]})
    assert (b["size"], b["frames"], b["params"]) == ("64×32", 8, {"codec": "h264"})
    assert (c["status"], c["stage"], c["error"]) == ("failed", "sample", "NaN") and "file" not in c
    assert data["of"] == 4 and page.title == "demo · zs2"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(tmp_path: Path, text: str):
    """Whatever stands in a prompt, an error, a meta column or the manifest's name, the page has the
    template's tags and scripts and no others, and the text arrives letter for letter."""
    plain = write(tmp_path / "plain", [ok_row()])
    row = ok_row(prompt=text, error_message=text, meta={"meta_x": text}, model=text, params="{}")
    page = write(tmp_path / "hostile", [row], title=text)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert page.scripts[1:] == plain.scripts[1:] and len(page.scripts) == 2
    (entry,) = unpacked(page.data)
    assert entry["prompt"] == entry["error"] == entry["meta"]["meta_x"] == text
    assert page.data["title"] == text
    assert (
        page.title == f"{text.replace(chr(0), chr(0xFFFD))} · zs2" or page.title == f"{text} · zs2"
    )


def test_the_scripts_never_parse_text_as_html():
    """Cards are made of elements and text nodes: nothing that reads a string as markup or code."""
    source = "".join(path.read_text("utf-8") for path in PARTS.iterdir())
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\(|srcdoc"
    assert not re.search(forbidden, source)


def test_the_page_needs_no_network(tmp_path: Path):
    """Nothing is loaded from anywhere: no addresses, no imports, no styles or scripts of other
    files; videos are named relative to the page, so that it works from file://."""
    page = write(tmp_path, [ok_row()])
    text = (tmp_path / "index.html").read_text("utf-8")
    assert not re.search(r"https?:|//cdn|@import|fetch\(|XMLHttpRequest|import\(", text)
    attributes = {name for _, attrs in page.tags for name in attrs}
    assert not attributes & {"src", "href", "srcset", "action"}
    assert unpacked(page.data)[0]["file"] == "videos/ab/a.mp4"
    assert "textContent" in text and '<meta charset="utf-8">' in text


def test_a_name_that_is_not_utf8(tmp_path: Path):
    """A manifest's file name may hold any bytes; the page is written, with a mark in their place."""
    page = write(tmp_path, [ok_row()], title=b"caf\xe9.parquet".decode("utf-8", "surrogateescape"))
    assert page.title == "caf?.parquet · zs2"


def test_a_long_run_gives_a_bounded_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of more rows than a page can carry the first by id are in it, failures kept apart so that
    they are seen; the page tells how many there are."""
    monkeypatch.setattr(gallery, "MAX_ROWS", 5)
    monkeypatch.setattr(gallery, "MAX_OTHERS", 2)
    rows = [ok_row(f"r{i:03}") for i in reversed(range(100))]
    rows += [ResultRow(f"x{i}", "", "failed", error_message="e") for i in reversed(range(9))]
    data = write(tmp_path, rows).data
    assert [row["id"] for row in unpacked(data)] == [*(f"r00{i}" for i in range(5)), "x0", "x1"]
    assert data["of"] == 109 and data["counts"] == {"ok": 100, "failed": 9, "invalid": 0}


def test_an_empty_run_has_a_page(tmp_path: Path):
    """No rows, no error."""
    assert unpacked(write(tmp_path, []).data) == []


def test_columns_hold_each_row_whole():
    """Packed and unpacked, rows are what they were: values that all share, that few have and that
    each has its own of; numbers beside texts that are written alike; lists; columns in columns."""
    rows = [
        {"a": 1, "b": str(i), "c": i % 2, "d": {"e": [1, i % 3], "f": {"g": True}}, "h": None}
        for i in range(12)
    ]
    rows += [{"a": "1", "b": 1.5, "d": {"i": "x"}}, {"c": "0"}]
    data = {"rows": len(rows), "columns": packed(rows)}
    expected = [{name: value for name, value in row.items() if value is not None} for row in rows]
    assert unpacked(json.loads(json.dumps(data))) == expected
    assert packed([{"a": 7}] * 9) == {"a": {"all": 7}}
    assert packed([{"a": i // 6} for i in range(12)])["a"]["of"] == [0, 1]


def test_numbers_that_json_has_no_word_for(tmp_path: Path):
    """NaN and infinities, in λ, seconds, scores and parameters, leave a page that can be read."""
    row = ok_row(
        *("a",),
        kl_achieved=(float("nan"), 0.5),
        seconds_sample=float("inf"),
        params='{"kl_target": Infinity, "noise": "dependency", "solver": "expected"}',
    )
    scores = {"a": {"warp_error": float("nan"), "clip_score": 30.123456789}}
    write_gallery(RunFolder(tmp_path), [row], title="t", summary=SUMMARY, scores=scores)
    (entry,) = rows_of(tmp_path)
    assert entry["kl"] == [None, 0.5] and entry["scores"] == {"clip_score": 30.123457}
    assert entry["params"]["kl_target"] == "inf"


@pytest.mark.parametrize("target", [0.0, 0.01, 0.5, 3.0])
def test_alpha_is_the_samplers(target: float):
    """For the solver `expected` the α that is shown is the one that the noise was mixed with."""
    params = {"noise": "dependency", "solver": "expected", "kl_target": target}
    assert alpha_of(params, 7) == solve_expected(Pair(1.0, 0.0), target)
    assert alpha_of({**params, "kl_target": [target, 0.1]}, 2) == [
        *(solve_expected(Pair(1.0, 0.0), value) for value in (target, 0.1)),
    ]


def test_alpha_that_only_the_noise_knows():
    """Searched for in the drawn noises, α is not guessed; mixed and progressive say theirs."""
    drawn = {"noise": "dependency", "solver": "exact", "kl_target": 0.01}
    assert alpha_of(drawn, 7) is None and alpha_of({}, 7) is None
    assert alpha_of({"noise": "mixed", "alpha": 0.3, "kl_target": 0.01}, 7) == 0.3
    assert alpha_of({"noise": "iid"}, 7) == 0.0 and alpha_of({"noise": "iid"}, 0) is None


def test_choosing_holds_few_rows(monkeypatch: pytest.MonkeyPatch):
    """However many rows there are and in whatever order, no more than twice those shown are held."""
    monkeypatch.setattr(gallery, "MAX_ROWS", 10)
    choice, most = gallery.Choice(), 0
    for i in range(2000):
        choice.add(ok_row(f"r{(i * 7919) % 2000:04}"))
        most = max(most, len(choice._ok))
    assert most <= 20 and choice.statuses["ok"] == 2000
    assert [row.id for row in choice.rows()] == [f"r{i:04}" for i in range(10)]


def test_what_this_run_has_done_is_counted_apart():
    """Of a resumed run, rows that ended before it are there, and not in its rate."""
    before, begun, after = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3))
    rows = [ok_row("a", finished_at=before), ok_row("b", finished_at=after, num_frames=8)]
    choice = choose(rows, begun)
    assert (choice.statuses["ok"], choice.ended, choice.ended_frames) == (2, 1, 8)


def test_thousands_of_long_texts_are_cut_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What one page can carry is a limit for all texts together."""
    monkeypatch.setattr(gallery, "MAX_TEXT", 100_000)
    write(tmp_path, [ok_row(f"r{i:03}", prompt="x" * 4000) for i in range(100)])
    assert (tmp_path / "index.html").stat().st_size < 400_000
    assert "characters)" in rows_of(tmp_path)[0]["prompt"]
