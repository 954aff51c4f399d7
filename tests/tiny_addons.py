"""Tiny add-ons for the pipelines of `tiny_models`: files in the very layouts that their users have.

Weights depend on the seed alone; they are large enough to change a picture plainly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

RANK = 2
_UNET_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.2")
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


def lora_layers(pipe: Any, seed: int, text: bool = True) -> dict[str, dict[str, Any]]:
    """Component → `layer.lora_A.weight` and `layer.lora_B.weight` for attention and feed-forward."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    parts = {"unet": _UNET_LAYERS}
    if text:
        names = [name for name in ("text_encoder", "text_encoder_2") if hasattr(pipe, name)]
        parts |= dict.fromkeys(names, _TEXT_LAYERS)
    found: dict[str, dict[str, Any]] = {}
    for part, endings in parts.items():
        layers = {
            name.replace(".base_layer", ""): module
            for name, module in getattr(pipe, part).named_modules()
            if isinstance(module, torch.nn.Linear)
            and name.replace(".base_layer", "").endswith(endings)
        }
        found[part] = {}
        for name, module in layers.items():
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


def ip_adapter(pipe: Any, path: Path, seed: int, plus: bool = False) -> Path:
    """An IP-Adapter for a pipeline's UNet, with `tiny_models.image_encoder` saved beside it."""
    import torch
    from safetensors.torch import save_file

    from tests.tiny_models import image_encoder

    torch.manual_seed(seed)
    encoder, _ = image_encoder()
    unet = pipe.unet
    width = unet.config.cross_attention_dim
    tensors = _resampler(encoder, width) if plus else _projection(encoder, width)
    number = 1
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            features = module.to_q.out_features
            for letter in "kv":
                tensors[f"ip_adapter.{number}.to_{letter}_ip.weight"] = torch.randn(features, width)
            number += 2
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    encoder.save_pretrained(path.parent / "image_encoder")
    return path


def _projection(encoder: Any, width: int) -> dict[str, Any]:
    import torch

    return {
        "image_proj.proj.weight": torch.randn(4 * width, encoder.config.projection_dim),
        "image_proj.proj.bias": torch.randn(4 * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }


def controlnet_folder(pipe: Any, folder: Path, variant: str | None = None) -> Path:
    """A ControlNet as diffusers saves it."""
    from tests.tiny_models import controlnet

    controlnet(pipe).save_pretrained(folder, variant=variant)
    return folder
