"""More frames a second: in-between frames along the motion of their neighbours, or by a model's file.

By `flow`, for a pair a, b the flow is taken both ways. At a time t between them, the motion a→b through each
pixel is not known at first: it is found by walking back along the flow until it agrees with itself
(`_motions_at`), from several starts, since two layers may cross there. Each such motion makes one
picture of the moment, from a and from b; the ones whose two halves look alike count most.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import cv2
import numpy as np

from zs2.optical_flow import MIN_SIDE, flow, inside, visible, warp
from zs2.post_models import PostModel, describe_interpolator

Array = np.ndarray[Any, Any]

METHODS = ("flow", "model:FILE")
SCALES = (1, 2, 4, 8)

# Steps of m ← flow(x − t·m). Where the flow is smooth 2-3 reach the fixed point; where it is not, more
# of them only swing between the layers.
_WALK_STEPS = 3
# The frame that does not show a point keeps this share of its weight there, not zero: visibility is
# a guess, and a wrong one should not tear a hole.
_HIDDEN_WEIGHT = 0.2
# How sharply the motion with the better agreement wins, per grey level of disagreement.
_SHARPNESS = 0.3
# Two frames are of different shots if, even after motion, they have less in common than this
# (correlation of the residual pictures) and most points of neither are seen in the other.
_CUT_CORRELATION = 0.5
_CUT_VISIBLE = 0.5


def interpolate(
    frames: Array, scale: int, method: str | PostModel = "flow", *, trusted: Sequence[str] = ()
) -> Array:
    """`frames` with scale − 1 new frames between neighbours: n of them become (n−1)·scale+1.

    frames: uint8 (frame, height, width, 3), n ≥ 1. scale: 1, 2, 4 or 8; the rate grows by it.
    method: `flow`, or `model:FILE` with a TorchScript file that `trusted` names or an ONNX file; see
    `zs2.interpolator`. Given frames come back unchanged at 0, scale, 2·scale, …; between two equal
    frames there are only copies; across a cut, and in clips smaller than 8 pixels, the nearest frame is
    held (the earlier one in the middle). The same input gives the same bytes.

    Raises ValueError for another shape or type, scale or method; ModelError for a file that is not to be
    had or not trusted; PostModelError for a model that fails.
    """
    check_frames(frames)
    made = interpolate_chunks([frames], scale, method, trusted=trusted)
    count, height, width, _ = frames.shape
    result = np.empty(((count - 1) * scale + 1, height, width, 3), dtype=np.uint8)
    start = 0
    for chunk in made:
        result[start : start + len(chunk)] = chunk
        start += len(chunk)
    return result


def interpolate_chunks(
    chunks: Iterable[Array],
    scale: int,
    method: str | PostModel = "flow",
    *,
    trusted: Sequence[str] = (),
) -> Iterator[Array]:
    """`interpolate` for a clip that comes in pieces, each uint8 (frame ≥ 1, height, width, 3).

    The frames are those of the whole clip, however it is cut; what comes out is cut otherwise. One
    chunk and one frame more are held, and what lies between two neighbours.

    Raises as `interpolate` does, and ValueError for a chunk whose frames have another size.
    """
    _check_scale(scale)
    return _interpolated(chunks, scale, _between(method, trusted))


_Between = Callable[["_Pair", float], Array]


def _between(method: str | PostModel, trusted: Sequence[str]) -> Callable[[], _Between]:
    """What gives, loaded, what makes a frame of a pair and a moment between them."""
    if method == "flow":
        return lambda: _frame_at
    if isinstance(method, str):
        if not method.startswith("model:"):
            raise ValueError(
                f"temporal_sr: expected one of {', '.join(METHODS)}; found {method!r}; "
                "set temporal_sr to one of these, or temporal_scale to 1"
            )
        model = describe_interpolator(method, trusted=trusted)
        return lambda: _loaded.__wrapped__(model)  # its file may change under its name
    return lambda: _loaded(method)


@lru_cache(1)
def _loaded(model: PostModel) -> _Between:
    from zs2.interpolator import load_interpolator

    made = load_interpolator(model)
    return lambda pair, t: made(pair.a, pair.b, t)


def _interpolated(
    chunks: Iterable[Array], scale: int, load: Callable[[], _Between]
) -> Iterator[Array]:
    between = load()  # with the first frame: what it costs and raises is this stage's
    before: Array | None = None
    for chunk in chunks:
        check_frames(chunk)
        check_same_size(chunk, before)
        if scale == 1:
            yield chunk
        else:
            for frame in chunk:
                yield frame[None] if before is None else _filled(before, frame, scale, between)
                before = frame
        before = chunk[-1].copy()  # of its own: a view would hold the whole chunk


def _filled(a: Array, b: Array, scale: int, between: _Between) -> Array:
    """The frames strictly between a and b, evenly spaced in time, and b."""
    result = np.empty((scale, *b.shape), dtype=np.uint8)
    result[-1] = b
    alike = min(a.shape[:2]) < MIN_SIDE or np.array_equal(a, b)
    pair = None if alike else _Pair(np.ascontiguousarray(a), np.ascontiguousarray(b))
    if pair is not None and pair.is_cut():
        pair = None
    for k in range(1, scale):
        if pair is None:
            result[k - 1] = a if 2 * k <= scale else b
        else:
            result[k - 1] = between(pair, k / scale)
    return result


def _check_scale(scale: int) -> None:
    if isinstance(scale, bool | float) or scale not in SCALES:
        raise ValueError(
            f"temporal_scale: expected one of {', '.join(map(str, SCALES))}; found {scale!r}; "
            "choose the nearest and set fps to suit"
        )


def check_frames(frames: Array) -> None:
    """Raise ValueError unless `frames` is uint8 (frame ≥ 1, height ≥ 1, width ≥ 1, 3)."""
    shape = getattr(frames, "shape", None)
    dtype = getattr(frames, "dtype", None)
    good = shape is not None and len(shape) == 4 and shape[3] == 3 and min(shape) >= 1
    if not good or dtype != np.uint8:
        found = type(frames).__name__ if shape is None else f"{dtype} {tuple(shape)}"
        raise ValueError(
            "frames: expected uint8 of shape (frame, height, width, 3) with at least one frame; "
            f"found {found}; scale RGB values to 0-255 and put the channel last"
        )


def check_same_size(chunk: Array, before: Array | None) -> None:
    """Raise ValueError unless the frames of `chunk` are as large as the frame `before` them."""
    if before is not None and chunk.shape[1:] != before.shape:
        raise ValueError(
            f"frames: expected all of one size, {before.shape[0]}×{before.shape[1]}; found a chunk of "
            f"{chunk.shape[1]}×{chunk.shape[2]}; cut one clip into chunks, not several"
        )


@dataclass(frozen=True)
class _Pair:
    """Two neighbours and their motion: flows both ways and what of each is seen in the other."""

    a: Array
    b: Array

    @cached_property
    def forward(self) -> Array:
        """The motion a→b, pixels."""
        return flow(self.a, self.b)

    @cached_property
    def backward(self) -> Array:
        """The motion b→a."""
        return flow(self.b, self.a)

    @cached_property
    def seen_a(self) -> Array:
        """1 where a point of a is seen in b, else 0: float32 (height, width, 1)."""
        return visible(self.forward, self.backward).astype(np.float32)[..., None]

    @cached_property
    def seen_b(self) -> Array:
        """1 where a point of b is seen in a."""
        return visible(self.backward, self.forward).astype(np.float32)[..., None]

    def is_cut(self) -> bool:
        """Whether a scene ends between the two frames: little of either is seen in the other."""
        if max(self.seen_a.mean(), self.seen_b.mean()) >= _CUT_VISIBLE:
            return False
        return (
            max(
                _correlation(self.a, warp(self.b, self.forward)),
                _correlation(self.b, warp(self.a, self.backward)),
            )
            < _CUT_CORRELATION
        )


def _correlation(a: Array, b: Array) -> float:
    x, y = a - a.mean((0, 1)), b - b.mean((0, 1))
    return float((x * y).sum() / max(np.sqrt((x * x).sum() * (y * y).sum()), 1e-9))


def _motions_at(pair: _Pair, t: float) -> list[Array]:
    """Candidates for the motion a→b of the point that is at each pixel at time t.

    The motion m of the point at x satisfies m = forward(x − t·m) and m = −backward(x + (1−t)·m).
    """
    candidates: list[Array] = []
    for start in (pair.forward, -pair.backward):
        from_a = from_b = start
        for _ in range(_WALK_STEPS):
            from_a = warp(pair.forward, -t * from_a)
            from_b = -warp(pair.backward, (1 - t) * from_b)
        candidates += [from_a, from_b]
    return candidates


def _picture(pair: _Pair, motion: Array, t: float) -> tuple[Array, Array]:
    """The moment t if everything moved by `motion`, and how much its two halves differ."""
    to_a, to_b = -t * motion, (1 - t) * motion
    from_a, from_b = warp(pair.a, to_a, cubic=True), warp(pair.b, to_b, cubic=True)
    inside_a, inside_b = inside(to_a), inside(to_b)
    # What only a shows comes from a, what only b shows from b.
    only_a, only_b = 1 - warp(pair.seen_a, to_a), 1 - warp(pair.seen_b, to_b)
    weight_a = (1 - t) * np.maximum(inside_a, 1e-3)[..., None] * (1 - (1 - _HIDDEN_WEIGHT) * only_b)
    weight_b = t * np.maximum(inside_b, 1e-3)[..., None] * (1 - (1 - _HIDDEN_WEIGHT) * only_a)
    picture = (weight_a * from_a + weight_b * from_b) / (weight_a + weight_b)
    # cv2's colour sum: numpy's mean over a last axis of 3 is ten times slower.
    difference = cv2.transform(np.abs(from_a - from_b), np.full((1, 3), 1 / 3))
    difference[~(inside_a & inside_b)] = 0
    return picture, cv2.GaussianBlur(difference, (0, 0), 1.0)


def _frame_at(pair: _Pair, t: float) -> Array:
    views = [_picture(pair, motion, t) for motion in _motions_at(pair, t)]
    difference = np.stack([view[1] for view in views])
    weight = np.exp(-_SHARPNESS * (difference - difference.min(0)))[..., None]
    frame = np.zeros(pair.a.shape, dtype=np.float32)
    for share, (picture, _) in zip(weight / weight.sum(0), views, strict=True):
        frame += share * picture
    return np.clip(np.rint(frame), 0, 255).astype(np.uint8)
