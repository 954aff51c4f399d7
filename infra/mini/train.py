"""Train all that ships in zs2/mini, stage after stage: `python -m infra.mini.train`.

Each stage is a program of its own and resumes from its checkpoint in `work/`; one that has had its minutes
is passed over. Minutes are those of two idle cores at 64 pixels. With a GPU, `--size 128` trains the
pipeline at 128 pixels.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass

from infra.mini.data import WORK


@dataclass(frozen=True)
class Stage:
    """A program of this package, and what it is called with.

    Attributes:
        minutes: of its schedule; None where it has none.
        checkpoint: a file of WORK that means, for a stage that does not resume, that it is done.
        is_sized: it has an option `--size`.
    """

    program: str
    minutes: float | None
    checkpoint: str | None = None
    is_sized: bool = False


STAGES = {
    "data": Stage("data", None, is_sized=True),
    "autoencoder": Stage("train_autoencoder", 40, is_sized=True),
    "text": Stage("train_text", 4, "text.pt"),
    "unet": Stage("train_unet", 90, is_sized=True),
    "checker": Stage("checker", 8, "checker.done"),
    "clip": Stage("train_clip", 30),
    "sr": Stage("train_sr", 42),
}


def command(stage: Stage, scale: float, size: int) -> list[str]:
    """The stage's command, its minutes times `scale`."""
    made = [sys.executable, "-m", f"infra.mini.{stage.program}"]
    if stage.minutes is not None:
        made += ["--minutes", f"{stage.minutes * scale:g}"]
    if stage.is_sized:
        made += ["--size", str(size)]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", help=f"some of {', '.join(STAGES)}; default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="of every stage's minutes")
    parser.add_argument("--size", type=int, default=64, choices=(64, 128))
    arguments = parser.parse_args()
    if unknown := set(arguments.stages) - set(STAGES):
        parser.error(f"expected some of {', '.join(STAGES)}, found {', '.join(sorted(unknown))}")
    for name in arguments.stages or STAGES:
        stage = STAGES[name]
        if stage.checkpoint and (WORK / stage.checkpoint).exists():
            print(f"{name}: done, {WORK / stage.checkpoint} is there", flush=True)
            continue
        subprocess.run(command(stage, arguments.scale, arguments.size), check=True)
        if stage.checkpoint:
            (WORK / stage.checkpoint).touch()


if __name__ == "__main__":
    main()
