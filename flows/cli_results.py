"""Commands about what came out: scores, galleries, comparisons."""

from __future__ import annotations

import typer

app = typer.Typer(rich_markup_mode=None)
