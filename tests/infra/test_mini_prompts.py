"""The bundled prompts are what their command draws, and balanced."""

from __future__ import annotations

from collections import Counter

from infra.mini.data import TRAIN_SEED, scene_list
from infra.mini.prompts import PROMPTS, balanced_scenes, prompts, text
from infra.mini.scenes import COLOURS, SETTINGS, THINGS


def test_the_file_is_what_the_command_writes():
    """manifests/examples/mini-prompts.txt is drawn, not edited: 64 different prompts."""
    assert PROMPTS.read_text("utf-8") == text()
    assert len(set(prompts())) == 64


def test_every_thing_has_every_colour_once_and_places_are_even():
    """No thing, colour or setting weighs more in the mean than another, as far as 64 divide by 12."""
    scenes = balanced_scenes()
    assert {(s.thing, s.colour) for s in scenes} == {(t, c) for t in THINGS for c in COLOURS}
    counts = Counter(scene.setting for scene in scenes)
    assert set(counts) == set(SETTINGS)
    assert max(counts.values()) <= 6


def test_what_is_said_of_held_out_combinations_is_so():
    """The training scenes hold every combination of these prompts: the first 12,000 of 60,000 do."""
    seen = {(s.thing, s.colour, s.setting) for s in scene_list(TRAIN_SEED, 12_000)}
    ours = {(s.thing, s.colour, s.setting) for s in balanced_scenes()}
    assert ours <= seen
