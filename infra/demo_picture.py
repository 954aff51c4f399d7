"""The README's picture from a rendered demo: `python -m infra.demo_picture renders/demo infra/demo.gif`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from manifests.ledger import iter_results
from tasks.assemble import assemble, decode

SIDE = 112  # pixels of a clip
COLUMNS = 5
SECONDS = 3.0
FPS = 8.0


def main(out: Path, picture: Path) -> None:
    """Tile the clips of a run folder into one GIF; a clip that ends earlier begins again."""
    clips: list[np.ndarray] = []
    for row in sorted(iter_results(out), key=lambda row: row.id):
        if row.file_name is None:
            continue
        frames, _ = decode(out / row.file_name)
        moments = np.arange(int(SECONDS * FPS)) / FPS * (row.fps or FPS)
        clips.append(
            np.stack(
                [
                    np.asarray(Image.fromarray(frames[int(i) % len(frames)]).resize((SIDE, SIDE)))
                    for i in moments
                ]
            )
        )
    clips += [np.zeros_like(clips[0])] * (-len(clips) % COLUMNS)
    rows = [
        np.concatenate(clips[start : start + COLUMNS], axis=2)
        for start in range(0, len(clips), COLUMNS)
    ]
    assemble(np.concatenate(rows, axis=1), picture, FPS, "gif")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
