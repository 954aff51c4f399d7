"""What models need in memory beside their weights, found once for a configuration."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from manifests.digest import digest_of
from manifests.remembered import recall, remember
from zs2.models import BUNDLED, Memory, ModelInfo, configurations

DTYPES = ("float16", "float32")
SHIPPED = (
    BUNDLED / "memory.json"
)  # of the bundled models, by `python -m infra.model_memory --write`
RECIPE = 2  # of the estimate: another number forgets what was found with the one before


def needed(info: ModelInfo) -> dict[str, Memory]:
    """What a segment of 8 frames and decoding add to the weights, by the name of the dtype.

    Found without torch for the bundled models and what was looked at before (models of equal
    configuration are equal here); else in about two seconds a model, once torch is there.

    Raises:
        ModelError: see `zs2.memory.activation_bytes`.
    """
    configs = configurations(info)
    key = configuration_key(info, configs)
    known: dict[str, Any] = json.loads(SHIPPED.read_text("utf-8")) if SHIPPED.is_file() else {}
    found = known.get(key) or _read(recall("memory", key))
    if found is None:
        found = estimated(info, configs)
        remember("memory", key, json.dumps(found))
    return {name: Memory(**found[name]) for name in DTYPES}


def estimated(info: ModelInfo, configs: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    """The estimate itself, as it is kept: the fields of `Memory` by the name of the dtype."""
    import torch

    from zs2.memory import activation_bytes

    return {
        name: asdict(activation_bytes(info, dtype=getattr(torch, name), configs=configs))
        for name in DTYPES
    }


def configuration_key(info: ModelInfo, configs: dict[str, dict[str, Any]]) -> str:
    """What decides the estimate: architectures, size, pipeline, whether there is guidance."""
    parts = {
        file: {name: value for name, value in config.items() if not name.startswith("_")}
        for file, config in configs.items()
        if file != "model_index.json"
    }
    return digest_of(
        {
            "recipe": RECIPE,
            "parts": parts,
            "vae": configs["model_index.json"].get("vae"),
            "pipeline": info.pipeline,
            "size": [info.height, info.width],
            "guided": info.defaults.guidance_scale > 1,
        }
    )


def _read(kept: str) -> dict[str, dict[str, int]] | None:
    """What the cache has; None where that is nothing, or no longer what was written."""
    try:
        found: dict[str, dict[str, int]] = json.loads(kept)
        return found if all(set(found[name]) == {"unet", "decode"} for name in DTYPES) else None
    except (ValueError, KeyError, TypeError):
        return None
