"""Pipelines for a benchmark: a model of the user's, or an architecture's true size with random weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from flows.bench.architectures import CLIP_L, OPEN_CLIP_G, SD1_UNET, SDXL_UNET, VAE
from flows.errors import UsageError
from zs2.models import describe, load_pipeline, placement
from zs2.sampler import ZS2Sampler

SIZES = ("sd15", "sdxl")
TOKENS = 77


def sampler_of(model: str, unet: str | None, dtype: str) -> ZS2Sampler:
    """A sampler whose pipeline runs DDIM and shows no progress bars.

    Args:
        unet: one of SIZES, with random weights, instead of `model`: as much work as the real one.

    Raises:
        UsageError: another size. ModelError: no such model, or a dtype that does not exist.
    """
    import diffusers

    where, torch_dtype = placement(None if dtype == "auto" else dtype, None)
    if unet is None:
        info = describe(model)
        pipe = load_pipeline(info, torch_dtype=torch_dtype, device=where, safety_checker=False)
        sampler = ZS2Sampler(pipe, info.defaults)
    elif unet in SIZES:
        pipe = (_sd15 if unet == "sd15" else _sdxl)(where, torch_dtype)
        sampler = ZS2Sampler(pipe)
    else:
        raise UsageError(f"--unet: expected one of {', '.join(SIZES)}, found {unet!r}")
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return sampler


def synchronize(pipe: Any) -> Callable[[], object] | None:
    """What waits for the pipeline's device; None for the CPU, which is never behind."""
    return torch.cuda.synchronize if pipe.unet.device.type == "cuda" else None


def set_threads(count: int | None) -> int:
    """Of torch on the CPU; None leaves them. Returns how many there are.

    Raises:
        UsageError: fewer than one, or more than the cores.
    """
    cores = len(os.sched_getaffinity(0))
    if count is not None:
        if not 1 <= count <= cores:
            raise UsageError(f"--threads: expected 1 to {cores}, the cores here, found {count}")
        torch.set_num_threads(count)
    return torch.get_num_threads()


def _sd15(device: torch.device, dtype: torch.dtype) -> Any:
    from diffusers import StableDiffusionPipeline

    with torch.device(device):
        parts = _parts(SD1_UNET)
        pipe = StableDiffusionPipeline(
            **parts,
            text_encoder=_text_encoder(parts["tokenizer"], CLIP_L),
            safety_checker=None,  # pyright: ignore[reportArgumentType]
            feature_extractor=None,  # pyright: ignore[reportArgumentType]
            requires_safety_checker=False,
        )
    return pipe.to(device, dtype)


def _sdxl(device: torch.device, dtype: torch.dtype) -> Any:
    from diffusers import StableDiffusionXLPipeline

    with torch.device(device):
        parts = _parts(SDXL_UNET)
        pipe = StableDiffusionXLPipeline(
            **parts,
            text_encoder=_text_encoder(parts["tokenizer"], CLIP_L),
            text_encoder_2=_text_encoder(parts["tokenizer"], OPEN_CLIP_G),
            tokenizer_2=parts["tokenizer"],
            add_watermarker=False,
        )
    return pipe.to(device, dtype)


def _parts(unet: dict[str, Any]) -> dict[str, Any]:
    """What both families have; the tokenizer is the bundled model's, with the true length."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(describe("zs2-mini").location, subfolder="tokenizer")
    tokenizer.model_max_length = TOKENS
    return {
        "unet": UNet2DConditionModel(**unet).eval(),
        "vae": AutoencoderKL(**VAE).eval(),
        "tokenizer": tokenizer,
        "scheduler": DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    }


def _text_encoder(tokenizer: Any, config: dict[str, Any]) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if "projection_dim" in config else CLIPTextModel
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    heads = {"num_attention_heads": config["hidden_size"] // 64}
    return kind(CLIPTextConfig(vocab_size=len(tokenizer), **config, **ends, **heads)).eval()
