"""The codecs: which encoder, container and options each has, and which ffmpeg can write it."""

import math
import os
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import imageio_ffmpeg

from manifests.columns import (
    LEAST_FPS,
    LEAST_SIDE,
    MOST_FPS,
    MOST_SIDES,
    QUALITY,
    fits_ffmpeg,
)
from tasks.labels import cleaned

Options = dict[str, str | int]

# Output that depends on the frames alone: no encoder versions or dates in the file, and one thread
# (x264 cuts its work by the number of threads).
_REPRODUCIBLE: Options = {"fflags": "+bitexact", "flags:v": "+bitexact", "threads": 1}
_TO_BT709 = (
    "scale=out_color_matrix=bt709:out_range=tv"
    ":flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact,format=yuv420p"
    ",setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
)
# One thread, and no note of the encoder and its settings in the stream.
_X265 = "pools=none:frame-threads=1:info=0:log-level=error"
# One palette for the whole clip and an ordered dither: equal frames stay equal, still parts still.
PALETTE = {"stats_mode": "full"}
PALETTE_USE = {"dither": "bayer", "bayer_scale": 4, "diff_mode": "rectangle"}


class AssembleError(RuntimeError):
    """A video could not be written. The message says why and what to do.

    Attributes:
        lacks_room: ffmpeg found no space on the disk.
    """

    lacks_room = False


class EncoderKilledError(AssembleError):
    """ffmpeg was ended by a signal, not by the frames: another attempt may well succeed."""


@dataclass(frozen=True)
class Codec:
    """How ffmpeg names what a codec needs."""

    encoder: str
    muxer: str
    even: bool = False  # height and width must be even


CODECS = {
    "h264": Codec("libx264", "mp4", even=True),
    "h265": Codec("libx265", "mp4", even=True),
    "av1": Codec("libsvtav1", "mp4", even=True),
    "ffv1": Codec("ffv1", "matroska"),
    "gif": Codec("gif", "gif"),
    "webp": Codec("libwebp", "webp"),
    "png": Codec("png", "image2"),
}


def ffmpeg_executable(codec: str = "h264") -> str:
    """The ffmpeg that writes `codec`: $ZS2_FFMPEG, else the one on PATH, else the bundled one.

    Raises AssembleError where it lacks the encoder, and names the codecs that it does have.
    """
    encoder = CODECS[codec].encoder
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
        able = [name for name, each in CODECS.items() if each.encoder in present]
        remedy = "install one with encoders, or point ZS2_FFMPEG to it"
        if able:
            remedy = f"it can write {', '.join(able)}: choose one of these, or point ZS2_FFMPEG to another"
        raise AssembleError(
            f"{codec}: expected an ffmpeg with the encoder {encoder}, found {chosen} without; {remedy}"
        )
    return chosen


def check_encoders(codecs: Iterable[str]) -> None:
    """That there is an ffmpeg on this machine for each of the codecs; one that was killed while it was
    asked may answer the next time.

    Raises:
        AssembleError: with the remedy.
    """
    for codec in sorted(codecs):
        with suppress(EncoderKilledError):
            ffmpeg_executable(codec)


def checked(size: tuple[int, int], fps: float, codec: str, quality: int | None) -> Codec:
    """The codec, of settings that it can keep.

    Raises:
        ValueError: saying what was expected and found.
    """
    if codec not in CODECS:
        raise ValueError(f"codec: {codec!r} is unknown; choose one of {', '.join(CODECS)}")
    chosen = CODECS[codec]
    if min(size) < LEAST_SIDE.get(codec, 1):
        raise ValueError(
            f"frames: expected sides of at least {LEAST_SIDE[codec]} pixels for {codec}, found "
            f"{size[0]}×{size[1]}; choose another codec"
        )
    most = MOST_SIDES.get(codec, size)
    if size[0] > most[0] or size[1] > most[1]:
        raise ValueError(
            f"frames: expected at most {most[0]}×{most[1]} pixels for {codec}, found "
            f"{size[0]}×{size[1]}; make them smaller, or choose another codec"
        )
    if not fits_ffmpeg(*size):
        raise ValueError(
            f"frames: expected less than 2^28 pixels, as ffmpeg takes, found {size[0]}×{size[1]}; "
            "make them smaller"
        )
    if not LEAST_FPS <= fps <= MOST_FPS[codec]:
        raise ValueError(
            f"fps: expected {LEAST_FPS:g} to {MOST_FPS[codec]:g} frames/s for {codec}; "
            f"found {fps!r}; change fps or temporal_scale, or choose another codec"
        )
    low, high, _ = QUALITY.get(codec, (-math.inf, math.inf, 0))
    if quality is not None and not low <= quality <= high:
        raise ValueError(f"quality: expected {low} to {high} for {codec}; found {quality!r}")
    return chosen


def options_of(
    codec: str, quality: int | None, title: str | None = None, comment: str | None = None
) -> Options:
    """ffmpeg's output options for a codec, with the words that ffmpeg itself puts into the file."""
    chosen = CODECS[codec]
    level = QUALITY[codec][2] if quality is None and codec in QUALITY else quality or 0
    mp4: Options = {"vf": _TO_BT709, "crf": level, "movflags": "+faststart"}
    own: dict[str, Options] = {
        "h264": mp4,
        # hvc1: Apple's players want it.
        "h265": mp4 | {"tag:v": "hvc1", "x265-params": _X265},
        "av1": mp4 | {"preset": 6, "svtav1-params": "lp=1"},
        "ffv1": {"pix_fmt": "bgr0", "level": 3, "g": 1, "slices": 4, "slicecrc": 1},
        "gif": {"loop": 0},
        # bgra: libwebp's own conversion, sharper than swscale's. Not libwebp_anim: it drops frames
        # that equal the one before, and a still clip would become a picture.
        "webp": {"pix_fmt": "bgra", "quality": level, "loop": 0},
        "png": {"start_number": 0},
    }
    options = {"c:v": chosen.encoder, **own[codec], **_REPRODUCIBLE, "f": chosen.muxer}
    if chosen.muxer in ("mp4", "matroska"):
        for index, (key, text) in enumerate((("title", title), ("comment", comment))):
            if text:
                options[f"metadata:g:{index}"] = f"{key}={cleaned(text)}"
    return options


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
