"""Previews: what a browser plays of a clip whose own file it cannot play, pause or step through.

Made by the assemble actor beside the clip: it holds the frames, runs on a CPU beside the samplers,
and is on every node; made when a run is published, ten thousand would have to be decoded again, one
after the other. `zs2 gallery` makes those that older runs lack.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from manifests.links import check_own
from manifests.result import ResultRow
from manifests.storage import SUFFIXES, RunFolder, publish_folder

Frames = np.ndarray[Any, Any]

# Chromium, Firefox and Edge play these themselves on any machine (of Safari's, those that decode AV1 in
# hardware); h265 plays only where the hardware decodes it. All others have a preview, also GIF and
# WebP: a page can neither pause a picture nor go to a frame of it.
PLAYED = ("h264", "av1")
CLIP, POSTER = "clip.mp4", "poster.png"
MAX_SIDE = 1280  # pixels of a preview
QUALITY = 16  # x264's constant rate factor: no visible loss
_CODECS = {suffix: codec for codec, suffix in reversed(SUFFIXES.items())}


def needs_preview(codec: str) -> bool:
    """Whether clips of a codec have one."""
    return codec not in PLAYED


def write_preview(clip: Path | Frames | Iterable[Frames], path: Path, fps: float) -> None:
    """Write a preview, a folder with an h264 clip and its first frame, whole or not at all.

    clip: the finished file, which is decoded frame by frame; or its frames, uint8 RGB (frame, height,
    width, 3), or chunks of them. path: what stands there is replaced.

    Raises:
        AssembleError, OSError: it could not be written.
    """
    from PIL import Image

    from tasks.assemble import assemble, decode_chunks

    if isinstance(clip, Path):
        clip = decode_chunks(clip)
    chunks = map(_fitted, [clip] if isinstance(clip, np.ndarray) else clip)
    with publish_folder(path) as unfinished:
        first = next(chunks)
        Image.fromarray(first[0]).save(unfinished / POSTER)
        assemble(chain([first], chunks), unfinished / CLIP, fps, "h264", QUALITY)


def _fitted(frames: Frames) -> Frames:
    """The frames, no side of them longer than a preview's."""
    height, width = frames.shape[1:3]
    scale = MAX_SIDE / max(height, width)
    if scale >= 1:
        return frames
    import cv2

    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def preview_of(folder: RunFolder, row: ResultRow, codec: str) -> Path | None:
    """The folder where a finished clip's preview belongs; None for a clip that needs none."""
    if row.status != "ok" or not row.file_name or not needs_preview(codec):
        return None
    return folder.preview_path(row.digest, row.id)


def has_preview(folder: RunFolder, row: ResultRow, codec: str) -> bool:
    """Whether a clip that needs a preview has one. Of a store nobody is asked: runs make them all."""
    path = preview_of(folder, row, codec)
    return path is not None and (folder.remote is not None or (path / CLIP).is_file())


def codec_of(row: ResultRow, params: Mapping[str, Any]) -> str:
    """The codec of a finished clip: by its parameters, else by its file's name."""
    suffix = Path(row.file_name or "").suffix
    return str(params.get("codec") or _CODECS.get(suffix, "png"))


def make_missing(folder: RunFolder, rows: Iterable[ResultRow]) -> tuple[int, list[str]]:
    """Make the previews that finished clips lack: of runs before there were any.

    Returns:
        How many were made, and of the clips that cannot be read, why.
    """
    from tasks.codecs import AssembleError
    from tasks.decoding import rate_of

    made, faults = 0, list[str]()
    for row in rows:
        codec = codec_of(row, json.loads(row.params) if row.params else {})
        path = preview_of(folder, row, codec)
        if path is None or has_preview(folder, row, codec):
            continue
        try:
            clip = folder.root / str(row.file_name)
            write_preview(clip, check_own(folder.root, path), row.fps or rate_of(clip))
        except (AssembleError, ValueError, OSError) as error:  # PyAV's are OSErrors or ValueErrors
            faults.append(f"{row.file_name}: no preview ({error})")
        else:
            made += 1
    return made, faults
