"""`zs2 prune`: what a run folder holds that no row names any more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flows.console import size
from flows.earlier_run import earlier_run
from manifests.storage import RunFolder
from tasks import prune as pruning


def prune(out: str, *, yes: bool, latents: bool) -> dict[str, Any]:
    """List what can go, and with `yes` delete it, under the folder's lock.

    Raises:
        UsageError: no run folder. LockedError: a run is going on.
    """
    run_folder = earlier_run(out)
    with TemporaryDirectory(prefix="zs2-") as staging:
        if yes:
            local_copy = Path(staging) if run_folder.remote else None  # of a folder on a store
            found = pruning.prune(RunFolder(out, local_copy), latents)
        else:
            with run_folder.view() as folder:
                found = pruning.superseded(folder, latents)
    files = [{"name": each.name, "bytes": each.bytes} for each in found]
    total = sum(each.bytes for each in found)
    return {"out": out, "files": files, "bytes": total, "deleted": yes}


def text(report: Mapping[str, Any]) -> str:
    """The list for people, and what to do."""
    if not report["files"]:
        return f"{report['out']}: nothing to prune"
    lines = [f"{each['bytes']:>14,}  {each['name']}" for each in report["files"]]
    what = "1 file or folder" if len(lines) == 1 else f"{len(lines):,} files or folders"
    told = f"{what}, {size(report['bytes'])}"
    lines.append(f"{told} deleted" if report["deleted"] else f"{told}; --yes deletes them")
    return "\n".join(lines)
