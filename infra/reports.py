"""Tables of a report in Markdown, put where it has a place for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """A report with its tables put between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: the report has no such place.
    """
    for name, table in tables.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not place.search(text):
            raise ValueError(f"expected a place <!-- {name} --> … <!-- /{name} --> in the report")
        text = place.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
    return text


def write_tables(report: Path, tables: Mapping[str, str]) -> None:
    """Put tables into a report's file. Raises what `with_tables` does."""
    text = report.read_text(encoding="utf-8")
    report.write_text(with_tables(text, tables), encoding="utf-8")
