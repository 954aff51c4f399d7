"""Tiny add-ons for the pipelines of `tiny_models`: files in the very layouts that their users have.

Weights depend on the seed alone; they are large enough to change a picture plainly.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.original_layout import RESNET
from tests.tiny_models import controlnet, image_encoder

RANK = 2
_UNET_LAYERS = ("attn1.to_k", "attn1.to_v", "attn2.to_out.0")
_TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
# Where SDXL's original layout has the attention of diffusers' blocks.
_SGM = {
    "down_blocks.1.attentions.0": "input_blocks.4.1",
    "down_blocks.1.attentions.1": "input_blocks.5.1",
    "down_blocks.2.attentions.0": "input_blocks.7.1",
    "down_blocks.2.attentions.1": "input_blocks.8.1",
    "mid_block.attentions.0": "middle_block.1",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.attentions.2": "output_blocks.2.1",
    "up_blocks.1.attentions.0": "output_blocks.3.1",
    "up_blocks.1.attentions.1": "output_blocks.4.1",
    "up_blocks.1.attentions.2": "output_blocks.5.1",
}

_CONTROL_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "controlnet_mid_block": "middle_block_out.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    "controlnet_cond_embedding.conv_out": "input_hint_block.14",
}


def lora_layers(pipe: Any, seed: int, text: bool = True) -> dict[str, dict[str, Any]]:
    """Component → `….lora_A.weight` and `….lora_B.weight` of some attention and all of the text."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    parts = {"unet": _UNET_LAYERS}
    if text:
        names = [name for name in ("text_encoder", "text_encoder_2") if hasattr(pipe, name)]
        parts |= dict.fromkeys(names, _TEXT_LAYERS)
    found: dict[str, dict[str, Any]] = {}
    for part, endings in parts.items():
        found[part] = {}
        for name, module in getattr(pipe, part).named_modules():
            if not name.endswith(endings):
                continue
            down = torch.randn(RANK, module.in_features, generator=generator)
            up = torch.randn(module.out_features, RANK, generator=generator)
            found[part][f"{name}.lora_A.weight"] = down * 0.3
            found[part][f"{name}.lora_B.weight"] = up * 0.3
    return found


def lora(pipe: Any, folder: Path, seed: int, text: bool = True) -> Path:
    """A LoRA as diffusers saves it; returns its file."""
    layers = lora_layers(pipe, seed, text)
    layers = {f"{part}_lora_layers": tensors for part, tensors in layers.items()}
    type(pipe).save_lora_weights(folder, **layers)
    return folder / "pytorch_lora_weights.safetensors"


def kohya_lora(pipe: Any, path: Path, seed: int, alpha: float = RANK) -> Path:
    """The LoRA of `lora` as kohya's scripts save it: at alpha = rank it is the same LoRA."""
    import torch
    from safetensors.torch import save_file

    sdxl = hasattr(pipe, "text_encoder_2")
    prefixes = {
        "unet": "lora_unet_",
        "text_encoder": "lora_te1_text_model_" if sdxl else "lora_te_text_model_",
        "text_encoder_2": "lora_te2_text_model_",
    }
    tensors: dict[str, Any] = {}
    for part, layers in lora_layers(pipe, seed).items():
        for name, tensor in layers.items():
            layer, letter = name.removesuffix(".weight").rsplit(".lora_", 1)
            if part == "unet" and sdxl:
                block = next(block for block in _SGM if layer.startswith(block + "."))
                layer = layer.replace(block, _SGM[block])
            layer = prefixes[part] + layer.removeprefix("text_model.").replace(".", "_")
            tensors[f"{layer}.lora_{'down' if letter == 'A' else 'up'}.weight"] = tensor
            tensors[f"{layer}.alpha"] = torch.tensor(float(alpha))
    save_file(tensors, path)
    return path


def ip_adapter(pipe: Any, path: Path, seed: int) -> Path:
    """An IP-Adapter for a pipeline's UNet, with `tiny_models.image_encoder` saved beside it."""
    import torch
    from safetensors.torch import save_file

    encoder, _ = image_encoder()
    torch.manual_seed(seed)
    width = pipe.unet.config.cross_attention_dim
    tensors = {
        "image_proj.proj.weight": torch.randn(4 * width, encoder.config.projection_dim),
        "image_proj.proj.bias": torch.randn(4 * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    # The original numbers all attention layers by the order of their processors; the odd are attn2.
    layers = [name.removesuffix(".processor") for name in pipe.unet.attn_processors]
    for number, name in enumerate(name for name in layers if name.endswith("attn2")):
        features = pipe.unet.get_submodule(name).to_q.out_features
        for letter in "kv":
            key = f"ip_adapter.{2 * number + 1}.to_{letter}_ip.weight"
            tensors[key] = torch.randn(features, width)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    encoder.save_pretrained(path.parent / "image_encoder")
    return path


def controlnet_folder(pipe: Any, folder: Path, variant: str | None = None) -> Path:
    """A ControlNet as diffusers saves it."""
    controlnet(pipe).save_pretrained(folder, variant=variant)
    return folder


def original_controlnet(net: Any, path: Path) -> Path:
    """A ControlNet as one file in the layout of its first release."""
    from safetensors.torch import save_file

    tensors = {f"control_model.{_original(name)}": t for name, t in net.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def _original(name: str) -> str:
    for ours, theirs in _CONTROL_ENDS.items():
        if name.startswith(ours + "."):
            rest = name.removeprefix(ours)
            return theirs + (_resnet(rest) if "resnets" in ours else rest)
    if match := re.fullmatch(r"controlnet_cond_embedding.blocks.(\d+)(.+)", name):
        return f"input_hint_block.{2 * int(match[1]) + 2}{match[2]}"
    if match := re.fullmatch(r"controlnet_down_blocks.(\d+)(.+)", name):
        return f"zero_convs.{match[1]}.0{match[2]}"
    match = re.fullmatch(r"down_blocks.(\d+).(resnets|attentions|downsamplers).(\d+)(.+)", name)
    assert match, name
    block, part, layer, rest = int(match[1]), match[2], int(match[3]), match[4]
    number = 3 * block + layer + 1
    if part == "downsamplers":
        return f"input_blocks.{number + 2}.0.op{rest.removeprefix('.conv')}"
    if part == "attentions":
        return f"input_blocks.{number}.1{rest}"
    return f"input_blocks.{number}.0{_resnet(rest)}"


def _resnet(rest: str) -> str:
    for ours, theirs in RESNET.items():
        rest = rest.replace(f".{ours}.", f".{theirs}.")
    return rest
