"""index.html of a run folder: a page of moving clips that works from file:// without a network."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from heapq import nsmallest
from pathlib import Path
from typing import Any

from manifests.result import ResultRow
from manifests.storage import RunFolder, write_aside

TEMPLATE = Path(__file__).with_name("gallery.html")
# A page with more is slow to open, and writing it would hold a row of each of a million clips.
MAX_ROWS = 5000
MAX_CHARACTERS = 4000  # of a text on a card
MAX_VALUES = 1000  # of λ reached
MAX_OTHERS = 500  # failed and invalid


def write_gallery(
    folder: RunFolder, results: Iterable[ResultRow], *, title: str, summary: Mapping[str, Any]
) -> None:
    """Write the gallery of the current results; the data stands in the page itself, escaped."""
    shown, of = _choose(results)
    data = {
        "title": title,
        "rows": [_entry(row) for row in shown],
        "of": of,
        "summary": {k: summary[k] for k in ("rows", "frames")},
    }
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")  # no `</script>` from data
    parts = {"title": html.escape(title), "data": text}
    page = re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], TEMPLATE.read_text("utf-8"))
    with write_aside(folder.gallery_file) as aside:
        # a file's name, and so a title, need not be UTF-8
        aside.write_bytes(page.encode("utf-8", "replace"))


def _choose(results: Iterable[ResultRow]) -> tuple[list[ResultRow], int]:
    """The rows to show, the ok ones first, each by id; and how many rows there are."""
    ok: list[ResultRow] = []
    others: list[ResultRow] = []
    total = 0
    for row in results:
        total += 1
        chosen, most = (ok, MAX_ROWS) if row.status == "ok" else (others, MAX_OTHERS)
        chosen.append(row)
        if len(chosen) >= 2 * most:
            chosen[:] = nsmallest(most, chosen, key=_id)
    return nsmallest(MAX_ROWS, ok, key=_id) + nsmallest(MAX_OTHERS, others, key=_id), total


def _id(row: ResultRow) -> str:
    return row.id


def _cut(value: Any) -> Any:
    """A value short enough for a card: a page of a thousand megabyte texts opens nowhere."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= MAX_CHARACTERS:
        return value
    return f"{text[:MAX_CHARACTERS]}… ({len(text):,} characters)"


def _entry(row: ResultRow) -> dict[str, Any]:
    params = json.loads(row.params) if row.params else {}
    return {
        "id": row.id,
        "status": row.status,
        "prompt": _cut(row.prompt or ""),
        "file": row.file_name,
        "frames": row.num_frames,
        "size": f"{row.width}×{row.height}" if row.width else "",
        "fps": row.fps,
        "seed": str(row.seed) if row.seed is not None else "",  # beyond what JavaScript counts to
        "model": _cut(row.model or ""),
        "error": _cut(row.error_message or "") or None,
        "stage": row.stage,
        "kl": [round(value, 4) for value in (row.kl_achieved or ())[:MAX_VALUES]],
        "params": {name: _cut(value) for name, value in params.items()},
        "meta": {_cut(name): _cut(str(value)) for name, value in row.meta.items()},
    }
