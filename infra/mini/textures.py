"""Pictures of no particular thing, for mini-sr to learn edges and surfaces from.

Noise of natural spectra, gradients and stripes, strokes and letters, dead leaves, shaded polygons:
what photographs are made of, drawn from a seed at any size.
"""

from __future__ import annotations

import string
from collections.abc import Callable

import cv2
import numpy as np

SUPERSAMPLE = 2

Array = np.ndarray
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
)


def texture(seed: int, size: int = 128) -> Array:
    """Draw the picture of a seed as RGB, uint8 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    side = size * SUPERSAMPLE
    kind = _KINDS[rng.integers(len(_KINDS))]
    canvas = np.ascontiguousarray(kind(side, rng), np.float32)
    if rng.random() < 0.25:  # something in front of something
        cover = np.zeros((side, side), np.uint8)
        cv2.fillPoly(cover, [_blob(side, rng, rng.uniform(0.2, 0.5))], 255, cv2.LINE_AA, 4)
        front = _KINDS[rng.integers(len(_KINDS))](side, rng)
        canvas += (front - canvas) * (cover[..., None] / np.float32(255))
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    return np.clip(small + 0.5, 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator) -> Array:
    """A colour, half the time a dull one, as most of a photograph's are."""
    colour = rng.uniform(0, 255, 3)
    if rng.random() < 0.5:
        colour = colour.mean() + (colour - colour.mean()) * rng.uniform(0, 0.5)
    return colour.astype(np.float32)


def _noise(side: int, rng: np.random.Generator, slope: float) -> Array:
    """Grey noise whose amplitude falls as frequency^-slope, mean 0, spread 1, (side, side)."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.normal(size=(side, side))) * frequency**-slope
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (side, side))
    return (noise / noise.std()).astype(np.float32)


def _surface(side: int, rng: np.random.Generator) -> Array:
    """Noise of one or two colour directions."""
    slope = rng.uniform(0.8, 1.8)
    canvas = _noise(side, rng, slope)[..., None] * rng.uniform(15, 60) * rng.uniform(0.6, 1, 3)
    if rng.random() < 0.6:
        hue = rng.normal(size=3)
        canvas = canvas + _noise(side, rng, slope)[..., None] * rng.uniform(3, 20) * hue
    if rng.random() < 0.3:  # clouds, marble: folded noise has edges
        canvas = np.abs(canvas)
    return canvas + _colour(rng)


def _gradient(side: int, rng: np.random.Generator) -> Array:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side - 0.5
    if rng.random() < 0.3:
        share = np.hypot(x - rng.uniform(-0.5, 0.5), y - rng.uniform(-0.5, 0.5))
    else:
        share = np.cos(angle) * x + np.sin(angle) * y + 0.5
    first, last = _colour(rng), _colour(rng)
    return first + (last - first) * np.clip(share, 0, 1)[..., None]


def _stripes(side: int, rng: np.random.Generator) -> Array:
    """Gratings, sinusoidal or hard, straight or bent, one way or crossed."""
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    bend = _noise(side, rng, 2.5) * rng.choice((0, 0.02, 0.05))
    pattern = np.ones((side, side), np.float32)
    for _ in range(rng.integers(1, 3)):
        angle, cycles = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(2), np.log(24)))
        wave = np.sin(2 * np.pi * cycles * (np.cos(angle) * x + np.sin(angle) * y + bend))
        hard = rng.choice((1, 4, 20))
        pattern = pattern * np.clip(wave * hard, -1, 1)
    first, last = _gradient(side, rng), _gradient(side, rng)
    return first + (last - first) * (pattern[..., None] + 1) / 2


def _strokes(side: int, rng: np.random.Generator) -> Array:
    """Lines, circles and letters on a smooth ground."""
    canvas = np.clip(_gradient(side, rng), 0, 255).astype(np.uint8)
    letters = np.array(list(string.ascii_letters + string.digits))
    for _ in range(rng.integers(6, 30)):
        colour = tuple(float(c) for c in _colour(rng))
        thick = int(rng.integers(1, max(2, side // 40)))
        at = tuple(int(v) for v in rng.integers(0, side, 2))
        match int(rng.integers(3)):
            case 0:
                word = "".join(rng.choice(letters, rng.integers(1, 8)))
                font, height = int(rng.choice(_FONTS)), float(rng.uniform(0.4, 2) * side / 256)
                cv2.putText(canvas, word, at, font, height, colour, thick, cv2.LINE_AA)
            case 1:
                end = tuple(int(v) for v in rng.integers(0, side, 2))
                cv2.line(canvas, at, end, colour, thick, cv2.LINE_AA)
            case _:
                radius = int(rng.integers(2, side // 4))
                cv2.circle(canvas, at, radius, colour, thick, cv2.LINE_AA)
    return canvas.astype(np.float32)


def _blob(side: int, rng: np.random.Generator, radius: float) -> Array:
    """A polygon, round or angular, in cv2's fixed-point numbers, sixteenths of a pixel."""
    count = int(rng.integers(3, 9)) if rng.random() < 0.6 else 32
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    radii = radius * (rng.uniform(0.5, 1, count) if count < 32 else np.ones(count))
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None] * rng.uniform(0.5, 1, 2)
    return np.round((points + rng.uniform(0, 1, 2)) * side * 16).astype(np.int32)


def _leaves(side: int, rng: np.random.Generator) -> Array:
    """Dead leaves: shapes of power-law sizes, one over the other, plain, shaded or textured."""
    canvas = np.ascontiguousarray(_gradient(side, rng), np.float32)
    rough = _noise(side, rng, 1.0)[..., None]
    for _ in range(rng.integers(20, 90)):
        radius = 0.02 * (1 - rng.random() * 0.998) ** -0.55
        mask = np.zeros((side, side), np.uint8)
        blob = _blob(side, rng, min(radius, 0.5))
        cv2.fillPoly(mask, [blob], 255, cv2.LINE_AA, 4)
        left, top = np.maximum(blob.min(0) // 16 - 1, 0)
        right, bottom = np.maximum(blob.max(0) // 16 + 2, 0)
        part = slice(top, bottom), slice(left, right)
        grain = rough[part] * (rng.uniform(2, 18) if rng.random() < 0.5 else 0)
        share = mask[part][..., None] / np.float32(255)
        canvas[part] += (_colour(rng) + grain - canvas[part]) * share
    return canvas


def _polygons(side: int, rng: np.random.Generator) -> Array:
    """A few large shapes with shading, some with a rim."""
    canvas = np.ascontiguousarray(_gradient(side, rng), np.float32)
    for _ in range(rng.integers(3, 10)):
        blob, paint = _blob(side, rng, rng.uniform(0.1, 0.5)), _gradient(side, rng)
        mask = np.zeros((side, side), np.uint8)
        cv2.fillPoly(mask, [blob], 255, cv2.LINE_AA, 4)
        canvas += (paint - canvas) * (mask[..., None] / np.float32(255))
        if rng.random() < 0.5:
            rim = tuple(float(c) for c in _colour(rng))
            cv2.polylines(canvas, [blob], True, rim, int(rng.integers(1, 5)), cv2.LINE_AA, 4)
    return canvas


_KINDS: tuple[Callable[[int, np.random.Generator], Array], ...] = (
    _surface,
    _surface,
    _stripes,
    _strokes,
    _leaves,
    _leaves,
    _polygons,
)
