"""The folder of an earlier run, as commands are given it."""

from __future__ import annotations

from pathlib import Path

from flows.errors import UsageError
from manifests.object_store import is_url
from manifests.storage import RunFolder

EXPECTED = "expected the folder of a run (`zs2 render -o`)"


def earlier_run(out: str) -> RunFolder:
    """The run folder at a path or a URL.

    Raises:
        UsageError: none is there, and what is.
    """
    path = Path(out)
    if not is_url(out) and path.is_file():
        inside = path.absolute().parent / "run.json"
        hint = f"; did you mean {path.parent}?" if inside.exists() else ""
        raise UsageError(f"{out}: {EXPECTED}, found a file{hint}")
    folder = RunFolder(out)
    if not folder.exists(folder.run_file):
        found = "found no run.json there"
        if folder.remote is None and not path.exists():
            found = "there is nothing"
        raise UsageError(f"{out}: {EXPECTED}, {found}; check the path, or render first")
    return folder
