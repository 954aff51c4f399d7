"""Tiny pipelines with the true architectures: every block type and option of the real configurations,
random weights, a few hundred thousand parameters.

Weights depend on the builder alone: two pipelines of one builder are equal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LATENT = 16  # latent pixels a side; the autoencoder halves once, so pictures have 32
TOKENS = 16  # of the text encoder, start and end included


def build_tokenizer(folder: Path):
    """A CLIP byte-pair tokenizer that knows single letters only."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = folder / "vocab.json"
    merges = folder / "merges.txt"
    vocabulary.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    merges.write_text("#version: 0.2\n")
    return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=TOKENS), len(tokens)


def text_config(size: int, **changes: Any):
    from transformers import CLIPTextConfig

    options: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
        **changes,
    }
    return CLIPTextConfig(vocab_size=size, **options)


def autoencoder(seed: int = 1):
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=2 * LATENT,
    ).eval()


def ddim(**changes: Any):
    from diffusers import DDIMScheduler

    options: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        **changes,
    }
    return DDIMScheduler(**options)


# The four-level UNets of SD 1.5 and SD 2, and the three-level one of SDXL, less their widths.
SD1_UNET: dict[str, Any] = {
    "sample_size": LATENT,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16, 16, 16),
    "layers_per_block": 2,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
SD2_UNET: dict[str, Any] = {
    **SD1_UNET,
    "attention_head_dim": (1, 2, 4, 4),
    "use_linear_projection": True,
    "upcast_attention": True,
}
SDXL_UNET: dict[str, Any] = {
    **SD1_UNET,
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (1, 2, 4),
    "use_linear_projection": True,
    "cross_attention_dim": 40,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 24,
}


def unet(options: dict[str, Any], seed: int = 2):
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(**options).eval()


def _sd_parts(folder: Path, options: dict[str, Any], scheduler: Any, **text: Any) -> dict[str, Any]:
    import torch
    from transformers import CLIPTextModel

    tokenizer, size = build_tokenizer(folder)
    torch.manual_seed(3)
    return {
        "vae": autoencoder(),
        "text_encoder": CLIPTextModel(text_config(size, **text)).eval(),
        "tokenizer": tokenizer,
        "unet": unet(options),
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def sd1(folder: Path):
    """Stable Diffusion 1.5's architecture: epsilon prediction, quick_gelu text encoder."""
    from diffusers import StableDiffusionPipeline

    return _quiet(StableDiffusionPipeline(**_sd_parts(folder, SD1_UNET, ddim())))


def sd2(folder: Path):
    """Stable Diffusion 2.1's: v-prediction, linear projections, heads per level, gelu text encoder."""
    from diffusers import StableDiffusionPipeline

    parts = _sd_parts(folder, SD2_UNET, ddim(prediction_type="v_prediction"), hidden_act="gelu")
    return _quiet(StableDiffusionPipeline(**parts))


def sdxl(folder: Path):
    """Stable Diffusion XL's: two text encoders, added text and time conditions, no attention at the top."""
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    tokenizer, size = build_tokenizer(folder)
    torch.manual_seed(3)
    first = CLIPTextModel(text_config(size)).eval()
    second = CLIPTextModelWithProjection(
        text_config(
            size,
            hidden_size=24,
            intermediate_size=48,
            projection_dim=24,
            hidden_act="gelu",
        )
    ).eval()
    pipe = StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet(SDXL_UNET),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False,
    )
    return _quiet(pipe)


def ip2p(folder: Path):
    """InstructPix2Pix's: SD 1.5 with the source picture's latents as four more input channels."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    parts = _sd_parts(folder, {**SD1_UNET, "in_channels": 8}, ddim())
    return _quiet(StableDiffusionInstructPix2PixPipeline(**parts))


def upscaler_x4(folder: Path):
    """The ×4 upscaler's: seven input channels, the level of noise as a class, an f=4 autoencoder."""
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionUpscalePipeline

    options = {**SD2_UNET, "in_channels": 7, "num_class_embeds": 1000}
    parts = _sd_parts(folder, options, ddim(prediction_type="v_prediction"), hidden_act="gelu")
    torch.manual_seed(1)
    parts["vae"] = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.08333,
    ).eval()
    del parts["requires_safety_checker"]
    low = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    return _quiet(StableDiffusionUpscalePipeline(**parts, low_res_scheduler=low))


def upscaler_x2(folder: Path):
    """The ×2 latent upscaler's: blocks of k-diffusion, eight input channels, a variance among the five
    that come out."""
    import torch
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionLatentUpscalePipeline,
    )

    options: dict[str, Any] = {
        "act_fn": "gelu",
        "attention_head_dim": 8,
        "norm_num_groups": None,
        "block_out_channels": (32, 32, 64, 64),
        "time_cond_proj_dim": 128 + 16,
        "conv_in_kernel": 1,
        "conv_out_kernel": 1,
        "cross_attention_dim": 16,
        "down_block_types": ("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3),
        "up_block_types": (*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"),
        "in_channels": 8,
        "out_channels": 5,
        "mid_block_type": None,
        "resnet_time_scale_shift": "scale_shift",
        "time_embedding_type": "fourier",
        "timestep_post_act": "gelu",
    }
    parts = _sd_parts(folder, options, EulerDiscreteScheduler(prediction_type="sample"))
    torch.manual_seed(1)
    parts["vae"] = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
    ).eval()
    wanted = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    return _quiet(StableDiffusionLatentUpscalePipeline(**{name: parts[name] for name in wanted}))


def controlnet(pipe: Any, seed: int = 4):
    """A ControlNet for a pipeline's UNet, its zero convolutions filled so that it has a say."""
    import torch
    from diffusers import ControlNetModel

    torch.manual_seed(seed)
    # one stride-2 stage: this autoencoder halves once where the real one halves three times
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 16)).eval()
    with torch.no_grad():
        for block in (*net.controlnet_down_blocks, net.controlnet_mid_block):
            torch.nn.init.normal_(block.weight, std=0.3)
        torch.nn.init.normal_(net.controlnet_cond_embedding.conv_out.weight, std=0.3)
    return net


def image_encoder(seed: int = 5):
    """A CLIP vision tower with projection, as IP-Adapters read pictures with; and its processor."""
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=16,
    )
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return CLIPVisionModelWithProjection(vision).eval(), processor


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def clip(folder: Path, side: int = 32, seed: int = 6, **processor: Any) -> Path:
    """Save a CLIP of both towers, as openai/clip-vit-… repositories hold one: model, tokenizer and
    image processor; pictures of `side` pixels.

    Args:
        processor: settings of the image processor, over CLIP's own.
    """
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, tokens = build_tokenizer(folder)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    vision = {**tower, "num_attention_heads": 2, "image_size": side, "patch_size": 8}
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config=text_config(tokens, num_hidden_layers=2).to_dict(),
        vision_config=vision,
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    CLIPImageProcessorPil(**{**sizes, **processor}).save_pretrained(folder)
    return folder
