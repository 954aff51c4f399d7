"""What compiled blocks gain on zs2-mini: `python -m infra.engine [--pairs 5] [--write]`.

The same clips are sampled by two pipelines, one of them compiled, in turn. Seconds are of the
processor's time of one thread, which other programs on the machine lengthen least; those of compiling
are of this process and of the compilers that it calls. `--write` puts the table into
infra/performance.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from infra.reports import write_tables
from tasks.allocator import keep_freed_memory
from zs2 import ZS2Sampler

REPORT = Path(__file__).with_name("performance.md")
CLIP: dict[str, Any] = {"num_frames": 8, "output_type": "latent"}
PROMPT = "a red star over the sea at night"


def measure(pairs: int) -> str:
    """A table; compiled code is kept nowhere, so that compiling is measured whole."""
    from torch._dynamo.utils import counters

    keep_freed_memory()
    torch.set_num_threads(1)
    eager, compiled = (ZS2Sampler.from_pretrained("zs2-mini", device="cpu") for _ in range(2))
    for sampler in (eager, compiled):
        sampler.pipe.set_progress_bar_config(disable=True)
    wanted, _ = _timed(eager, 0)
    compiled.compile()
    begun = os.times()
    found, first = _timed(compiled, 0)
    compilers = os.times().children_user - begun.children_user
    found_again, second = _timed(compiled, 0)
    graphs = counters["stats"]["unique_graphs"]
    timings: list[tuple[float, float]] = []
    for seed in range(1, pairs + 1):
        timings.append((_timed(eager, seed)[1], _timed(compiled, seed)[1]))
        print(f"{seed} of {pairs}", flush=True)
    ratios = sorted(a / b for a, b in timings)
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    rows = [
        ("eager, s a clip", f"{median(a for a, _ in timings):.2f}"),
        ("compiled, s a clip", f"{median(b for _, b in timings):.2f}"),
        ("eager ÷ compiled", f"{median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"),
        ("compiling, s", f"{first - second + compilers:.0f}, of which {compilers:.0f} in C++"),
        ("graphs compiled", f"{graphs}, and none in later clips: "
         f"{counters['stats']['unique_graphs'] - graphs} more"),
        ("largest difference", f"{difference:.1e} of the largest latent"),
        ("the same clip again", "equal" if torch.equal(found, found_again) else "not equal"),
    ]  # fmt: skip
    return "\n".join(["| figure | value |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in rows)])


def _timed(sampler: ZS2Sampler, seed: int) -> tuple[torch.Tensor, float]:
    start = time.process_time()
    latents = sampler(PROMPT, seed=seed, **CLIP).latents
    return latents, time.process_time() - start


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5, help="clips of each side")
    parser.add_argument("--write", action="store_true", help=f"into {REPORT.name}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = (
            "1"  # compilers are then children, whose time counts
        )
        found = measure(arguments.pairs)
    print(found)
    if arguments.write:
        words = (
            f"`python -m infra.engine --pairs {arguments.pairs} --write`, torch {torch.__version__}, one "
            "thread:"
        )
        write_tables(REPORT, {"engine": f"{words}\n\n{found}"})


if __name__ == "__main__":
    main()
