"""The manifest of a storm: short rows of every kind that has a path of its own through the stages."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CODECS = ("h264", "gif", "png", "ffv1")
TEXTS = ("a red star over the sea", "a green cube in the snow", "two blue birds at night")


def write_manifest(folder: Path, count: int) -> Path:
    """Write a manifest of `count` rows of 4 frames and 4 steps, and the second model that every
    fifth of them has. Returns the manifest."""
    other = second_model(folder / "other-model")
    rows = [_row(number, other) for number in range(count)]
    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _row(number: int, other: Path) -> dict[str, Any]:
    return {
        "id": f"r{number:04d}",
        "prompt": TEXTS[number % len(TEXTS)],
        "seed": number,
        "model": str(other) if number % 5 == 4 else "zs2-mini",
        "height": 32,
        "width": 32,
        "num_frames": 4,
        "segment_frames": 2,  # two segments: the second continues the first
        "num_inference_steps": 4,
        "temporal_scale": 2 if number % 3 == 0 else 1,
        "spatial_scale": 2 if number % 2 == 0 else 1,
        "codec": CODECS[number // 2 % len(CODECS)],
        "meta_number": number,
    }


def second_model(folder: Path) -> Path:
    """The bundled model with a UNet that answers a little less: another checkpoint, other pictures."""
    from safetensors.torch import load_file, save_file

    if not folder.exists():
        shutil.copytree(str(files("zs2.mini") / "zs2-mini"), folder)
        weights = next((folder / "unet").glob("*.safetensors"))
        tensors = load_file(weights)
        tensors["conv_out.weight"] = tensors["conv_out.weight"] * 0.9
        save_file(tensors, weights, metadata={"format": "pt"})
    return folder
