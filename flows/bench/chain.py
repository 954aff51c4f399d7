"""`zs2 bench chain`: what a long clip takes by itself, and spread over two samplers."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from flows.bench.chain_memory import PROMPT, SEED, THREADS
from flows.bench.machine import machine, machine_lines
from flows.console import table
from flows.errors import check_least

LONG = 16  # frames that longer clips are compared with
MOST_GROWTH = 1.15  # of their memory, beside the latents themselves
LEAST_SPEEDUP = 1.6  # of two samplers
SHARES = 2
LEAST_SHARED = 16  # frames: two segments
MODELLED = (1, 2, 4, 8, 16)  # samplers


def chain(
    frames: Sequence[int], steps: int, pairs: int, relay_frames: int, relay_steps: int
) -> dict[str, Any]:
    """Measure clips of each length, without and with a ControlNet, and one that two samplers share.

    Args:
        frames: lengths; none measures no memory.
        steps: of these clips; memory does not depend on it.
        pairs: how often one sampler and two sample the same clip; 0 leaves that out.
        relay_frames, relay_steps: of that clip.

    Returns:
        `machine`, `lengths` (by `plain` and `controlnet`: see `flows.bench.chain_memory`), `relay`.

    Raises:
        UsageError: no frames, steps or segments to measure. ChainError: a step failed.
    """
    check_least("--frames", 1, min(frames, default=1))
    check_least("--steps", 1, steps)
    check_least("--pairs", 0, pairs)
    check_least("--relay-frames", LEAST_SHARED, relay_frames)
    check_least("--relay-steps", 1, relay_steps)
    lengths: dict[str, list[dict[str, Any]]] = {
        kind: [_length(count, steps, controlled) for count in frames]
        for kind, controlled in (("plain", False), ("controlnet", True))
        if frames
    }
    shared = relayed(pairs, relay_frames, relay_steps) if pairs else None
    return {"machine": machine(), "steps": steps, "lengths": lengths, "relay": shared}


class ChainError(RuntimeError):
    """A step that failed; the message has what it said."""


def _length(count: int, steps: int, controlled: bool) -> dict[str, Any]:
    module = "flows.bench.chain_memory"
    command = [sys.executable, "-m", module, *map(str, (count, steps, int(controlled)))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChainError(f"zs2 bench chain: {count} frames failed\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


class ChainSampler:
    """An actor: one sampler of one thread, warm."""

    def __init__(self) -> None:
        import torch

        from tasks.allocator import keep_freed_memory
        from zs2.sampler import ZS2Sampler

        keep_freed_memory()
        torch.set_num_threads(THREADS)
        self.sampler = ZS2Sampler.from_pretrained("zs2-mini", device="cpu")
        self.sampler.pipe.set_progress_bar_config(disable=True)

    def sample(self, num_frames: int, steps: int, line: Any = None) -> dict[str, Any]:
        """A clip, or the share of it that `line` (`tasks.handover.Line`) belongs to."""
        from tasks.share import share_of
        from zs2.relay import cut

        share = None
        if line is not None:
            m = min(8, num_frames)
            start, stop = cut(num_frames, m, line.count)[line.index]
            share = share_of(line, start, stop, self.sampler.pipe._execution_device)
        began = time.monotonic()
        clip = self.sampler(
            PROMPT,
            num_frames=num_frames,
            seed=SEED,
            num_inference_steps=steps,
            share=share,
            output_type="latent",
        )
        return {
            "seconds": time.monotonic() - began,
            "frames": [hashlib.sha256(one.numpy().tobytes()).hexdigest() for one in clip.latents],
            **({} if line is None else line.report()),
        }


def relayed(pairs: int, num_frames: int, steps: int) -> dict[str, Any]:
    """One sampler and two, in turn: the same clip, one thread each, models warm."""
    import ray

    from tasks.cluster import connect, disconnect
    from tasks.handover import Attempt

    connect()
    try:
        options = {"num_cpus": 0, "num_gpus": 0}
        sampler: Any = ray.remote(ChainSampler).options(**options)
        actors: list[Any] = [sampler.remote() for _ in range(SHARES)]
        ray.get([actor.sample.remote(8, 1) for actor in actors])
        one: list[float] = []
        two: list[float] = []
        told: list[Mapping[str, Any]] = []
        for _ in range(pairs):
            began = time.monotonic()
            alone: Any = ray.get(actors[0].sample.remote(num_frames, steps))
            one.append(time.monotonic() - began)
            attempt = Attempt(SHARES, options)
            ray.get(attempt.line(0).mailbox.__ray_ready__.remote())
            began = time.monotonic()
            shares: Any = ray.get(
                [
                    actor.sample.remote(num_frames, steps, attempt.line(i))
                    for i, actor in enumerate(actors)
                ]
            )
            two.append(time.monotonic() - began)
            attempt.end()
            if [frame for share in shares for frame in share["frames"]] != alone["frames"]:
                raise ChainError("zs2 bench chain: two samplers made another clip than one")
            told += shares
    finally:
        disconnect()
    handed = [share for share in told if share["bytes"]]
    return {
        "frames": num_frames,
        "steps": steps,
        "one": one,
        "two": two,
        "speedup": median(a / b for a, b in zip(one, two, strict=True)),
        "bytes_a_step": handed[0]["bytes"] / steps,
        "seconds_a_step": sum(share["seconds"] for share in told) / pairs / steps,
        "is_equal": True,
    }


def latency(seconds: float, steps: int, handed: float, samplers: int) -> float:
    """A model of a clip's seconds on so many samplers: T+G−1 waves of a step's share and a hand-over.

    Args:
        seconds: of one sampler alone.
        handed: seconds of handing one step's averages on.
    """
    own = seconds / steps / samplers
    return (steps + samplers - 1) * (own + (handed if samplers > 1 else 0.0))


def text(report: Mapping[str, Any]) -> str:
    """The report as tables for people."""
    lines = [*machine_lines(report["machine"])]
    for kind, found in report["lengths"].items():
        title = "with a ControlNet" if kind == "controlnet" else "by themselves"
        lines += ["", f"clips of zs2-mini {title}, {report['steps']} steps, {THREADS} thread:"]
        header = ("frames", "seconds", "s/frame", "latents MB", "peak MB", "×", "sampling MB")
        lines.append(table(_lengths(found), header))
    if report["lengths"]:
        lines.append(
            f"peak: of the process while it samples; ×: less the latents and the control clip, over that of "
            f"{LONG} frames (aim: at most {MOST_GROWTH}); sampling: of the peak, what came with sampling, "
            "most of it copies of the latents in the pipeline and its scheduler"
        )
    if report["relay"] is not None:
        lines += ["", *_relay_lines(report["relay"])]
    return "\n".join(lines)


def _lengths(found: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, ...]]:
    base = next((one for one in found if one["frames"] == LONG), found[0])
    for one in found:
        held, first = (
            each["mb_process"] - each["mb_latents"] - each["mb_control"] for each in (one, base)
        )
        yield (
            f"{one['frames']:,}",
            f"{one['seconds']:.1f}",
            f"{one['seconds'] / one['frames']:.3f}",
            f"{one['mb_latents']:.1f}",
            f"{one['mb_process']:.0f}",
            f"{held / first:.2f}",
            f"{one['mb']:.0f}",
        )


def _relay_lines(relay: Mapping[str, Any]) -> Iterable[str]:
    one, two, steps = median(relay["one"]), median(relay["two"]), relay["steps"]
    handed = relay["seconds_a_step"]
    yield (
        f"one clip of {relay['frames']} frames, {steps} steps: {one:.1f} s on one sampler, {two:.1f} s on "
        f"{SHARES}, {relay['speedup']:.2f} × (median of {len(relay['one'])} pairs, aim {LEAST_SPEEDUP}); "
        "equal bytes"
    )
    yield (
        f"handed on in each step: {relay['bytes_a_step'] / 1000:,.0f} kB in {1000 * handed:.1f} ms "
        "(put into the object store and fetched; waiting for the share before not counted)"
    )
    cells: list[tuple[str, ...]] = []
    for count in MODELLED:
        seconds = latency(one, steps, handed, count)
        cells.append((str(count), f"{seconds:.1f}", f"{one / seconds:.2f}"))
    yield "modelled, (T+G−1)·(s/(T·G) + hand-over):"
    yield table(cells, ("samplers", "seconds", "×"))
