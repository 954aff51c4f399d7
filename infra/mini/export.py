"""Write what was trained into zs2/mini, the folders that ship: `python -m infra.mini.export [NAME …]`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from infra.mini import export_clip, export_pipeline, export_sr
from infra.mini.command import RecipeError, run
from zs2.models import BUNDLED

# By folder: what writes it, and the most bytes it may have, for it travels inside the package.
EXPORTS: dict[str, tuple[Callable[[Path], None], int]] = {
    "zs2-mini": (export_pipeline.export, 40_000_000),
    "zs2-mini-clip": (export_clip.export, 4_000_000),
    "zs2-mini-sr": (export_sr.export, 1_000_000),
}


def export(name: str, root: Path = BUNDLED) -> int:
    """Write a model's folder and return its size in bytes.

    Raises:
        RecipeError: it is too large to ship.
    """
    write, limit = EXPORTS[name]
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    write(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in files)
    if size >= limit:
        raise RecipeError(
            f"{folder}: expected fewer than {limit:,} bytes, found {size:,}; make it smaller"
        )
    return size


def main() -> None:
    """Write the folders of the models and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(EXPORTS)}; default: all"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(EXPORTS):
        parser.error(f"expected some of {', '.join(EXPORTS)}, found {', '.join(sorted(unknown))}")
    for name in arguments.names or EXPORTS:
        print(f"{name}: {export(name):,} bytes")


if __name__ == "__main__":
    run(main)
