"""In which window of a row's or a run's life a process stands: read from the folder while it is frozen.

A window counts when the folder proves it, not when a kill was meant for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.chaos.processes import children, command, is_alive
from infra.chaos.watch import TEMPORARY, Event

UNET = "UNet"  # at a row whose latents are not on disk
DECODE = "decode"  # at a row whose latents are, and whose video has not been begun
ENCODE = "encode"  # ffmpeg lives and its file is aside
REPORT = "rename → report"  # the video has its name, the driver has not heard of it
JOURNAL = "rename → journal"  # the video has its name, its row is in no journal
COMPACTION = "compaction"  # a part is aside, or named and what it replaces still there
PUBLISH = "publish"  # the ledger is compacted, what is made from it is not all written
FLIGHT = "rows in flight"
IDLE = "between rows"
STARTING = "starting"
WANTED = (UNET, DECODE, ENCODE, JOURNAL, PUBLISH, COMPACTION)

PUBLISHED = ("metadata.parquet", "summary.json", "index.html")
# What happens in these windows, in order: a file is aside, then it has its name.
STEPS = {
    COMPACTION: [("part", "created"), ("part", "named")],
    PUBLISH: [(name, what) for name in PUBLISHED for what in ("created", "named")][:-1],
}


@dataclass(frozen=True)
class Aim:
    """Whom to kill, and in which window; no window means at a random moment.

    Attributes:
        victim: sampler, post (a post-processing actor), ffmpeg, node, driver.
        step: of STEPS, the first one that will do.
    """

    victim: str
    window: str = ""
    step: int = 0

    def is_near(self, event: Event) -> bool:
        """Whether an event says that the window may be open now."""
        in_videos = event.folder.startswith("videos/")
        match self.window:
            case "decode":
                return event.folder == "latents" and event.what == "named" and not event.aside
            case "encode":
                return in_videos and event.what == "created" and event.aside
            case "rename → report" | "rename → journal":
                return in_videos and event.what == "named" and not event.aside
            case "compaction" | "publish":
                name = event.name if self.window == PUBLISH else event.name[:4]
                steps = STEPS[self.window]
                here = event.folder == ("" if self.window == PUBLISH else "results")
                return here and (name, event.what) in steps[self.step :]
            case _:
                return False


def encoder_of(actor: int) -> int | None:
    """The ffmpeg child of an assembling actor, if it lives."""
    for pid in children(actor):
        if "ffmpeg" in command(pid) and is_alive(pid):
            return pid
    return None


def journalled(out: Path) -> set[str]:
    """Ids in the journals as they are on disk."""
    found: set[str] = set()
    for path in (out / "results").glob("journal-*.jsonl"):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n") and b'"row":' in line:
                found.add(json.loads(line)["row"]["id"])
    return found


def of_driver(out: Path, done: set[str]) -> str:
    """The window of a frozen driver.

    Args:
        done: ids that earlier journals, compacted since, have named.
    """
    if _compacting(out):
        return COMPACTION
    if _publishing(out):
        return PUBLISH
    if set(_videos(out)) - done - journalled(out):
        return JOURNAL
    return FLIGHT


def _asides(folder: Path) -> Iterator[str]:
    for path in folder.glob(".tmp-*"):
        found = TEMPORARY.fullmatch(path.name)
        if found:
            yield found[2]


def _compacting(out: Path) -> bool:
    if "part.parquet" in _asides(out / "results"):
        return True
    parts, journals = (sorted((out / "results").glob(f"{name}-*")) for name in ("part", "journal"))
    generations = {path.name.split("-")[1] for path in parts}
    # Until the journals that are in it and the generation before it are gone, it is not over.
    left = len(generations) > 1 or (parts and journalled(out))
    return bool(left) and _newest(parts) > _newest(journals)


def _newest(paths: list[Path]) -> float:
    return max((path.stat().st_mtime for path in paths), default=0.0)


def _publishing(out: Path) -> bool:
    if set(_asides(out)) & set(PUBLISHED):
        return True
    parts = list((out / "results").glob("part-*"))
    if not parts or journalled(out):
        return False
    pages = [out / name for name in PUBLISHED]
    return any(not page.exists() or page.stat().st_mtime < _newest(parts) for page in pages)


def _videos(out: Path) -> Iterator[str]:
    """Ids of finished videos."""
    for path in (out / "videos").glob("*/*"):
        if not path.name.startswith("."):
            yield path.stem
