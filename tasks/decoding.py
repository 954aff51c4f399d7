"""A finished video read again: its frames, chunk by chunk, and whether they are what was written."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph
from PIL import Image

from tasks.codecs import AssembleError
from tasks.encoding import exact_rate

Array = np.ndarray[Any, Any]


def decode(path: str | Path) -> tuple[Array, float]:
    """A finished video's frames, uint8 RGB (frame, height, width, 3), and its frames a second.

    The rate is NaN where none is stored: a folder of PNGs, a single WebP picture.
    """
    path = Path(path)
    if _holds_pictures(path):
        pairs = [(np.asarray(picture.convert("RGB")), time) for picture, time in _pictures(path)]
        return np.stack([frame for frame, _ in pairs]), _rate([time for _, time in pairs])
    return np.concatenate(list(decode_chunks(path))), rate_of(path)


def decode_chunks(path: str | Path) -> Iterator[Array]:
    """The frames of `decode`, one chunk after the other: uint8 RGB (1, height, width, 3)."""
    path = Path(path)
    if _holds_pictures(path):
        for picture, _ in _pictures(path):
            yield np.asarray(picture.convert("RGB"))[None]
        return
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        # Not frame.to_ndarray("rgb24"): swscale's fast path is a whole grey level too dark.
        graph = Graph()
        graph.link_nodes(
            graph.add_buffer(template=stream),
            graph.add("scale", "flags=bicubic+accurate_rnd+full_chroma_int"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ).configure()
        for frame in container.decode(stream):
            graph.vpush(frame)
            yield graph.vpull().to_ndarray()[None]


def rate_of(path: Path) -> float:
    """Frames a second; NaN where none is stored."""
    if _holds_pictures(path):
        return _rate([duration for _, duration in _pictures(path)])
    with av.open(str(path)) as container:
        return float(container.streams.video[0].average_rate or math.nan)


def _rate(durations: list[float]) -> float:
    return len(durations) / sum(durations) if sum(durations) else math.nan


def _holds_pictures(path: Path) -> bool:
    return path.is_dir() or path.suffix in (".gif", ".webp")


def verify(path: Path, name: str, codec: str, shape: tuple[int, ...], fps: float) -> None:
    """Open what was written and compare it with what should have been (see `assemble`)."""
    try:
        probe = _probe_stream if codec not in ("gif", "webp", "png") else _probe_pictures
        count, height, width, seconds = probe(path)
    except (
        av.FFmpegError,
        OSError,
        SyntaxError,
        EOFError,
    ) as error:  # Pillow raises the last three
        raise AssembleError(
            f"{name}: written, but cannot be read again ({error}); "
            "check the disk, or try another ffmpeg (ZS2_FFMPEG)"
        ) from error
    if (count, height, width) != shape[:3]:
        raise AssembleError(
            f"{name}: expected {shape[0]} frames of {shape[1]}×{shape[2]}, "
            f"found {count} of {height}×{width} in the file; try another ffmpeg (ZS2_FFMPEG)"
        )
    expected = shape[0] / float(exact_rate(fps))
    untimed = codec == "png" or (codec == "webp" and shape[0] == 1)
    tolerance = {"gif": 0.0101, "webp": 0.00101}.get(codec, 1e-4 * expected)
    if not untimed and abs(seconds - expected) > tolerance:
        raise AssembleError(
            f"{name}: expected {expected:.4f} s at {fps:g} frames/s, found {seconds:.4f} s "
            "in the file; try another ffmpeg (ZS2_FFMPEG) or a whole fps"
        )


def _probe_stream(path: Path) -> tuple[int, int, int, float]:
    """Frames, height, width and seconds (frames ÷ rate) of an mp4 or mkv, decoded to the end."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        count, height, width = 0, 0, 0
        for frame in container.decode(stream):
            count, height, width = count + 1, frame.height, frame.width
        rate = stream.average_rate
        return count, height, width, count / float(rate) if rate else 0.0


def _probe_pictures(path: Path) -> tuple[int, int, int, float]:
    """As `_probe_stream`, of a gif, a webp or a folder of pictures of one size."""
    count, seconds, sizes = 0, 0.0, set[tuple[int, int]]()
    for picture, duration in _pictures(path):
        count, seconds = count + 1, seconds + duration
        sizes.add(picture.size)
    width, height = sizes.pop() if len(sizes) == 1 else (0, 0)
    return count, height, width, seconds


def _pictures(path: Path) -> Iterator[tuple[Image.Image, float]]:
    """Each picture of an animation or a folder, decoded, with the seconds it stays."""
    for file in frame_files(path):
        with Image.open(file) as picture:
            for index in range(getattr(picture, "n_frames", 1)):
                picture.seek(index)
                picture.load()
                yield picture, picture.info.get("duration", 0) / 1000


def frame_files(path: Path) -> list[Path]:
    """The file, or the files of a folder in the order of their numbers."""
    return (
        sorted(path.iterdir(), key=lambda file: (len(file.name), file.name))
        if path.is_dir()
        else [path]
    )


def sum_of(path: Path) -> tuple[str, int]:
    """sha256 and bytes of a file, or of a folder of files (see `tasks.assemble.Assembled`)."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
    parts = [(file.name, *sum_of(file)) for file in sorted(path.iterdir())]
    lines = "".join(f"{digest}  {name}\n" for name, digest, _ in parts)
    return hashlib.sha256(lines.encode()).hexdigest(), sum(size for *_, size in parts)
