"""A pipeline's tensors under the names of the original Stable Diffusion releases: single files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.resnets.1": "middle_block.2",
}
VAE_ENDS = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_out.0": "proj_out",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)")


def write_single_file(pipe: Any, path: Path, metadata: dict[str, str] | None = None) -> Path:
    """A pipeline's weights as one .safetensors file in the original layout."""
    from safetensors.torch import save_file

    save_file(original_tensors(pipe), path, metadata=metadata)
    return path


def original_tensors(pipe: Any) -> dict[str, Any]:
    """All weights of a pipeline: SD 1 and InstructPix2Pix with CLIP, SD 2 (known by its linear
    projections) with OpenCLIP, SDXL with both."""
    tensors = unet_tensors(pipe.unet) | vae_tensors(pipe.vae)
    if hasattr(pipe, "text_encoder_2"):
        tensors |= clip_tensors(pipe.text_encoder, "conditioner.embedders.0.transformer.")
        tensors |= open_clip_tensors(pipe.text_encoder_2, "conditioner.embedders.1.model.")
    elif pipe.unet.config.use_linear_projection:
        tensors |= open_clip_tensors(pipe.text_encoder, "cond_stage_model.model.")
    else:
        tensors |= clip_tensors(pipe.text_encoder, "cond_stage_model.transformer.")
    # The training's schedule lies in every original file.
    tensors["betas"] = pipe.scheduler.betas
    tensors["alphas_cumprod"] = pipe.scheduler.alphas_cumprod
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def unet_tensors(unet: Any) -> dict[str, Any]:
    step = unet.config.layers_per_block + 1  # blocks of a level, in the original's flat count

    def place(match: re.Match[str]) -> str:
        way, level, kind, index = match[1], int(match[2]), match[3], int(match[4])
        if way == "down":
            number = level * step + (step if kind == "downsamplers" else index + 1)
            return f"input_blocks.{number}." + {"resnets": "0", "attentions": "1"}.get(kind, "0")
        has_attention = hasattr(unet.up_blocks[level], "attentions")
        number = level * step + (step - 1 if kind == "upsamplers" else index)
        last = "2" if has_attention else "1"
        return f"output_blocks.{number}." + {"resnets": "0", "attentions": "1"}.get(kind, last)

    found: dict[str, Any] = {}
    for name, tensor in unet.state_dict().items():
        place_name = _renamed(BLOCK.sub(place, name), UNET_ENDS)
        if "resnets" in name:
            place_name = _renamed(place_name, RESNET)
        if "downsamplers" in name:
            place_name = place_name.replace(".conv.", ".op.")
        found["model.diffusion_model." + place_name] = tensor
    return found


def vae_tensors(vae: Any) -> dict[str, Any]:
    levels = len(vae.config.block_out_channels)

    def place(match: re.Match[str]) -> str:
        way, level, kind, index = match[1], int(match[2]), match[3], match[4]
        where = f"down.{level}." if way == "down" else f"up.{levels - 1 - level}."
        names = {"downsamplers": "downsample", "upsamplers": "upsample"}
        return where + names.get(kind, f"block.{index}")

    found: dict[str, Any] = {}
    for name, tensor in vae.state_dict().items():
        is_linear = "attentions" in name and tensor.ndim == 2  # a 1×1 convolution in the original
        found["first_stage_model." + _renamed(BLOCK.sub(place, name), VAE_ENDS)] = (
            tensor[:, :, None, None] if is_linear else tensor
        )
    return found


def clip_tensors(encoder: Any, prefix: str) -> dict[str, Any]:
    import torch

    found = {
        f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor
        for name, tensor in encoder.state_dict().items()
    }
    # A buffer that older releases of transformers saved.
    positions = torch.arange(encoder.config.max_position_embeddings)[None]
    return found | {f"{prefix}text_model.embeddings.position_ids": positions}


def open_clip_tensors(encoder: Any, prefix: str) -> dict[str, Any]:
    import torch

    state = {
        name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()
    }
    width = encoder.config.hidden_size
    projection = state.pop("text_projection.weight", torch.eye(width))
    found = {
        "token_embedding.weight": state.pop("embeddings.token_embedding.weight"),
        "positional_embedding": state.pop("embeddings.position_embedding.weight"),
        "ln_final.weight": state.pop("final_layer_norm.weight"),
        "ln_final.bias": state.pop("final_layer_norm.bias"),
        "text_projection": projection.T,
        "logit_scale": torch.tensor(4.6),
    }
    for layer in range(encoder.config.num_hidden_layers):
        for kind in ("weight", "bias"):
            parts = [
                state.pop(f"encoder.layers.{layer}.self_attn.{part}_proj.{kind}") for part in "qkv"
            ]
            found[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
    for name, tensor in state.items():
        if name.startswith("encoder.layers."):
            place = name.replace("encoder.layers.", "transformer.resblocks.")
            found[_renamed(place, OPEN_CLIP)] = tensor
    return {prefix + name: tensor for name, tensor in found.items()}


def _renamed(name: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        name = re.sub(rf"(^|(?<=\.)){re.escape(old)}(?=\.)", new, name)
    return name
