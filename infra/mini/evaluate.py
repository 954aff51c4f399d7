"""Score a bundled model from its pixels, and draw a contact sheet of what it makes.

    python -m infra.mini.evaluate zs2/mini/zs2-mini --sheet infra/mini/contact_sheet.png

First frames: 200 held-out prompts, each judged for thing, colour and setting by the checker. Clips:
motion, warp error and how many stay right in every frame, beside i.i.d. noise.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from infra.mini import checker
from infra.mini.captions import caption
from infra.mini.data import TEST_SEED, scene_list
from infra.mini.scenes import Scene
from zs2 import ZS2Sampler
from zs2.metrics import dynamic_degree, warp_error

BATCH = 20  # pictures in one UNet call
MODELS: dict[str, dict[str, Any]] = {
    "ZS² λ=0.01": {"kl_target": 0.01, "momentum": 0.98},
    "ZS² λ=0.05": {"kl_target": 0.05, "momentum": 0.98},
    "i.i.d., μ=0.98": {"noise": "iid", "momentum": 0.98},
    "i.i.d., μ=0": {"noise": "iid", "momentum": 0.0},
}
SHEET_PROMPTS = (
    "a red star over the sea at night",
    "a big yellow moon over the mountains at night",
    "an orange fish in the sea",
    "a pink heart in the sky",
    "a green house in the snow",
    "a purple ball in the desert",
)


def prompts(count: int) -> tuple[list[Scene], list[str]]:
    """Return held-out scenes and a caption of each that names colour, thing and place."""
    scenes = scene_list(TEST_SEED, count, start=50_000)
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
    made = []
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        seeds = [torch.Generator().manual_seed(start + number) for number in range(len(part))]
        result = sampler.pipe(part, generator=seeds, output_type="np", **(call | settings))
        made.append((result.images * 255).round().astype(np.uint8))
    return np.concatenate(made)


@dataclass(frozen=True)
class ClipScore:
    """Means over clips; `kept` is the share right in every frame of those right in the first."""

    motion: float  # px a frame
    warp: float
    kept: float
    seconds: float


def score_clips(
    sampler: ZS2Sampler, scenes: list[Scene], texts: list[str], frames: int, **settings: Any
) -> ClipScore:
    """Sample one clip a prompt and score it."""
    motion, warp, kept, started = [], [], [], time.perf_counter()
    for number, (scene, text) in enumerate(zip(scenes, texts, strict=True)):
        clip = sampler(text, seed=number, num_frames=frames, **settings)
        assert clip.frames is not None
        motion.append(dynamic_degree(clip.frames))
        warp.append(warp_error(clip.frames))
        found = checker.right(checker.trained(), clip.frames, [scene] * frames)
        good = np.logical_and.reduce(list(found.values()))
        if good[0]:
            kept.append(good.all())
    seconds = (time.perf_counter() - started) / len(texts)
    motion_, warp_, kept_ = (float(np.mean(v)) for v in (motion, warp, kept or [np.nan]))
    return ClipScore(motion_, warp_, kept_, seconds)


def contact_sheet(sampler: ZS2Sampler, pictures: np.ndarray, path: Path) -> None:
    """Draw 16 first frames and below them clips of 8 frames at λ=0.05, one prompt a row."""
    rows = [np.concatenate(list(part), 1) for part in pictures[:16].reshape(2, 8, 64, 64, 3)]
    rows.append(np.full((6, 512, 3), 255, np.uint8))
    for number, prompt in enumerate(SHEET_PROMPTS):
        clip = sampler(prompt, seed=number, num_frames=8, kl_target=0.05)
        assert clip.frames is not None
        rows.append(np.concatenate(list(clip.frames), 1))
    sheet = np.concatenate(rows)
    # 256 colours keep it below 200 kB, and no eye sees the difference
    Image.fromarray(sheet).quantize(256).save(path, optimize=True)


def report_first_frames(pictures: np.ndarray, scenes: list[Scene]) -> None:
    """Print the share right in each attribute and in all three, and what goes wrong most."""
    found = checker.right(checker.trained(), pictures, scenes)
    both = np.logical_and.reduce(list(found.values()))
    print(f"\n| first frames, {len(scenes)} prompts | right |\n| --- | --- |")
    for name, hits in (found | {"all three": both}).items():
        print(f"| {name} | {hits.mean():.1%} |")
    for name, hits in found.items():
        values = [getattr(scene, name) for scene in scenes]
        wrong = [value for value, hit in zip(values, hits, strict=True) if not hit]
        counts = {value: f"{wrong.count(value)}/{values.count(value)}" for value in set(wrong)}
        print(f"\nwrong {name}: {dict(sorted(counts.items()))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a StableDiffusionPipeline folder or a bundled name")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--guidance", type=float, help="default: the model's own")
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    given = {"num_inference_steps": arguments.steps, "guidance_scale": arguments.guidance}
    settings = {name: value for name, value in given.items() if value is not None}
    sampler = ZS2Sampler.from_pretrained(arguments.model)
    sampler.pipe.set_progress_bar_config(disable=True)
    scenes, texts = prompts(max(arguments.prompts, arguments.clips))
    pictures = first_frames(sampler, texts, **settings)
    report_first_frames(pictures, scenes)
    if arguments.sheet:
        contact_sheet(sampler, pictures, arguments.sheet)
    if not arguments.clips:
        return
    print(
        f"\n| {arguments.clips} clips of {arguments.frames} frames | motion, px a frame | ", end=""
    )
    print("warp error ×10² | right in every frame | s a clip |\n| --- | --- | --- | --- | --- |")
    for name, model in MODELS.items():
        few = arguments.clips
        score = score_clips(
            sampler, scenes[:few], texts[:few], arguments.frames, **model, **settings
        )
        print(
            f"| {name} | {score.motion:.2f} | {score.warp * 100:.3f} "
            f"| {score.kept:.0%} | {score.seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
