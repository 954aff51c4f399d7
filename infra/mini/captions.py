"""Captions by grammar, with synonyms, numbers, optional parts and four word orders.

    a red star over the sea at night · two small blue fish, desert · at dusk, a pink cat in the city

Sunsets and nights are always named; a picture whose caption names none is by day. What a caption leaves
out (often the size and the style, nearly always the position) is free.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from infra.mini.scenes import COLOURS, Scene

THING_WORDS = {
    "star": ("star",),
    "heart": ("heart",),
    "ball": ("ball", "ball", "circle"),
    "moon": ("moon", "moon", "crescent"),
    "fish": ("fish",),
    "house": ("house", "house", "home"),
    "boat": ("boat", "boat", "ship"),
    "tree": ("tree", "tree", "fir"),
    "balloon": ("balloon",),
    "car": ("car", "car", "automobile"),
    "cat": ("cat", "cat", "kitten"),
    "mushroom": ("mushroom", "mushroom", "toadstool"),
}
COLOUR_WORDS = {  # the others have one word each
    "purple": ("purple", "purple", "violet"),
    "turquoise": ("turquoise", "turquoise", "teal"),
}
SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium",),
    "large": ("large", "big", "huge"),
}
COUNT_WORDS = {2: ("two", "two", "a pair of"), 3: ("three",)}
STYLE_WORDS = {"flat": ("flat", "plain"), "outlined": ("outlined",), "shaded": ("shaded", "shiny")}
STYLE_ENDINGS = {
    "flat": ("flat style", "flat colours"),
    "outlined": ("outline style", "line drawing"),
    "shaded": ("soft shading", "with soft light"),
}
PLACE_WORDS = {
    "sky": ("sky", "sky", "clouds"),
    "sea": ("sea", "sea", "ocean", "water"),
    "meadow": ("meadow", "meadow", "grass", "field"),
    "desert": ("desert", "desert", "dunes", "sand"),
    "snow": ("snow", "snow", "winter"),
    "mountains": ("mountains", "mountains", "hills"),
    "city": ("city", "city", "town"),
    "space": ("space", "space", "outer space"),
}
PREPOSITIONS = {
    "sky": ("in", "in", "on"),
    "sea": ("over", "over", "on", "in", "by", "above"),
    "meadow": ("in", "in", "over", "on", "above"),
    "desert": ("in", "in", "over", "above"),
    "snow": ("in", "in", "over", "on"),
    "mountains": ("over", "in", "above", "by"),
    "city": ("in", "in", "over", "above"),
    "space": ("in", "in", "through"),
}
NO_ARTICLE = ("snow", "winter", "water", "sand", "grass", "clouds")  # or with one
NEVER_ARTICLE = ("space", "outer space")
TIME_WORDS = {
    "day": ("by day", "in daylight"),
    "sunset": ("at sunset", "at sunset", "at dusk", "in the evening"),
    "night": ("at night", "at night", "by night"),
}
POSITIONS = {
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top", "high up"),
    "bottom": ("at the bottom", "low down"),
}
PREFIXES = ("a picture of", "a drawing of", "a video of")
NULL_CAPTION = ""


def position(scene: Scene) -> str | None:
    """Return the side of the picture where a lone thing clearly is, if any."""
    if scene.count > 1:
        return None
    off_x, off_y = scene.spots[0].x - 0.5, scene.spots[0].y - 0.5
    if max(abs(off_x), abs(off_y)) < 0.1:
        return None
    if abs(off_x) > abs(off_y):
        return "left" if off_x < 0 else "right"
    return "top" if off_y < 0 else "bottom"


def plural(word: str) -> str:
    """Return a thing's word for several of it."""
    return word if word == "fish" else word + "s"


def caption(scene: Scene, rng: np.random.Generator, complete: bool = False) -> str:
    """Describe a scene; one caption in twelve leaves colour or place out, unless `complete`."""

    def pick(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    chance = rng.random(10)
    noun = pick(THING_WORDS[scene.thing])
    nouns = [noun if scene.count == 1 else plural(noun)]
    if complete or chance[0] > 0.04:
        nouns.insert(0, pick(COLOUR_WORDS.get(scene.colour, (scene.colour,))))
    if chance[1] < (0.1 if scene.size == "medium" else 0.35):
        nouns.insert(0, pick(SIZE_WORDS[scene.size]))
    if chance[8] < 0.18:
        nouns.insert(0, pick(STYLE_WORDS[scene.style]))
    commas = chance[2] < 0.2
    thing = _counted(" ".join(nouns), scene.count, pick, chance[3], commas)
    side = position(scene)
    if side is not None and chance[4] < 0.15:
        thing += " " + pick(POSITIONS[side])
    place = _place(scene, pick, commas) if complete or chance[5] > 0.04 else None
    time = pick(TIME_WORDS[scene.time]) if scene.time != "day" or chance[6] < 0.1 else None
    time = None if scene.place == "space" and place else time
    style = pick(STYLE_ENDINGS[scene.style]) if chance[8] > 0.9 else None
    if commas:
        return ", ".join(part for part in (thing, place, time, style) if part)
    if time and chance[7] < 0.12:
        told = " ".join(part for part in (time + ",", thing, place) if part)
    elif place and chance[7] < 0.2:
        told = " ".join(
            part for part in (place, "there is" if scene.count == 1 else "are", thing, time) if part
        )
    else:
        prefix = pick(PREFIXES) if chance[7] > 0.92 else None
        told = " ".join(part for part in (prefix, thing, place, time) if part)
    return f"{told}, {style}" if style else told


def _counted(
    noun: str, count: int, pick: Callable[[tuple[str, ...]], str], chance: float, bare: bool
) -> str:
    """A noun with its number or article."""
    if count > 1:
        return f"{pick(COUNT_WORDS[count])} {noun}"
    if bare and chance < 0.7:
        return noun
    if chance > 0.9:
        return f"the {noun}"
    return f"{_article(noun)} {noun}"


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _place(scene: Scene, pick: Callable[[tuple[str, ...]], str], bare: bool) -> str:
    word = pick(PLACE_WORDS[scene.place])
    if bare:
        return word
    without = word in NEVER_ARTICLE or (word in NO_ARTICLE and pick(("", "the")) == "")
    return f"{pick(PREPOSITIONS[scene.place])} {'' if without else 'the '}{word}"


def plain_caption(scene: Scene) -> str:
    """Return the plainest full description: what prompts for evaluation look like."""
    if scene.count == 1:
        noun = f"{_article(scene.colour)} {scene.colour} {scene.thing}"
    else:
        noun = f"{COUNT_WORDS[scene.count][0]} {scene.colour} {plural(scene.thing)}"
    place = scene.place if scene.place in NEVER_ARTICLE else f"the {scene.place}"
    time = "" if scene.place == "space" or scene.time == "day" else f" at {scene.time}"
    return f"{noun} {PREPOSITIONS[scene.place][0]} {place}{time}"


def words() -> list[str]:
    """Return every word that a caption may hold, sorted."""
    groups: list[tuple[str, ...]] = [PREFIXES, ("a", "an", "the"), ("and", "with", "of")]
    groups += [("there is", "are")]
    groups += [tuple(plural(word) for word in names) for names in THING_WORDS.values()]
    for table in (THING_WORDS, COLOUR_WORDS, SIZE_WORDS, PLACE_WORDS, PREPOSITIONS):
        groups += table.values()
    groups += [*TIME_WORDS.values(), *POSITIONS.values(), *COUNT_WORDS.values()]
    groups += [*STYLE_WORDS.values(), *STYLE_ENDINGS.values()]
    groups.append(COLOURS)
    return sorted({word for group in groups for phrase in group for word in phrase.split()})
