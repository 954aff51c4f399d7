"""Frames in between, sampled or computed: `python -m infra.in_between [--clips 16] [--steps 10]
[--write]`.

Clips of zs2-mini get frames in between twice: sampled by the model itself (`latent`, `zs2.in_between`) and
computed from the finished frames (`flow`, `tasks.temporal_sr`). Both share the clip's own frames bit by
bit, so only what lies between differs. `--write` puts the table into infra/in_between.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from infra.mini.evaluate_pictures import prompts
from manifests.row import seed_of
from tasks.temporal_sr import interpolate
from zs2 import ZS2Sampler
from zs2.metrics import flicker, sharpness, warp_error
from zs2.statistics import bootstrap_interval, paired_test

REPORT = Path(__file__).with_name("in_between.md")
PAGE = """# Frames in between, measured

`{command}` made this: {count} held-out prompts of zs2-mini's world, clips of {frames} frames,
{steps} steps, on a CPU, with ×2 and ×4 frames: sampled by the model (`latent`) and computed from
the finished frames (`flow`). The clips' own frames are the same in both, bit by bit. Warp error and
flicker are of the whole finer clip, lower is better; sharpness is that of the frames in between as
a share of the sharpness of the clip's own frames, best at 100 %: more is doubled edges, less is
blur. Too much in one clip and too little in another cancel in its mean, so the line below it has how
far off 100 % each clip is, either way, lower is better. Means with 95 % bootstrap intervals; the
difference is latent − flow, p of a paired sign-flip test of that line's figures.

{table}

{words}
"""
FRAMES = 8
SCALES = (2, 4)
KL_TARGETS = (0.05, 0.5)
METHODS = ("flow", "latent")
NEARNESS = "sharpness, off 100 %"
METRICS = {"warp error": "{:.4f}", "flicker": "{:.4f}", "sharpness": "{:.1%}", NEARNESS: "{:.1%}"}
JUDGED = ("warp error", "flicker", NEARNESS)  # lower is better


def measure(count: int, steps: int) -> dict[tuple[float, int, str, str], np.ndarray]:
    """The metrics of every clip, sampled in `steps` steps, by λ, scale, method and metric."""
    sampler = ZS2Sampler.from_pretrained("zs2-mini")
    sampler.pipe.set_progress_bar_config(disable=True)
    found: dict[tuple[float, int, str, str], list[float]] = {}
    for index, text in enumerate(prompts(count)[1]):
        for kl_target in KL_TARGETS:
            settings: dict[str, Any] = {
                "seed": seed_of(f"prompt-{index}"),
                "kl_target": kl_target,
                "num_inference_steps": steps,
            }
            made = sampler(text, num_frames=FRAMES, in_between=max(SCALES), **settings).frames
            assert made is not None
            own = made[:: max(SCALES)]
            for scale in SCALES:
                clips = {
                    "flow": interpolate(own, scale),
                    "latent": made[:: max(SCALES) // scale],  # the same noises on the same arcs
                }
                for method, clip in clips.items():
                    for metric, value in scores(clip, scale).items():
                        found.setdefault((kl_target, scale, method, metric), []).append(value)
        print(f"{index + 1} of {count}", flush=True)
    return {key: np.array(values) for key, values in found.items()}


def scores(clip: np.ndarray, scale: int) -> dict[str, float]:
    """The metrics of a finer clip."""
    between = [frame for at, frame in enumerate(clip) if at % scale]
    share = sharpness(np.stack(between)) / max(sharpness(clip[::scale]), 1e-9)
    return {
        "warp error": warp_error(clip),
        "flicker": flicker(clip),
        "sharpness": share,
        NEARNESS: abs(share - 1),
    }


def table(found: dict[tuple[float, int, str, str], np.ndarray]) -> str:
    """The figures in Markdown."""
    lines = [
        "| λ | frames | metric | flow | latent | difference | p |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kl_target in KL_TARGETS:
        for scale in SCALES:
            for metric, form in METRICS.items():
                flow, latent = (found[kl_target, scale, method, metric] for method in METHODS)
                gain = paired_test(latent, flow)
                low, high = gain.difference.low, gain.difference.high
                means = [bootstrap_interval(values).mean for values in (flow, latent)]
                cells = [f"{kl_target:g}", f"×{scale}", metric, *map(form.format, means)]
                told = [form.format(value) for value in (gain.difference.mean, low, high)]
                cells += [f"{told[0]} ({told[1]} to {told[2]})", told_p(gain.p).removeprefix("= ")]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def words(found: dict[tuple[float, int, str, str], np.ndarray]) -> str:
    """Where either is better with p < 0.05, by the very tests of the table's lines."""
    better: dict[str, list[str]] = {"latent": [], "flow": []}
    for (kl_target, scale, method, metric), flow in found.items():
        if method != "flow" or metric not in JUDGED:
            continue
        gain = paired_test(found[kl_target, scale, "latent", metric], flow)
        if gain.p < 0.05:
            winner = "latent" if gain.difference.mean < 0 else "flow"
            better[winner].append(f"{metric}, at λ={kl_target:g}, ×{scale} (p {told_p(gain.p)})")
    return "\n".join(
        f"`{name}` is better (p < 0.05) in: {'; '.join(where) or 'nothing'}."
        for name, where in better.items()
    )


def told_p(p: float) -> str:
    """A p to three digits; none is 0."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def main() -> None:
    """Measure and print the table and the verdict; with --write the page, too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--write", action="store_true", help=f"into {REPORT.name}")
    arguments = parser.parse_args()
    found = measure(arguments.clips, arguments.steps)
    print(table(found), words(found), sep="\n\n")
    if arguments.write:
        steps = arguments.steps
        command = f"python -m infra.in_between --clips {arguments.clips} --steps {steps} --write"
        told = {"command": command, "count": arguments.clips, "steps": steps, "frames": FRAMES}
        REPORT.write_text(
            PAGE.format(**told, table=table(found), words=words(found)), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
