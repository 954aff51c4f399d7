"""The things of zs2-mini's world: their outlines within the unit disc, and how each style paints them."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

RGB = {
    "red": (222, 30, 38),
    "orange": (255, 136, 12),
    "yellow": (255, 224, 36),
    "green": (26, 158, 58),
    "turquoise": (32, 200, 196),
    "blue": (32, 74, 226),
    "purple": (128, 42, 188),
    "pink": (255, 122, 188),
    "brown": (126, 74, 36),
    "white": (250, 250, 250),
}
THINGS = (
    "star",
    "heart",
    "ball",
    "moon",
    "fish",
    "house",
    "boat",
    "tree",
    "balloon",
    "car",
    "cat",
    "mushroom",
)
STYLES = ("flat", "outlined", "shaded")
SUPERSAMPLE = 2
REACH = 1.12  # of the radius: how far a thing and its line reach at most

Array = np.ndarray
Line = list[tuple[float, float]]
# What parts are painted with, beside the thing's own colour and its "rim", which is a darker one.
NEUTRAL = {
    "cream": (246, 232, 204),
    "bark": (104, 70, 42),
    "coal": (38, 38, 48),
    "glass": (206, 232, 244),
    "glint": (255, 255, 255),
}
TURNS_LITTLE = ("house", "car", "boat", "tree", "cat", "mushroom", "balloon")
HAS_SIDES = ("fish", "moon", "car", "boat")


def _arc(x: float, y: float, width: float, height: float, start: float, stop: float) -> Line:
    """Points of an ellipse's arc, from angle to angle in half turns, 0 to the right, clockwise."""
    t = np.linspace(start, stop, 28) * np.pi
    return [(float(x + width * np.cos(a)), float(y + height * np.sin(a))) for a in t]


def _disc(x: float, y: float, radius: float) -> Line:
    return _arc(x, y, radius, radius, 0, 2)


def _star() -> Line:
    radii, angles = np.tile([1.0, 0.46], 5), np.arange(10) * np.pi / 5
    return [
        (float(r * np.sin(a)), float(-r * np.cos(a))) for r, a in zip(radii, angles, strict=True)
    ]


def _heart() -> Line:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3 / 16.5
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [(float(a), float(b)) for a, b in zip(x, -(y + 2.2) / 15.5, strict=True)]


def _moon() -> Line:
    """A crescent: an arc, and back along one of a circle further right."""
    outer = np.linspace(0.72, -0.72, 28) * np.pi
    line = [(float(0.12 - np.cos(a)), float(np.sin(a))) for a in outer]
    tip = line[0]
    centre = 0.57
    reach, radius = np.arctan2(tip[1], centre - tip[0]), np.hypot(tip[1], centre - tip[0])
    inner = np.linspace(-reach, reach, 24)
    return line + [(float(centre - radius * np.cos(a)), float(radius * np.sin(a))) for a in inner]


@cache
def parts(thing: str) -> tuple[tuple[str, Array], ...]:
    """A thing's outlines in the order they are painted, each (points, 2), y downwards, with its paint:
    `own`, `rim`, or a name of `NEUTRAL`."""
    tail = [(0.98, -0.56), (0.8, 0.0), (0.98, 0.56)]
    fir = [(0.0, -1.0), (0.46, -0.42), (0.26, -0.42), (0.64, 0.12), (0.4, 0.12), (0.8, 0.66)]
    fir += [(-x, y) for x, y in reversed(fir[1:])]
    made: dict[str, list[tuple[str, Line]]] = {
        "star": [("own", _star())],
        "heart": [("own", _heart())],
        "ball": [("own", _disc(0, 0, 0.9)), ("glint", _disc(-0.32, -0.36, 0.17))],
        "moon": [("own", _moon())],
        "fish": [
            ("own", _arc(-0.26, 0, 0.72, 0.6, 0.16, 1.84) + tail),
            ("coal", _disc(-0.6, -0.12, 0.11)),
        ],
        "house": [
            ("own", [(-0.72, -0.2), (0.72, -0.2), (0.72, 0.88), (-0.72, 0.88)]),
            ("rim", [(0.0, -1.0), (1.0, -0.14), (-1.0, -0.14)]),
            ("cream", [(-0.18, 0.88), (-0.18, 0.24), (0.18, 0.24), (0.18, 0.88)]),
        ],
        "boat": [
            ("cream", [(0.06, -1.0), (0.72, 0.22), (0.06, 0.22)]),
            ("cream", [(-0.08, -0.78), (-0.08, 0.22), (-0.58, 0.22)]),
            ("own", [(-1.0, 0.34), (1.0, 0.34), (0.66, 0.86), (-0.62, 0.86)]),
        ],
        "tree": [
            ("bark", [(-0.15, 0.6), (0.15, 0.6), (0.15, 1.0), (-0.15, 1.0)]),
            ("own", fir),
        ],
        "balloon": [
            ("coal", [(-0.03, 0.5), (0.03, 0.5), (0.03, 1.0), (-0.03, 1.0)]),
            ("own", [(-0.14, 0.56), *_arc(0, -0.3, 0.62, 0.7, 0.72, 2.28), (0.14, 0.56)]),
            ("glint", _arc(-0.24, -0.52, 0.12, 0.17, 0, 2)),
        ],
        "car": [
            ("own", [(-0.5, -0.1), (-0.3, -0.56), (0.3, -0.56), (0.58, -0.1)]),
            ("glass", [(-0.34, -0.12), (-0.21, -0.42), (0.22, -0.42), (0.4, -0.12)]),
            ("own", [(-0.98, -0.1), (0.84, -0.1), (0.98, 0.06), (0.98, 0.42), (-0.98, 0.42)]),
            ("coal", _disc(-0.54, 0.42, 0.25)),
            ("coal", _disc(0.54, 0.42, 0.25)),
        ],
        "cat": [
            ("own", [(-0.86, -0.98), (-0.1, -0.5), (-0.76, 0.1)]),
            ("own", [(0.86, -0.98), (0.1, -0.5), (0.76, 0.1)]),
            ("own", _arc(0, 0.14, 0.84, 0.72, 0, 2)),
            ("coal", _arc(-0.32, 0.02, 0.11, 0.15, 0, 2)),
            ("coal", _arc(0.32, 0.02, 0.11, 0.15, 0, 2)),
            ("coal", [(-0.12, 0.3), (0.12, 0.3), (0.0, 0.44)]),
        ],
        "mushroom": [
            ("cream", [(-0.24, 0.0), (0.24, 0.0), (0.32, 0.94), (-0.32, 0.94)]),
            ("own", _arc(0, 0.1, 0.98, 1.0, 1, 2)),
            ("cream", _disc(-0.4, -0.3, 0.15)),
            ("cream", _disc(0.3, -0.42, 0.18)),
        ],
    }
    return tuple((paint, np.array(line)) for paint, line in made[thing])


def paint(
    canvas: Array,
    thing: str,
    colour: str,
    style: str,
    spot: tuple[float, float, float, float, bool],
) -> None:
    """Paint a thing over a canvas, float32 (side, side, 3), in place.

    Args:
        spot: its middle's x and y and its radius as fractions of the side, its turn in radians, and
            whether it looks the other way.
    """
    side = canvas.shape[0]
    x, y, radius, turn, flip = spot
    half = radius * side * REACH + 1
    left, top = int(np.floor(x * side - half)), int(np.floor(y * side - half))
    width = int(np.ceil(2 * half)) + 1
    turn *= 0.3 if thing in TURNS_LITTLE else 1
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    if flip and thing in HAS_SIDES:
        spin = np.array([[-1.0, 0.0], [0.0, 1.0]]) @ spin
    middle = np.array([x * side - left, y * side - top])
    own = np.array(RGB[colour], np.float32)
    layer = np.empty((width * SUPERSAMPLE,) * 2 + (3,), np.uint8)
    layer[:] = own
    alpha = np.zeros(layer.shape[:2], np.uint8)
    thick = max(1, round(0.15 * radius * side * SUPERSAMPLE))
    for name, line in parts(thing):
        points = ((line @ spin) * radius * side + middle) * SUPERSAMPLE - 0.5
        _part(layer, alpha, np.round(points * 16).astype(np.int32), name, own, style, thick)
    layer, alpha = (
        cv2.resize(a, (width, width), interpolation=cv2.INTER_AREA) for a in (layer, alpha)
    )
    up, down = max(0, -top), min(width, side - top)
    before, after = max(0, -left), min(width, side - left)
    if up >= down or before >= after:
        return
    shown = layer[up:down, before:after].astype(np.float32)
    if style == "shaded":
        rows = np.arange(up, down, dtype=np.float32)[:, None] - middle[1]
        columns = np.arange(before, after, dtype=np.float32)[None, :] - middle[0]
        light = (columns + 1.3 * rows) * (-0.17 / (radius * side))  # lit from the upper left
        shown = np.minimum(shown * (1 + np.clip(light, -0.24, 0.24))[..., None], 255)
    under = canvas[top + up : top + down, left + before : left + after]
    under += (shown - under) * (alpha[up:down, before:after, None] * np.float32(1 / 255))


def _part(
    layer: Array, alpha: Array, points: Array, name: str, own: Array, style: str, thick: int
) -> None:
    """Paint one part: plain where flat; as a line around a thin wash where outlined; with a dark rim
    where shaded."""
    rim = own * 0.45
    fill = own if name == "own" else rim if name == "rim" else np.array(NEUTRAL[name])
    colour = tuple(float(c) for c in fill)
    if style == "outlined" and name in ("own", "rim"):
        cv2.fillPoly(alpha, [points], 90, cv2.LINE_AA, 4)
        cv2.fillPoly(layer, [points], colour, cv2.LINE_AA, 4)
        cv2.polylines(layer, [points], True, colour, thick, cv2.LINE_AA, 4)
        cv2.polylines(alpha, [points], True, 255, thick, cv2.LINE_AA, 4)
        return
    cv2.fillPoly(layer, [points], colour, cv2.LINE_AA, 4)
    cv2.fillPoly(alpha, [points], 255, cv2.LINE_AA, 4)
    if style == "shaded" and name in ("own", "rim"):
        dark = tuple(float(c) for c in own * 0.4)
        cv2.polylines(layer, [points], True, dark, max(1, thick // 2), cv2.LINE_AA, 4)
        cv2.polylines(alpha, [points], True, 255, max(1, thick // 2), cv2.LINE_AA, 4)
