"""The sampler's arguments as callers write them, made plain values: numbers, clips, names."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Video = UInt8[np.ndarray, "frame height width 3"]
Pictures = Video | Sequence[Any]  # or a list with a PIL picture, or an array of bytes, a frame

# What diffusers users write, and what it is called here.
OTHER_NAMES = {
    "image": "conditioning_frames for a ControlNet, video for InstructPix2Pix",
    "control_image": "conditioning_frames",
    "num_images_per_prompt": "num_videos_per_prompt",
    "video_length": "num_frames",
    "return_dict": "nothing: a Clip is returned",
}


def arguments_of(pipe_class: type) -> set[str]:
    """Names that a pipeline's own call takes: its class's, and those of the classes it is made of."""
    calls = (kind.__dict__.get("__call__") for kind in pipe_class.__mro__)
    return {name for call in calls if call for name in inspect.signature(call).parameters}


def check_names(pipe_class: type, own: Iterable[str], given: Iterable[str]) -> None:
    """See that every argument for the pipeline's own call is one that it has.

    Its call takes any others in silence, so that a misspelt one would have no effect.

    Raises:
        TypeError: naming the nearest argument.
    """
    has = arguments_of(pipe_class)
    for name in given:
        if name in has and name not in OTHER_NAMES:
            continue
        near = get_close_matches(name, {*own, *has} - OTHER_NAMES.keys() - {"kwargs"}, n=1)
        meant = OTHER_NAMES.get(name) or (near[0] if near else "")
        hint = f"; here it is {meant}" if meant else "; leave it out"
        raise TypeError(
            f"{name}: expected an argument of ZS2Sampler or of {pipe_class.__name__}, "
            f"found none of that name{hint}"
        )


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number, numpy's and torch's too.

    Raises:
        ValueError: none, or one below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, found {value!r}")
    return number


def real(name: str, value: Any) -> float:
    """A finite number, numpy's and torch's scalars too.

    Raises:
        ValueError: anything else.
    """
    try:
        number = math.nan if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a number, found {value!r}")
    return number


def per_frame(name: str, value: Any) -> float | tuple[float, ...]:
    """A number, or one for every frame (or frame pair): from a list, an array or a tensor.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, str) or not hasattr(value, "__len__") or getattr(value, "ndim", 1) == 0:
        return real(name, value)
    return tuple(real(name, item) for item in value)


def is_sequence(value: Any) -> bool:
    """Whether a value is several things, not a text."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def is_one_clip(value: Any) -> bool:
    """Whether a value is a clip, not a list of clips."""
    if getattr(value, "ndim", 0) == 4:
        return True
    items = list(value) if isinstance(value, list | tuple) else []
    return bool(items) and all(
        isinstance(item, Image.Image) or getattr(item, "ndim", 0) == 3 for item in items
    )


def video_of(name: str, value: Any, num_frames: int) -> Video:
    """A clip of bytes from an array (frame, height, width, 3), or a list of pictures.

    Raises:
        ValueError: another shape, type or length.
    """
    frames: Any = value
    if isinstance(value, list | tuple) and is_one_clip(value):
        arrays = [np.asarray(p.convert("RGB") if isinstance(p, Image.Image) else p) for p in value]
        frames = np.stack(arrays) if len({array.shape for array in arrays}) == 1 else None
    if not isinstance(frames, np.ndarray) or not _is_video(frames):
        dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
        found = type(value).__name__ if dtype is None else f"{dtype} {shape}"
        raise ValueError(
            f"{name}: expected a uint8 array (frame, height, width, 3) or a list of pictures of one "
            f"size, found {found}"
        )
    if len(frames) != num_frames:
        raise ValueError(f"{name}: expected num_frames = {num_frames} frames, found {len(frames)}")
    return frames


def _is_video(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] == 3
