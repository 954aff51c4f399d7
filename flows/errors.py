"""Which errors are the user's to mend, and the exit code of each."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

# By name, so that asking does not import Ray or torch; an error's module is loaded when it occurs.
_BAD_USAGE = {
    "flows.errors.UsageError",
    "manifests.inputs.RootError",
    "manifests.read.ManifestError",
    "manifests.recipe_file.RecipeError",
    "manifests.row.RowError",
    "tasks.clips.ClipError",
    "tasks.dataset_place.PublishedError",
    "tasks.export_choice.ExportError",
    "tasks.methods.CompareError",
    "tasks.render.InvalidManifestError",
    "tasks.score_table.ColumnError",
    "zs2.conditions.PromptError",
    "zs2.models.ModelError",
}
_CANNOT_GO_ON = {
    "flows.bench.steps.BenchError",
    "flows.errors.RenderError",
    "flows.embedded.PrefectServerError",
    "manifests.files.LockedError",
    "manifests.object_store.UnreachableError",
    "tasks.cluster.ClusterError",
    "tasks.dataset.TooFewError",
    "tasks.disk.DiskFullError",
    "tasks.out_of_memory.OutOfMemory",
    "tasks.pool.PoolError",
    "tasks.codecs.AssembleError",
    "tasks.sampling.SamplingError",
    "zs2.post_models.PostModelError",
}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


class UsageError(ValueError):
    """Wrong words on the command line."""


def check_local(option: str, path: Path) -> None:
    """For what writes local files only.

    Raises:
        UsageError: a URL, which would become a folder named `s3:`.
    """
    from manifests.object_store import is_url

    if is_url(path):
        raise UsageError(
            f"{option}: expected a local path, found {str(path)!r}; of all commands only render, with "
            "its OUT, writes to an object store: copy the file there afterwards"
        )


def check_least(option: str, least: int, found: float) -> None:
    """For a number that has a least value.

    Raises:
        UsageError: `found` is less, or no number.
    """
    if not found >= least:
        raise UsageError(f"{option}: expected at least {least}, found {found}")


class RenderError(RuntimeError):
    """A clip that could not be made, for a reason that a library gave."""


def told(error: BaseException) -> str:
    """What the user reads of an error; our own end with the remedy, a full disk's does not."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error}; make space, and run the same command again: it goes on where it stopped"
    return str(error)


def exit_code_of(error: BaseException) -> int | None:
    """1 or 2 for an error whose message is enough, None for a fault of the program."""
    has_begun = "prefect" in sys.modules  # what is wrong now was right when the command began
    for kind in type(error).__mro__:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in _CANNOT_GO_ON:
            return 1
        if name in _BAD_USAGE:
            return 2
        if name == "manifests.files.StorageError":
            return 1 if has_begun else 2
    if isinstance(error, OSError):
        return (1 if error.errno in _NO_ROOM else None) if has_begun else 2
    return None
