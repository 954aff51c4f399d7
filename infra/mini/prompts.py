"""The prompts that `zs2 compare` and `zs2 study` take for zs2-mini where none are given.

    python -m infra.mini.prompts

writes manifests/examples/mini-prompts.txt: 64 captions of held-out scenes, things, colours and settings as
even as 64 allow, each pair of thing and colour at most once.

What is held out is the scenes: these are of the stream that no training reads. Their combinations of thing,
colour and place are not, so a score on these prompts says how well the model draws what it knows, not how
well it combines anew (`infra.mini.evaluate_pictures` says that).
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from infra.mini.captions import caption
from infra.mini.data import TEST_SEED, scene_list
from infra.mini.scenes import COLOURS, SETTINGS, Scene
from infra.mini.things import THINGS

ROOT = Path(__file__).parents[2]
PROMPTS = ROOT / "manifests" / "examples" / "mini-prompts.txt"
COUNT = 64
START, SEARCHED = (
    70_000,
    4_000,
)  # of the test stream; infra.mini.evaluate_pictures takes those from 50,000 on
HEAD = "# Drawn by `python -m infra.mini.prompts`: things, colours and settings evenly, of held-out scenes."


def balanced_scenes() -> list[Scene]:
    """The stream's next scene, COUNT times, of a thing, colour and setting that have not come up more
    often than a fair share so far."""
    values = {"thing": len(THINGS), "colour": len(COLOURS), "setting": len(SETTINGS)}
    seen: Counter[tuple[str, str]] = Counter()
    found: list[Scene] = []
    for scene in scene_list(TEST_SEED, SEARCHED, START):
        own = [(name, getattr(scene, name)) for name in values]
        pair = ("pair", f"{scene.colour} {scene.thing}")
        if seen[pair] == 0 and all(seen[each] <= len(found) // values[each[0]] for each in own):
            found.append(scene)
            seen.update([pair, *own])
        if len(found) == COUNT:
            break
    return found


def prompts() -> list[str]:
    """A caption of each that names colour, thing and place."""
    rng = np.random.default_rng(TEST_SEED)
    return [caption(scene, rng, complete=True) for scene in balanced_scenes()]


def text() -> str:
    """The file."""
    return "\n".join([HEAD, *prompts(), ""])


def main() -> None:
    """Write the file."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PROMPTS.write_text(text(), "utf-8")
    print(f"{PROMPTS.relative_to(ROOT)}: {len(prompts())} prompts")


if __name__ == "__main__":
    main()
