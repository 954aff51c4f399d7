"""index.html of a run folder: a page of moving clips that works from file:// without a network."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from manifests.result import ResultRow
from manifests.storage import RunFolder, write_aside

TEMPLATE = Path(__file__).with_name("gallery.html")


def write_gallery(
    folder: RunFolder, results: Iterable[ResultRow], *, title: str, summary: Mapping[str, Any]
) -> None:
    """Write the gallery of the current results; the data stands in the page itself, escaped."""
    rows = [_entry(row) for row in results]
    rows.sort(key=lambda entry: (entry["status"] != "ok", entry["id"]))
    data = {"title": title, "rows": rows, "summary": {k: summary[k] for k in ("rows", "frames")}}
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")  # no `</script>` from data
    page = TEMPLATE.read_text("utf-8").replace("{{title}}", html.escape(title))
    with write_aside(folder.gallery_file) as aside:
        aside.write_text(page.replace("{{data}}", text), "utf-8")


def _entry(row: ResultRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "status": row.status,
        "prompt": row.prompt or "",
        "file": row.file_name,
        "frames": row.num_frames,
        "size": f"{row.width}×{row.height}" if row.width else "",
        "fps": row.fps,
        "seed": str(row.seed) if row.seed is not None else "",  # beyond what JavaScript counts to
        "model": row.model or "",
        "error": row.error_message,
        "stage": row.stage,
        "kl": [round(value, 4) for value in row.kl_achieved or ()],
        "params": json.loads(row.params) if row.params else {},
        "meta": {name: str(value) for name, value in row.meta.items()},
    }
