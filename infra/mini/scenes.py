"""The world that zs2-mini knows: scenes drawn from numbers.

A scene is one to three things of one kind and colour, in a style, in one place by day, at sunset or at
night. Where the things are, how they are turned and how clouds, hills and waves lie are free: captions
seldom tell, so the diffusion model learns to take them from its noise, and correlated noises give motion.

Everything is decided by a seed. Lengths are fractions of the picture's side, so a scene can be drawn at
any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from infra.mini.backgrounds import PLACES, TIMES, background
from infra.mini.things import RGB, STYLES, THINGS, paint

COLOURS = tuple(RGB)
SIZES = ("small", "medium", "large")
SETTINGS = (
    *(f"{place} {time}" for place, time in product(PLACES, TIMES) if place != "space"),
    "space",
)
RADII = {"small": (0.16, 0.19), "medium": (0.20, 0.26), "large": (0.27, 0.33)}
MOST = 3  # things in a scene
COUNTS = tuple(range(1, MOST + 1))
CROWDED = {1: 1.0, 2: 0.8, 3: 0.7, 4: 0.6, 5: 0.55}  # of the radius, by count

Array = np.ndarray


@dataclass(frozen=True)
class Spot:
    """Where one thing is: `x`, `y`, `radius` are fractions of the side."""

    x: float
    y: float
    radius: float
    turn: float  # radians
    flip: bool


@dataclass(frozen=True)
class Scene:
    """One picture in words and numbers."""

    thing: str
    colour: str
    place: str
    time: str  # of space always "night"
    style: str
    size: str
    spots: tuple[Spot, ...]
    seed: int  # decides the background's details

    @property
    def setting(self) -> str:
        """Place and time together: what the checker calls the setting."""
        return self.place if self.place == "space" else f"{self.place} {self.time}"

    @property
    def count(self) -> int:
        """How many things stand in it."""
        return len(self.spots)


def is_held_out(thing: str, colour: str, place: str) -> bool:
    """Whether no training scene combines these three: one combination in ten. Every two of a held-out
    three are in the training together, with other thirds."""
    number = THINGS.index(thing) + COLOURS.index(colour) + PLACES.index(place)
    return number % 10 == 3


def random_scene(seed: int, held_out: bool = False) -> Scene:
    """Return the scene of a seed.

    Attributes are uniform and independent, but for the combinations that are held out: without
    `held_out` none of these is drawn, with it no other.
    """
    rng = np.random.default_rng(seed)
    while True:
        thing = THINGS[rng.integers(len(THINGS))]
        colour = COLOURS[rng.integers(len(COLOURS))]
        place = PLACES[rng.integers(len(PLACES))]
        if is_held_out(thing, colour, place) == held_out:
            break
    count = int(rng.choice((1, 2, 3), p=(0.74, 0.16, 0.1)))
    sizes = SIZES if count < MOST else SIZES[1:]
    size = sizes[rng.choice(len(sizes), p=(0.25, 0.4, 0.35) if count < MOST else (0.5, 0.5))]
    return Scene(
        thing=thing,
        colour=colour,
        place=place,
        time="night" if place == "space" else TIMES[rng.choice(3, p=(0.45, 0.25, 0.3))],
        style=STYLES[rng.choice(3, p=(0.3, 0.2, 0.5))],
        size=size,
        spots=_spots(count, size, rng),
        seed=int(rng.integers(2**31)),
    )


def crowd(seed: int) -> Scene:
    """Return a scene of four or five things, more than any caption tells: the judge learns of them."""
    scene, rng = random_scene(seed), np.random.default_rng((seed, MOST))
    size = SIZES[rng.integers(len(SIZES))]
    return replace(scene, size=size, spots=_spots(MOST + int(rng.integers(1, 3)), size, rng))


def _spots(count: int, size: str, rng: np.random.Generator) -> tuple[Spot, ...]:
    """Places for so many things that lie within the picture and do not touch."""
    low, high = RADII[size]
    radius = float(rng.uniform(low, high)) * CROWDED[count]
    margin = radius + 0.02
    while True:
        middles = rng.uniform(margin, 1 - margin, (count, 2))
        gaps = np.linalg.norm(middles[:, None] - middles[None], axis=2) + 9 * np.eye(count)
        if gaps.min() > 1.9 * radius:
            break
        radius *= 0.98  # what does not fit shrinks
        margin = radius + 0.02
    return tuple(
        Spot(float(x), float(y), radius, float(rng.uniform(-0.25, 0.25)), bool(rng.random() < 0.5))
        for x, y in middles
    )


def draw(scene: Scene, size: int = 64) -> Array:
    """Draw a scene as RGB, uint8 (size, size, 3)."""
    canvas = background(scene.place, scene.time, size, np.random.default_rng(scene.seed))
    for spot in scene.spots:
        place = (spot.x, spot.y, spot.radius, spot.turn, spot.flip)
        paint(canvas, scene.thing, scene.colour, scene.style, place)
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def scenes(seed: int, count: int, start: int = 0, held_out: bool = False) -> Iterator[Scene]:
    """Yield scenes `start` to `start + count` of a stream; streams share no scene."""
    for number in range(start, start + count):
        yield random_scene(seed * 100_000_000 + number, held_out)
