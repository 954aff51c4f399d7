"""index.html of a run folder: a page of moving clips that works from file:// without a network.

The page is one file: `tasks/page/` holds its markup, style and scripts, and the rows stand in it as
JSON, escaped and packed by columns (`packed`): a value that all rows share is in it once.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from heapq import nsmallest
from pathlib import Path
from typing import Any

from manifests.columns import COLUMNS
from manifests.result import ResultRow
from manifests.run_file import read_derived
from manifests.scores import read_scores, scores_file
from manifests.storage import SUFFIXES, RunFolder, write_aside
from tasks.previews import codec_of, has_preview

PARTS = Path(__file__).with_name("page")
TEMPLATE = PARTS / "page.html"
STYLE = PARTS / "page.css"
SCRIPTS = tuple(
    PARTS / f"{name}.js"
    for name in ("data", "elements", "grid", "toolbar", "detail", "compare", "keys", "live")
)
# A page with more is slow to open, and writing it would hold a row of each of a million clips.
MAX_ROWS = 10_000
MAX_OTHERS = 1000  # failed and invalid
MAX_CHARACTERS = 4000  # of a text
MAX_VALUES = 1000  # of λ reached
MAX_TEXT = 32_000_000  # characters of the longest texts together; beyond, all are cut shorter
SQRT_E = math.sqrt(math.e)
STAGES = ("sample", "temporal", "spatial", "assemble")
_RATES = ("frames", "wall_seconds", "clips_per_second", "frames_per_second", "device_hours", "cost")


@dataclass
class Choice:
    """The rows that a page shows, chosen from any number of them: the ok ones and the others each
    by id, so many as a page can carry.

    Attributes:
        statuses: how many rows there are in all. frames: of finished videos.
        since: rows that ended after this are counted as this run's: `ended`, `ended_frames`.
    """

    since: datetime | None = None
    statuses: Counter[str] = field(default_factory=Counter[str])
    ended: int = 0
    ended_frames: int = 0
    _ok: dict[str, ResultRow] = field(default_factory=dict[str, ResultRow])
    _others: dict[str, ResultRow] = field(default_factory=dict[str, ResultRow])
    _last: dict[bool, str] = field(default_factory=dict[bool, str])

    def add(self, row: ResultRow) -> None:
        """Count a row, and keep it unless there are enough before it."""
        self.statuses[row.status] += 1
        if self.since is not None and row.finished_at is not None and row.finished_at > self.since:
            self.ended += 1
            self.ended_frames += row.num_frames or 0
        is_ok = row.status == "ok"
        last = self._last.get(is_ok)
        if last is not None and row.id > last:
            return
        kept, most = (self._ok, MAX_ROWS) if is_ok else (self._others, MAX_OTHERS)
        kept[row.id] = row
        if len(kept) >= 2 * most:
            for row_id in sorted(kept)[most:]:
                del kept[row_id]
            self._last[is_ok] = max(kept)

    def rows(self) -> list[ResultRow]:
        """Those to show."""
        chosen = [(self._ok, MAX_ROWS), (self._others, MAX_OTHERS)]
        return [kept[row_id] for kept, most in chosen for row_id in nsmallest(most, kept)]


def choose(results: Iterable[ResultRow], since: datetime | None = None) -> Choice:
    """What a page shows of the results."""
    choice = Choice(since)
    for row in results:
        choice.add(row)
    return choice


def scores_of(folder: RunFolder, choice: Choice) -> dict[str, dict[str, float]]:
    """By id, the scores of what a page shows, as far as the clips are as they were when scored."""
    folder.bring(scores_file(folder.root))
    scores = read_scores(folder.root)
    found = {row.id: scores.of(row.id, row.digest) for row in choice.rows()}
    return {row_id: each for row_id, each in found.items() if each}


def write_gallery(
    folder: RunFolder,
    results: Iterable[ResultRow] | Choice,
    *,
    title: str,
    summary: Mapping[str, Any],
    state: str = "finished",
    news: Mapping[str, Any] | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Write the gallery of the current results; the data stands in the page itself, escaped.

    Args:
        state: of the run, as `zs2 status` says it; an open page asks for news while it is `running`.
        news: of a run that goes on: `total` rows, `written` (a time), `every` so many seconds.
        scores: by id, then by name, of the clips that were scored.
    """
    choice = results if isinstance(results, Choice) else choose(results)
    rows = choice.rows()
    counts = {status: choice.statuses[status] for status in ("ok", "failed", "invalid")}
    data = {
        "title": title,
        "state": state,
        "counts": counts,
        "of": sum(counts.values()),
        "summary": {k: summary[k] for k in _RATES if summary.get(k) is not None},
        "news": dict(news or {}),
        "again": _again(folder),
        "rows": len(rows),
        "columns": packed(_entries(folder, rows, scores or {})),
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    page = page_of(title, text.replace("<", "\\u003c"))  # no `</script>` from data
    with write_aside(folder.gallery_file) as aside:
        # a file's name, and so a title, need not be UTF-8
        aside.write_bytes(page.encode("utf-8", "replace"))


def page_of(title: str, data: str) -> str:
    """The page around its data, which is JSON without `<`."""
    parts = {
        "title": html.escape(title),
        "style": STYLE.read_text("utf-8"),
        "data": data,
        "script": "\n".join(path.read_text("utf-8") for path in SCRIPTS),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], TEMPLATE.read_text("utf-8"))


def packed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of JSON values as columns: `all` with the value of every row, or `of` with the distinct
    ones and `at` with each row's place among them, or `each`. None is no value. A dictionary in a
    row is a column of columns, under `in`."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _packed_column([row.get(name) for row in rows]) for name in names}


def _packed_column(values: list[Any]) -> dict[str, Any]:
    if any(isinstance(value, dict) for value in values):
        return {"in": packed([value or {} for value in values])}
    # 1, 1.0 and True are equal, and written otherwise
    keys = [
        (list, json.dumps(value)) if isinstance(value, list) else (value.__class__, value)
        for value in values
    ]
    places: dict[tuple[type, Any], int] = {}
    distinct: list[Any] = []
    for key, value in zip(keys, values, strict=True):
        if key not in places:
            places[key] = len(places)
            distinct.append(value)
    if len(distinct) == 1:
        return {"all": distinct[0]}
    if len(distinct) > len(values) // 2:
        return {"each": values}
    return {"of": distinct, "at": [places[key] for key in keys]}


def _again(folder: RunFolder) -> dict[str, Any]:
    """What the page needs to say how a clip is rendered again: of run.json, and built-in values."""
    run = read_derived(folder.run_file) or {}
    settings = run.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    names = ("defaults", "threads", "input_roots", "trust_pickles", "dtype", "safety_checker")
    builtin = {name: column.default for name, column in COLUMNS.items()}
    return _sound(
        {
            "manifest": run.get("manifest"),
            "settings": {name: settings[name] for name in names if settings.get(name)},
            "builtin": {name: value for name, value in builtin.items() if value is not None},
            "suffixes": SUFFIXES,
        }
    )


def _entries(
    folder: RunFolder, rows: Sequence[ResultRow], scores: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    entries = [_entry(folder, row, scores.get(row.id, {})) for row in rows]
    longest = sum(len(entry["prompt"]) + len(entry["error"] or "") for entry in entries)
    longest += sum(len(str(value)) for entry in entries for value in entry["meta"].values())
    if longest > MAX_TEXT:  # thousands of texts of thousands of characters
        most = max(100, MAX_CHARACTERS * MAX_TEXT // longest // 2)
        for entry in entries:
            entry |= {"prompt": _cut(entry["prompt"], most), "error": _cut(entry["error"], most)}
            entry["meta"] = {name: _cut(text, most) for name, text in entry["meta"].items()}
    return entries


def _entry(folder: RunFolder, row: ResultRow, scores: Mapping[str, float]) -> dict[str, Any]:
    params, flat_params = _both(row.params or "{}")
    kl = list(row.kl_achieved or ())
    seconds = {stage: getattr(row, f"seconds_{stage}") for stage in STAGES}
    return {
        "id": row.id,
        "status": row.status,
        "prompt": _cut(row.prompt or ""),
        "file": row.file_name,
        "preview": has_preview(folder, row, codec_of(row, params)) or None,
        "frames": row.num_frames,
        "size": f"{row.width}×{row.height}" if row.width else None,
        "fps": row.fps,
        "seed": str(row.seed) if row.seed is not None else None,  # beyond what JavaScript counts to
        "model": _cut(row.model) if row.model else None,
        "revision": _cut(row.model_revision) if row.model_revision else None,
        "digest": row.digest or None,
        "error": _cut(row.error_message) if row.error_message else None,
        "kind": _cut(row.error_type) if row.error_type else None,
        "stage": _cut(row.stage) if row.stage else None,
        "attempts": row.attempts,
        "bytes": row.bytes,
        "device": _cut(row.device) if row.device else None,
        "node": _cut(row.node) if row.node else None,
        "ended": _minute(row.finished_at),
        "kl": [_number(value) for value in kl[:MAX_VALUES]] or None,
        "alpha": _rounded(alpha_of(params, len(kl))),
        "seconds": {name: _number(value) for name, value in seconds.items() if value is not None},
        "params": flat_params,
        "meta": {_cut(name): _flat(value) for name, value in row.meta.items()},
        "scores": {name: _number(value, 6) for name, value in scores.items()},
    }


def _both(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Parameters from their JSON, and as a page has them."""
    return _remembered(text) if len(text) < MAX_CHARACTERS else _remembered.__wrapped__(text)


@lru_cache(256)  # rows of one run share most of theirs
def _remembered(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    params = json.loads(text)
    return params, {name: _flat(value) for name, value in params.items()}


def alpha_of(params: Mapping[str, Any], pairs: int) -> float | list[float] | None:
    """The mixing weight α of the frame pairs, where the parameters alone decide it: one number for
    all of them or one each. None where a solver took it from the noises that it drew.

    With the solver `expected`, α = max(0, 1 − λ/√e)² of the λ asked for (`zs2.noise`).
    """
    noise, alpha = params.get("noise"), params.get("alpha")
    if not pairs:
        return None
    if noise == "iid":
        return 0.0
    if noise in ("mixed", "progressive"):
        return alpha
    target = params.get("kl_target")
    if noise != "dependency" or params.get("solver") != "expected" or target is None:
        return None
    if isinstance(target, list):
        return [max(0.0, 1 - value / SQRT_E) ** 2 for value in target[:MAX_VALUES]]
    return max(0.0, 1 - target / SQRT_E) ** 2


def _cut(value: Any, most: int = MAX_CHARACTERS) -> Any:
    """A value short enough for a page: one of a thousand megabyte texts opens nowhere."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= most:
        return value
    return f"{text[:most]}… ({len(text):,} characters)"


def _flat(value: Any) -> Any:
    """A value as it was, unless it is a dictionary or too long: then it is text."""
    is_dict = isinstance(value, dict)
    return _sound(_cut(json.dumps(value, ensure_ascii=False) if is_dict else value))


def _number(value: float, digits: int = 4) -> float | None:
    """Rounded; None for what JSON has no word for."""
    return round(value, digits) if math.isfinite(value) else None


def _rounded(value: float | list[float] | None) -> Any:
    return [_number(each) for each in value] if isinstance(value, list) else value


def _sound(value: Any) -> Any:
    """A value with names for the numbers that JSON has none for."""
    if isinstance(value, dict):
        return {name: _sound(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_sound(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _minute(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
