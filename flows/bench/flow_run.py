"""The flow itself, in this process, as `zs2 render` runs it, with a crew of a benchmark's choice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.settings import RenderSettings
from manifests.result import ResultRow
from manifests.storage import RunFolder
from tasks.crew import Crew


def run_flow(
    manifest: Path,
    out: Path,
    settings: RenderSettings,
    begin_crew: Callable[[str], Crew],
    on_row: Callable[[ResultRow], None],
) -> dict[str, Any]:
    """Render a manifest with Prefect, Ray, pools, pipeline and journal; returns the summary.

    Args:
        begin_crew: of the run folder's address.
        on_row: hears of every row that ends.
    """
    from flows.embedded import embedded_prefect

    folder = RunFolder(out).create()
    crew = begin_crew(folder.address)
    with contextlib.ExitStack() as stack:
        stack.callback(crew.close)
        stack.enter_context(embedded_prefect())
        from flows.render_manifest import Caller, caller, render_manifest

        caller.set(Caller(on_row=on_row, crew=crew))
        return render_manifest(str(manifest), str(folder.root), settings)
