"""Is a bundled model made for video? Motion over λ, what holds still, and the rival noises beside it.

    python -m infra.mini.evaluate_clips zs2/mini/zs2-mini

Every prompt is sampled once by each method, from the same seed. Differences are paired by prompt, with
95 % bootstrap intervals (`zs2.statistics`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from infra.mini import checker
from infra.mini.command import run, whole_number
from infra.mini.evaluate_pictures import prompts
from infra.mini.scenes import Scene
from zs2 import ZS2Sampler
from zs2.baselines import (
    matched_mixed_alpha,
    matched_progressive_alpha,
    text2video_zero,
)
from zs2.metrics import dynamic_degree, warp_error
from zs2.models import ModelError
from zs2.statistics import bootstrap_interval, paired_test

LADDER = (0.0, 0.01, 0.05, 0.1, 0.25)  # λ
MATCHED = 0.05  # the λ that rivals' α is matched to
FRAMES = 8

Method = tuple[Callable[..., Any], Mapping[str, Any]]
SCORES = ("motion", "warp", "kept")


def methods() -> dict[str, Method]:
    """By name, a sampler's call and its settings."""
    found: dict[str, Method] = {f"ZS² λ={kl:g}": (_ours, {"kl_target": kl}) for kl in LADDER}
    alphas = {
        "mixed": (matched_mixed_alpha(MATCHED), 0.5),
        "progressive": (matched_progressive_alpha(MATCHED), 0.5),
    }
    for noise, values in alphas.items():
        for alpha in values:
            found[f"{noise}, α={alpha:.3f}"] = (_ours, {"noise": noise, "alpha": alpha})
    found["i.i.d., μ=0.98"] = (_ours, {"noise": "iid"})
    found["i.i.d., μ=0 (DDIM)"] = (_ours, {"noise": "iid", "momentum": 0.0})
    found["Text2Video-Zero"] = (text2video_zero, {})
    return found


def _ours(sampler: ZS2Sampler, text: str, **settings: Any) -> Any:
    return sampler(text, **settings)


def measure(
    sampler: ZS2Sampler, scenes: list[Scene], texts: list[str], method: Method, **settings: Any
) -> dict[str, np.ndarray]:
    """Sample one clip a prompt and score it: (prompt,) each.

    Returns:
        `motion`: px a frame. `warp`: the warp error. `kept`: 1 where thing, colour and setting are right
        in every frame, 0 where not, NaN where they were wrong in the first already.
    """
    call, own = method
    found = {name: np.full(len(texts), np.nan) for name in SCORES}
    for number, (scene, text) in enumerate(zip(scenes, texts, strict=True)):
        clip = call(sampler, text, seed=number, num_frames=FRAMES, **own, **settings)
        found["motion"][number] = dynamic_degree(clip.frames)
        found["warp"][number] = warp_error(clip.frames)
        judged = checker.right(checker.trained(), clip.frames, [scene] * len(clip.frames))
        good = np.logical_and.reduce(list(judged.values()))
        if good[0]:
            found["kept"][number] = float(good.all())
    return found


def main() -> None:
    """Print a row of the table for each method, then what a greater λ adds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a StableDiffusionPipeline folder or a bundled name")
    parser.add_argument("--prompts", type=whole_number, default=64)
    parser.add_argument(
        "--method",
        action="append",
        dest="names",
        metavar="NAME",
        help="one of the table's; repeatable",
    )
    parser.add_argument("--threads", type=whole_number, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    chosen = methods()
    if arguments.names:
        if unknown := set(arguments.names) - set(chosen):
            parser.error(
                f"--method: expected some of {'; '.join(chosen)}; found {'; '.join(sorted(unknown))}"
            )
        chosen = {name: method for name, method in chosen.items() if name in arguments.names}
    sampler = ZS2Sampler.from_pretrained(arguments.model)
    sampler.pipe.set_progress_bar_config(disable=True)
    scenes, texts = prompts(arguments.prompts)
    print(
        f"| {len(texts)} clips of {FRAMES} frames | motion, px a frame | warp error ×10² ", end=""
    )
    print("| right in every frame, of those right in the first |\n| --- | --- | --- | --- |")
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, method in chosen.items():
        found[name] = scores = measure(sampler, scenes, texts, method)
        motion, warp = (bootstrap_interval(scores[key]) for key in ("motion", "warp"))
        kept = scores["kept"][~np.isnan(scores["kept"])]
        print(f"| {name} | {motion.mean:.2f} ({motion.low:.2f} to {motion.high:.2f}) ", end="")
        print(f"| {100 * warp.mean:.3f} ({100 * warp.low:.3f} to {100 * warp.high:.3f}) ", end="")
        print(f"| {kept.mean():.1%} of {len(kept)} |", flush=True)
    ours = [name for name in found if name.startswith("ZS²")]
    if len(ours) > 1:
        print("\n| paired by prompt | more motion, px a frame | p |\n| --- | --- | --- |")
    for low, high in pairwise(ours):
        more = paired_test(found[high]["motion"], found[low]["motion"])
        step = more.difference
        print(
            f"| {low} → {high.split()[1]} | {step.mean:+.2f} ({step.low:+.2f} to {step.high:+.2f}) ",
            end="",
        )
        print(f"| {more.p:.5f} |")


if __name__ == "__main__":
    run(main, ModelError)
