"""Score all that ships in zs2/mini, the tables of README.md: `python -m infra.mini.evaluate [PART …]`."""

from __future__ import annotations

import argparse
import subprocess
import sys

from infra.mini.command import RecipeError, run

PARTS = {
    "checker": ("checker", "--score"),
    "pictures": ("evaluate_pictures", "zs2-mini"),
    "clips": ("evaluate_clips", "zs2-mini"),
    "scorer": ("evaluate_scorer", "zs2-mini-clip"),
    "sr": ("evaluate_sr", "--clips", "32"),
    "speed": ("evaluate_speed", "zs2-mini"),
}


def main() -> None:
    """Run the programs of the parts one after the other; the first that fails ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"expected some of {', '.join(PARTS)}, found {', '.join(sorted(unknown))}")
    for part in arguments.parts or PARTS:
        program, *rest = PARTS[part]
        print(f"\n## {part}\n", flush=True)
        status = subprocess.run([sys.executable, "-m", f"infra.mini.{program}", *rest]).returncode
        if status:
            raise RecipeError(f"{part}: ended with status {status}, as said above")


if __name__ == "__main__":
    run(main)
