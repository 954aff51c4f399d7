"""What is added to a checkpoint: LoRAs, an IP-Adapter, a ControlNet; described without torch, then loaded.

Everything comes as safetensors; pickled weights are refused unless a setting trusts them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from zs2.models import ModelError

if TYPE_CHECKING:
    import torch
    from diffusers import ControlNetModel

KINDS = ("controlnet", "lora", "ip_adapter", "depth")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_HUB_ID = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)"
    r"(@(?P<revision>refs/pr/\d+|[^/@]+))?"
    r"(/(?P<file>[^@]+\.(safetensors|bin|pt|pth|ckpt)))?"
)
_FORMS = {
    "lora": "'owner/name', 'owner/name@revision/path/file.safetensors', a local .safetensors file or "
    "folder, each optionally with ':weight'",
    "ip_adapter": "'owner/name/folder/file.safetensors' (optionally 'owner/name@revision/…') or a local "
    ".safetensors file",
    "controlnet": "a hub id such as 'owner/name' (optionally '@revision'), a local folder, or a "
    ".safetensors file",
    "depth": "a hub id such as 'owner/name' (optionally '@revision') or a local folder",
}


@dataclass(frozen=True)
class AddOn:
    """Something added to a checkpoint, known before it is loaded.

    Attributes:
        kind: one of `KINDS`.
        name: as the user wrote it, less the weight.
        location: a local file or folder, or a hub id.
        revision: the hub's commit; None when local (its weights are its revision).
        file: the weights' path inside the location; None for a local file, and where the whole
            location is meant.
        weight: a LoRA's strength.
    """

    kind: str
    name: str
    location: str
    revision: str | None
    file: str | None
    weight: float = 1.0

    @property
    def is_local(self) -> bool:
        return self.revision is None

    @property
    def local_file(self) -> Path:
        """Where a local add-on's weights lie: the file, or the file inside the folder."""
        return Path(self.location, self.file) if self.file else Path(self.location)


def describe_addon(kind: str, name: str, *, trusted: Sequence[str] = ()) -> AddOn:
    """Find an add-on and check what can be known of it; no weights are loaded, torch is not imported.

    Args:
        kind: `controlnet`, `lora`, `ip_adapter` or `depth` (a transformers depth-estimation model).
        name: a hub id, folder or file, in the forms that the kind takes; a LoRA's with `:weight`.
        trusted: hub ids, folders or files whose pickled weights may be loaded.

    Raises:
        ModelError: no such add-on, another kind of thing, or pickled weights that are not trusted.
    """
    bare, weight = _split_weight(name) if kind == "lora" else (name, 1.0)
    path = Path(bare).expanduser()
    if bare and path.exists():
        return _describe_local(kind, bare, path, weight, trusted)
    raise ModelError(
        f"{kind} {bare!r}: expected {_FORMS[kind]}; found no such file or folder; check the name"
    )


def _split_weight(name: str) -> tuple[str, float]:
    bare, colon, text = name.rpartition(":")
    if not colon:
        return name, 1.0
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ModelError(
            f"lora {name!r}: expected a number as the weight after ':', found {text!r}; write for "
            f"instance {bare}:0.8"
        )
    return bare, weight


def _describe_local(
    kind: str, name: str, path: Path, weight: float, trusted: Sequence[str]
) -> AddOn:
    return AddOn(kind, name, str(path), None, None, weight)


def load_controlnet(
    addon: AddOn,
    *,
    torch_dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> ControlNetModel:
    raise ModelError("not here yet")


def use_loras(pipe: Any, loras: Sequence[AddOn]) -> None:
    raise ModelError("not here yet")


def use_ip_adapter(pipe: Any, addon: AddOn | None, scale: float = 1.0) -> None:
    raise ModelError("not here yet")
