"""Frames through ffmpeg's pipe, chunk by chunk, into a file."""

import os
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import ffmpeg
import numpy as np

from tasks.codecs import PALETTE, PALETTE_USE, AssembleError, EncoderKilledError, Options

Array = np.ndarray[Any, Any]

PALETTE_FRAMES = 64  # palettegen counts every colour of every frame that it sees
_STDERR_TAIL = 1_500
_NO_SPACE = "No space left"  # on device, or what an ffmpeg of another language leaves of it


def encode_frames(
    executable: str,
    size: tuple[int, int],
    fps: float,
    chunks: Iterable[Array],
    output: str | Path,
    options: Options,
    cwd: Path | None = None,
) -> int:
    """Encode RGB frames of a size, height and width, as they come.

    Returns how many frames ffmpeg should have taken. What the chunks raise passes through.
    """
    rate = exact_rate(fps)
    source = ffmpeg.input(
        "pipe:0",
        format="rawvideo",
        pix_fmt="rgb24",
        s=f"{size[1]}x{size[0]}",
        framerate=f"{rate.numerator}/{rate.denominator}",
    )
    return _run(executable, source.output(str(output), **options), chunks, cwd)


def encode_gif(
    executable: str,
    size: tuple[int, int],
    fps: float,
    chunks: Iterable[Array],
    output: Path,
    options: Options,
    work: Path,
) -> int:
    """As `encode_frames`, in two passes over frames that are stored in the folder `work` meanwhile:
    the palette is of all of them, of a long clip of PALETTE_FRAMES that are evenly spread, and ffmpeg
    would hold them all until it is known."""
    stored: Options = {"c:v": "ffv1", "pix_fmt": "bgr0", "threads": 1, "f": "nut"}
    count = encode_frames(executable, size, fps, chunks, "frames.nut", stored, work)
    source, palette = ffmpeg.input("frames.nut"), ffmpeg.input("palette.png")
    step = -(-count // PALETTE_FRAMES)
    chosen = source.filter("select", f"not(mod(n,{step}))") if step > 1 else source
    _run(executable, chosen.filter("palettegen", **PALETTE).output("palette.png"), (), work)
    painted = ffmpeg.filter([source, palette], "paletteuse", **PALETTE_USE)
    _run(executable, painted.output(str(output), **options), (), work)
    return count


def exact_rate(fps: float) -> Fraction:
    """The rate as a fraction: 7.5 is 15/2, 23.976 is 24000/1001 as cameras mean it."""
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    return ntsc if abs(ntsc - fps) < 5e-4 else Fraction(fps).limit_denominator(1000)


def _run(executable: str, stream: Any, chunks: Iterable[Array], cwd: Path | None) -> int:
    """Run ffmpeg on the frames as they come; afterwards it has ended, however this ends."""
    quiet = stream.global_args("-hide_banner", "-nostats", "-loglevel", "error")
    arguments = ffmpeg.compile(quiet, cmd=executable, overwrite_output=True)
    command = [str(part) for part in arguments]
    given = 0
    # Its complaints go to a file, not a pipe, so that neither side can wait for the other.
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            cwd=cwd,
            env=os.environ | {"SVT_LOG": "1"},  # errors only
        )
        assert process.stdin is not None
        try:
            for chunk in chunks:
                given += len(chunk)
                if not _took(process.stdin, chunk):
                    break
            with suppress(BrokenPipeError):
                process.stdin.close()
            status = process.wait()
        finally:
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()
        if status != 0:
            tail = _tail(complaints)
            kind = EncoderKilledError if status < 0 else AssembleError
            error = kind(_explain(status, tail))
            error.lacks_room = _NO_SPACE in tail
            raise error
    return given


def _took(pipe: IO[bytes], chunk: Array) -> bool:
    """Whether ffmpeg took the frames; if the pipe is broken, its status and complaints say why."""
    try:
        for frame in chunk:
            pipe.write(np.ascontiguousarray(frame).data)
    except BrokenPipeError:
        return False
    return True


def _tail(complaints: IO[bytes]) -> str:
    size = complaints.seek(0, os.SEEK_END)
    complaints.seek(max(0, size - _STDERR_TAIL))
    return complaints.read().decode("utf-8", "replace").strip()


def _explain(status: int, tail: str) -> str:
    how = f"was ended by signal {-status}" if status < 0 else f"failed with exit code {status}"
    if _NO_SPACE in tail:
        remedy = "make space in the output folder"
    elif status < 0:
        remedy = "try the row again; if it was killed for memory, give the machine more"
    else:
        remedy = "see what it said; another codec or another ffmpeg (ZS2_FFMPEG) may work"
    return f"ffmpeg {how}; {remedy}. It said: {tail or 'nothing'}"
