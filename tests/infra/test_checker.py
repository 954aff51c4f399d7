"""The judge: right on drawn scenes, also degraded ones, and at chance where captions lie."""

from __future__ import annotations

import numpy as np
import pytest

from infra.mini import checker
from infra.mini.data import TEST_SEED, scene_list
from infra.mini.scenes import draw

COUNT = 1000


@pytest.fixture(scope="module")
def held_out():
    scenes = scene_list(TEST_SEED, COUNT, start=10_000)
    return scenes, np.stack([draw(scene) for scene in scenes])


def test_right_on_held_out_scenes(held_out):
    """At least 98 % of 1,000 drawn scenes that it never saw, in each attribute."""
    scenes, drawn = held_out
    found = checker.right(checker.trained(), drawn, scenes, tuple(checker.CLASSES))
    for name, hits in found.items():
        assert hits.mean() >= 0.98, name


def test_at_chance_on_shuffled_captions(held_out):
    """Against other scenes' captions it agrees as often as chance does, within 4 σ."""
    scenes, drawn = held_out
    rng = np.random.default_rng(0)
    shuffled = [scenes[i] for i in rng.permutation(COUNT)]
    found = checker.right(checker.trained(), drawn, shuffled, tuple(checker.CLASSES))
    for name, hits in found.items():
        chance = checker.chance(scenes, name)
        assert abs(hits.mean() - chance) < 4 * np.sqrt(chance / COUNT), name


def test_right_on_degraded_scenes(held_out):
    """At least 93 % in each attribute where pictures are blurred, noisy, recoloured, compressed."""
    scenes, drawn = held_out
    rng = np.random.default_rng(1)
    seen = np.stack([checker.degrade(picture, rng) for picture in drawn])
    for name, hits in checker.right(checker.trained(), seen, scenes).items():
        assert hits.mean() >= 0.93, name


def test_judges_attributes_apart(held_out):
    """A scene that differs from the caption in one attribute is wrong in that attribute alone."""
    from dataclasses import replace

    scenes, _ = held_out
    for name, change in (
        ("thing", lambda s: replace(s, thing="heart" if s.thing != "heart" else "house")),
        ("colour", lambda s: replace(s, colour="red" if s.colour != "red" else "blue")),
        ("setting", lambda s: replace(s, place="sea" if s.place != "sea" else "snow")),
    ):
        drawn = np.stack([draw(change(scene)) for scene in scenes[:200]])
        found = checker.right(checker.trained(), drawn, scenes[:200])
        for attribute, hits in found.items():
            wanted = 0.0 if attribute == name else 1.0
            assert abs(hits.mean() - wanted) <= 0.03, (name, attribute)


def test_more_things_than_asked_for_are_told():
    """Four or five things are no three: at least 95 % of 300 such scenes, drawn for nothing else."""
    scenes = checker.crowds(300, 1_000_000)
    assert {scene.count for scene in scenes} == {4, 5}
    drawn = np.stack([draw(scene) for scene in scenes])
    found = checker.right(checker.trained(), drawn, scenes, tuple(checker.CLASSES))
    for name, hits in found.items():
        assert hits.mean() >= 0.95, name


def test_larger_pictures_are_judged_reduced():
    """A scene drawn at 128 pixels is judged as the same at 64."""
    scenes = scene_list(TEST_SEED, 200, start=12_000)
    drawn = np.stack([draw(scene, 128) for scene in scenes])
    for name, hits in checker.right(checker.trained(), drawn, scenes).items():
        assert hits.mean() >= 0.97, name


def test_weights_are_small():
    """The judge's weights stay below 1 MB in the repository."""
    assert checker.WEIGHTS.stat().st_size < 1_000_000
