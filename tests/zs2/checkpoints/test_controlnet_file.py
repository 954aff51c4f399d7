"""ControlNets from folders and single files, in diffusers' and the original layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file

from tests import tiny_addons, tiny_models
from zs2.addons import describe_addon, load_controlnet
from zs2.models import ModelError

# Stable Diffusion 1, 2 and XL less their widths, with as many heads as theirs would have.
LEVELS_SD1: dict[str, Any] = {
    "block_out_channels": (32, 32, 64, 64),
    "cross_attention_dim": 16,
    "conditioning_embedding_out_channels": (4, 4, 8, 8),
}
LEVELS_SD2: dict[str, Any] = {
    **LEVELS_SD1,
    "block_out_channels": (64, 64, 128, 128),
    "attention_head_dim": (1, 1, 2, 2),
    "use_linear_projection": True,
}
LEVELS_SDXL: dict[str, Any] = {
    **LEVELS_SD2,
    "block_out_channels": (64, 64, 128),
    "attention_head_dim": (1, 1, 2),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + 24,
}


def control(net: Any) -> list[torch.Tensor]:
    """The residuals that a ControlNet gives for fixed inputs."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(net.dtype)

    added = {"text_embeds": drawn(1, 24), "time_ids": drawn(1, 6)}
    stages = len(net.config.conditioning_embedding_out_channels) - 1
    with torch.no_grad():
        down, mid = net(
            drawn(1, 4, 16, 16),
            500,
            encoder_hidden_states=drawn(1, 5, net.config.cross_attention_dim),
            controlnet_cond=drawn(1, 3, 16 * 2**stages, 16 * 2**stages),
            added_cond_kwargs=added if net.config.addition_embed_type else None,
            return_dict=False,
        )
    return [*down, mid]


def filled(net: Any) -> Any:
    """Its zero convolutions filled, so that all layers have a say."""
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def equal(ours: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) and a.abs().max() > 0.1 for a, b in zip(ours, wanted, strict=True))


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_folder(tmp_path: Path, variant: str | None):
    """save_pretrained's folder, also with the fp16 variant alone, and the file in it, load as diffusers
    loads it."""
    pipe = tiny_models.sd1(tmp_path)
    folder = tiny_addons.controlnet_folder(pipe, tmp_path / "net", variant)
    wanted = ControlNetModel.from_pretrained(folder, variant=variant)
    [file] = folder.glob("*.safetensors")
    for name in (folder, file):
        addon = describe_addon("controlnet", str(name))
        net = load_controlnet(addon, torch_dtype=torch.float32, device="cpu")
        assert equal(control(net), control(wanted))


@pytest.mark.parametrize("levels", [LEVELS_SD1, LEVELS_SD2, LEVELS_SDXL], ids=["1", "2", "xl"])
def test_a_single_file_tells_its_architecture(tmp_path: Path, levels: dict[str, Any]):
    """diffusers' weights without their configuration: the very answers of the net that was saved."""
    torch.manual_seed(0)
    net = filled(ControlNetModel(**levels))
    path = tmp_path / "control.safetensors"
    save_file(net.state_dict(), path)
    loaded = load_controlnet(describe_addon("controlnet", str(path)), device="cpu")
    assert equal(control(loaded), control(net))


@pytest.mark.parametrize("levels", [LEVELS_SD1, LEVELS_SD2], ids=["1", "2"])
def test_a_single_file_in_the_original_layout(tmp_path: Path, levels: dict[str, Any]):
    """The names of the first release are read as well."""
    torch.manual_seed(0)
    net = filled(ControlNetModel(**levels))
    path = tiny_addons.original_controlnet(net, tmp_path / "control.safetensors")
    loaded = load_controlnet(describe_addon("controlnet", str(path)), device="cpu")
    assert equal(control(loaded), control(net))


def test_dtype_is_the_one_asked_for(tmp_path: Path):
    """torch_dtype holds for folders and files; the default on the CPU is float32."""
    folder = tiny_addons.controlnet_folder(tiny_models.sd1(tmp_path), tmp_path / "net")
    addon = describe_addon("controlnet", str(folder))
    assert load_controlnet(addon, torch_dtype=torch.bfloat16, device="cpu").dtype == torch.bfloat16
    assert load_controlnet(addon, device="cpu").dtype == torch.float32


def test_spoilt_weights_are_refused(tmp_path: Path):
    """A file with a tensor missing, and a folder with another net's weights: ModelError."""
    folder = tiny_addons.controlnet_folder(tiny_models.sd1(tmp_path), tmp_path / "net")
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    del weights["time_embedding.linear_1.bias"]
    save_file(weights, tmp_path / "less.safetensors")
    with pytest.raises(ModelError, match=r"less\.safetensors.*cannot be loaded"):
        load_controlnet(describe_addon("controlnet", str(tmp_path / "less.safetensors")))
    weights["conv_in.weight"] = torch.zeros(3, 3, 3, 3)
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    misfit = r"cannot be loaded: conv_in\.weight of shape \[3, 3, 3, 3\] where \[8, 4, 3, 3\] is expected;"
    with pytest.raises(ModelError, match=misfit):
        load_controlnet(describe_addon("controlnet", str(folder)))
