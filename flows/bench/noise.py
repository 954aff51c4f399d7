"""`zs2 bench noise`: what drawing a clip's noise takes, by each solver, and its share in the clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from flows.bench.machine import machine, machine_lines
from flows.bench.paired import in_turn, medians, timed
from flows.bench.pipelines import sampler_of, set_threads, synchronize
from flows.bench.tables import markdown_table
from flows.console import table
from flows.errors import UsageError, check_least
from zs2.config import SOLVERS
from zs2.noise import dependency_noise

CANDIDATES = {"expected": 1, "exact": 10, "search": 10, "algorithm1": 10}  # the paper's, but ours
SIDES = (16, 64, 128)  # of latents: those of 128, 512 and 1024 pixels
HEADER = ("solver", "candidates", "latents", "µs a frame pair", "of the clip")


def noise(
    *, model: str, frames: int, kl_target: float, rounds: int, threads: int | None
) -> dict[str, Any]:
    """Time every solver at the model's own latent size and at SIDES.

    Returns:
        `machine`, `model`, `frames`, `clip_seconds` (a whole clip of the model, decoded) and `solvers`,
        each with `solver`, `candidates`, `shape`, `seconds_a_pair` and, at the model's own size,
        `share` of the clip's time.

    Raises:
        UsageError: too few frames or rounds. ModelError: no such model.
    """
    check_least("--frames", 2, frames)
    check_least("--rounds", 1, rounds)
    if not 0 <= kl_target < math.inf:
        raise UsageError(f"--kl-target: expected a number of at least 0, found {kl_target}")
    set_threads(threads)
    sampler = sampler_of(model, None, "auto")
    unet: Any = sampler.pipe.unet
    own = unet.config.sample_size
    channels = sampler.pipe.vae.config.latent_channels
    clip = partial(sampler, "a red star over the sea at night", num_frames=frames, seed=0)
    clip()
    clip_timing = timed(clip, synchronize(sampler.pipe))
    solvers: list[dict[str, Any]] = []
    for side in sorted({own, *SIDES}):
        shape = (channels, side, side)
        timings = in_turn(
            {name: _drawing(shape, frames, kl_target, name) for name in SOLVERS}, rounds
        )
        for name, found in timings.items():
            seconds = medians(found)["seconds"]
            solvers.append(
                {
                    "solver": name,
                    "candidates": CANDIDATES[name],
                    "shape": shape,
                    "seconds_a_pair": seconds / (frames - 1),
                    "share": seconds / clip_timing.seconds if side == own else None,
                }
            )
    return {
        "machine": machine(),
        "model": model,
        "frames": frames,
        "clip_seconds": clip_timing.seconds,
        "solvers": solvers,
    }


def _drawing(
    shape: tuple[int, int, int], frames: int, kl_target: float, solver: str
) -> Callable[[], object]:
    def draw() -> object:
        generator = torch.Generator().manual_seed(0)
        return dependency_noise(shape, frames, kl_target, generator, solver, CANDIDATES[solver])

    return draw


def text(report: Mapping[str, Any]) -> str:
    """The report for people."""
    return "\n".join([*_head(report), "", table(_rows(report), HEADER)])


def markdown(report: Mapping[str, Any]) -> str:
    """The report for a page."""
    return "\n\n".join(["\n".join(_head(report)), markdown_table(HEADER, _rows(report))])


def _head(report: Mapping[str, Any]) -> list[str]:
    clip = (
        f"a clip of {report['frames']} frames of {report['model']}: {report['clip_seconds']:.2f} s"
    )
    return [*machine_lines(report["machine"]), clip]


def _rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            found["solver"],
            str(found["candidates"]),
            "×".join(map(str, found["shape"])),
            f"{found['seconds_a_pair'] * 1e6:,.0f}",
            "-" if found["share"] is None else f"{found['share']:.2%}",
        )
        for found in report["solvers"]
    ]
