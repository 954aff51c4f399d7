"""In-between frames against the truth: `python -m infra.interpolation [--write]`.

Motions that are known at every moment are drawn, every 2nd, 4th or 8th frame of them is kept, and the
rest is made again by `tasks.temporal_sr`, by blending neighbours, and by ffmpeg's minterpolate with
motion compensation. `--write` puts the table into infra/interpolation.md.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np

from tasks.codecs import ffmpeg_executable
from tasks.temporal_sr import interpolate

REPORT = Path(__file__).with_name("interpolation.md")
MOTIONS = ("translation", "rotation", "zoom", "warp", "layers", "fast", "flat")
IN_WORDS = {
    "translation": "translation",
    "rotation": "rotation",
    "zoom": "zoom",
    "warp": "non-rigid warp",
    "layers": "two layers, occlusion",
    "fast": "two layers, fast",
    "flat": "plain disc, plain sky",
}
SIZES = (64, 256)
SCALES = (2, 4, 8)
PAIRS = 3  # of neighbours that are judged; a frame more on either side, which minterpolate wants
MINTERPOLATE = "mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1:scd=none"

PAGE = """# In-between frames, measured

`{command}` made this, in {minutes:.0f} minutes: PSNR in dB of the new frames against the true ones,
over {pairs} pairs of neighbours of each known motion, drawn at {sizes} pixels. *Blend* is the weighted
mean of the two neighbours; *minterpolate* is ffmpeg's filter with `{settings}`.
Motion in pixels a frame, of 64: translation 2.9, the two layers 1 against 3.2 (fast: 5.1), rotation 4° and
zoom 5 % a frame.

{table}

{verdict}
"""

Array = np.ndarray


def texture(size: int, seed: int) -> Array:
    """Random RGB with detail at several scales, float32 0-255."""
    rng, total = np.random.default_rng(seed), np.zeros((size, size, 3), np.float32)
    for blur in (1.5, 4, 12):
        octave = cv2.GaussianBlur(rng.normal(size=total.shape).astype(np.float32), (0, 0), blur)
        total += octave / octave.std()
    return np.clip((total - total.mean()) / total.std() * 45 + 128, 0, 255)


def _look(picture: Array, x: Array, y: Array) -> Array:
    x, y = x.astype(np.float32), y.astype(np.float32)
    return cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def _disc(x: Array, y: Array, radius: float) -> Array:
    return np.clip(0.5 - (np.hypot(x, y) - radius), 0, 1)[..., None]


def moment(motion: str, size: int, t: float) -> Array:
    """The picture of a known motion at time t in frames, float (size, size, 3)."""
    ground, figure = texture(2 * size, 1), texture(2 * size, 2)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    middle, unit = (size - 1) / 2, size / 64
    dx, dy = x - middle, y - middle
    if motion == "translation":
        return _look(ground, x + size / 2 + 2.6 * unit * t, y + size / 2 - 1.3 * unit * t)
    if motion == "rotation":
        c, s = np.cos(np.deg2rad(4 * t)), np.sin(np.deg2rad(4 * t))
        return _look(ground, size + c * dx - s * dy, size + s * dx + c * dy)
    if motion == "zoom":
        return _look(ground, size + dx * 1.05**-t, size + dy * 1.05**-t)
    if motion == "warp":  # non-rigid: waves that grow with time
        wave, height = 3 * np.pi / size, 1.5 * unit * (1 + t)
        across, along = height * np.sin(wave * y + 1), height * np.cos(wave * x)
        return _look(ground, x + size / 2 + across, y + size / 2 + along)
    if motion in ("layers", "fast"):  # a textured disc over a textured ground, each its own way
        speed = 3 if motion == "layers" else 5
        ahead, down = middle + (speed * t - 4) * unit, middle + unit * t
        cover = _disc(x - ahead, y - down, size / 5)
        behind = _look(ground, x + size / 2 - unit * t, y + size / 2)
        return behind + cover * (_look(figure, x - ahead + size, y - down + size) - behind)
    cover = _disc(x - size * 0.3 - 2.5 * unit * t, dy - unit * t, size / 6)
    sky = np.stack([40 + y * 80 / size, 60 + y * 60 / size, 120 + y * 40 / size], -1)
    return sky + cover * (np.array([220, 60, 40]) - sky)


def clip(motion: str, size: int, times: Array) -> Array:
    """A known motion at the given times, uint8 (frame, size, size, 3)."""
    frames = np.stack([moment(motion, size, float(t)) for t in times])
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def blend(frames: Array, scale: int) -> Array:
    """What anyone can do: the weighted mean of the two neighbours."""
    t = np.arange((len(frames) - 1) * scale + 1) / scale
    before = np.minimum(t.astype(int), len(frames) - 2)
    share = (t - before)[:, None, None, None]
    return np.rint(frames[before] * (1 - share) + frames[before + 1] * share).astype(np.uint8)


def minterpolate(frames: Array, scale: int) -> Array:
    """What ffmpeg's motion compensation makes of it; it leaves out what follows the last frame but
    one."""
    _, height, width, _ = frames.shape
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    made = subprocess.run(
        [
            *(ffmpeg_executable(), "-v", "error", *raw, "-s", f"{width}x{height}", "-r", "8"),
            *("-i", "-", "-vf"),
            f"format=yuv444p,minterpolate=fps={8 * scale}:{MINTERPOLATE},format=rgb24",
            *(*raw, "-"),
        ],
        input=frames.tobytes(),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    return np.frombuffer(made, np.uint8).reshape(-1, height, width, 3)


METHODS = {"flow": interpolate, "blend": blend, "minterpolate": minterpolate}


def psnr(a: Array, b: Array) -> float:
    """Peak signal to noise ratio in dB."""
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def measure(motion: str, size: int, scale: int) -> dict[str, float]:
    """PSNR by method over the new frames of a motion's inner pairs."""
    truth = clip(motion, size, np.arange((PAIRS + 2) * scale + 1) / scale)
    numbers = np.arange(len(truth))
    judged = (numbers % scale != 0) & (numbers > scale) & (numbers < (PAIRS + 1) * scale)
    found: dict[str, float] = {}
    for name, method in METHODS.items():
        made = method(truth[::scale], scale)
        found[name] = psnr(made[judged[: len(made)].nonzero()[0]], truth[judged])
    return found


def table(found: dict[tuple[str, int, int], dict[str, float]]) -> str:
    """The figures as Markdown, a row for each motion, size and scale."""
    lines = [
        "| motion | px | × | flow | blend | minterpolate | over blend | over minterpolate |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (motion, size, scale), figures in found.items():
        flow, blended, ffmpeg = (figures[name] for name in METHODS)
        lines.append(
            f"| {IN_WORDS[motion]} | {size} | {scale} | {flow:.1f} | {blended:.1f} | {ffmpeg:.1f} "
            f"| {flow - blended:+.1f} | {flow - ffmpeg:+.1f} |"
        )
    return "\n".join(lines)


def verdict(found: dict[tuple[str, int, int], dict[str, float]]) -> str:
    """In a sentence: the least gains, and how often the target of each is missed."""
    over = {
        name: [figures["flow"] - figures[name] for figures in found.values()]
        for name in ("blend", "minterpolate")
    }
    short = sum(gain < 4 for gain in over["blend"]), sum(g < 0 for g in over["minterpolate"])
    return (
        f"Least gain over blending: {min(over['blend']):.1f} dB ({short[0]} of {len(found)} under 4 dB); "
        f"over minterpolate: {min(over['minterpolate']):.1f} dB ({short[1]} of {len(found)} below it)."
    )


def main() -> None:
    """Measure and print the table and the verdict; with --write the page, too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.name}")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--motions", nargs="+", choices=MOTIONS, default=MOTIONS)
    arguments = parser.parse_args()
    started = time.monotonic()
    found = {
        (motion, size, scale): measure(motion, size, scale)
        for motion in arguments.motions
        for size in arguments.sizes
        for scale in SCALES
    }
    print(table(found), verdict(found), sep="\n\n")
    if arguments.write:
        page = PAGE.format(
            command="python -m infra.interpolation --write",
            minutes=max(1, (time.monotonic() - started) / 60),
            pairs=PAIRS,
            sizes=" and ".join(map(str, arguments.sizes)),
            settings=MINTERPOLATE,
            table=table(found),
            verdict=verdict(found),
        )
        REPORT.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
