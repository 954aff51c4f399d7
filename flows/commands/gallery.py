"""`zs2 gallery`: the page of a run folder, written from its ledger as it is now."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.earlier_run import earlier_run
from flows.errors import UsageError
from manifests.kinds import count
from manifests.ledger import iter_results
from manifests.object_store import is_url
from manifests.run_file import read_derived, read_json
from tasks.gallery import choose, scores_of, write_gallery
from tasks.previews import make_missing

MOST_FAULTS = 5  # told one by one


def gallery(out: str, *, open_page: bool = False) -> dict[str, Any]:
    """Write index.html of the run in `out` anew; also while that run goes on.

    In a local folder, previews that clips of older runs lack are made first. A store's page is
    written from the store's ledger and put there; no clip is read.

    Raises:
        UsageError: no run was there, or a store's page is to be opened.
    """
    if open_page and is_url(out):
        raise UsageError(
            f"--open: expected a local folder, found {out}; a browser has no key to a store: copy the "
            "folder here, or open index.html through the address that your store serves"
        )
    with earlier_run(out).view() as folder:
        content = read_json(folder.run_file) or {}
        is_held = folder.lock_holder() is not None
        begun = datetime.fromisoformat(content["started_at"]) if is_held else None
        choice = choose(iter_results(folder.root), begun)
        made, faults = (0, []) if folder.remote else make_missing(folder, choice.rows())
        write_gallery(
            folder,
            choice,
            title=Path(content["manifest"]).name,
            summary={} if is_held else read_derived(folder.summary_file) or {},
            state=_state(content["state"], is_held),
            news={"total": content["rows"]} if is_held else None,
            scores=scores_of(folder, choice),
        )
        folder.upload(folder.gallery_file)
        page = folder.address_of(folder.gallery_file)
        report: dict[str, Any] = {
            "page": page,
            "rows": sum(choice.statuses.values()),
            "shown": len(choice.rows()),
            "previews": made,
            "faults": faults,
        }
    if open_page and not webbrowser.open(Path(page).absolute().as_uri()):
        report["faults"] = [*faults, "no browser could be started; open the page yourself"]
    return report


def _state(written: str, is_held: bool) -> str:
    if is_held:
        return "running"
    return "killed" if written == "running" else written


def text(report: Mapping[str, Any]) -> str:
    """The report as lines for people."""
    shown, rows = report["shown"], report["rows"]
    of = f"{count(rows, 'row')}" if shown == rows else f"the first {shown:,} of {rows:,} rows"
    lines = [f"{report['page']}: {of}"]
    if report["previews"]:
        lines.append(
            f"{count(report['previews'], 'preview')} made of clips that browsers do not play"
        )
    faults = report["faults"]
    lines += faults[:MOST_FAULTS]
    if len(faults) > MOST_FAULTS:
        lines.append(f"and {len(faults) - MOST_FAULTS:,} more")
    return "\n".join(lines)
