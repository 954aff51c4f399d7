"""The places of zs2-mini's world by day, at sunset and at night: light, ground and texture."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

PLACES = ("sky", "sea", "meadow", "desert", "snow", "mountains", "city", "space")
TIMES = ("day", "sunset", "night")

Array = np.ndarray
Colour = tuple[int, int, int]

WINDOW = 0.075  # of the side: a town house's window with the wall around it
# The top of the sky, the sky at the horizon, the glow of the light that stands there.
_SKIES: dict[str, tuple[Colour, Colour, Colour]] = {
    "day": ((86, 160, 234), (206, 232, 248), (255, 252, 232)),
    "sunset": ((98, 76, 150), (250, 156, 96), (255, 222, 128)),
    "night": ((8, 12, 40), (44, 48, 98), (104, 112, 168)),
}
# A place's ground from far to near, by day.
_GROUNDS: dict[str, tuple[Colour, ...]] = {
    "sea": ((42, 144, 176), (14, 78, 128)),
    "meadow": ((138, 198, 88), (70, 146, 50)),
    "desert": ((236, 186, 108), (208, 138, 68)),
    "snow": ((240, 246, 252), (206, 222, 242)),
    "mountains": ((172, 170, 206), (116, 122, 170), (66, 82, 124)),
    "city": ((150, 160, 178), (96, 106, 128)),
}
# What the light makes of a ground: how much of it is kept, and the colour it moves towards.
_LIGHTS: dict[str, tuple[float, Colour]] = {
    "day": (1.0, (0, 0, 0)),
    "sunset": (0.62, (132, 62, 72)),
    "night": (0.42, (10, 16, 50)),
}


@cache
def grid(side: int) -> tuple[Array, Array]:
    """Return x as (1, side) and y as (side, 1), pixel centres as fractions."""
    line = (np.arange(side, dtype=np.float32) + 0.5) / side
    return line[None, :], line[:, None]


def background(place: str, time: str, side: int, rng: np.random.Generator) -> Array:
    """Paint a place, float32 (side, side, 3). Space has no time of day."""
    if place == "space":
        return _space(side, rng)
    horizon = float(rng.uniform(0.5, 0.68)) if place != "sky" else 1.0
    canvas = _sky(time, side, horizon, rng)
    keep, towards = _LIGHTS[time]
    ground = [
        np.array(colour, np.float32) * keep
        + np.array(towards, np.float32) * (1 - keep)
        + rng.uniform(-6, 6)
        for colour in _GROUNDS.get(place, ())
    ]
    if place in ("sky", "sea", "meadow"):
        _clouds(canvas, rng, place, time)
    match place:
        case "sea":
            _sea(canvas, ground, horizon, rng)
        case "mountains":
            for number, colour in enumerate(ground):
                line = _peaks(side, horizon + 0.15 * number, 0.26 - 0.05 * number, rng)
                _over(canvas, colour, _below(line, side))
        case "city":
            _city(canvas, ground, time, horizon, rng)
        case "meadow" | "desert" | "snow":
            _hills(canvas, place, ground, horizon, rng)
        case _:  # the sky has no ground
            pass
    if place == "snow":
        _dots(canvas, rng, 9, (0, 1), (0.014, 0.02), (255, 255, 255), 0.8 if time == "day" else 0.6)
    return canvas


def _gradient(top: Array, bottom: Array, y: Array, start: float, stop: float) -> Array:
    """Return a vertical gradient, (side, 1, 3)."""
    share = np.clip((y - start) / (stop - start), 0, 1)[..., None]
    return top + (bottom - top) * share


def _over(canvas: Array, paint: Array, mask: Array) -> None:
    """Blend `paint` over `canvas` in place by `mask` (side, side) in 0..1."""
    canvas += (paint - canvas) * mask[..., None]


def _below(line: Array, side: int) -> Array:
    """Return the anti-aliased mask of what lies below a skyline, (1, side)."""
    _, y = grid(side)
    return np.clip((y - line) * side + 0.5, 0, 1)


def _soft(side: int, cells: int, rng: np.random.Generator) -> Array:
    """Smooth noise about 0, a value of spread 1 for each of cells², (side, side)."""
    coarse = rng.normal(size=(cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def _sky(time: str, side: int, horizon: float, rng: np.random.Generator) -> Array:
    x, y = grid(side)
    top, low, glow = (np.array(colour, np.float32) + rng.uniform(-5, 5) for colour in _SKIES[time])
    canvas = np.repeat(_gradient(top, low, y, 0, horizon), side, axis=1)
    at = rng.uniform(0.1, 0.9)
    distance = (x - at) ** 2 * 4 + (y - horizon) ** 2 * 7
    _over(canvas, glow, (0.75 if time != "night" else 0.5) * np.exp(-2.5 * distance))
    if time == "night":
        _dots(canvas, rng, 8, (0, horizon * 0.9), (0.011, 0.017), (250, 246, 225), 0.9)
    return canvas


def _clouds(canvas: Array, rng: np.random.Generator, place: str, time: str) -> None:
    """Blend soft clouds of overlapping ellipses into the sky."""
    side = canvas.shape[0]
    mask = np.zeros((side, side), np.uint8)
    count, lowest = (4, 0.95) if place == "sky" else (2, 0.36)
    for _ in range(count):
        x, y = rng.uniform(0, 1), rng.uniform(0.05, lowest)
        for dx, dy, scale in rng.uniform((-0.12, -0.03, 0.06), (0.12, 0.03, 0.09), (4, 3)):
            centre = round((x + dx) * side), round((y + dy) * side)
            axes = round(scale * 1.6 * side), round(scale * 0.8 * side)
            cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, -1)
    soft = cv2.GaussianBlur(mask, (0, 0), 0.02 * side).astype(np.float32) / 255
    colour, strength = {
        "day": ((255, 255, 255), 0.8),
        "sunset": ((255, 190, 160), 0.65),
        "night": ((84, 84, 138), 0.6),
    }[time]
    _over(canvas, np.array(colour, np.float32), soft * strength)


def _sea(canvas: Array, ground: list[Array], horizon: float, rng: np.random.Generator) -> None:
    """Water with swell lines that widen towards the viewer, and the light's path on it."""
    side = canvas.shape[0]
    x, y = grid(side)
    depth = np.clip((y - horizon) / (1 - horizon), 0, 1)
    phase = 2 * np.pi * rng.random(2)
    swell = np.sin(7 * np.sqrt(depth) * np.pi + 1.2 * np.sin(3 * np.pi * x + phase[0]))
    swell = swell * np.sin(1.6 * np.pi * x + phase[1]) * depth
    paint = _gradient(ground[0], ground[1], y, horizon, 1.0) + 15 * swell[..., None]
    _over(canvas, paint, _below(np.full((1, side), horizon, np.float32), side))


def _hills(
    canvas: Array, place: str, ground: list[Array], horizon: float, rng: np.random.Generator
) -> None:
    """Two ranges of hills: mottled grass with flowers, rippled dunes, or smooth snow."""
    side = canvas.shape[0]
    x, y = grid(side)
    for number, colour in enumerate(ground):
        line = np.full_like(x, horizon + 0.17 * number)
        for octave in range(2):
            wave = np.sin(2 * np.pi * (0.8 * 2**octave * x + rng.random()))
            line -= 0.045 * 0.35**octave * wave
        paint = _gradient(colour * 1.05, colour * 0.84, y, horizon, 1.15)
        if place == "meadow":
            paint = paint * (1 + 0.07 * _soft(side, 7, rng))[..., None]
        elif place == "desert":
            ripple = np.sin(2 * np.pi * (7 * (y - line) + 0.4 * np.sin(5 * x + number)))
            paint = paint * (1 + 0.045 * ripple * number)[..., None]
        _over(canvas, paint, _below(line, side))
    if place == "meadow":
        bright = ground[1] * 0.35 + np.array((250, 236, 150), np.float32) * 0.65
        _dots(canvas, rng, 6, (horizon + 0.16, 1), (0.014, 0.02), tuple(bright), 0.9)


def _peaks(side: int, base: float, height: float, rng: np.random.Generator) -> Array:
    """Return a skyline of pointed mountains, (1, side)."""
    x, _ = grid(side)
    line = np.full_like(x, base)
    for _ in range(4):
        centre, width = rng.uniform(-0.1, 1.1), rng.uniform(0.22, 0.42)
        line = np.minimum(
            line, base - height * rng.uniform(0.6, 1.2) * (1 - np.abs(x - centre) / width)
        )
    return line


def _city(
    canvas: Array, ground: list[Array], time: str, horizon: float, rng: np.random.Generator
) -> None:
    """Two rows of houses with windows, lit at night, and a street."""
    side = canvas.shape[0]
    bright = {"day": 0.86, "sunset": 1.25, "night": 1.0}[time]
    for row, colour in enumerate(ground):
        edge = -rng.uniform(0, 0.1)
        while edge < 1:
            width, top = rng.uniform(0.13, 0.21), horizon - rng.uniform(0.1, 0.3) + 0.2 * row
            foot = horizon + 0.14 + 0.1 * row
            shade = colour * rng.uniform(0.88, 1.12)
            _block(canvas, edge, top, edge + width, foot, shade)
            glass = (
                np.array((236, 200, 112), np.float32) * 0.75 + shade * 0.25
                if time == "night"
                else np.minimum(shade * bright, 255)
            )
            rows, columns = int((foot - top) / WINDOW), int(width / WINDOW)
            for down, across in np.argwhere(rng.random((rows, columns)) < 0.7):
                x, y = edge + (across + 0.4) * WINDOW, top + (down + 0.4) * WINDOW
                _block(canvas, x, y, x + WINDOW / 2, y + WINDOW / 2, glass)
            edge += width
    _, y = grid(side)
    street = _gradient(ground[1] * 0.72, ground[1] * 0.5, y, horizon + 0.22, 1)
    _over(canvas, street, _below(np.full((1, side), horizon + 0.23, np.float32), side))


def _block(canvas: Array, x0: float, y0: float, x1: float, y1: float, paint: Array) -> None:
    """Paint a rectangle of whole pixels."""
    left, top, right, low = (max(0, round(v * canvas.shape[0])) for v in (x0, y0, x1, y1))
    canvas[top:low, left:right] = paint


def _space(side: int, rng: np.random.Generator) -> Array:
    """Nebulas of two colours before the dark, and stars."""
    canvas = np.empty((side, side, 3), np.float32)
    canvas[:] = np.array((12, 6, 24), np.float32)
    for colour in ((96, 30, 110), (20, 60, 110)):
        tone = np.array(colour, np.float32) + rng.uniform(-10, 10)
        _over(canvas, tone, 0.8 / (1 + np.exp(-2.2 * _soft(side, 5, rng))))
    _dots(canvas, rng, 11, (0, 1), (0.010, 0.018), (244, 240, 255), 1.0)
    return canvas


def _dots(
    canvas: Array,
    rng: np.random.Generator,
    count: int,
    rows: tuple[float, float],
    radii: tuple[float, float],
    colour: tuple[float, ...],
    strength: float,
) -> None:
    """Scatter small discs: stars, flowers, snow flakes."""
    side = canvas.shape[0]
    mask = np.zeros((side, side), np.uint8)
    for x, y, share in rng.random((count, 3)):
        centre = round(x * side * 16), round((rows[0] + y * (rows[1] - rows[0])) * side * 16)
        radius = round((radii[0] + share * (radii[1] - radii[0])) * side * 16)
        cv2.circle(mask, centre, radius, 255, -1, cv2.LINE_AA, 4)
    _over(canvas, np.array(colour, np.float32), mask * np.float32(strength / 255))
