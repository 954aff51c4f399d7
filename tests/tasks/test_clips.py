"""Clips are written here by ffmpeg and PyAV in true formats, and read back."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from manifests.storage import SUFFIXES
from tasks.assemble import assemble, ffmpeg_executable
from tasks.clips import ClipError, read_clip

SIDE = 32


def counting(count: int) -> np.ndarray:
    """Frames of one grey each, which tells the frame's number: up to 32 of them."""
    levels = 8 * np.arange(count, dtype=np.uint8) + 4
    return np.tile(levels[:, None, None, None], (1, SIDE, SIDE, 3))


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers that `counting` frames carry, read from their middle."""
    middle = frames[:, SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4].mean((1, 2, 3))
    return np.rint((middle - 4) / 8).astype(int).tolist()


def read(path: Path, num_frames: int, fps: float = 8, height: int = SIDE, width: int = SIDE):
    return read_clip(path, num_frames=num_frames, fps=fps, height=height, width=width)


def write(
    path: Path,
    frames: np.ndarray,
    stamps: list[float],
    codec: str = "libx264",
    clock: int = 90_000,
    **options: str,
) -> Path:
    """A video whose frame i has the time stamp stamps[i], in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, clock)
        for picture, stamp in zip(frames, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(stamp * clock), Fraction(1, clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def convert(source: Path, target: Path, *options: str, before: tuple[str, ...] = ()) -> Path:
    """`source` through ffmpeg's command line."""
    command = [ffmpeg_executable(), "-v", "error", "-y", *before, "-i", str(source), *options]
    subprocess.run([*command, str(target)], check=True, timeout=60)
    return target


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".mp4", ["-c:v", "libx264"]),
        (".mov", ["-c:v", "prores_ks"]),
        (".mkv", ["-c:v", "copy"]),
        (".webm", ["-c:v", "libvpx-vp9", "-deadline", "realtime"]),
        (".avi", ["-c:v", "mpeg4", "-q:v", "2"]),
        (".ts", ["-c:v", "mpeg2video", "-q:v", "2", "-output_ts_offset", "5"]),
        (".gif", []),
        (".webp", ["-c:v", "libwebp_anim", "-lossless", "1"]),
        (".y4m", ["-pix_fmt", "yuv444p"]),
        (".h264", ["-c:v", "libx264"]),
        (
            ".10bit.mp4",
            ["-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=0"],
        ),
        (".grey.mkv", ["-c:v", "ffv1", "-pix_fmt", "gray"]),
        (".grey16.mkv", ["-c:v", "ffv1", "-pix_fmt", "gray16le"]),
    ],
)
def test_every_format_gives_its_frames(tmp_path: Path, suffix: str, options: list[str]) -> None:
    """At the clip's own rate frame i is the video's frame i, to the last one and whatever the
    container's clock rounds; at half of it every other one; one more than there are is an error."""
    source = assemble(counting(24), tmp_path / "source.mkv", fps=24, codec="ffv1").path
    path = convert(source, tmp_path / f"clip{suffix}", *options)
    assert numbers(read(path, 24, fps=24)) == list(range(24))
    assert numbers(read(path, 12, fps=12)) == list(range(0, 24, 2))
    with pytest.raises(ClipError, match=r"found 24 frames at 24 frames/s, about 1 s, where 25 "):
        read(path, 25, fps=24)


@pytest.mark.parametrize("codec", ["h264", "ffv1", "gif", "webp", "png"])
@pytest.mark.parametrize("fps", [8, 12.5, 23.976])
def test_what_zs2_wrote_is_read_back_frame_by_frame(tmp_path: Path, codec: str, fps: float) -> None:
    """A finished clip of any codec, read at its own rate, has its own frames."""
    clip = assemble(counting(20), tmp_path / f"clip{SUFFIXES[codec]}", fps, codec)
    assert numbers(read(clip.path, 20, fps)) == list(range(20))
