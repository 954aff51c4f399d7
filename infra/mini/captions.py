"""Captions by grammar, with synonyms, optional parts and three word orders.

    a red star over the sea at night · small blue fish, desert · at night, a pink heart in the sky

Nights are always named; a picture whose caption names none is by day. What a caption leaves out
(often the size, nearly always the position) is free.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from infra.mini.scenes import COLOURS, Scene

THING_WORDS = {
    "star": ("star",),
    "heart": ("heart",),
    "ball": ("ball", "ball", "circle"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "moon": ("moon", "moon", "crescent"),
    "fish": ("fish",),
    "house": ("house", "house", "home"),
}
COLOUR_WORDS = {"purple": ("purple", "purple", "violet")}  # the others have one word each
SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium",),
    "large": ("large", "big", "huge"),
}
PLACE_WORDS = {
    "sky": ("sky", "sky", "clouds"),
    "sea": ("sea", "sea", "ocean", "water"),
    "meadow": ("meadow", "meadow", "grass", "field"),
    "desert": ("desert", "desert", "dunes", "sand"),
    "snow": ("snow", "snow", "winter"),
    "mountains": ("mountains", "mountains", "hills"),
}
PREPOSITIONS = {
    "sky": ("in", "in", "on"),
    "sea": ("over", "over", "on", "in", "by", "above"),
    "meadow": ("in", "in", "over", "on", "above"),
    "desert": ("in", "in", "over", "above"),
    "snow": ("in", "in", "over", "on"),
    "mountains": ("over", "in", "above", "by"),
}
NO_ARTICLE = ("snow", "winter", "water", "sand", "grass")
TIME_WORDS = {"day": ("by day", "in daylight"), "night": ("at night", "at night", "by night")}
POSITIONS = {
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top", "high up"),
    "bottom": ("at the bottom", "low down"),
}
PREFIXES = ("a picture of", "a drawing of", "a video of")
NULL_CAPTION = ""


def position(scene: Scene) -> str | None:
    """Return the side of the picture where the thing clearly is, if any."""
    off_x, off_y = scene.x - 0.5, scene.y - 0.5
    if max(abs(off_x), abs(off_y)) < 0.1:
        return None
    if abs(off_x) > abs(off_y):
        return "left" if off_x < 0 else "right"
    return "top" if off_y < 0 else "bottom"


def caption(scene: Scene, rng: np.random.Generator, complete: bool = False) -> str:
    """Describe a scene; one caption in twelve leaves colour or place out, unless `complete`."""

    def pick(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    chance = rng.random(8)
    noun = [pick(THING_WORDS[scene.thing])]
    if complete or chance[0] > 0.04:
        noun.insert(0, pick(COLOUR_WORDS.get(scene.colour, (scene.colour,))))
    if chance[1] < (0.1 if scene.size == "medium" else 0.35):
        noun.insert(0, pick(SIZE_WORDS[scene.size]))
    commas = chance[2] < 0.2
    article = "" if commas and chance[3] < 0.7 else ("the " if chance[3] > 0.9 else "a ")
    if article == "a " and noun[0][0] in "aeiou":
        article = "an "
    thing = article + " ".join(noun)
    side = position(scene)
    if side is not None and chance[4] < 0.15:
        thing += " " + pick(POSITIONS[side])
    place = _place(scene, pick, commas) if complete or chance[5] > 0.04 else None
    time = pick(TIME_WORDS[scene.time]) if scene.time == "night" or chance[6] < 0.1 else None
    if commas:
        return ", ".join(part for part in (thing, place, time) if part)
    if time and chance[7] < 0.12:
        return " ".join(part for part in (time + ",", thing, place) if part)
    if chance[7] > 0.92:
        thing = f"{pick(PREFIXES)} {thing}"
    return " ".join(part for part in (thing, place, time) if part)


def _place(scene: Scene, pick: Callable[[tuple[str, ...]], str], bare: bool) -> str:
    word = pick(PLACE_WORDS[scene.place])
    if bare:
        return word
    article = "" if word in NO_ARTICLE and pick(("", "the")) == "" else "the "
    return f"{pick(PREPOSITIONS[scene.place])} {article}{word}"


def plain_caption(scene: Scene) -> str:
    """Return the plainest full description: what prompts for evaluation look like."""
    article = "an" if scene.colour[0] in "aeiou" else "a"
    night = " at night" if scene.time == "night" else ""
    return f"{article} {scene.colour} {scene.thing} {PREPOSITIONS[scene.place][0]} the " + (
        f"{scene.place}{night}"
    )


def words() -> list[str]:
    """Return every word that a caption may hold, sorted."""
    groups: list[tuple[str, ...]] = [PREFIXES, ("a", "an", "the"), ("and", "with", "of")]
    for table in (THING_WORDS, COLOUR_WORDS, SIZE_WORDS, PLACE_WORDS, PREPOSITIONS):
        groups += table.values()
    groups += [*TIME_WORDS.values(), *POSITIONS.values()]
    groups.append(COLOURS)
    return sorted({word for group in groups for phrase in group for word in phrase.split()})
