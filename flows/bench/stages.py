"""`zs2 bench post` and `zs2 bench encode`: frames a second and bytes of what follows sampling."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flows.bench.machine import machine, machine_lines
from flows.bench.moving_picture import Array, moving_picture
from flows.bench.paired import in_turn, medians
from flows.bench.tables import markdown_table
from flows.console import size, table
from flows.errors import UsageError, check_least
from manifests.storage import SUFFIXES
from tasks.assemble import assemble
from tasks.codecs import CODECS
from tasks.spatial_sr import upscale
from tasks.temporal_sr import interpolate

FPS = 8.0
LEAST_SIDE = 32  # pixels: h265's
HEADER = ("what", "pixels", "frames", "seconds", "CPU s", "frames/s", "bytes in", "bytes out")


def post(*, frames: int, sides: Sequence[int], rounds: int) -> dict[str, Any]:
    """Time the temporal and spatial methods on frames of each size; see `_report`.

    Raises:
        UsageError: frames, sizes or rounds that say nothing.
    """
    _check(frames, sides, rounds)
    methods: dict[str, Callable[[Array], Array]] = {
        "flow, 2 times the rate": lambda clip: interpolate(clip, 2),
        "flow, 4 times the rate": lambda clip: interpolate(clip, 4),
        "mini-sr, 2 times the side": lambda clip: upscale(clip, 2),
        "lanczos, 2 times the side": lambda clip: upscale(clip, 2, "lanczos"),
    }

    def made(clip: Array) -> dict[str, tuple[Callable[[], object], int, int]]:
        found: dict[str, tuple[Callable[[], object], int, int]] = {}
        for name, method in methods.items():
            result = method(clip)  # warms it, too
            found[name] = partial(method, clip), len(result), result.nbytes
        return found

    return _report(frames, sides, rounds, made)


def encode(*, frames: int, sides: Sequence[int], rounds: int) -> dict[str, Any]:
    """Time every codec at its default quality, writing and reading again to verify; see `_report`.

    Raises:
        UsageError: as of `post`. AssembleError: an ffmpeg that lacks a codec.
    """
    _check(frames, sides, rounds)
    with tempfile.TemporaryDirectory(prefix="zs2-bench-") as folder:

        def made(clip: Array) -> dict[str, tuple[Callable[[], object], int, int]]:
            found: dict[str, tuple[Callable[[], object], int, int]] = {}
            for codec in CODECS:
                path = Path(folder, f"clip{SUFFIXES[codec]}")
                write = partial(assemble, clip, path, FPS, codec)
                found[codec] = write, len(clip), write().bytes
            return found

        return _report(frames, sides, rounds, made)


def _check(frames: int, sides: Sequence[int], rounds: int) -> None:
    check_least("--frames", 2, frames)
    check_least("--rounds", 1, rounds)
    if not sides:
        raise UsageError("--side: expected one size or more, found none")
    check_least("--side", LEAST_SIDE, min(sides))


def _report(
    frames: int,
    sides: Sequence[int],
    rounds: int,
    made: Callable[[Array], Mapping[str, tuple[Callable[[], object], int, int]]],
) -> dict[str, Any]:
    """`machine` and `work`: by what and side, medians, frames that come out a second, bytes.

    Args:
        made: of a clip, by name: what to time, the frames that come out of it, and their bytes.
    """
    work: list[dict[str, Any]] = []
    for side in sides:
        clip = moving_picture(frames, side)
        calls = made(clip)
        timings = in_turn({name: call for name, (call, _, _) in calls.items()}, rounds)
        for name, (_, count, out) in calls.items():
            found = medians(timings[name])
            work.append(
                {
                    "what": name,
                    "side": side,
                    "frames": count,
                    **found,
                    "frames_per_second": count / found["seconds"],
                    "bytes_in": clip.nbytes,
                    "bytes_out": out,
                }
            )
    return {"machine": machine(), "rounds": rounds, "work": work}


def text(report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = machine_lines(report["machine"])
    return "\n".join([*lines, "", table(_rows(report), HEADER)])


def markdown(report: Mapping[str, Any]) -> str:
    """The report for a page."""
    lines = "\n".join(machine_lines(report["machine"]))
    return "\n\n".join([lines, markdown_table(HEADER, _rows(report))])


def _rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            found["what"],
            f"{found['side']}×{found['side']}",
            str(found["frames"]),
            f"{found['seconds']:.3f}",
            f"{found['cpu_seconds']:.3f}",
            f"{found['frames_per_second']:.1f}",
            size(found["bytes_in"]),
            size(found["bytes_out"]),
        )
        for found in report["work"]
    ]
