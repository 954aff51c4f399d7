"""What speed=fast gains and costs on zs2-mini: `python -m infra.fast [--clips 24] [--write]`.

Each clip, of a held-out prompt of the bundled world, is sampled at speed exact, at fast, and with each of
fast's three parts alone, from the same seed; every other clip in the opposite order. Seconds are of one
thread's processor time, which other programs on the machine lengthen little; decoding and scoring are not
in them. For the well-known architectures, which are too large to be sampled here, operations are counted.
`--write` puts the tables into infra/performance.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from infra.mini.evaluate_pictures import prompts
from infra.model_memory import SD1_UNET, SD2_UNET, SDXL_UNET
from infra.reports import write_tables
from manifests.row import seed_of
from tasks.allocator import keep_freed_memory
from tasks.evaluate import score_clip
from zs2 import ZS2Sampler
from zs2.clip_score import ClipScorer
from zs2.reuse import shortcuts
from zs2.speed import SPEEDS, Speed, steps_of
from zs2.statistics import bootstrap_interval, paired_test

REPORT = Path(__file__).with_name("performance.md")
ARCHITECTURES = {"SD 1.5": SD1_UNET, "SD 2.1": SD2_UNET, "SDXL": SDXL_UNET}
STEPS = 50
FRAMES = 8
KL_TARGET = 0.05
PARTS = {
    "half the steps, dpm++": Speed(halves_steps=True),
    "no guidance at the end": Speed(unguided_tenths=SPEEDS["fast"].unguided_tenths),
    "deep features reused": Speed(reuses=True),
}
VARIANTS = ("exact", *PARTS, "fast")
SCORES = {"clip_score": "CLIP score", "frame_consistency": "frame consistency"}
SCORES["dynamic_degree"] = "dynamic degree"
Found = dict[tuple[str, str], np.ndarray]


def measure(count: int) -> Found:
    """By variant and figure, one value a clip: `seconds`, UNet `calls`, `pictures`, `deep` (those of
    which the deep part is computed), and the scores."""
    keep_freed_memory()
    torch.set_num_threads(1)
    SPEEDS.update(PARTS)  # names that no manifest knows
    sampler, scorer = ZS2Sampler.from_pretrained("zs2-mini"), ClipScorer.from_pretrained()
    sampler.pipe.set_progress_bar_config(disable=True)
    found = {
        (variant, figure): np.zeros(count)
        for variant in VARIANTS
        for figure in ("seconds", "calls", "pictures", "deep", *SCORES)
    }
    settings: dict[str, Any] = {"num_frames": FRAMES, "kl_target": KL_TARGET}
    sampler("warm-up", output_type="latent", **settings)
    for index, text in enumerate(prompts(count)[1]):
        for variant in VARIANTS if index % 2 == 0 else reversed(VARIANTS):
            seed = seed_of(f"prompt-{index}")
            with counted(sampler.pipe.unet) as work:
                start = time.process_time()
                clip = sampler(text, seed=seed, speed=variant, output_type="latent", **settings)
                found[variant, "seconds"][index] = time.process_time() - start
            scores = score_clip(sampler.decode(clip.latents), text, scorer)
            for figure, value in {**work, **{name: scores[name] for name in SCORES}}.items():
                found[variant, figure][index] = value
        print(f"{index + 1} of {count}", flush=True)
    return found


@contextmanager
def counted(unet: Any) -> Generator[dict[str, int]]:
    """The UNet's calls meanwhile, the pictures of them, and those that go through its middle."""
    work = {"calls": 0, "pictures": 0, "deep": 0}

    def at_the_top(_: Any, arguments: Any) -> None:
        work["calls"] += 1
        work["pictures"] += len(arguments[0])

    def in_the_middle(_: Any, arguments: Any) -> None:
        work["deep"] += len(arguments[0])

    hooks = [
        unet.conv_in.register_forward_pre_hook(at_the_top),
        unet.mid_block.resnets[0].register_forward_pre_hook(in_the_middle),
    ]
    try:
        yield work
    finally:
        for hook in hooks:
            hook.remove()


def operations(config: dict[str, Any]) -> tuple[int, int]:
    """Of a UNet of that configuration, at its own size: the floating point operations of a picture, in a
    whole call and in the one after it, which reuses deep features. No weights are made."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        side = config["sample_size"]
        sample, step = torch.zeros(1, config["in_channels"], side, side), torch.zeros(())
        text = torch.zeros(1, 77, config["cross_attention_dim"])
        added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
    counts: list[int] = []
    with torch.no_grad(), shortcuts(SPEEDS["fast"], unet, [], lambda: range(STEPS)) as taken:
        assert taken is not None
        for _ in range(2):
            taken.next_call(1)
            taken.enter_segment(0, 1)
            with FlopCounterMode(display=False) as counter:
                unet(sample, step, text, added_cond_kwargs=added)
            counts.append(counter.get_total_flops())
    return counts[0], counts[1]


def counts_table() -> str:
    """What fast leaves of well-known UNets' operations, in Markdown."""
    lines = [
        "| UNet | a call that reuses, of a whole one | steps | exact's operations, × fast's |",
        "| --- | --- | --- | --- |",
    ]
    for name, config in ARCHITECTURES.items():
        whole, shallow = operations(config)
        few = steps_of("fast", None, None, STEPS)[1]
        made, exact = (SPEEDS["fast"].pictures(few, 2), SPEEDS["exact"].pictures(STEPS, 2))
        left = (made.all - made.shallow) * whole + made.shallow * shallow
        ratio = exact.all * whole / left
        lines.append(f"| {name} | {shallow / whole:.2f} | {STEPS} → {few} | {ratio:.2f} |")
    return "\n".join(lines)


def gains(found: Found) -> str:
    """Seconds and work of every variant, in Markdown."""
    lines = [
        "| | seconds a clip, median | × exact, median of pairs | UNet calls | pictures | deep ones |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    exact = found["exact", "seconds"]
    for variant in VARIANTS:
        seconds = found[variant, "seconds"]
        work = [f"{found[variant, name].mean():.0f}" for name in ("calls", "pictures", "deep")]
        ratio = "1" if variant == "exact" else f"{np.median(exact / seconds):.2f}"
        lines.append(f"| {variant} | {np.median(seconds):.2f} | {ratio} | {' | '.join(work)} |")
    return "\n".join(lines)


def costs(found: Found) -> str:
    """Scores of every variant and their paired differences to exact, in Markdown."""
    lines = [
        "| | score | mean | difference to exact | of exact's mean | p |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, words in SCORES.items():
        exact = found["exact", name]
        for variant in VARIANTS:
            mean = bootstrap_interval(found[variant, name]).mean
            cells = [variant, words, f"{mean:.4g}"]
            if variant == "exact":
                cells += ["", "", ""]
            else:
                test = paired_test(found[variant, name], exact)
                change, low, high, _ = test.difference
                cells += [
                    f"{change:+.3g} ({low:+.3g} to {high:+.3g})",
                    f"{change / exact.mean():+.1%}",
                    f"{test.p:.3f}",
                ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, count and print the tables; with --write into the report, too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--write", action="store_true", help=f"into {REPORT.name}")
    arguments = parser.parse_args()
    found = measure(arguments.clips)
    tables = "\n\n".join([gains(found), costs(found), counts_table()])
    print(tables)
    if arguments.write:
        words = (
            f"`python -m infra.fast --clips {arguments.clips} --write`, torch {torch.__version__}, one "
            f"thread: clips of {FRAMES} frames at λ={KL_TARGET}. Differences are paired, with 95 % "
            "bootstrap intervals, p of a paired sign-flip test. The last table counts operations of UNets, "
            "guidance and solver included; their seconds depend on the device."
        )
        write_tables(REPORT, {"fast": f"{words}\n\n{tables}"})


if __name__ == "__main__":
    main()
