"""A clip from disk: the frames of a video file or of a folder of images, at a row's rate and size.

A manifest may come from a stranger, and so may the files that it names: only readers of files that
hold their own pictures are used, and the size of a picture and the time spent are bounded.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from threading import Timer
from typing import Any

import ffmpeg
import numpy as np
from PIL import Image, ImageOps

from tasks.assemble import ffmpeg_executable

Array = np.ndarray[Any, Any]

# ffmpeg's names for containers that hold their own pictures. Not concat, hls, dash, imf, svg and the
# like, which read whatever other files they name.
_CONTAINERS = (
    "mov,matroska,avi,gif,apng,webp_anim,mpegts,mpeg,mpegvideo,flv,asf,ogg,nut,mxf,wtv,rm,dv,ivf,"
    "obu,av1,h264,hevc,m4v,mjpeg,vc1,yuv4mpegpipe"
)
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # Pillow's names; EPS would run a program
_MOST_PIXELS = 2**26  # of one picture: 8192×8192, twice an 8K video; 0.2 GB as RGB
# One thread decodes 8K faster. A low fps leaves many pictures to decode between two that are kept.
_SECONDS = 60
_SECONDS_A_FRAME = 2
_COMPLAINT = 300  # characters of ffmpeg's own words in a message
_LOG_BYTES = 2**20


class ClipError(ValueError):
    """A clip that cannot be used; the message says what was expected, found, and the remedy."""


def read_clip(path: Path, *, num_frames: int, fps: float, height: int, width: int) -> Array:
    """The first `num_frames` frames of a clip, uint8 RGB (frame, height, width, 3).

    Of a video, frame i is what it shows i/fps seconds after its first picture. Its time stamps are
    believed to half a tick of its clock (at most 5 ms), since containers round them. Of a folder of
    images (.png, .jpg, .webp, .bmp, .tif), frame i is image i in natural order, 2.png before 10.png,
    at any fps; hidden and other files are passed over. A single image is a folder of one.

    Pictures are turned upright as they say, scaled to cover height×width and cut to its centre; what
    is transparent becomes black, 16 bits become 8. The same file gives the same bytes.

    Raises ClipError where there is no such clip, or it cannot be decoded, has pictures of more than
    2^26 pixels, takes too long, or is too short: a video must last longer than (num_frames−1)/fps
    seconds, a folder hold num_frames images. Raises AssembleError where there is no ffmpeg.
    """
    try:
        if path.is_dir():
            return _from_images(path, _images(path), num_frames, height, width)
        if not path.is_file():  # a named pipe or a device may have no end
            found = "neither a file nor a folder" if path.exists() else "nothing"
            raise _error(path, found, "correct the path")
        if path.suffix.lower() in _IMAGE_SUFFIXES and not _is_animated(path):
            return _from_images(path, [path], num_frames, height, width)
        return _from_video(path, num_frames, fps, height, width)
    except OSError as error:
        raise _error(path, error.strerror or str(error), "check its permissions") from error


def _error(
    path: Path, found: str, remedy: str, expected: str = "a video or a folder of images"
) -> ClipError:
    return ClipError(f"{path}: expected {expected}, found {found}; {remedy}")


def _images(folder: Path) -> list[Path]:
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in _IMAGE_SUFFIXES
        and not file.name.startswith(".")
        and file.is_file()
    ]
    return sorted(files, key=_natural)


def _natural(file: Path) -> tuple[list[str | int], str]:
    parts = re.split("([0-9]+)", file.name.lower())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], file.name


def _from_images(
    path: Path, files: Sequence[Path], num_frames: int, height: int, width: int
) -> Array:
    if len(files) < num_frames:
        raise _error(
            path,
            f"{len(files)} images ({', '.join(_IMAGE_SUFFIXES)}) where {num_frames} are needed",
            "add images, or lower num_frames",
        )
    frames = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    for frame, file in zip(frames, files, strict=False):
        with _opened(file) as picture:
            frame[:] = _over_black(np.asarray(ImageOps.fit(_upright(picture), (width, height))))
    return frames


def read_picture(path: Path) -> Array:
    """One image, uint8 RGB (height, width, 3), as `read_clip` reads a folder's, at its own size.

    Raises:
        ClipError: no image there that can be read, or one of more than 2^26 pixels.
    """
    with _opened(path) as picture:
        return _over_black(np.asarray(_upright(picture)))


def _upright(picture: Image.Image) -> Image.Image:
    upright = _eight_bits(ImageOps.exif_transpose(picture))
    clear = "A" in upright.getbands() or "transparency" in upright.info
    return upright.convert("RGBA" if clear else "RGB")


def _is_animated(file: Path) -> bool:
    with _opened(file) as picture:
        # Other formats have pages or previews.
        return picture.format in ("PNG", "WEBP") and getattr(picture, "is_animated", False)


@contextmanager
def _opened(file: Path) -> Generator[Image.Image]:
    """An image of one of our formats, whatever its name says, that is not too large."""
    try:
        with Image.open(file, formats=_IMAGE_FORMATS) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise Image.DecompressionBombError
            yield picture
    except Image.DecompressionBombError as error:
        found = f"more than {_MOST_PIXELS} pixels"
        raise _error(file, found, "reduce it", "a picture") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow raises them all
        found = f"one that cannot be read ({error})"
        raise _error(file, found, "replace it", "a picture") from error


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose white is unknown")
    if not picture.mode.startswith("I"):
        return picture
    # Pillow's own conversion makes everything above 255 white.
    values = np.clip(np.asarray(picture), 0, 65535) / 257
    return Image.fromarray(np.rint(values).astype(np.uint8))


def _from_video(path: Path, num_frames: int, fps: float, height: int, width: int) -> Array:
    frames = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    seconds = _SECONDS + _SECONDS_A_FRAME * num_frames
    count, status, log = _decode(_command(path, fps, frames.shape), frames, seconds)
    if "Reconfiguring filter graph" in log:  # ffmpeg loses time there
        found = "a video that changes its picture size or colours on the way"
        raise _error(path, found, "convert it to one size")
    if count == num_frames:
        return frames
    complaint = _first_complaint(log)
    if status is None:
        raise _error(
            path, f"no end of decoding after {seconds} s", "use a shorter or smaller video"
        )
    if "matches no streams" in complaint:
        raise _error(path, "a file without video in it", "name one that has pictures")
    if "not on whitelist" in complaint:
        raise _error(path, "another format, a text or a playlist", "convert it, to mp4 for example")
    if status != 0 or count == 0:
        what = f"a file that ffmpeg cannot decode ({complaint or f'exit code {status}'})"
        raise _error(path, what, "convert it, to mp4 for example")
    raise _error(
        path,
        f"{count} frames at {fps:g} frames/s, about {count / fps:.3g} s, where {num_frames} frames "
        "are needed",
        "use a longer video, or lower num_frames or raise fps",
    )


def _command(path: Path, fps: float, shape: tuple[int, ...]) -> list[str]:
    """ffmpeg's arguments: at most shape[0] pictures as raw RGBA on its standard output."""
    count, height, width, _ = shape
    rate = Fraction(fps).limit_denominator(1001)
    # With the clock at half ticks, a stamp minus 1 is half a tick early: a picture is on time for
    # frame i if its stamp, rounded up in frames, is i. A clock that ticks slower than 1/100 s counts
    # pictures and rounds nothing. Cut before scaling: a strip scaled to cover would be endless.
    filters = (
        "settb=intb/2,setpts=PTS-STARTPTS-lte(TB\\,0.00501),"
        f"fps={rate.numerator}/{rate.denominator}:start_time=0:round=up,"
        f"crop=w=max(1\\,round(min(iw\\,ih*{width}/{height}/sar)))"
        f":h=max(1\\,round(min(ih\\,iw*{height}/{width}*sar))):exact=1,"
        f"scale={width}:{height}:flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
    )
    source = ffmpeg.input(
        f"file:{path.absolute()}",
        protocol_whitelist="file",
        format_whitelist=_CONTAINERS,
        max_pixels=_MOST_PIXELS,
        threads=1,
    )
    options = {"map": "0:V:0", "vf": filters, "frames:v": count, "pix_fmt": "rgba", "f": "rawvideo"}
    stream = ffmpeg.output(source, "pipe:1", **options)
    quiet = stream.global_args("-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info")
    # Any ffmpeg will do: ffv1 is what every build can write.
    return [str(part) for part in ffmpeg.compile(quiet, cmd=ffmpeg_executable("ffv1"))]


def _decode(command: list[str], frames: Array, seconds: float) -> tuple[int, int | None, str]:
    """Run ffmpeg and fill `frames`: how many came, its exit status (None: ended after `seconds`) and
    the end of its log. Afterwards it has ended, however this ends."""
    rgba = np.empty((*frames.shape[1:3], 4), dtype=np.uint8)
    count = 0
    # Its log goes to a file, not a pipe, so that neither side can wait for the other.
    with tempfile.TemporaryFile() as log_file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log_file
        )
        assert process.stdout is not None
        alarm = Timer(seconds, process.kill)
        alarm.start()
        try:
            for frame in frames:
                if process.stdout.readinto(rgba.data) < rgba.nbytes:  # pyright: ignore[reportAttributeAccessIssue]
                    break
                frame[:] = _over_black(rgba)
                count += 1
            status = process.wait()
            late = not alarm.is_alive()
        finally:
            alarm.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
        log_file.seek(max(0, log_file.seek(0, os.SEEK_END) - _LOG_BYTES))
        return count, None if late else status, log_file.read().decode("utf-8", "replace")


def _first_complaint(log: str) -> str:
    lines = [line for line in log.splitlines() if re.search(r"\[(error|fatal)\]", line)]
    return re.sub(r" @ 0x[0-9a-f]+|\[(error|fatal)\] ", "", "".join(lines[:1]))[:_COMPLAINT]


def _over_black(picture: Array) -> Array:
    """RGB as it is; RGBA as seen on black."""
    alpha = picture[..., 3:]
    if alpha.size == 0 or alpha.min() == 255:
        return picture[..., :3]
    return ((picture[..., :3].astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
