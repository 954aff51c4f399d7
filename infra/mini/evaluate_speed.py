"""How long a bundled model takes to load and to sample: `python -m infra.mini.evaluate_speed zs2-mini`.

Seconds by the clock, medians: of loading in a process that has imported zs2, and of a clip of 8 frames at
the model's own steps and guidance, decoded.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from infra.mini.command import run, whole_number
from zs2 import ZS2Sampler
from zs2.models import ModelError

PROMPT = "a red star over the sea at night"
FRAMES = 8


def seconds(work: Callable[[], Any], times: int) -> float:
    """Median seconds of a call, after one that does not count."""
    work()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return median(found)


def main() -> None:
    """Print the two medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a StableDiffusionPipeline folder or a bundled name")
    parser.add_argument("--times", type=whole_number, default=5)
    parser.add_argument("--threads", type=whole_number, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = seconds(lambda: ZS2Sampler.from_pretrained(arguments.model), arguments.times)
    sampler = ZS2Sampler.from_pretrained(arguments.model)
    sampler.pipe.set_progress_bar_config(disable=True)
    clip = seconds(lambda: sampler(PROMPT, seed=0, num_frames=FRAMES), arguments.times)
    print(f"| {arguments.model}, {arguments.threads} threads | s |\n| --- | --- |")
    print(f"| load | {load:.2f} |\n| a clip of {FRAMES} frames | {clip:.2f} |")


if __name__ == "__main__":
    run(main, ModelError)
