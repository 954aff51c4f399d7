"""What best of N gains on zs2-mini: `python -m infra.best_of [--prompts 64] [--write]`.

For each held-out prompt of the bundled world the candidates of a row with best_of=4 are sampled; the
best of the first 1, 2 and 4 is chosen by CLIP score, and by the CLIP score of clips sampled in fewer
steps. Each choice is judged by what had no say in it: `infra.mini.checker`, which sees from the pixels
whether thing, colour and setting are right. `--write` puts the table into infra/best_of.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from infra.mini import checker
from infra.mini.evaluate_pictures import prompts
from manifests.row import seed_of
from tasks.best_of import candidate_seeds
from tasks.evaluate import score_clip
from zs2 import ZS2Sampler
from zs2.clip_score import ClipScorer
from zs2.statistics import bootstrap_interval, paired_test

REPORT = Path(__file__).with_name("best_of.md")
PAGE = """# Best of N, measured

`{command}` made this: {count} held-out prompts of zs2-mini's world, clips of {frames} frames at λ={kl},
{steps} steps, on a CPU. Candidates are ranked by the bundled CLIP. *Frames all right* is the judgement of
`infra/mini/checker.py`, which shares nothing with it: thing, colour and setting. Means with 95 % bootstrap
intervals over prompts; the gain is against the first candidate alone, p of a paired sign-flip test.

{table}
"""
COUNTS = (1, 2, 4)
RANKING_STEPS = (8,)
FRAMES = 8
KL_TARGET = 0.05


def measure(count: int) -> dict[str, np.ndarray]:
    """For each prompt and candidate: clip scores, by steps, and the share of frames that are right.

    Returns:
        `right` and `score`, `score in 4 steps`, …: (prompt, candidate).
    """
    sampler, scorer = ZS2Sampler.from_pretrained("zs2-mini"), ClipScorer.from_pretrained()
    sampler.pipe.set_progress_bar_config(disable=True)
    shape = (count, max(COUNTS))
    names = ["right", "score", *(f"score in {steps} steps" for steps in RANKING_STEPS)]
    found = {name: np.zeros(shape) for name in names}
    for index, (scene, text) in enumerate(zip(*prompts(count), strict=True)):
        for number, seed in enumerate(candidate_seeds(seed_of(f"prompt-{index}"), max(COUNTS))):
            settings: dict[str, Any] = {
                "seed": seed,
                "num_frames": FRAMES,
                "kl_target": KL_TARGET,
            }
            frames = sampler(text, **settings).frames
            assert frames is not None
            judged = checker.right(checker.trained(), frames, [scene] * FRAMES)
            found["right"][index, number] = np.logical_and.reduce(list(judged.values())).mean()
            found["score"][index, number] = score_clip(frames, text, scorer)["clip_score"]
            for steps in RANKING_STEPS:
                short = sampler(text, num_inference_steps=steps, **settings).frames
                assert short is not None
                score = score_clip(short, text, scorer)["clip_score"]
                found[f"score in {steps} steps"][index, number] = score
        print(f"{index + 1} of {count}", flush=True)
    return found


def table(found: dict[str, np.ndarray], steps: int) -> str:
    """The figures in Markdown. `steps`: of the model, for the cost."""
    rows = np.arange(len(found["right"]))
    plain = found["right"][:, 0]
    lines = [
        "| candidates, ranked by | UNet calls | CLIP score | frames all right | gain, frames all right | p |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in [n for n in found if n != "right"]:
        for count in COUNTS:
            if count == 1 and name != "score":
                continue
            chosen = found[name][:, :count].argmax(1)
            right, score = found["right"][rows, chosen], found["score"][rows, chosen]
            ranking = 0 if name == "score" else int(name.split()[2])
            calls = count * (ranking or steps) + (steps if ranking else 0)
            mean, clip = bootstrap_interval(right), bootstrap_interval(score)
            cells = [
                f"{count}, {name.replace('score', 'CLIP score')}" if count > 1 else "1",
                f"{calls / steps:.1f} ×",
                f"{clip.mean:.2f} ({clip.low:.2f} to {clip.high:.2f})",
                f"{mean.mean:.1%} ({mean.low:.1%} to {mean.high:.1%})",
            ]
            if count > 1:
                gain = paired_test(right, plain)
                low, high = gain.difference.low, gain.difference.high
                cells += [
                    f"{gain.difference.mean:+.1%} ({low:+.1%} to {high:+.1%})",
                    f"{gain.p:.3f}",
                ]
            lines.append(f"| {' | '.join(cells + ['', ''][: 6 - len(cells)])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table; with --write the page, too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--write", action="store_true", help=f"into {REPORT.name}")
    arguments = parser.parse_args()
    found = measure(arguments.prompts)
    steps = ZS2Sampler.from_pretrained("zs2-mini").defaults.num_inference_steps
    text = table(found, steps)
    print(text)
    if arguments.write:
        command = f"python -m infra.best_of --prompts {arguments.prompts} --write"
        words = {"command": command, "count": arguments.prompts, "steps": steps, "table": text}
        REPORT.write_text(PAGE.format(**words, frames=FRAMES, kl=KL_TARGET), "utf-8")


if __name__ == "__main__":
    main()
