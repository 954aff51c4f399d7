"""Train all that ships in zs2/mini, stage after stage: `python -m infra.mini.train`.

Each stage is a program of its own and resumes from its checkpoint in `work/`; one that has had its minutes
is passed over. Minutes are those of two idle cores at 64 pixels. With a GPU, `--size 128` trains the
pipeline at 128 pixels; a checkpoint of another size, or of networks that were trained anew since, is
refused.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass

from infra.mini.command import RecipeError, positive_number, run, whole_number
from infra.mini.data import SIZES, WORK


@dataclass(frozen=True)
class Stage:
    """A program of this package, and what it is called with.

    Attributes:
        minutes: of its schedule; None where it has none.
        done: a file of WORK that means, for a stage that does not resume, that it is done.
        is_sized: it has an option `--size`.
        is_counted: it has an option `--count`, of pictures.
        options: what it is called with besides.
    """

    program: str
    minutes: float | None
    done: str | None = None
    is_sized: bool = False
    is_counted: bool = True
    options: tuple[str, ...] = ()


STAGES = {
    "data": Stage("data", None, is_sized=True),
    "autoencoder": Stage("train_autoencoder", 40, is_sized=True),
    "decoder": Stage("train_autoencoder", 36, is_sized=True, options=("--decoder",)),
    "text": Stage("train_text", 6, "text.pt", is_counted=False),
    "unet": Stage("train_unet", 143, is_sized=True),
    "checker": Stage("checker", 9, "checker.done"),
    "clip": Stage("train_clip", 12.5),
    "sr": Stage("train_sr", 42),
}


def command(stage: Stage, scale: float, size: int, count: int | None = None) -> list[str]:
    """The stage's command, its minutes times `scale`, on so many pictures (None: its own number)."""
    made = [sys.executable, "-m", f"infra.mini.{stage.program}", *stage.options]
    if stage.minutes is not None:
        made += ["--minutes", f"{stage.minutes * scale:g}"]
    if stage.is_sized:
        made += ["--size", str(size)]
    if stage.is_counted and count is not None:
        made += ["--count", str(count)]
    return made


def main() -> None:
    """Run the stages that are not done, in order; the first that fails ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", help=f"some of {', '.join(STAGES)}; default: all")
    parser.add_argument(
        "--scale", type=positive_number, default=1.0, help="of every stage's minutes"
    )
    parser.add_argument("--size", type=int, default=64, choices=SIZES)
    parser.add_argument(
        "--count", type=whole_number, help="pictures to draw; default: each stage's own"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.stages) - set(STAGES):
        parser.error(f"expected some of {', '.join(STAGES)}, found {', '.join(sorted(unknown))}")
    for name in arguments.stages or STAGES:
        stage = STAGES[name]
        if stage.done and (WORK / stage.done).exists():
            print(f"{name}: done, {WORK / stage.done} is there", flush=True)
            continue
        called = command(stage, arguments.scale, arguments.size, arguments.count)
        status = subprocess.run(called).returncode
        if status:
            raise RecipeError(f"{name}: ended with status {status}, as said above")
        if stage.done:
            (WORK / stage.done).touch()


if __name__ == "__main__":
    run(main)
