"""The world that zs2-mini knows: scenes drawn from numbers, and the captions that describe them.

A scene is one thing of one colour in one place, by day or by night. Where the thing is, how it is
turned and how clouds, hills and waves lie are free: captions seldom tell, so the diffusion model
learns to take them from its noise, and correlated noises give motion.

Everything is decided by a seed. Lengths are fractions of the picture's side, so a scene can be
drawn at any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

THINGS = ("star", "heart", "ball", "square", "triangle", "moon", "fish", "house")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
PLACES = ("sky", "sea", "meadow", "desert", "snow", "mountains")
TIMES = ("day", "night")
SIZES = ("small", "medium", "large")
SETTINGS = tuple(f"{place} {time}" for place in PLACES for time in TIMES)

RGB = {
    "red": (222, 32, 38),
    "orange": (255, 132, 10),
    "yellow": (255, 226, 40),
    "green": (24, 160, 60),
    "blue": (30, 72, 225),
    "purple": (128, 40, 190),
    "pink": (255, 120, 185),
    "white": (250, 250, 250),
}
RADII = {"small": (0.15, 0.19), "medium": (0.20, 0.26), "large": (0.27, 0.33)}
SUPERSAMPLE = 2

Array = np.ndarray


@dataclass(frozen=True)
class Scene:
    """One picture in words and numbers; `x`, `y`, `radius` are fractions of the side."""

    thing: str
    colour: str
    place: str
    time: str
    size: str
    x: float
    y: float
    radius: float
    turn: float  # radians
    flip: bool
    seed: int  # decides the background's details

    @property
    def setting(self) -> str:
        """Place and time together: what the checker calls the setting."""
        return f"{self.place} {self.time}"


def random_scene(seed: int) -> Scene:
    """Return the scene of a seed; attributes are uniform and independent, nights one in three."""
    rng = np.random.default_rng(seed)
    size = SIZES[rng.choice(3, p=(0.25, 0.4, 0.35))]
    radius = rng.uniform(*RADII[size])
    margin = radius + 0.02
    x, y = rng.uniform(margin, 1 - margin, 2)
    return Scene(
        thing=THINGS[rng.integers(len(THINGS))],
        colour=COLOURS[rng.integers(len(COLOURS))],
        place=PLACES[rng.integers(len(PLACES))],
        time="night" if rng.random() < 1 / 3 else "day",
        size=size,
        x=float(x),
        y=float(y),
        radius=float(radius),
        turn=float(rng.uniform(-0.25, 0.25)),
        flip=bool(rng.random() < 0.5),
        seed=int(rng.integers(2**31)),
    )


def draw(scene: Scene, size: int = 64) -> Array:
    """Draw a scene as RGB, uint8 (size, size, 3)."""
    side = size * SUPERSAMPLE
    rng = np.random.default_rng(scene.seed)
    canvas = _background(scene.place, scene.time, side, rng)
    _paint_thing(canvas, scene)
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    return np.clip(small + 0.5, 0, 255).astype(np.uint8)


def scenes(seed: int, count: int, start: int = 0) -> Iterator[Scene]:
    """Yield scenes `start` to `start + count` of a stream; streams share no scene."""
    for number in range(start, start + count):
        yield random_scene(seed * 100_000_000 + number)


# ---------------------------------------------------------------------------------------------
# backgrounds

# (top of the sky, sky at the horizon), then the ground's layers from far to near.
_PALETTES: dict[tuple[str, str], tuple[tuple[int, int, int], ...]] = {
    ("sky", "day"): ((78, 156, 232), (196, 230, 250)),
    ("sky", "night"): ((8, 10, 38), (52, 40, 96)),
    ("sea", "day"): ((120, 196, 240), (236, 240, 226), (34, 138, 168), (12, 74, 122)),
    ("sea", "night"): ((6, 10, 34), (44, 62, 112), (14, 52, 92), (4, 18, 44)),
    ("meadow", "day"): ((132, 204, 244), (226, 242, 232), (134, 196, 84), (72, 148, 50)),
    ("meadow", "night"): ((10, 14, 42), (40, 64, 92), (24, 72, 54), (10, 40, 30)),
    ("desert", "day"): ((244, 196, 130), (254, 236, 190), (232, 178, 98), (206, 132, 62)),
    ("desert", "night"): ((22, 14, 46), (104, 58, 84), (96, 62, 60), (58, 34, 40)),
    ("snow", "day"): ((168, 190, 212), (226, 234, 242), (238, 244, 250), (206, 222, 240)),
    ("snow", "night"): ((16, 24, 54), (62, 78, 118), (128, 146, 186), (92, 110, 156)),
    ("mountains", "day"): (
        (250, 190, 160),
        (252, 226, 208),
        (178, 168, 204),
        (120, 122, 172),
        (70, 82, 128),
    ),
    ("mountains", "night"): (
        (10, 10, 36),
        (66, 60, 110),
        (48, 48, 92),
        (30, 32, 70),
        (14, 16, 44),
    ),
}


@cache
def _grid(side: int) -> tuple[Array, Array]:
    """Return x as (1, side) and y as (side, 1), pixel centres as fractions."""
    line = (np.arange(side, dtype=np.float32) + 0.5) / side
    return line[None, :], line[:, None]


def _gradient(top: Array, bottom: Array, y: Array, start: float, stop: float) -> Array:
    """Return a vertical gradient, (side, 1, 3)."""
    share = np.clip((y - start) / (stop - start), 0, 1)[..., None]
    return top + (bottom - top) * share


def _over(canvas: Array, paint: Array, mask: Array) -> None:
    """Blend `paint` over `canvas` in place by `mask` (side, side) in 0..1."""
    canvas += (paint - canvas) * mask[..., None]


def _ridge(side: int, base: float, height: float, rough: float, rng: np.random.Generator) -> Array:
    """Return a hilly skyline's y for each column, (1, side)."""
    x, _ = _grid(side)
    line = np.full_like(x, base)
    for octave in range(3):
        strength = height * rough**octave
        angle = 2 * np.pi * (0.8 * 2**octave * x + rng.random())
        line -= strength * np.sin(angle)
    return line


def _peaks(side: int, base: float, height: float, rng: np.random.Generator) -> Array:
    """Return a skyline of pointed mountains, (1, side)."""
    x, _ = _grid(side)
    line = np.full_like(x, base)
    for _ in range(4):
        centre, width = rng.uniform(-0.1, 1.1), rng.uniform(0.2, 0.4)
        peak = base - height * rng.uniform(0.6, 1.2) * (1 - np.abs(x - centre) / width)
        line = np.minimum(line, peak)
    return line


def _below(line: Array, side: int) -> Array:
    """Return the anti-aliased mask of what lies below a skyline."""
    _, y = _grid(side)
    return np.clip((y - line) * side + 0.5, 0, 1)


def _background(place: str, time: str, side: int, rng: np.random.Generator) -> Array:
    """Paint a place, float32 (side, side, 3)."""
    palette = [np.array(colour, np.float32) for colour in _PALETTES[place, time]]
    palette = [colour + rng.uniform(-7, 7) for colour in palette]
    horizon = rng.uniform(0.5, 0.7) if place != "sky" else 1.0
    _, y = _grid(side)
    canvas = np.repeat(_gradient(palette[0], palette[1], y, 0, horizon), side, axis=1)
    canvas = np.ascontiguousarray(canvas, np.float32)
    if time == "night":
        _dots(canvas, rng, 12, (0, horizon), (0.007, 0.013), (250, 246, 225))
    if place == "sky" or (time == "day" and place in ("sea", "meadow")):
        _clouds(canvas, rng, place, time)
    if place == "sea":
        _sea(canvas, palette[2], palette[3], horizon, rng)
    elif place == "mountains":
        for number, colour in enumerate(palette[2:]):
            base = horizon + 0.16 * number
            line = _peaks(side, base, 0.26 - 0.05 * number, rng)
            _over(canvas, colour, _below(line, side))
    elif place != "sky":
        for number, colour in enumerate(palette[2:]):
            line = _ridge(side, horizon + 0.17 * number, 0.045, 0.35, rng)
            paint = _gradient(colour * 1.04, colour * 0.84, y, horizon, 1.15)
            _over(canvas, paint, _below(line, side))
    if place == "meadow":
        flowers = (255, 240, 170) if time == "day" else (120, 150, 120)
        _dots(canvas, rng, 9, (horizon + 0.14, 1), (0.010, 0.016), flowers)
    if place == "snow":
        _dots(canvas, rng, 14, (0, 1), (0.010, 0.017), (255, 255, 255))
    return canvas


def _dots(
    canvas: Array,
    rng: np.random.Generator,
    count: int,
    rows: tuple[float, float],
    radii: tuple[float, float],
    colour: tuple[int, int, int],
) -> None:
    """Scatter small discs: stars, flowers, snow flakes."""
    side = canvas.shape[0]
    for x, y, share in rng.random((count, 3)):
        centre = round(x * side * 16), round((rows[0] + y * (rows[1] - rows[0])) * side * 16)
        radius = round((radii[0] + share * (radii[1] - radii[0])) * side * 16)
        cv2.circle(canvas, centre, radius, colour, -1, cv2.LINE_AA, 4)


def _clouds(canvas: Array, rng: np.random.Generator, place: str, time: str) -> None:
    """Blend soft clouds of overlapping ellipses into the sky."""
    side = canvas.shape[0]
    mask = np.zeros((side, side), np.uint8)
    count, lowest = (4, 0.95) if place == "sky" else (2, 0.35)
    for _ in range(count):
        x, y = rng.uniform(0, 1), rng.uniform(0.05, lowest)
        for dx, dy, scale in rng.uniform((-0.11, -0.03, 0.05), (0.11, 0.03, 0.08), (4, 3)):
            centre = round((x + dx) * side), round((y + dy) * side)
            axes = round(scale * 1.5 * side), round(scale * 0.75 * side)
            cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, -1)
    blur = 0.016 * side
    soft = cv2.GaussianBlur(mask, (0, 0), blur).astype(np.float32) / 255
    colour, strength = ((255, 255, 255), 0.85) if time == "day" else ((86, 80, 136), 0.6)
    _over(canvas, np.array(colour, np.float32), soft * strength)


def _sea(canvas: Array, far: Array, near: Array, horizon: float, rng: np.random.Generator) -> None:
    """Paint water with swell lines that widen towards the viewer."""
    side = canvas.shape[0]
    x, y = _grid(side)
    depth = np.clip((y - horizon) / (1 - horizon), 0, 1)
    phase = 2 * np.pi * rng.random(2)
    swell = np.sin(9 * np.sqrt(depth) * np.pi + 1.2 * np.sin(2 * np.pi * x * 1.5 + phase[0]))
    swell = swell * np.sin(2 * np.pi * x * 0.8 + phase[1])
    paint = _gradient(far, near, y, horizon, 1.0) + 16 * swell[..., None] * depth[..., None]
    _over(canvas, paint, _below(np.full((1, side), horizon, np.float32), side))


# ---------------------------------------------------------------------------------------------
# things


def _polar(radii: Array, angles: Array) -> Array:
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _crescent() -> Array:
    outer = np.linspace(-0.72, 0.72, 24) * np.pi
    outer_line = np.stack([-np.cos(outer), np.sin(outer)], 1)
    tip = outer_line[-1]
    centre = 0.45
    reach = np.arctan2(tip[1], centre - tip[0])
    inner = np.linspace(reach, -reach, 24)
    inner_line = np.hypot(tip[0] - centre, tip[1]) * np.stack([-np.cos(inner), np.sin(inner)], 1)
    inner_line[:, 0] += centre
    line = np.concatenate([outer_line, inner_line])
    line[:, 0] += 0.12  # to the middle
    return line


def _heart() -> Array:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 16.5, -(y + 2.2) / 15.5], axis=1)


def _fish() -> Array:
    t = np.linspace(0.16, 2 - 0.16, 32) * np.pi
    body = np.stack([0.72 * np.cos(t) - 0.28, 0.6 * np.sin(t)], axis=1)
    tail = np.array([(0.98, -0.55), (0.8, 0.0), (0.98, 0.55)])
    return np.concatenate([body, tail])


@cache
def outline(thing: str) -> Array:
    """Return a thing's outline within the unit disc, (points, 2), y downwards."""
    fifth = np.arange(10) * np.pi / 5
    roof = np.array([(-0.68, -0.15), (-0.95, -0.15), (0.0, -0.98), (0.95, -0.15), (0.68, -0.15)])
    walls = np.array([(0.68, 0.85), (-0.68, 0.85)])
    lines = {
        "star": _polar(np.tile([1.0, 0.45], 5), fifth),
        "heart": _heart(),
        "ball": _polar(np.full(48, 0.88), np.arange(48) * np.pi / 24),
        "square": np.array([(-0.76, -0.76), (0.76, -0.76), (0.76, 0.76), (-0.76, 0.76)]),
        "triangle": np.array([(0.0, -0.95), (0.95, 0.75), (-0.95, 0.75)]),
        "moon": _crescent(),
        "fish": _fish(),
        "house": np.concatenate([roof, walls]),
    }
    return lines[thing]


def _fixed(points: Array) -> Array:
    """Return points in cv2's fixed-point numbers, sixteenths of a pixel."""
    return np.round(points * 16).astype(np.int32)


def _paint_thing(canvas: Array, scene: Scene) -> None:
    """Paint the thing with soft shading, a dark rim and a detail that tells it apart."""
    side = canvas.shape[0]
    flip = np.array([-1 if scene.flip and scene.thing in ("fish", "moon") else 1, 1])
    turn = scene.turn * (0.3 if scene.thing in ("house", "square") else 1)
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])

    def place(points: Array) -> Array:
        centre = np.array([scene.x, scene.y])
        return _fixed(((points * flip) @ spin * scene.radius + centre) * side - 0.5)

    colour = np.array(RGB[scene.colour], np.float32)
    rim = tuple(float(c) for c in colour * 0.42)
    shape = place(outline(scene.thing))
    mask = np.zeros((side, side), np.uint8)
    cv2.fillPoly(mask, [shape], 255, cv2.LINE_AA, 4)
    x, y = _grid(side)
    light = ((scene.x - x) + 1.3 * (scene.y - y)) / scene.radius  # lit from the upper left
    shade = 1 + 0.13 * np.clip(light, -1.4, 1.4)
    paint = np.minimum(colour * shade[..., None], 255)
    _over(canvas, paint, mask.astype(np.float32) / 255)
    thick = max(1, round(0.07 * scene.radius * side))
    cv2.polylines(canvas, [shape], True, rim, thick, cv2.LINE_AA, 4)
    bright = tuple(float(c) for c in colour * 0.25 + 190)
    if scene.thing == "fish":
        eye = place(np.array([(-0.6, -0.12)]))[0]
        radius = round(0.1 * scene.radius * side * 16)
        cv2.circle(canvas, (int(eye[0]), int(eye[1])), radius, (20, 20, 30), -1, cv2.LINE_AA, 4)
    elif scene.thing == "ball":
        glint = place(np.array([(-0.34, -0.36)]))[0]
        radius = round(0.17 * scene.radius * side * 16)
        cv2.circle(canvas, (int(glint[0]), int(glint[1])), radius, bright, -1, cv2.LINE_AA, 4)
    elif scene.thing == "house":
        door = np.array([(-0.2, 0.85), (-0.2, 0.25), (0.2, 0.25), (0.2, 0.85)])
        cv2.fillPoly(canvas, [place(door)], rim, cv2.LINE_AA, 4)
