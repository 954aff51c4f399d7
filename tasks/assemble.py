"""A finished video from a clip's frames: encoded aside, opened again and checked, then renamed.

The codecs, and what they promise:

- h264: yuv420p, BT.709, limited range, converted and tagged so, its index first in the file. An odd
  side gets one more pixel, a copy of the edge (see `Assembled.height` and `.width`).
- ffv1: lossless RGB in Matroska.
- png: a folder of 00000.png, 00001.png, …, lossless.
- gif: 256 colours for the whole clip, plays for ever. Its delays are whole 1/100 s, so no GIF has
  exactly 8 or 24 frames/s: the end of each frame is rounded, and the total is right to 1/100 s. At
  most 100 frames/s; browsers slow down what is above 50.
- webp: lossy, plays for ever, delays rounded likewise to 1/1000 s. A single frame is a still
  picture without a rate.

Before a file is renamed it is decoded to the end: the number of frames, their size and the rate
must be right, the duration of GIF and WebP to the rounding above.
"""

import hashlib
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
from av.filter import Graph
from PIL import Image

from manifests.columns import LEAST_FPS, MOST_FPS, QUALITY
from manifests.storage import SUFFIXES, publish_folder, write_aside
from tasks.temporal_sr import check_frames

Array = np.ndarray[Any, Any]
Options = dict[str, str | int]

# Output that depends on the frames alone: no encoder versions or dates in the file, and one thread
# (x264 cuts its work by the number of threads).
_REPRODUCIBLE: Options = {"fflags": "+bitexact", "flags:v": "+bitexact", "threads": 1}
_TO_BT709 = (
    "scale=out_color_matrix=bt709:out_range=tv"
    ":flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact,format=yuv420p"
    ",setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
)
# One palette for the whole clip and an ordered dither: equal frames stay equal, still parts still.
_TO_PALETTE = (
    "split[frames][same];[frames]palettegen=stats_mode=full[palette];"
    "[same][palette]paletteuse=dither=bayer:bayer_scale=4:diff_mode=rectangle"
)
_MOST_METADATA_BYTES = 32_000  # Linux refuses single arguments from 128 KiB on
_STDERR_TAIL = 1_500
_NO_SPACE = "No space left"  # on device, or what an ffmpeg of another language leaves of it


class AssembleError(RuntimeError):
    """A video could not be written. The message says why and what to do.

    Attributes:
        lacks_room: ffmpeg found no space on the disk.
    """

    lacks_room = False


class EncoderKilledError(AssembleError):
    """ffmpeg was ended by a signal, not by the frames: another attempt may well succeed."""


@dataclass(frozen=True)
class Assembled:
    """A video on disk. For a folder of PNGs `bytes` is their sum and `sha256` that of the lines
    `<sha256 of the file>  <name>\\n`, sorted by name (what `sha256sum *` prints)."""

    path: Path
    sha256: str
    bytes: int
    num_frames: int
    height: int
    width: int
    fps: float


@dataclass(frozen=True)
class _Codec:
    encoder: str
    muxer: str
    even: bool = False  # height and width must be even


_CODECS = {
    "h264": _Codec("libx264", "mp4", even=True),
    "ffv1": _Codec("ffv1", "matroska"),
    "gif": _Codec("gif", "gif"),
    "webp": _Codec("libwebp", "webp"),
    "png": _Codec("png", "image2"),
}


def assemble(
    frames: Array,
    path: str | Path,
    fps: float,
    codec: str = "h264",
    quality: int | None = None,
    title: str | None = None,
    comment: str | None = None,
) -> Assembled:
    """Write `frames` to `path` as a whole or not at all; the same frames give the same bytes.

    frames: uint8 RGB (frame, height, width, 3), n ≥ 1. path: what stands there is replaced; its
    suffix should be the codec's (`manifests.storage.SUFFIXES`). fps: frames a second. quality: in
    the codec's own scale, None for its default: h264's constant rate factor, 0 (lossless) to 51,
    18; webp's 0 to 100 (best), 90; the others have none and do not look at it. title, comment: go
    into the container where it has room for them (h264, ffv1), cut at 32,000 bytes.

    Raises ValueError for bad arguments, AssembleError where writing or checking fails, of these
    EncoderKilledError where something outside ended ffmpeg.
    """
    chosen = _checked(frames, fps, codec, quality)
    executable = ffmpeg_executable(codec)
    odd_height, odd_width = frames.shape[1] % 2, frames.shape[2] % 2
    if chosen.even and (odd_height or odd_width):
        frames = np.pad(frames, ((0, 0), (0, odd_height), (0, odd_width), (0, 0)), mode="edge")
    count, height, width, _ = frames.shape
    target = Path(path).absolute()
    aside = publish_folder(target) if codec == "png" else write_aside(target)
    try:
        with aside as unfinished:
            # The folder's name may hold a %, which image2 would read as a pattern: it is made the
            # working folder instead.
            output = "%05d.png" if codec == "png" else str(unfinished)
            options = _options(codec, quality, title, comment)
            command = _command(executable, frames.shape, fps, output, options)
            _encode(command, frames, cwd=unfinished if codec == "png" else None)
            _verify(unfinished, target.name, codec, frames.shape, fps)
            digest, size = _sum(unfinished)
    except OSError as error:
        raise AssembleError(
            f"{target}: cannot be written ({error.strerror or error}); "
            "make space there, check its permissions, or choose another folder"
        ) from error
    return Assembled(target, digest, size, count, height, width, fps)


def ffmpeg_executable(codec: str = "h264") -> str:
    """The ffmpeg that writes `codec`: $ZS2_FFMPEG, else the one on PATH, else the bundled one.

    Raises AssembleError where it lacks the encoder, and names the codecs that it does have.
    """
    encoder = _CODECS[codec].encoder
    named = os.environ.get("ZS2_FFMPEG")
    if not named:
        system = shutil.which("ffmpeg")
        try:
            if system and encoder in _encoders(system):
                return system
        except EncoderKilledError:  # the other one would give other bytes
            raise
        except AssembleError:  # one that does not run is as good as none
            pass
        try:
            named = imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError as error:
            raise AssembleError(
                "no ffmpeg found; install one, or point ZS2_FFMPEG to it"
            ) from error
    chosen = str(Path(shutil.which(named) or named).absolute())
    present = _encoders(chosen)
    if encoder not in present:
        able = [name for name, each in _CODECS.items() if each.encoder in present]
        raise AssembleError(
            f"{codec}: {chosen} has no encoder {encoder}; it can write "
            f"{', '.join(able) or 'none of our codecs'}; choose one of these, or point ZS2_FFMPEG "
            "to another ffmpeg"
        )
    return chosen


def decode(path: str | Path) -> tuple[Array, float]:
    """A finished video's frames, uint8 RGB (frame, height, width, 3), and its frames a second.

    The rate is NaN where none is stored: a folder of PNGs, a single WebP picture.
    """
    path = Path(path)
    if path.is_dir() or path.suffix in (".gif", ".webp"):
        pictures, seconds = [], 0.0
        for picture, duration in _pictures(path):
            pictures.append(np.asarray(picture.convert("RGB")))
            seconds += duration
        return np.stack(pictures), len(pictures) / seconds if seconds else math.nan
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
        frames: list[Array] = []
        for frame in container.decode(stream):
            graph.vpush(frame)
            frames.append(graph.vpull().to_ndarray())
        return np.stack(frames), float(stream.average_rate or math.nan)


def _checked(frames: Array, fps: float, codec: str, quality: int | None) -> _Codec:
    check_frames(frames)
    if codec not in _CODECS:
        state = "is not built yet" if codec in SUFFIXES else "is unknown"
        raise ValueError(f"codec: {codec!r} {state}; choose one of {', '.join(_CODECS)}")
    chosen = _CODECS[codec]
    if not LEAST_FPS <= fps <= MOST_FPS[codec]:
        raise ValueError(
            f"fps: expected {LEAST_FPS:g} to {MOST_FPS[codec]:g} frames/s for {codec}; "
            f"found {fps!r}; change fps or temporal_scale, or choose another codec"
        )
    low, high, _ = QUALITY.get(codec, (-math.inf, math.inf, 0))
    if quality is not None and not low <= quality <= high:
        raise ValueError(f"quality: expected {low} to {high} for {codec}; found {quality!r}")
    return chosen


def _options(codec: str, quality: int | None, title: str | None, comment: str | None) -> Options:
    """ffmpeg's output options for a codec."""
    chosen = _CODECS[codec]
    level = QUALITY[codec][2] if quality is None and codec in QUALITY else quality or 0
    own: dict[str, Options] = {
        "h264": {"vf": _TO_BT709, "crf": level, "movflags": "+faststart"},
        "ffv1": {"pix_fmt": "bgr0", "level": 3, "g": 1, "slices": 4, "slicecrc": 1},
        "gif": {"vf": _TO_PALETTE, "loop": 0},
        # bgra: libwebp's own conversion, sharper than swscale's. Not libwebp_anim: it drops frames
        # that equal the one before, and a still clip would become a picture.
        "webp": {"pix_fmt": "bgra", "quality": level, "loop": 0},
        "png": {"start_number": 0},
    }
    options = {"c:v": chosen.encoder, **own[codec], **_REPRODUCIBLE, "f": chosen.muxer}
    for index, (key, text) in enumerate((("title", title), ("comment", comment))):
        if text:
            options[f"metadata:g:{index}"] = f"{key}={_argument(text)}"
    return options


def _argument(text: str) -> str:
    """`text` as a program's argument may be: no NUL, no lone surrogates, not too long."""
    cleaned = text.replace("\0", " ").encode("utf-8", "replace")
    return cleaned[:_MOST_METADATA_BYTES].decode("utf-8", "ignore")


def _command(
    executable: str, shape: tuple[int, ...], fps: float, output: str, options: Options
) -> list[str]:
    rate = _rate(fps)
    stream = ffmpeg.input(
        "pipe:0",
        format="rawvideo",
        pix_fmt="rgb24",
        s=f"{shape[2]}x{shape[1]}",
        framerate=f"{rate.numerator}/{rate.denominator}",
    ).output(output, **options)
    quiet = stream.global_args("-hide_banner", "-nostats", "-loglevel", "error")
    return [str(part) for part in ffmpeg.compile(quiet, cmd=executable, overwrite_output=True)]


def _rate(fps: float) -> Fraction:
    """The rate as a fraction: 7.5 is 15/2, 23.976 is 24000/1001 as cameras mean it."""
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    return ntsc if abs(ntsc - fps) < 5e-4 else Fraction(fps).limit_denominator(1000)


def _encode(command: list[str], frames: Array, cwd: Path | None) -> None:
    """Run ffmpeg on the frames; afterwards it has ended, however this ends."""
    # Its complaints go to a file, not a pipe, so that neither side can wait for the other.
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaints, cwd=cwd
        )
        assert process.stdin is not None
        try:
            # It ended early if the pipe is broken: its status and complaints say why.
            with suppress(BrokenPipeError):
                for frame in frames:
                    process.stdin.write(np.ascontiguousarray(frame).data)
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


def _verify(path: Path, name: str, codec: str, shape: tuple[int, ...], fps: float) -> None:
    """Open what was written and compare it with what should have been (see `assemble`)."""
    try:
        probe = _probe_stream if codec in ("h264", "ffv1") else _probe_pictures
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
    expected = shape[0] / float(_rate(fps))
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
    for file in _files(path):
        with Image.open(file) as picture:
            for index in range(getattr(picture, "n_frames", 1)):
                picture.seek(index)
                picture.load()
                yield picture, picture.info.get("duration", 0) / 1000


def _files(path: Path) -> list[Path]:
    """The file, or the files of a folder in the order of their numbers."""
    return (
        sorted(path.iterdir(), key=lambda file: (len(file.name), file.name))
        if path.is_dir()
        else [path]
    )


def _sum(path: Path) -> tuple[str, int]:
    """sha256 and bytes of a file, or of a folder of files (see `Assembled`)."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
    parts = [(file.name, *_sum(file)) for file in sorted(path.iterdir())]
    lines = "".join(f"{digest}  {name}\n" for name, digest, _ in parts)
    return hashlib.sha256(lines.encode()).hexdigest(), sum(size for *_, size in parts)


@lru_cache
def _encoders(executable: str) -> frozenset[str]:
    """The names of an ffmpeg's video encoders."""
    command = [executable, "-hide_banner", "-encoders"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        killed = isinstance(error, subprocess.CalledProcessError) and error.returncode < 0
        raise (EncoderKilledError if killed else AssembleError)(
            f"{executable} does not run ({error}); install ffmpeg, or point ZS2_FFMPEG to one"
        ) from error
    rows = (line.split() for line in answer.stdout.splitlines())
    return frozenset(row[1] for row in rows if len(row) > 1 and row[0].startswith("V"))
