"""The drawn world and its captions: deterministic, complete, balanced, fast."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from infra.mini.backgrounds import PLACES, TIMES
from infra.mini.captions import (
    COLOUR_WORDS,
    PLACE_WORDS,
    THING_WORDS,
    caption,
    plain_caption,
    plural,
    position,
    words,
)
from infra.mini.scenes import (
    COLOURS,
    COUNTS,
    SETTINGS,
    Scene,
    Spot,
    draw,
    is_held_out,
    random_scene,
    scenes,
)
from infra.mini.things import REACH, RGB, STYLES, THINGS, parts


def test_seed_decides_scene_and_pixels():
    """The same seed draws the same bytes; neighbouring seeds draw others."""
    assert random_scene(5) == random_scene(5)
    assert np.array_equal(draw(random_scene(5)), draw(random_scene(5)))
    assert not np.array_equal(draw(random_scene(5)), draw(random_scene(6)))


def test_streams_share_no_scene():
    """Training and held-out streams have no scene in common."""
    train = {(s.seed, s.spots) for s in scenes(1, 2000)}
    assert train.isdisjoint((s.seed, s.spots) for s in scenes(2, 2000))
    assert list(scenes(1, 3, start=4)) == list(scenes(1, 7))[4:]


@pytest.mark.parametrize("size", [64, 128])
def test_size_is_a_parameter(size: int):
    """A scene drawn larger and shrunk again looks the same: mean difference below 5 levels."""
    for number in range(12):
        small = draw(random_scene(number), size).astype(float)
        assert small.shape == (size, size, 3)
        large = draw(random_scene(number), 2 * size).astype(float)
        shrunk = large.reshape(size, 2, size, 2, 3).mean((1, 3))
        assert np.abs(shrunk - small).mean() < 5


def test_the_world_is_rich():
    """A dozen things, ten colours, eight places, three lights, three styles, up to three things."""
    assert len(THINGS) == 12 and len(COLOURS) == 10 and len(PLACES) == 8
    assert len(SETTINGS) == len(PLACES[:-1]) * len(TIMES) + 1 == 22
    drawn = list(scenes(3, 2000))
    assert {scene.style for scene in drawn} == set(STYLES)
    assert {scene.count for scene in drawn} == set(COUNTS)
    assert {scene.setting for scene in drawn} == set(SETTINGS)


def test_attributes_are_balanced():
    """Over 4,000 scenes every thing, colour and place is within a fifth of its fair share."""
    drawn = list(scenes(3, 4000))
    for name, labels in (("thing", THINGS), ("colour", COLOURS), ("place", PLACES)):
        counts = Counter(getattr(scene, name) for scene in drawn)
        for label in labels:
            assert abs(counts[label] * len(labels) / 4000 - 1) < 0.2, (label, counts)


def test_held_out_combinations_are_in_no_training_scene():
    """One in ten of thing, colour and place; of none is a pair held out, and `held_out` draws them only."""
    combined = list(product(THINGS, COLOURS, PLACES))
    out = {each for each in combined if is_held_out(*each)}
    assert len(out) == len(combined) / 10
    left = set(combined) - out
    for skipped in range(3):
        pairs = {each[:skipped] + each[skipped + 1 :] for each in left}
        assert pairs == {each[:skipped] + each[skipped + 1 :] for each in combined}
    assert not any(is_held_out(s.thing, s.colour, s.place) for s in scenes(1, 3000))
    assert all(is_held_out(s.thing, s.colour, s.place) for s in scenes(2, 500, held_out=True))


def test_things_lie_within_the_picture_apart_and_have_their_colour():
    """None leaves the picture or touches another; a ball's middle is of its colour's hue."""
    for scene in scenes(4, 300):
        for number, spot in enumerate(scene.spots):
            assert spot.radius <= min(spot.x, spot.y, 1 - spot.x, 1 - spot.y)
            for other in scene.spots[:number]:
                gap = np.hypot(spot.x - other.x, spot.y - other.y)
                assert gap > 1.8 * max(spot.radius, other.radius)
        spot = scene.spots[0]
        ball = replace(scene, thing="ball", style="shaded")
        middle = draw(ball)[int(spot.y * 64), int(spot.x * 64)].astype(float)
        wanted = np.array(RGB[scene.colour])
        others = [np.abs(np.array(rgb) - middle).sum() for rgb in RGB.values()]
        assert np.abs(wanted - middle).sum() == min(others), (scene, middle)


def test_styles_differ_and_tell():
    """Flat is one colour, an outline lets the background through, shading is neither."""
    scene = replace(
        random_scene(3), thing="heart", colour="red", spots=(Spot(0.5, 0.5, 0.3, 0, False),)
    )
    made = {style: draw(replace(scene, style=style)).astype(float) for style in STYLES}
    inside = {style: picture[26:36, 26:38].reshape(-1, 3) for style, picture in made.items()}
    assert np.abs(inside["flat"] - RGB["red"]).max() <= 1
    assert inside["shaded"].std(0).max() > 3
    assert np.abs(inside["outlined"] - RGB["red"]).mean() > 30


def test_outlines_stay_in_the_unit_disc():
    """Every thing fills its radius, reaches little further, and is centred within 0.2."""
    for thing in THINGS:
        line = np.concatenate([points for _, points in parts(thing)])
        assert np.abs(line).max() > 0.85 and np.abs(line).max() <= REACH, thing
        assert np.abs((line.max(0) + line.min(0)) / 2).max() < 0.2, thing


def test_captions_name_what_the_scene_shows():
    """A complete caption names thing, colour and place by a word of theirs, every sunset and night but
    those of space, and how many things there are."""
    rng = np.random.default_rng(0)
    for scene in scenes(5, 500):
        text = caption(scene, rng, complete=True)
        said = set(text.replace(",", "").split())
        nouns = THING_WORDS[scene.thing]
        assert said & (set(nouns) if scene.count == 1 else {plural(word) for word in nouns}), text
        assert said & set(COLOUR_WORDS.get(scene.colour, (scene.colour,))), text
        assert said & {word.split()[-1] for word in PLACE_WORDS[scene.place]}, text
        if scene.place != "space":
            assert ("night" in said) == (scene.time == "night"), text
            assert bool(said & {"sunset", "dusk", "evening"}) == (scene.time == "sunset"), text
        assert bool(said & {"two", "pair"}) == (scene.count == 2), text
        assert ("three" in said) == (scene.count == 3), text


def test_captions_use_only_listed_words_and_vary():
    """All words come from `words()`, all of them come up, and texts seldom repeat."""
    rng = np.random.default_rng(1)
    texts = [caption(scene, rng) for scene in scenes(6, 4000)]
    said = {word for text in texts for word in text.replace(",", "").split()}
    assert said <= set(words())
    assert set(words()) - said <= {"and", "with"}  # known to the tokenizer, not used yet
    assert len(set(texts)) > 3000


def test_captions_leave_things_out():
    """Some captions name no colour or no place, most name no position: then they are free."""
    rng = np.random.default_rng(2)
    texts = [caption(scene, rng) for scene in scenes(7, 2000)]
    coloured = sum(any(c in t for c in (*COLOURS, "violet", "teal")) for t in texts) / len(texts)
    assert 0.93 < coloured < 0.99
    positioned = sum(any(s in t for s in (" left", " right", " top", " bottom")) for t in texts)
    assert positioned / len(texts) < 0.2


def test_position_and_plain_caption():
    """A position is named only when it is clear; the plain caption reads as a prompt would."""
    spot = Spot(0.2, 0.5, 0.15, 0, False)
    scene = Scene("star", "orange", "sea", "night", "flat", "small", (spot,), 1)
    assert position(scene) == "left"
    assert position(replace(scene, spots=(replace(spot, x=0.55),))) is None
    assert plain_caption(scene) == "an orange star over the sea at night"
    assert plain_caption(replace(scene, colour="red", time="day")) == "a red star over the sea"
    two = replace(scene, thing="fish", colour="blue", time="sunset", spots=(spot, spot))
    assert position(two) is None and plain_caption(two) == "two blue fish over the sea at sunset"
    assert plain_caption(replace(two, place="space")) == "two blue fish in space"


@pytest.mark.slow
def test_drawing_is_fast():
    """At least 300 scenes of 128 px a second of processor time, in the best of five hundreds: other
    work may share the core."""
    drawn = list(scenes(8, 100))

    def seconds() -> float:
        started = time.thread_time()
        for scene in drawn:
            draw(scene, 128)
        return time.thread_time() - started

    assert len(drawn) / min(seconds() for _ in range(5)) > 300
