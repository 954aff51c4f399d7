"""What checkpoints need in memory: `python -m infra.model_memory [--write]`.

Prints what the well-known architectures take, weights and activations, and what others have measured of
them. Nothing is downloaded and no weights are made: architectures are built from the configurations
below. `--write` puts the tables into infra/memory.md, and what the bundled models need into
zs2/mini/memory.json, from where `zs2 models` has it without torch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from flows.bench.architectures import (
    CLIP_L,
    OPEN_CLIP_G,
    OPEN_CLIP_H,
    SD1_UNET,
    SD2_UNET,
    SDXL_UNET,
    VAE,
)
from flows.commands.model_memory import SHIPPED, configuration_key, estimated
from infra.reports import write_tables
from zs2.checkpoints.folders import info_of
from zs2.config import SEGMENT_FRAMES
from zs2.memory import activation_bytes
from zs2.models import Memory, ModelInfo, bundled_models, configurations, describe

REPORT = Path(__file__).with_name("memory.md")


@dataclass(frozen=True)
class Architecture:
    """A family of checkpoints: its diffusers class and its parts' configurations."""

    name: str
    pipeline: str
    unet: dict[str, Any]
    text_encoders: tuple[dict[str, Any], ...]

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The configurations by file, as a checkpoint has them."""
        return {
            "model_index.json": {"_class_name": self.pipeline, "vae": ["diffusers", VAE_CLASS]},
            "unet/config.json": self.unet,
            "vae/config.json": VAE,
        }

    @property
    def info(self) -> ModelInfo:
        """What is known of such a checkpoint before it is loaded."""
        return info_of(self.name, "", self.configs, {})

    def parameters(self) -> int:
        """Numbers in the weights, without a safety checker."""
        with torch.device("meta"):
            parts: list[Any] = [UNet2DConditionModel(**self.unet), AutoencoderKL(**VAE)]
            for config in self.text_encoders:
                kind = CLIPTextModelWithProjection if "projection_dim" in config else CLIPTextModel
                parts.append(kind(CLIPTextConfig(vocab_size=49408, **config)))
        return sum(weight.numel() for part in parts for weight in part.parameters())

    def memory(self, dtype: torch.dtype, side: int | None = None) -> Memory:
        """What rendering needs beside the weights, in bytes; at its own size unless `side` says otherwise."""
        return activation_bytes(
            self.info, height=side, width=side, dtype=dtype, configs=self.configs
        )


VAE_CLASS = "AutoencoderKL"
SD1 = Architecture("SD 1.5", "StableDiffusionPipeline", SD1_UNET, (CLIP_L,))
SD2_BASE = Architecture(
    "SD 2.1 base", "StableDiffusionPipeline", {**SD2_UNET, "sample_size": 64}, (OPEN_CLIP_H,)
)
SD2 = Architecture("SD 2.1", "StableDiffusionPipeline", SD2_UNET, (OPEN_CLIP_H,))
SDXL = Architecture("SDXL", "StableDiffusionXLPipeline", SDXL_UNET, (CLIP_L, OPEN_CLIP_G))
IP2P = Architecture(
    "InstructPix2Pix",
    "StableDiffusionInstructPix2PixPipeline",
    {**SD1_UNET, "in_channels": 8},
    (CLIP_L,),
)
ARCHITECTURES = (SD1, SD2_BASE, SD2, SDXL, IP2P)


def need_table() -> str:
    """What each architecture needs for a segment at its own size, as Markdown."""
    head = (
        "| model | size | pictures a UNet call | dtype | weights | + UNet | or + decoding | together |"
        "\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    return "\n".join([head, *(row for kind in ARCHITECTURES for row in need_rows(kind))])


def need_rows(kind: Architecture) -> Iterator[str]:
    """One row for each dtype."""
    info, count = kind.info, kind.parameters()
    pictures = SEGMENT_FRAMES * (3 if info.edits else 2)
    for name, dtype in (("float16", torch.float16), ("float32", torch.float32)):
        weights, memory = count * dtype.itemsize, kind.memory(dtype)
        yield (
            f"| {kind.name} | {info.width}×{info.height} | {pictures} | {name} | {_gb(weights)} "
            f"| {_gb(memory.unet)} | {_gb(memory.decode)} | {_gb(weights + memory.peak)} |"
        )


def published_table() -> str:
    """What others have measured of the same on GPUs, beside the estimate, as Markdown."""
    head = "| what | measured | estimate, float16 | float32 |\n| --- | --- | --- | --- |"
    return "\n".join([head, *_published_rows()])


def _published_rows() -> Iterator[str]:
    card = 24 * 1024**3  # an RTX 3090's or 4090's memory, of which the source gives shares
    both = (torch.float16, torch.float32)
    for side, shares in ((512, (5.2, 5.6)), (1024, (18.5, 20.0))):
        low, high = (_gb(share / 100 * card) for share in shares)
        said = (_gb(SD1.memory(dtype, side).decode) for dtype in both)
        yield f"| decode {side}×{side}, SD 1.5 [1] | {low} to {high} | {' | '.join(said)} |"
    for side, shares in ((512, (10.0, 10.5)), (1024, (35.5, 38.0))):
        low, high = (_gb(share / 100 * card) for share in shares)
        said = (_gb(SD1.memory(dtype, side).decode) for dtype in both)
        yield f"| decode {side}×{side}, SDXL [1] | {low} to {high} | {' | '.join(said)} |"
    # its autoencoder is the same; four pictures are decoded at once, in float32
    upcast, one = SDXL.memory(torch.float16).decode, SDXL.memory(torch.float32).decode
    whole = 2 * SDXL.parameters() + upcast + 3 * one
    yield f"| SDXL, float16, four pictures of 1024×1024 [2] | 21.72 GB | {_gb(whole)} | |"


def bundled() -> dict[str, dict[str, dict[str, int]]]:
    """What the bundled models need, by their configuration: the content of zs2/mini/memory.json."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name in bundled_models():
        info = describe(name)
        configs = configurations(info)
        found[configuration_key(info, configs)] = estimated(info, configs)
    return found


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables as Markdown, or write them and the bundled models' needs."""
    parser = argparse.ArgumentParser(description="What checkpoints need in memory.")
    parser.add_argument("--write", action="store_true", help="into memory.md and zs2/mini")
    write: bool = parser.parse_args(arguments).write
    tables = {"need": need_table(), "published": published_table()}
    if write:
        write_tables(REPORT, tables)
        SHIPPED.write_text(json.dumps(bundled(), indent=1) + "\n", "utf-8")
    else:
        print("\n\n".join(tables.values()))


if __name__ == "__main__":
    main()
