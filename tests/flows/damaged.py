"""A model that planning finds nothing wrong with, and that fails when it is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def damaged_copy(model: Path, folder: Path) -> Path:
    """A copy of a local model with a weight of another shape than its configuration says."""
    shutil.copytree(model, folder)
    (weights,) = (folder / "unet").glob("*.safetensors")
    tensors = load_file(weights)
    save_file(tensors | {"conv_in.weight": tensors["conv_in.weight"][:-1].clone()}, weights)
    return folder
