"""The prompts that `zs2 compare` and `zs2 study` take for zs2-mini where none are given.

    python -m infra.mini.prompts

writes manifests/examples/mini-prompts.txt: 64 captions of held-out scenes, every thing in every colour
once, places and times as even as that allows.

What is held out is the scenes: these are of the stream that no training reads. No combination is: the
60,000 training scenes hold each of the 768 of thing, colour, place and time many times, so a score on
these prompts says how well the model draws what it knows, not how well it combines anew.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from infra.mini.captions import caption
from infra.mini.data import TEST_SEED, scene_list
from infra.mini.scenes import COLOURS, SETTINGS, THINGS, Scene

ROOT = Path(__file__).parents[2]
PROMPTS = ROOT / "manifests" / "examples" / "mini-prompts.txt"
START, SEARCHED = (
    70_000,
    4_000,
)  # of the test stream; infra.mini.evaluate takes those from 50,000 on
HEAD = "# Drawn by `python -m infra.mini.prompts`: every thing in every colour, each of a held-out scene."


def balanced_scenes() -> list[Scene]:
    """The first scene of each thing and colour that keeps the settings even, in the stream's order."""
    pairs: dict[tuple[str, str], Scene] = {}
    settings: Counter[str] = Counter()
    most = -(-len(THINGS) * len(COLOURS) // len(SETTINGS))
    for scene in scene_list(TEST_SEED, SEARCHED, START):
        pair = (scene.thing, scene.colour)
        if pair not in pairs and settings[scene.setting] < most:
            pairs[pair] = scene
            settings[scene.setting] += 1
    return list(pairs.values())


def prompts() -> list[str]:
    """A caption of each that names colour, thing and place."""
    rng = np.random.default_rng(TEST_SEED)
    return [caption(scene, rng, complete=True) for scene in balanced_scenes()]


def text() -> str:
    """The file."""
    return "\n".join([HEAD, *prompts(), ""])


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    PROMPTS.write_text(text(), "utf-8")
    print(f"{PROMPTS.relative_to(ROOT)}: {len(prompts())} prompts")


if __name__ == "__main__":
    main()
