"""Dense optical flow between two frames, warping along it, and where it can be believed.

Flow is OpenCV's DIS (Kroeger, Timofte, Dai, Van Gool, "Fast Optical Flow using Dense Inverse
Search", ECCV 2016): no weights, milliseconds a pair. A flow `w` from a to b says that the point
seen in a at x is seen in b at x + w(x); so b sampled at x + w(x), `warp(b, w)`, looks like a.
"""

from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

Preset = Literal["ultrafast", "fast", "medium"]

_PRESETS: dict[Preset, int] = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
MIN_SIDE = 8  # smaller than one DIS patch there is nothing to match

# DIS refuses frames whose sides are both under 12, and has too few pyramid levels under about 64 to
# see motions of a few pixels: smaller frames are enlarged first.
_COMFORTABLE_SIDE = 64

# DIS descends from zero motion, so it loses what moves further than its own detail is wide. Where
# more than 1 % of the pixels are wrong by 12 grey levels, it starts again from a search by blocks:
# every motion up to 10 pixels of frames reduced to about 64, with a small price on long ones.
_WRONG_LEVELS = 12
_WRONG_SHARE = 0.01
_SEARCH_SIDE = 64
_SEARCH_RADIUS = 10
_SEARCH_BLOCK = 7
_SEARCH_PRICE = 0.1  # grey levels per pixel of motion


def flow(
    a: UInt8[np.ndarray, "height width 3"],
    b: UInt8[np.ndarray, "height width 3"],
    preset: Preset = "medium",
) -> Float32[np.ndarray, "height width 2"]:
    """The motion a→b in pixels, (x, y) in the last axis, at every pixel of a.

    "medium" works at full size and looks again, from a search by blocks, where its first answer does
    not explain b; the other presets are DIS as OpenCV has it.

    The same input gives the same bytes: DIS cuts a frame into as many stripes as OpenCV has threads
    and its answer depends on the cut, so OpenCV is set to one thread, for the whole process and for
    good (setting it back would race with other threads that are inside this function).

    Raises ValueError for frames with a side under 8 pixels.
    """
    height, width = a.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"optical flow: expected frames of at least {MIN_SIDE}×{MIN_SIDE} pixels, "
            f"found {height}×{width}; enlarge them first"
        )
    cv2.setNumThreads(1)
    motion = _dis(a, b, preset, start=None)
    if preset != "medium":
        return motion
    wrong = _mismatch(a, b, motion)
    if (wrong > _WRONG_LEVELS).mean() <= _WRONG_SHARE:
        return motion
    again = _dis(a, b, preset, start=_search(a, b))
    better = _mismatch(a, b, again) + 1 < wrong  # a level's difference is no reason to switch
    return np.where(better[..., None], again, motion)


def _dis(
    a: UInt8[np.ndarray, "height width 3"],
    b: UInt8[np.ndarray, "height width 3"],
    preset: Preset,
    start: Float32[np.ndarray, "height width 2"] | None,
) -> Float32[np.ndarray, "height width 2"]:
    height, width = a.shape[:2]
    grey_a, grey_b = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (a, b))
    factor = -(-_COMFORTABLE_SIDE // min(height, width))
    size = (width * factor, height * factor)
    if factor > 1:
        grey_a, grey_b = (
            cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC) for grey in (grey_a, grey_b)
        )
    if start is not None:
        start = np.asarray(cv2.resize(start, size) * factor, dtype=np.float32)
    # A new matcher each time: calc() may change its scales to suit a frame and keeps them.
    matcher = cv2.DISOpticalFlow.create(_PRESETS[preset])
    if preset == "medium":
        matcher.setFinestScale(0)  # OpenCV stops at half size: half a dB of interpolation lost
    motion = matcher.calc(grey_a, grey_b, start)  # pyright: ignore[reportCallIssue, reportArgumentType]
    if factor > 1:
        motion = cv2.resize(motion, (width, height), interpolation=cv2.INTER_AREA) / factor
    return np.asarray(motion, dtype=np.float32)


def _mismatch(
    a: UInt8[np.ndarray, "height width 3"],
    b: UInt8[np.ndarray, "height width 3"],
    motion: Float32[np.ndarray, "height width 2"],
) -> Float32[np.ndarray, "height width"]:
    """How far b along `motion` is from a around each pixel, in grey levels."""
    difference = cv2.transform(np.abs(warp(b, motion) - a), np.full((1, 3), 1 / 3))
    return np.asarray(cv2.GaussianBlur(difference, (0, 0), 2.0), dtype=np.float32)


def _search(
    a: UInt8[np.ndarray, "height width 3"], b: UInt8[np.ndarray, "height width 3"]
) -> Float32[np.ndarray, "height width 2"]:
    """The best whole-pixel motion of the block around each pixel, found at reduced size."""
    height, width = a.shape[:2]
    reduction = max(1, min(height, width) // _SEARCH_SIDE)
    small = (width // reduction, height // reduction)
    a, b = (cv2.resize(frame, small, interpolation=cv2.INTER_AREA) for frame in (a, b))
    reach = _SEARCH_RADIUS
    around = cv2.copyMakeBorder(b, reach, reach, reach, reach, cv2.BORDER_REPLICATE)
    least = np.full(small[::-1], np.inf, dtype=np.float32)
    motion = np.zeros((*least.shape, 2), dtype=np.float32)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            there = around[reach + dy :, reach + dx :][: small[1], : small[0]]
            difference = cv2.transform(cv2.absdiff(a, there), np.full((1, 3), 1 / 3))
            cost = cv2.blur(difference.astype(np.float32), (_SEARCH_BLOCK, _SEARCH_BLOCK))
            cost += _SEARCH_PRICE * np.hypot(dx, dy)
            better = cost < least
            least[better] = cost[better]
            motion[better] = dx, dy
    x, y = (cv2.medianBlur(np.ascontiguousarray(motion[..., i]), 5) for i in range(2))
    ratio = np.array([width / small[0], height / small[1]])
    return np.asarray(cv2.resize(np.stack([x, y], -1), (width, height)) * ratio, dtype=np.float32)


def warp(
    frame: UInt8[np.ndarray, "height width channel"] | Float32[np.ndarray, "height width channel"],
    motion: Float[np.ndarray, "height width 2"],
    cubic: bool = False,
) -> Float32[np.ndarray, "height width channel"]:
    """`frame` sampled at x + motion(x): backward warping, bilinear (or bicubic), edges repeated.

    Values keep the scale of `frame`; bicubic ones may leave its range by a little.
    """
    height, width = motion.shape[:2]
    position = pixel_grid(height, width) + motion.astype(np.float32)
    warped = cv2.remap(
        frame.astype(np.float32),
        position[..., 0],
        position[..., 1],
        interpolation=cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(warped, dtype=np.float32).reshape(height, width, -1)


def visible(
    forward: Float[np.ndarray, "height width 2"], backward: Float[np.ndarray, "height width 2"]
) -> Bool[np.ndarray, "height width"]:
    """Where a point of a is also seen in b: forward a→b and backward b→a lead back to it.

    A point is hidden where |w + w'|² > 0.01 (|w|² + |w'|²) + 0.5, w' being the backward flow read
    at x + w, or where it left the frame. Source: Sundaram, Brox, Keutzer, "Dense point trajectories
    by GPU-accelerated large displacement optical flow", ECCV 2010.
    """
    returned = warp(backward.astype(np.float32), forward)
    mismatch = _squared_length(forward + returned)
    length = _squared_length(forward) + _squared_length(returned)
    return (mismatch <= 0.01 * length + 0.5) & inside(forward)


def inside(
    motion: Float[np.ndarray, "height width 2"],
) -> Bool[np.ndarray, "height width"]:
    """Where x + motion(x) still lies in the frame (within its outermost pixels' area)."""
    height, width = motion.shape[:2]
    target = motion + pixel_grid(height, width)
    x, y = target[..., 0], target[..., 1]
    return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)


def _squared_length(
    motion: Float[np.ndarray, "height width 2"],
) -> Float[np.ndarray, "height width"]:
    return np.square(motion[..., 0]) + np.square(motion[..., 1])


def pixel_grid(height: int, width: int) -> Float32[np.ndarray, "height width 2"]:
    """The position (x, y) of every pixel centre."""
    y, x = np.indices((height, width), dtype=np.float32)
    return np.stack([x, y], axis=-1)
