"""Commands about what came out: scores, galleries, comparisons."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from flows.console import printable
from flows.options import JsonOption, OutArgument, QuietOption

app = typer.Typer(rich_markup_mode=None)


@app.command()
def gallery(
    out: OutArgument,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser (local folders).")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write OUT/index.html from the ledger as it is now, and the previews that are missing."""
    from flows.commands import gallery as gallery_command

    report = gallery_command.gallery(out, open_page=open_page)
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    elif not quiet:
        print(printable(gallery_command.text(report)))
