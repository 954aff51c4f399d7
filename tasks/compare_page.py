"""index.html of a comparison: a prompt's clips side by side, playing in step, under the table."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from manifests.storage import write_aside
from tasks.compare_table import Table, difference_text, interval_text, notes
from tasks.methods import Method

TEMPLATE = Path(__file__).with_name("compare.html")


def write_page(
    path: Path,
    table: Table,
    rows: Iterable[Mapping[str, Any]],
    *,
    title: str,
    settings: Mapping[str, Any],
    fps: float,
) -> None:
    """Write the page. It needs no network; the data stands in it, and prompts are text there.

    Args:
        rows: the scored clips, as for `tasks.compare_table.table_of`.
        settings: what the clips share, as name and value.
        fps: frames a second, for stepping by one.
    """
    names = [column.name for column in table.columns]
    groups: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        key = (row["prompt_id"], row["take"])
        group = groups.setdefault(
            key, {"id": key[0], "prompt": row["prompt"], "seed": str(row["seed"]), "clips": {}}
        )
        scores = {name: row[name] for name in names if row.get(name) == row.get(name, 0)}
        group["clips"][row["method"]] = {"file": row["file_name"], "scores": scores}
    data = {
        "title": title,
        "fps": fps,
        "settings": {name: str(value) for name, value in settings.items()},
        "columns": [{"name": c.name, "title": c.title, "unit": c.unit} for c in table.columns],
        "table": [_row(table, method) for method in table.methods],
        "notes": [
            note.removeprefix("- ").replace("`", "").replace("**", "") for note in notes(table)
        ],
        "prompts": list(groups.values()),
    }
    write_template(path, TEMPLATE, title, data)


def _row(table: Table, method: Method) -> dict[str, Any]:
    cells = [table.cells[method.name, column.name] for column in table.columns]
    return {
        "method": method.name,
        "about": method.about,
        "cells": [
            {"mean": interval_text(cell.interval), "to": difference_text(cell)} for cell in cells
        ],
        "differs": [cell.is_significant for cell in cells],
    }


def write_template(path: Path, template: Path, title: str, data: Mapping[str, Any]) -> None:
    """Fill a page's {{title}} and {{data}}; no text of the data can end its script tag."""
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    parts = {"title": html.escape(title), "data": text}
    page = re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], template.read_text("utf-8"))
    with write_aside(path) as aside:
        aside.write_bytes(page.encode("utf-8", "replace"))
