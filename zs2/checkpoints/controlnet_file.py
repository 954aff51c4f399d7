"""ControlNets from a folder, a hub or a single file; a single file's architecture is read off its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zs2.addons import PICKLED, AddOn, fetch_addon, is_as_saved
from zs2.checkpoints.quiet import brief
from zs2.models import ModelError, placement

_LAYERS = 2  # resnets a level, of all Stable Diffusion ControlNets
_HEADS = 8  # of attention in Stable Diffusion 1; later families have heads of _HEAD_SIZE features
_HEAD_SIZE = 64
_TIME_EMBEDDING = 256  # of Stable Diffusion XL's added conditions


def load_controlnet(
    addon: AddOn,
    *,
    torch_dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
) -> ControlNetModel:
    """Load a ControlNet from its folder (local or of a hub), or from a single file in diffusers' or
    the original layout.

    Args:
        torch_dtype: or the name of one; default float16 on a GPU, float32 on the CPU.
        device: default the GPU when there is one.

    Raises:
        ModelError: when it cannot be had or loaded; a device that is not there.
    """
    where, dtype = placement(torch_dtype, device)
    path = fetch_addon(addon)
    net: Any
    try:
        if is_as_saved(path):
            net = ControlNetModel.from_pretrained(
                path.parent,
                dtype=dtype,
                variant="fp16" if ".fp16." in path.name else None,
                use_safetensors=not path.name.endswith(PICKLED),
                local_files_only=True,
            )
        else:
            net = _from_single_file(path)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"controlnet {addon.name!r}: expected the weights of a ControlNetModel in {path}, found "
            f"that they cannot be loaded: {brief(error)}; name another ControlNet"
        ) from error
    return net.eval().to(where, dtype)


def _from_single_file(path: Path) -> ControlNetModel:
    pickled = path.name.endswith(PICKLED)
    weights: dict[str, Tensor] = (
        torch.load(path, map_location="cpu", weights_only=True) if pickled else load_file(path)
    )
    weights = convert_controlnet_checkpoint(weights, {"layers_per_block": _LAYERS})
    net = ControlNetModel(**_architecture({name: t.shape for name, t in weights.items()}))
    net.load_state_dict(weights)
    return net


def _architecture(shapes: Mapping[str, torch.Size]) -> dict[str, Any]:
    """The arguments of `ControlNetModel` that its tensors' names and shapes tell.

    What they do not tell is the number of attention heads: Stable Diffusion 1 has 8 everywhere,
    the later families, known by their linear projections, 64 features a head.
    """
    levels = _count(shapes, "down_blocks.{}.resnets.0.conv1.weight")
    channels = [shapes[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels)]
    depths = [
        _count(shapes, f"down_blocks.{i}.attentions.0.transformer_blocks.{{}}.norm1.weight")
        for i in range(levels)
    ]
    attended = depths.index(max(depths))
    attention = f"down_blocks.{attended}.attentions.0"
    linear = len(shapes[f"{attention}.proj_in.weight"]) == 2
    stages = _count(shapes, "controlnet_cond_embedding.blocks.{}.weight") // 2
    hint = ["conv_in", *(f"blocks.{2 * i + 1}" for i in range(stages))]
    architecture: dict[str, Any] = {
        "in_channels": shapes["conv_in.weight"][1],
        "conditioning_channels": shapes["controlnet_cond_embedding.conv_in.weight"][1],
        "block_out_channels": channels,
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "transformer_layers_per_block": [max(depth, 1) for depth in depths],
        "layers_per_block": _count(shapes, "down_blocks.0.resnets.{}.conv1.weight"),
        "cross_attention_dim": shapes[f"{attention}.transformer_blocks.0.attn2.to_k.weight"][1],
        "attention_head_dim": [c // _HEAD_SIZE for c in channels] if linear else _HEADS,
        "use_linear_projection": linear,
        "conditioning_embedding_out_channels": [
            shapes[f"controlnet_cond_embedding.{name}.weight"][0] for name in hint
        ],
    }
    if "add_embedding.linear_1.weight" in shapes:
        architecture |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _TIME_EMBEDDING,
            "projection_class_embeddings_input_dim": shapes["add_embedding.linear_1.weight"][1],
        }
    return architecture


def _count(shapes: Mapping[str, torch.Size], pattern: str) -> int:
    number = 0
    while pattern.format(number) in shapes:
        number += 1
    return number
