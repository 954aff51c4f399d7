"""Which errors are the user's to mend, and the exit code of each."""

from __future__ import annotations

import sys

# By name, so that asking does not import Ray or torch; an error's module is loaded when it occurs.
_BAD_USAGE = {
    "flows.errors.UsageError",
    "manifests.read.ManifestError",
    "manifests.row.RowError",
    "manifests.build.BuildError",
    "manifests.storage.StorageError",
    "tasks.render.InvalidManifestError",
    "zs2.models.ModelError",
}
_CANNOT_GO_ON = {
    "flows.embedded.PrefectServerError",
    "manifests.storage.LockedError",
    "manifests.journal.JournalError",
    "tasks.actors.ClusterError",
    "tasks.pool.PoolError",
    "tasks.assemble.AssembleError",
    "tasks.stages.SamplingError",
}


class UsageError(ValueError):
    """Wrong words on the command line."""


def exit_code_of(error: BaseException) -> int | None:
    """1 or 2 for an error whose message is enough, None for a fault of the program."""
    for kind in type(error).__mro__:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in _CANNOT_GO_ON:
            return 1
        if name in _BAD_USAGE:
            return 2
    if isinstance(error, OSError) and "prefect" not in sys.modules:
        return 2
    return None
