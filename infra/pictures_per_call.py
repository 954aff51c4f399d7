"""What a UNet call of more pictures gains: `python -m infra.pictures_per_call [--rounds 15] [--write]`.

Calls of few and of many pictures in turn, on one thread, or on the GPU where there is one: how much
several clips in one call, or longer segments, could gain. `--write` puts the table into
infra/performance.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import torch

from flows.bench.pipelines import synchronize
from infra.reports import write_tables
from tasks.allocator import keep_freed_memory
from zs2 import ZS2Sampler

REPORT = Path(__file__).with_name("performance.md")
PICTURES = (2, 4, 8, 16, 32, 64)
USUAL = 16  # eight frames, with guidance


@torch.no_grad()
def measure(model: str, rounds: int) -> str:
    """A table: milliseconds a picture, and how many times the usual call's rate."""
    keep_freed_memory()
    torch.set_num_threads(1)
    pipe = ZS2Sampler.from_pretrained(model).pipe
    unet, wait = pipe.unet, synchronize(pipe)
    config, place = unet.config, {"device": unet.device, "dtype": unet.dtype}
    side, tokens = config.sample_size, pipe.tokenizer.model_max_length
    calls = {
        count: (
            torch.randn(count, config.in_channels, side, side, **place),
            torch.tensor(500, device=unet.device),
            torch.randn(count, tokens, config.cross_attention_dim, **place),
        )
        for count in PICTURES
    }
    found: dict[int, list[float]] = {count: [] for count in PICTURES}
    for number in range(rounds + 1):
        for count, call in calls.items():
            began = time.perf_counter()
            unet(*call, return_dict=False)
            if wait:
                wait()
            if number:  # the first does not count
                found[count].append((time.perf_counter() - began) / count)
    lines = ["| pictures a call | ms a picture | rate, × that of 16 |", "| --- | --- | --- |"]
    for count, seconds in found.items():
        ratios = sorted(a / b for a, b in zip(found[USUAL], seconds, strict=True))
        lines.append(
            f"| {count} | {1000 * median(seconds):.2f} "
            f"| {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="zs2-mini", help="as in a manifest; no SDXL")
    parser.add_argument("--rounds", type=int, default=15, help="calls of each number")
    parser.add_argument("--write", action="store_true", help=f"into {REPORT.name}")
    arguments = parser.parse_args()
    found = measure(arguments.model, arguments.rounds)
    print(found)
    if arguments.write:
        words = (
            f"`python -m infra.pictures_per_call --rounds {arguments.rounds} --write`, one thread:"
        )
        write_tables(REPORT, {"pictures": f"{words}\n\n{found}"})


if __name__ == "__main__":
    main()
