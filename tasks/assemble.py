"""A finished video from a clip's frames: encoded aside, opened again and checked, then renamed.

The codecs, and what they promise; the same frames give the same bytes with each:

- h264, h265, av1 (.mp4): yuv420p, BT.709, limited range, converted and tagged so in the stream and in
  the container, the index first in the file. An odd side gets one more pixel, a copy of the edge (see
  `Assembled.height` and `.width`). h265 needs sides of 32 pixels, av1 of 16; av1 keeps at most 240
  frames/s. Chromium and Firefox play h264 and av1; h265 is for Apple's players and for hardware.
- ffv1: lossless RGB in Matroska.
- png: a folder of 00000.png, 00001.png, …, lossless.
- gif: 256 colours for the whole clip, chosen from at most 64 of its frames, plays for ever. Its
  delays are whole 1/100 s, so no GIF has exactly 8 or 24 frames/s: the end of each frame is rounded,
  and the total is right to 1/100 s. At most 100 frames/s; browsers slow down what is above 50.
- webp: lossy, plays for ever, delays rounded likewise to 1/1000 s. A single frame is a still
  picture without a rate.

Before a file is renamed it is decoded to the end: the number of frames, their size and the rate
must be right, the duration of GIF and WebP to the rounding above. Each carries the words that tell
what it is (`tasks.labels`). What the codecs cost and keep is measured in infra/codecs.md.
"""

import shutil
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from manifests.storage import aside_path, make_folder, publish_folder, write_aside
from tasks.codecs import (
    AssembleError,
    EncoderKilledError,
    checked,
    ffmpeg_executable,
    options_of,
)
from tasks.decoding import decode, decode_chunks, sum_of, verify
from tasks.encoding import encode_frames, encode_gif
from tasks.labels import write_labels
from tasks.temporal_sr import check_frames

__all__ = [
    "AssembleError",
    "Assembled",
    "EncoderKilledError",
    "assemble",
    "decode",
    "decode_chunks",
    "ffmpeg_executable",
]

Array = np.ndarray[Any, Any]


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


def assemble(
    frames: Array | Iterable[Array],
    path: str | Path,
    fps: float,
    codec: str = "h264",
    quality: int | None = None,
    title: str | None = None,
    comment: str | None = None,
) -> Assembled:
    """Write `frames` to `path` as a whole or not at all; the same frames give the same bytes.

    frames: uint8 RGB (frame, height, width, 3), n ≥ 1, or an iterable of such chunks, which are
    encoded as they come and never held together; however a clip is cut, the bytes are the same.
    path: what stands there is replaced; its suffix should be the codec's
    (`manifests.storage.SUFFIXES`). fps: frames a second. quality: in the codec's own scale, None for
    its default: the constant rate factor of h264, 0 (lossless but for colour resolution) to 51, 18,
    of h265, 0 to 51, 20, and of av1, 0 to 63, 24; webp's 0 to 100 (best), 90; the others have none
    and do not look at it. title, comment: go into the file, cut at 32,000 bytes.

    Raises ValueError for bad arguments, AssembleError where writing or checking fails, of these
    EncoderKilledError where something outside ended ffmpeg. What the iterable raises passes through
    unchanged: nothing is left then, neither a file nor an ffmpeg.
    """
    source = _Source(frames)
    chosen = checked(source.size, fps, codec, quality)
    executable = ffmpeg_executable(codec)
    source.even = chosen.even
    size = source.height, source.width
    options = options_of(codec, quality, title, comment)
    target = Path(path).absolute()
    aside = publish_folder(target) if codec == "png" else write_aside(target)
    try:
        with aside as unfinished:
            if codec == "gif":
                with _work_folder(target) as work:
                    count = encode_gif(executable, size, fps, source, unfinished, options, work)
            elif codec == "png":
                # The folder's name may hold a %, which image2 would read as a pattern: it is made
                # the working folder instead.
                count = encode_frames(
                    executable, size, fps, source, "%05d.png", options, unfinished
                )
            else:
                count = encode_frames(executable, size, fps, source, unfinished, options)
            verify(unfinished, target.name, codec, (count, *size), fps)
            write_labels(unfinished, codec, title, comment)
            digest, total = sum_of(unfinished)
    except OSError as error:
        if error is source.raised:
            raise
        raise AssembleError(
            f"{target}: cannot be written ({error.strerror or error}); "
            "make space there, check its permissions, or choose another folder"
        ) from error
    return Assembled(target, digest, total, count, *size, fps)


@contextmanager
def _work_folder(target: Path) -> Generator[Path]:
    """A folder beside the target for what is needed only meanwhile."""
    path = aside_path(target)
    make_folder(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class _Source:
    """Checked chunks of one size, odd sides made even where the codec needs it.

    Attributes:
        size: height and width of the frames that come in.
        even: whether the codec needs even sides.
        raised: what the chunks raised, to tell it from what encoding raises.

    Raises:
        ValueError: for no frames, or other ones than `assemble` takes.
    """

    def __init__(self, frames: Array | Iterable[Array]) -> None:
        chunks = iter([frames] if isinstance(frames, np.ndarray) else frames)
        first = next(chunks, None)
        if first is None:
            raise ValueError("frames: expected at least one chunk of frames, found none")
        check_frames(first)
        self._chunks = chain([first], chunks)
        self.size: tuple[int, int] = first.shape[1:3]
        self.even = False
        self.raised: Exception | None = None

    @property
    def height(self) -> int:
        return self.size[0] + (self.size[0] % 2 if self.even else 0)

    @property
    def width(self) -> int:
        return self.size[1] + (self.size[1] % 2 if self.even else 0)

    def __iter__(self) -> Iterator[Array]:
        try:
            for chunk in self._chunks:
                check_frames(chunk)
                if chunk.shape[1:3] != self.size:
                    raise ValueError(
                        f"frames: expected chunks of one size, first of {_told(self.size)}, "
                        f"found one of {_told(chunk.shape[1:3])}"
                    )
                tall, wide = self.height - self.size[0], self.width - self.size[1]
                if tall or wide:
                    chunk = np.pad(chunk, ((0, 0), (0, tall), (0, wide), (0, 0)), mode="edge")
                yield chunk
        except Exception as error:
            self.raised = error
            raise


def _told(size: tuple[int, ...]) -> str:
    return f"{size[0]}×{size[1]}"
