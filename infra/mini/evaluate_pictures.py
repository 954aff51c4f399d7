"""Score a bundled model's pictures from their pixels, and draw a contact sheet of what it makes.

    python -m infra.mini.evaluate_pictures zs2/mini/zs2-mini --sheet infra/mini/contact_sheet.png

First frames of held-out prompts, each judged for thing, colour and setting by the checker, and beside
them prompts of combinations that no training scene has. `evaluate_clips.py` scores clips.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from infra.mini import checker
from infra.mini.captions import caption
from infra.mini.command import run, whole_number
from infra.mini.data import TEST_SEED, scene_list
from infra.mini.scenes import Scene
from zs2 import ZS2Sampler
from zs2.models import ModelError

BATCH = 20  # pictures in one UNet call
START = 50_000  # of the test stream
SHEET_FIRST = 24  # first frames on the contact sheet, in rows of 8
SHEET_KL_TARGET = 0.05
SHEET_PROMPTS = (
    "a red star over the sea at night",
    "a big yellow balloon over the mountains at sunset",
    "two orange fish in the sea",
    "a pink heart in the sky",
    "a green house in the snow at night",
    "a white cat in the meadow",
    "a turquoise car in the city at night",
    "three purple mushrooms in the desert",
)


def prompts(count: int, held_out: bool = False) -> tuple[list[Scene], list[str]]:
    """Return held-out scenes and a caption of each that names colour, thing and place; with `held_out`
    of combinations that no training scene has."""
    scenes = scene_list(TEST_SEED, count, START, held_out)
    rng = np.random.default_rng(TEST_SEED)
    return scenes, [caption(scene, rng, complete=True) for scene in scenes]


def first_frames(sampler: ZS2Sampler, texts: list[str], **settings: Any) -> np.ndarray:
    """Sample one picture a prompt with the plain pipeline, uint8 (prompt, h, w, 3).

    ZS² leaves a clip's first frame as the plain pipeline makes it, so that these are the clips'.
    """
    call = {
        "num_inference_steps": sampler.defaults.num_inference_steps,
        "guidance_scale": sampler.defaults.guidance_scale,
    }
    made: list[np.ndarray] = []
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        seeds = [torch.Generator().manual_seed(start + number) for number in range(len(part))]
        result: Any = sampler.pipe(part, generator=seeds, output_type="np", **(call | settings))
        made.append((result.images * 255).round().astype(np.uint8))
    return np.concatenate(made)


def contact_sheet(sampler: ZS2Sampler, pictures: np.ndarray, path: Path) -> None:
    """Draw SHEET_FIRST first frames and below them clips of 8 frames, one prompt a row."""
    side = pictures.shape[1]
    rows = [
        np.concatenate(list(part), 1)
        for part in pictures[:SHEET_FIRST].reshape(-1, 8, *pictures.shape[1:])
    ]
    rows.append(np.full((6, 8 * side, 3), 255, np.uint8))
    for number, prompt in enumerate(SHEET_PROMPTS):
        clip = sampler(prompt, seed=number, num_frames=8, kl_target=SHEET_KL_TARGET)
        assert clip.frames is not None
        rows.append(np.concatenate(list(clip.frames), 1))
    # 256 colours keep it below 200 kB, and no eye sees the difference
    Image.fromarray(np.concatenate(rows)).quantize(256).save(path, optimize=True)


def report(name: str, pictures: np.ndarray, scenes: list[Scene]) -> None:
    """Print the share right in each attribute and in all that are judged, and what goes wrong most."""
    found = checker.right(checker.trained(), pictures, scenes, tuple(checker.CLASSES))
    right = np.logical_and.reduce([found[attribute] for attribute in checker.JUDGED])
    print(f"\n| {name} | right |\n| --- | --- |")
    for attribute, hits in found.items():
        print(f"| {attribute} | {hits.mean():.1%} |")
    print(f"| thing, colour and setting | {right.mean():.1%} |")
    for attribute, hits in found.items():
        values = [getattr(scene, attribute) for scene in scenes]
        wrong = Counter(value for value, hit in zip(values, hits, strict=True) if not hit)
        most = [f"{value}: {n} of {values.count(value)}" for value, n in wrong.most_common(6)]
        print(f"wrong {attribute}: {'; '.join(most) or 'none'}")


def main() -> None:
    """Print how often first frames are right, of prompts and of held-out combinations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a StableDiffusionPipeline folder or a bundled name")
    parser.add_argument("--prompts", type=whole_number, default=1000)
    parser.add_argument("--steps", type=whole_number, help="default: the model's own")
    parser.add_argument("--guidance", type=float, help="default: the model's own")
    parser.add_argument("--sheet", type=Path, help="draw a contact sheet, .png")
    parser.add_argument("--threads", type=whole_number, default=2)
    arguments = parser.parse_args()
    if arguments.sheet and arguments.prompts < SHEET_FIRST:
        parser.error(
            f"--sheet: expected --prompts {SHEET_FIRST} or more, found {arguments.prompts}"
        )
    torch.set_num_threads(arguments.threads)
    given = {"num_inference_steps": arguments.steps, "guidance_scale": arguments.guidance}
    settings = {name: value for name, value in given.items() if value is not None}
    sampler = ZS2Sampler.from_pretrained(arguments.model)
    sampler.pipe.set_progress_bar_config(disable=True)
    scenes, texts = prompts(arguments.prompts)
    pictures = first_frames(sampler, texts, **settings)
    report(f"first frames, {len(scenes)} prompts", pictures, scenes)
    if arguments.sheet:
        contact_sheet(sampler, pictures, arguments.sheet)
        print(f"\n{arguments.sheet}, row by row:")
        for text in (*texts[:SHEET_FIRST], *SHEET_PROMPTS):
            print(f"  {text}")
    scenes, texts = prompts(arguments.prompts, held_out=True)
    pictures = first_frames(sampler, texts, **settings)
    report(f"first frames, {len(scenes)} prompts of combinations held out", pictures, scenes)


if __name__ == "__main__":
    run(main, ModelError)
