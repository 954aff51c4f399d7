"""Measure mini-sr against Lanczos: `python -m infra.mini.evaluate_sr [--photos FOLDER] [--clips 16]`.

Held-out scenes drawn large and reduced by averaging; photographs, which it has never seen, reduced by two
kernels: those of a folder, or else what the installed matplotlib, scikit-image and scikit-learn bring along;
and clips of zs2-mini: what `zs2.metrics.warp_error` is before and after. Last, the time of a frame.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from infra.mini.command import RecipeError, run, whole_number
from infra.mini.data import TEST_SEED, WORK, scene_list
from infra.mini.evaluate_pictures import prompts
from infra.mini.scenes import draw
from manifests.row import seed_of
from tasks.spatial_sr import upscale
from zs2 import ZS2Sampler
from zs2.metrics import warp_error
from zs2.mini_sr import SCALES
from zs2.models import ModelError

METHODS = ("mini-sr", "lanczos")
PHOTOGRAPHS = {  # package: its pictures that are photographs in colour
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
    "skimage": ("data/astronaut.png", "data/coffee.png", "data/chelsea.png", "data/rocket.jpg"),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}
MOST_SIDE = 512  # of a photograph: a larger one is cut to its middle
KL_TARGET = 0.05

Array = np.ndarray


def psnr(made: Array, truth: Array) -> float:
    """Peak signal to noise ratio in dB."""
    return float(10 * np.log10(255**2 / np.mean((made.astype(float) - truth) ** 2)))


def gains(truth: Array, scale: int, kernel: int = cv2.INTER_AREA) -> dict[str, float]:
    """PSNR by method of a picture reduced and enlarged again."""
    height, width = truth.shape[:2]
    size = (width // scale, height // scale)
    if kernel == cv2.INTER_AREA:
        small = cv2.resize(truth, size, interpolation=kernel)
    else:
        small = np.asarray(Image.fromarray(truth).resize(size, Image.Resampling.BICUBIC))
    return {name: psnr(upscale(small[None], scale, name)[0], truth) for name in METHODS}


def photographs(folder: Path | None) -> Iterator[tuple[str, Array]]:
    """Photographs by name, cut to sides that are multiples of 8."""
    for path in _photograph_files(folder):
        picture = np.asarray(Image.open(path).convert("RGB"))
        height, width = (min(side, MOST_SIDE) // 8 * 8 for side in picture.shape[:2])
        y, x = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        yield path.name, np.ascontiguousarray(picture[y : y + height, x : x + width])


def _photograph_files(folder: Path | None) -> list[Path]:
    if folder is not None:
        kinds = (".png", ".jpg", ".jpeg")
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in kinds)
    files: list[Path] = []
    for package, names in PHOTOGRAPHS.items():
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            files += [Path(place, name) for name in names if Path(place, name).is_file()]
    return files


def clips(count: int) -> Iterator[Array]:
    """Clips of zs2-mini for held-out prompts, eight frames each."""
    sampler = ZS2Sampler.from_pretrained("zs2-mini")
    sampler.pipe.set_progress_bar_config(disable=True)
    for number, text in enumerate(prompts(count)[1]):
        seed = seed_of(f"prompt-{number}")
        frames = sampler(text, seed=seed, num_frames=8, kl_target=KL_TARGET).frames
        assert frames is not None
        yield frames


def flicker(count: int) -> dict[str, dict[str, Array]]:
    """Warp error by scale and method over clips; `before` is that of the clips themselves."""
    found: dict[str, dict[str, list[float]]] = {
        f"×{scale}": {name: [] for name in ("before", *METHODS)} for scale in SCALES
    }
    for frames in clips(count):
        before = warp_error(frames)
        for scale in SCALES:
            column = found[f"×{scale}"]
            column["before"].append(before)
            for name in METHODS:
                column[name].append(warp_error(upscale(frames, scale, name)))
    return {s: {n: np.array(v) for n, v in column.items()} for s, column in found.items()}


def seconds(scale: int, side: int, name: str) -> float:
    """Processor seconds of a frame, the median of nine."""
    frame = draw(scene_list(TEST_SEED, 1)[0], side)[None]
    upscale(frame, scale, name)
    spent: list[float] = []
    for _ in range(9):
        started = time.process_time()
        upscale(frame, scale, name)
        spent.append(time.process_time() - started)
    return float(np.median(spent))


def pictures_table(count: int, folder: Path | None) -> str:
    """PSNR as Markdown: held-out scenes, then each photograph by two kernels."""
    lines = [
        "| pictures | × | reduced by | mini-sr, dB | Lanczos, dB | gain |",
        "| --- | --- | --- | --- | --- | --- |",
    ]

    def add(label: str, scale: int, kernel: str, found: list[dict[str, float]]) -> None:
        ours, theirs = (float(np.mean([f[name] for f in found])) for name in METHODS)
        lines.append(
            f"| {label} | {scale} | {kernel} | {ours:.2f} | {theirs:.2f} | {ours - theirs:+.2f} |"
        )

    scenes = scene_list(TEST_SEED, count, start=60_000)
    for scale in SCALES:
        found = [gains(draw(scene, 64 * scale), scale) for scene in scenes]
        add(f"{count} held-out scenes", scale, "averaging", found)
    for name, picture in photographs(folder):
        for scale in SCALES:
            for kernel, label in ((cv2.INTER_AREA, "averaging"), (cv2.INTER_CUBIC, "bicubic")):
                add(name, scale, label, [gains(picture, scale, kernel)])
    return "\n".join(lines)


def draw_curve(path: Path) -> None:
    """Draw what training logged: PSNR over minutes.

    Raises:
        RecipeError: there is no log.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "zs2"
    import matplotlib.pyplot as plt

    log = WORK / "sr.log"
    if not log.exists():
        raise RecipeError(
            f"{log}: expected a log of training, which is not shipped, found none; "
            "run `python -m infra.mini.train sr`"
        )
    lines = [line for line in log.read_text().splitlines() if "psnr2" in line]
    found = [dict(part.split("=") for part in line.split()[1:]) for line in lines]
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    minutes = [float(point["minutes"]) for point in found]
    for scale in SCALES:
        axes.plot(minutes, [float(point[f"psnr{scale}"]) for point in found], label=f"×{scale}")
    axes.set(xlabel="minutes", ylabel="PSNR, dB, of 64 held-out scenes")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Print the tables of pictures, time and clips, or draw the curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=whole_number, default=256)
    parser.add_argument("--photos", type=Path, help="a folder of photographs")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--curve", type=Path, help="draw what training logged, and no more")
    arguments = parser.parse_args()
    if arguments.curve:
        draw_curve(arguments.curve)
        return
    print(pictures_table(arguments.scenes, arguments.photos), flush=True)
    print("\n| × | px | mini-sr, ms | Lanczos, ms |\n| --- | --- | --- | --- |")
    for scale in SCALES:
        for side in (64, 256):
            ours, theirs = (1e3 * seconds(scale, side, name) for name in METHODS)
            print(f"| {scale} | {side} | {ours:.1f} | {theirs:.1f} |", flush=True)
    if not arguments.clips:
        return
    print("\n| × | warp error ×10² before | mini-sr | Lanczos | mini-sr / Lanczos |")
    print("| --- | --- | --- | --- | --- |")
    for scale, found in flicker(arguments.clips).items():
        before, ours, theirs = (100 * found[name].mean() for name in ("before", *METHODS))
        print(f"| {scale} | {before:.4f} | {ours:.4f} | {theirs:.4f} | {ours / theirs:.3f} |")


if __name__ == "__main__":
    run(main, ModelError)
