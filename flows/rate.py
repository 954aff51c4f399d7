"""How fast a device samples, from where that is known, and what another engine makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from flows.errors import UsageError
from manifests.ledger import ledger_batches
from manifests.run_file import read_derived
from manifests.storage import RunFolder
from tasks.job import Engine
from tasks.plan import Plan
from tasks.work import Work

# UNet pictures a second of zs2-mini, one thread of a server core; measured by `zs2 plan`'s own
# source of rates, a finished run's summary.json. Other models: --rate, or a few rows of
# theirs, which `zs2 manifest head` gives.
MINI_PICTURES_PER_SECOND = 200.0


class Rate(NamedTuple):
    """UNet pictures of the model's own size a second of one device, those that fill up calls of several
    clips included.

    Attributes:
        pictures_per_second: None where nothing tells.
        source: in words.
        engine, clips_per_call: of what was measured.
    """

    pictures_per_second: float | None
    source: str
    engine: str = "eager"
    clips_per_call: int = 1

    def gains_of(self, engine: Engine, compiled: float, clips: float) -> dict[str, float]:
        """By what an engine is faster than the one that was measured: `compiled_gain`, of all calls, and
        `clips_gain`, of those that rows share; left out where nothing changes, or where calls of another
        number of clips were measured, of which nothing is known.

        Args:
            compiled: eager seconds ÷ those of the engine compiled.
            clips: seconds of a clip by itself ÷ those of one of `engine.clips_per_call` in a call.
        """
        gains: dict[str, float] = {}
        if engine.engine != self.engine:
            gains["compiled_gain"] = compiled if engine.engine == "compiled" else 1 / compiled
        if self.clips_per_call == 1:
            gains["clips_gain"] = clips
        return {name: gain for name, gain in gains.items() if gain != 1}

    def seconds_of(self, work: Work, gains: Mapping[str, float]) -> float | None:
        """Of one device for all of the work; None where the rate is unknown."""
        if self.pictures_per_second is None:
            return None
        saved = work.shared_native_pictures * (1 - 1 / gains.get("clips_gain", 1.0))
        faster = gains.get("compiled_gain", 1.0)
        return (work.native_pictures - saved) / self.pictures_per_second / faster


def rate_of(given: float | None, folder: RunFolder | None, made: Plan, engine: Engine) -> Rate:
    """The rate given, that of the last run into the folder, that of its finished rows, or zs2-mini's. The
    last run's goes before the finished rows' where it ran as `engine` says; these always did.

    Raises:
        UsageError: no rate can be what was given.
    """
    if given is not None:
        if not 0 < given < math.inf:
            raise UsageError(f"--rate: expected a number above 0, found {given}")
        return Rate(given, "--rate")
    last = _of_last_run(folder) if folder else None
    if last and (last.engine, last.clips_per_call) == (engine.engine, engine.clips_per_call):
        return last
    rows = _of_finished_rows(folder, made, engine) if folder else None
    if rows or last:
        return rows or last or _UNKNOWN
    locations = {shard.signature.location for shard in made.shards}
    if locations and all(location.endswith("zs2-mini") for location in locations):
        return Rate(MINI_PICTURES_PER_SECOND, "zs2-mini on one CPU core, as measured for zs2")
    return _UNKNOWN


_UNKNOWN = Rate(
    None,
    "unknown: give --rate, or -o a folder into which a few rows were rendered: `zs2 manifest head` writes "
    "a manifest of them",
)


def _of_last_run(folder: RunFolder) -> Rate | None:
    """By its summary, where run.json is of the same run and so tells its engine."""
    summary, run = read_derived(folder.summary_file) or {}, read_derived(folder.run_file) or {}
    pictures = summary.get("native_pictures_per_second")
    if not pictures or summary.get("run_id") != run.get("run_id"):
        return None
    settings = run.get("settings") or {}
    engine, clips = settings.get("engine", "eager"), settings.get("clips_per_call", 1)
    return _measured(float(pictures), "last run into", engine, clips)


def _of_finished_rows(folder: RunFolder, made: Plan, engine: Engine) -> Rate | None:
    """By the ledger, of the rows that are done: the run that made them may have left no summary. Their
    digests say that their engine was this one."""
    batches = ledger_batches(folder.root, ["id", "digest", "status", "seconds_sample"])
    seconds = sum(
        row["seconds_sample"] or 0.0
        for batch in batches
        for row in batch.to_pylist()
        if row["status"] == "ok" and made.digests.is_done(row["id"], row["digest"])
    )
    if not seconds:
        return None
    clips = engine.clips_per_call if made.done_sharing else 1
    return _measured(made.done_native_pictures / seconds, "finished rows of", engine.engine, clips)


def _measured(rate: float, by: str, engine: str, clips: int) -> Rate:
    how = [f"engine {engine}"] if engine != "eager" else []
    how += [f"{clips} clips a call"] if clips > 1 else []
    words = f"measured by the {by} this folder"
    return Rate(rate, ", ".join([words, *how]), engine, clips)
