"""The bundled prompts are what their command draws, and balanced."""

from __future__ import annotations

from collections import Counter

from infra.mini.data import TRAIN_SEED, scene_list
from infra.mini.prompts import PROMPTS, balanced_scenes, prompts, text
from infra.mini.scenes import COLOURS, SETTINGS
from infra.mini.things import THINGS


def test_the_file_is_what_the_command_writes():
    """manifests/examples/mini-prompts.txt is drawn, not edited: 64 different prompts."""
    assert PROMPTS.read_text("utf-8") == text()
    assert len(set(prompts())) == 64


def test_things_colours_and_settings_are_even():
    """None weighs more in the mean than another, as far as 64 divide by 12, 10 and 22; no pair of thing
    and colour comes up twice."""
    scenes = balanced_scenes()
    for name, values in (("thing", THINGS), ("colour", COLOURS), ("setting", SETTINGS)):
        counts = Counter(getattr(scene, name) for scene in scenes)
        assert set(counts) == set(values)
        assert max(counts.values()) <= len(scenes) // len(values) + 1, name
    assert len({(scene.thing, scene.colour) for scene in scenes}) == len(scenes)


def test_what_is_said_of_held_out_combinations_is_so():
    """No prompt's combination is held out, and the training scenes hold each: the first 12,000 do."""
    seen = {(s.thing, s.colour, s.place) for s in scene_list(TRAIN_SEED, 12_000)}
    assert {(s.thing, s.colour, s.place) for s in balanced_scenes()} <= seen
