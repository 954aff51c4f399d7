"""What each codec keeps of colours, and what it costs: `python -m infra.codecs [--write]`.

A colour chart, full-range RGB, goes through every codec at its default quality and is decoded twice: as
zs2 reads it (PyAV), and by the ffmpeg program with its own conversion to RGB, as any other reader would
that believes the file's colour tags. Bytes and seconds are of a drawn scene under a moving camera.
`--write` puts the table into infra/codecs.md.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np

from infra.mini.scenes import draw, random_scene
from manifests.columns import CODECS, QUALITY
from manifests.storage import SUFFIXES
from tasks.assemble import assemble, decode
from tasks.codecs import ffmpeg_executable

Array = np.ndarray[Any, Any]

REPORT = Path(__file__).with_name("codecs.md")
PAGE = """# Codecs, measured

`python -m infra.codecs --write` made this. Errors are in grey levels of 255, means over a chart: 125 patches
all over the RGB cube, ramps of grey and of each colour, and sharp edges between saturated colours; decoded by
PyAV as zs2 reads its clips, and by the ffmpeg program's own conversion. *Inside* is the error amid the
patches, where nothing but the codec and the conversion of colours has a say; *edges* is that of the part
with edges alone, where half the colour resolution (yuv420p, also webp's) shows: at quality 0 it is the
same, and only ffv1 and png are without it. Bytes and seconds are of {frames} frames of {side}×{side} pixels,
encoded and verified on one core.

{table}

gif has 256 colours for a whole clip, and the chart thousands. A browser plays h264 and av1 (Chromium, Firefox
and Edge on any machine, Safari where the hardware decodes AV1); clips of the others have previews.
"""
PATCH = 40  # pixels
LEVELS = (0, 64, 128, 191, 255)
CLIP_FRAMES, CLIP_SIDE = 32, 256


def chart() -> Array:
    """Patches, ramps and edges, one below the other: uint8 RGB (640, 1000, 3)."""
    return np.concatenate([patches(), ramps(), edges()])


def patches() -> Array:
    """125 colours, LEVELS of red, green and blue: 5 rows of 25."""
    colours = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij"), -1).reshape(5, 25, 3)
    return colours.astype(np.uint8).repeat(PATCH, 0).repeat(PATCH, 1)


def ramps() -> Array:
    """Grey, red, green, blue, and their complements, from 0 to 255."""
    level = np.rint(np.linspace(0, 255, 25 * PATCH))
    kinds = [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)]
    rows = [np.outer(level, kind)[None].repeat(PATCH, 0) for kind in kinds]
    return np.concatenate(rows).astype(np.uint8)


def edges() -> Array:
    """Saturated colours beside each other, in bars of 50 pixels, the order another in each row."""
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 255), (255, 0, 255)] * 4)
    colours[10:] = colours[10:][::-1]
    rows = [
        np.roll(colours, shift, 0)[:20].repeat(50, 0)[None].repeat(PATCH, 0) for shift in range(4)
    ]
    return np.concatenate(rows).astype(np.uint8)


def moving_scene() -> Array:
    """A scene of zs2-mini's world under a camera that moves: uint8 RGB (frame, height, width, 3)."""
    wide = draw(random_scene(0), CLIP_SIDE + CLIP_FRAMES)
    return np.stack(
        [wide[n // 2 : n // 2 + CLIP_SIDE, n : n + CLIP_SIDE] for n in range(CLIP_FRAMES)]
    )


def decoded_by_ffmpeg(path: Path, shape: tuple[int, ...]) -> Array:
    """A file's frames as the ffmpeg program turns them into RGB with its own settings."""
    source = str(path / "%05d.png") if path.is_dir() else str(path)
    command = [ffmpeg_executable("ffv1"), "-v", "error", "-i", source]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough", "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(data, np.uint8).reshape(shape)


def tags(path: Path) -> str:
    """The colour tags of a file's stream, as H.273 numbers them, and its pixel format."""
    if path.is_dir() or path.suffix in (".gif", ".webp"):
        return "RGB"
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        if frame.format.name.startswith(("bgr", "rgb", "gbr")):
            return "RGB"
        spaces = {frame.colorspace, frame.color_primaries, frame.color_trc}
        name = "BT.709" if spaces == {1} else str(sorted(spaces))
        ranges = {1: "limited", 2: "full"}
        return f"{name}, {ranges.get(frame.color_range, 'untold')}, {frame.format.name}"


def measure(codec: str) -> dict[str, Any]:
    """One codec's figures."""
    frames = np.repeat(chart()[None], 4, 0)
    with TemporaryDirectory() as folder:
        path = Path(folder, f"chart{SUFFIXES[codec]}")
        assemble(frames, path, 8.0, codec)
        ours = np.abs(decode(path)[0].astype(float) - frames)
        found: dict[str, Any] = {"codec": codec, "tags": tags(path), "error": ours.mean()}
        found["most"] = ours.max()
        inside = ours[:, : 5 * PATCH].reshape(-1, 5, PATCH, 25, PATCH, 3)
        found["inside"] = inside[:, :, 8:-8, :, 8:-8].mean()
        found["edges"] = ours[:, -4 * PATCH :].mean()
        # this ffmpeg reads no animated WebP
        found["ffmpeg"] = (
            None
            if codec == "webp"
            else np.abs(decoded_by_ffmpeg(path, frames.shape).astype(float) - frames).mean()
        )
        started = time.perf_counter()
        done = assemble(moving_scene(), Path(folder, f"scene{SUFFIXES[codec]}"), 8.0, codec)
        found |= {"seconds": time.perf_counter() - started, "bytes": done.bytes}
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The figures in Markdown."""
    lines = [
        "| codec | quality | colours | mean error | by ffmpeg | inside | edges | largest | bytes | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ffmpeg = "–" if row["ffmpeg"] is None else f"{row['ffmpeg']:.2f}"
        quality = QUALITY[row["codec"]][2] if row["codec"] in QUALITY else "–"
        cells = [row["codec"], quality, row["tags"], f"{row['error']:.2f}", ffmpeg]
        cells += [
            f"{row['inside']:.2f}",
            f"{row['edges']:.2f}",
            f"{row['most']:.0f}",
            f"{row['bytes']:,}",
        ]
        cells.append(f"{row['seconds']:.2f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every codec and print the table; with --write the page, too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"into {REPORT.name}")
    arguments = parser.parse_args()
    text = table([measure(codec) for codec in CODECS])
    print(text)
    if arguments.write:
        REPORT.write_text(PAGE.format(table=text, frames=CLIP_FRAMES, side=CLIP_SIDE), "utf-8")


if __name__ == "__main__":
    main()
