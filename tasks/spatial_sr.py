"""Larger frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from tasks.temporal_sr import check_frames, check_same_size
from zs2.post_models import MINI_SR, PostModel, describe_upscaler
from zs2.upscaler import Enlarge, Words, load_upscaler

Array = np.ndarray[Any, Any]

METHODS = (MINI_SR, "lanczos", "diffusers:MODEL", "spandrel:FILE")
SCALES = (1, 2, 4)


def upscale(
    frames: Array,
    scale: int,
    method: str | PostModel = MINI_SR,
    *,
    trusted: Sequence[str] = (),
    words: Words | None = None,
) -> Array:
    """Every frame of `frames` enlarged `scale` times in both directions.

    frames: uint8 (frame, height, width, 3), n ≥ 1. scale: 1 (the same array comes back), 2 or 4.
    method: `mini-sr` (the bundled network), `lanczos` (three lobes, Pillow's, in fixed point),
    `diffusers:MODEL` (an upscaling pipeline's hub id or folder; it follows `words`) or `spandrel:FILE`.
    Each frame is enlarged by itself: the same frame gives the same bytes, so a still clip stays still.
    trusted: files and models that may be pickles.

    Raises ValueError for another shape or type, scale or method; ModelError for a model that is not to
    be had; PostModelError for one that fails, or has another scale.
    """
    check_frames(frames)
    made = upscale_chunks([frames], scale, method, trusted=trusted, words=words)
    if scale == 1:
        return frames
    count, height, width, _ = frames.shape
    result = np.empty((count, height * scale, width * scale, 3), dtype=np.uint8)
    for larger, chunk in zip(result, made, strict=True):
        larger[:] = chunk[0]
    return result


def upscale_chunks(
    chunks: Iterable[Array],
    scale: int,
    method: str | PostModel = MINI_SR,
    *,
    trusted: Sequence[str] = (),
    words: Words | Callable[[int], Words] | None = None,
    dtype: str | None = None,
) -> Iterator[Array]:
    """`upscale` for a clip that comes in pieces, each uint8 (frame ≥ 1, height, width, 3).

    The frames are those of the whole clip, however it is cut; what comes out is cut otherwise, one
    larger frame at a time (with scale 1, as it came). words: may be a function of the frame's number.
    dtype: of a diffusers pipeline; by default float16 on a GPU, float32 on the CPU.

    Raises as `upscale` does, and ValueError for a chunk whose frames have another size.
    """
    _check_settings(scale, method)
    if scale == 1:
        return _unchanged(chunks)
    said = words if callable(words) else lambda _: words or Words()
    return _upscaled(chunks, _enlarger(method, scale, trusted, dtype), said)


def _enlarger(
    method: str | PostModel, scale: int, trusted: Sequence[str], dtype: str | None
) -> Callable[[], Enlarge]:
    """What gives, loaded, what enlarges a frame."""
    if method == "lanczos":
        return lambda: lambda frame, _: _lanczos(frame, scale)
    if isinstance(method, str):
        model = describe_upscaler(method, trusted=trusted)
        if model.kind != MINI_SR:
            return lambda: load_upscaler(model, scale, torch_dtype=dtype)  # it may change
        return lambda: _loaded(model, scale, dtype)
    return lambda: _loaded(method, scale, dtype)


@lru_cache(1)
def _loaded(model: PostModel, scale: int, dtype: str | None) -> Enlarge:
    return load_upscaler(model, scale, torch_dtype=dtype)


def _unchanged(chunks: Iterable[Array]) -> Iterator[Array]:
    before: Array | None = None
    for chunk in chunks:
        check_frames(chunk)
        check_same_size(chunk, before)
        before = chunk[-1]
        yield chunk


def _upscaled(
    chunks: Iterable[Array], load: Callable[[], Enlarge], words: Callable[[int], Words]
) -> Iterator[Array]:
    enlarge = load()  # with the first frame: what it costs and raises is this stage's
    before: Array | None = None
    number = 0
    for chunk in chunks:
        check_frames(chunk)
        check_same_size(chunk, before)
        before = chunk[-1].copy()  # of its own: a view would hold the whole chunk
        for frame in chunk:
            yield enlarge(np.ascontiguousarray(frame), words(number))[None]
            number += 1


def _lanczos(frame: Array, scale: int) -> Array:
    height, width, _ = frame.shape
    size = (width * scale, height * scale)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def _check_settings(scale: int, method: str | PostModel) -> None:
    known = (MINI_SR, "lanczos")
    if isinstance(method, str) and method not in known and ":" not in method:
        raise ValueError(
            f"spatial_sr: expected one of {', '.join(METHODS)}; found {method!r}; "
            "set spatial_sr to one of these, or spatial_scale to 1"
        )
    if isinstance(scale, bool | float) or scale not in SCALES:
        raise ValueError(
            f"spatial_scale: expected one of {', '.join(map(str, SCALES))}; found {scale!r}; "
            "choose one of these and set height and width to suit"
        )
