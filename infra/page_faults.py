"""What memory that is kept saves a clip of zs2-mini: `python -m infra.page_faults [--pairs 5] [--write]`.

Clips in fresh processes of one thread, in turn as the C library has it and with `tasks.allocator`,
sampled alone and decoded, too. Counts are of pages that the kernel had to give; `--write` puts the
table into infra/performance.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from infra.reports import write_tables

REPORT = Path(__file__).with_name("performance.md")
CLIPS = 5  # of a process, after one that does not count
OUTPUTS = {"sampled": "latent", "sampled and decoded": "np"}


def clips(output: str, kept: bool) -> list[tuple[float, int]]:
    """Seconds and page faults of each clip of this process."""
    import torch

    from tasks.allocator import keep_freed_memory
    from zs2 import ZS2Sampler

    if kept:
        assert keep_freed_memory(), "expected glibc, and no thresholds of malloc in the environment"
    torch.set_num_threads(1)
    sampler = ZS2Sampler.from_pretrained("zs2-mini", device="cpu")
    sampler.pipe.set_progress_bar_config(disable=True)
    found: list[tuple[float, int]] = []
    for seed in range(CLIPS + 1):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        sampler("a red star over the sea at night", seed=seed, output_type=output)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        found.append((time.perf_counter() - began, faults))
    return found[1:]


def measure(pairs: int) -> str:
    """A table: medians of all clips, and of the pairs of processes."""
    lines = [
        "| clip of 8 frames | page faults | kept | s a clip | kept | without ÷ kept |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, output in OUTPUTS.items():
        rounds = [(_process(output, False), _process(output, True)) for _ in range(pairs)]
        without, kept = (
            [clip for found in side for clip in found] for side in zip(*rounds, strict=True)
        )
        ratios = sorted(median(s for s, _ in a) / median(s for s, _ in b) for a, b in rounds)
        faults = [median(count for _, count in side) for side in (without, kept)]
        seconds = [median(spent for spent, _ in side) for side in (without, kept)]
        lines.append(
            f"| {name} | {faults[0]:,.0f} | {faults[1]:,.0f} | {seconds[0]:.2f} | {seconds[1]:.2f} "
            f"| {median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}) |"
        )
    return "\n".join(lines)


def _process(output: str, kept: bool) -> list[tuple[float, int]]:
    command = [
        sys.executable,
        "-m",
        "infra.page_faults",
        "--clips",
        output,
        *(["--kept"] if kept else []),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5, help="processes of each side")
    parser.add_argument("--write", action="store_true", help=f"into {REPORT.name}")
    parser.add_argument("--clips", choices=OUTPUTS.values(), help=argparse.SUPPRESS)
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.clips:
        print(json.dumps(clips(arguments.clips, arguments.kept)))
        return
    found = measure(arguments.pairs)
    print(found)
    if arguments.write:
        words = f"`python -m infra.page_faults --pairs {arguments.pairs} --write`, one thread:"
        write_tables(REPORT, {"faults": f"{words}\n\n{found}"})


if __name__ == "__main__":
    main()
