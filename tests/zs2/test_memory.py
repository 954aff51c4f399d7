"""What a model is said to need in memory is what torch's own profiler records of a real render."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests import tiny_models
from zs2 import ZS2Sampler
from zs2.memory import activation_bytes
from zs2.models import Memory, ModelError, ModelInfo, configurations, describe

# Operators whose kernels take memory for themselves and give it back: not what the estimate counts.
WITH_WORKSPACE = ("aten::convolution", "aten::scaled_dot_product_attention")
WIDTH = 32  # of the UNets' levels, so that a clip's four-channel latents weigh little, as they do really
SEGMENT = 4


def recorded_peak(run: Callable[[], Any]) -> int:
    """The most bytes that torch's CPU allocator had out at once, by its profiler's record; within the
    operators above their workspace is left out."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    results = record.profiler.kineto_results  # pyright: ignore[reportOptionalMemberAccess]
    events = sorted(results.events(), key=lambda event: event.start_ns())
    live = peak = working_until = 0
    for event in events:
        if event.name() in WITH_WORKSPACE:
            working_until = max(working_until, event.end_ns())
        elif event.name() == "[memory]":
            if event.start_ns() > working_until:
                peak = max(peak, live, live + event.nbytes())
            live += event.nbytes()
    return peak


def wide(name: str, folder: Path) -> tuple[ZS2Sampler, ModelInfo]:
    """A tiny pipeline, its UNet wider than tests otherwise have it, and its description."""
    pipe = getattr(tiny_models, name)(folder)
    levels = len(pipe.unet.config.block_out_channels)
    options = {**pipe.unet.config, "block_out_channels": (WIDTH,) * levels}
    pipe.unet = tiny_models.unet(options)
    pipe.save_pretrained(folder / "model")
    return ZS2Sampler(pipe), describe(str(folder / "model"))


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> tuple[ZS2Sampler, ModelInfo]:
    return wide("sd1", tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="module")
def sd1_memory(sd1: tuple[ZS2Sampler, ModelInfo]) -> Memory:
    return estimate(sd1[1])


def estimate(info: ModelInfo, **kwargs: Any) -> Memory:
    own = {"segment_frames": SEGMENT, "dtype": torch.float32, "tokens": tiny_models.TOKENS}
    return activation_bytes(info, **{**own, **kwargs})


def sample(sampler: ZS2Sampler, num_frames: int) -> None:
    size = 2 * tiny_models.LATENT
    needed: dict[str, Any] = {}
    if sampler.pipe.unet.config.in_channels == 8:
        needed["video"] = np.zeros((num_frames, size, size, 3), np.uint8)
    sampler(
        "a",
        num_frames=num_frames,
        segment_frames=SEGMENT,
        num_inference_steps=1,
        seed=1,
        output_type="latent",
        **needed,
    )


@pytest.mark.parametrize("family", [pytest.param("sd2", marks=pytest.mark.slow), "sdxl", "ip2p"])
def test_a_clip_holds_what_is_said(family: str, tmp_path: Path):
    """A real clip of two segments on the CPU, the whole call: within 5 % of the UNet's estimate."""
    sampler, info = wide(family, tmp_path)
    sample(sampler, SEGMENT)  # what is made once
    recorded = recorded_peak(lambda: sample(sampler, 2 * SEGMENT))
    assert recorded == pytest.approx(estimate(info).unet, rel=0.05)


def test_the_clips_length_has_no_say(sd1: tuple[ZS2Sampler, ModelInfo], sd1_memory: Memory):
    """A real clip of two segments is within 5 % of the estimate, and so is one of four."""
    sampler, _ = sd1
    sample(sampler, SEGMENT)
    for count in (2, 4):
        recorded = recorded_peak(lambda count=count: sample(sampler, count * SEGMENT))
        assert recorded == pytest.approx(sd1_memory.unet, rel=0.05)


def test_decoding_holds_what_is_said(sd1: tuple[ZS2Sampler, ModelInfo]):
    """Real frames decoded on the CPU, pixels included: within 3 % of the estimate for a call, 2 of which
    are what a padded call copies."""
    sampler, info = sd1
    side = 8 * tiny_models.LATENT
    latents = torch.zeros(3, 4, side // 2, side // 2)
    recorded = recorded_peak(lambda: sampler.decode(latents))
    assert recorded == pytest.approx(estimate(info, height=side, width=side).decode, rel=0.03)


def test_every_frame_of_a_segment_takes_the_same(
    sd1: tuple[ZS2Sampler, ModelInfo], sd1_memory: Memory
):
    """The UNet's share grows linearly with the frames, from what the carried averages take; decoding
    has one frame a call."""
    info = sd1[1]
    fewer, more = (estimate(info, segment_frames=count) for count in (SEGMENT - 2, SEGMENT + 2))
    growth = more.unet - sd1_memory.unet
    assert growth == pytest.approx(sd1_memory.unet - fewer.unet, rel=0.01)
    assert 0 < sd1_memory.unet - SEGMENT / 2 * growth < 0.1 * sd1_memory.unet
    assert fewer.decode == sd1_memory.decode == more.decode
    assert more.peak == more.unet > more.decode


def test_half_precision_is_more_than_half(sd1: tuple[ZS2Sampler, ModelInfo], sd1_memory: Memory):
    """float16 halves decoding; of the UNet momentum attention keeps its averages in float32."""
    half = estimate(sd1[1], dtype=torch.float16)
    assert half.decode == sd1_memory.decode / 2
    assert sd1_memory.unet / 2 < half.unet < sd1_memory.unet


def test_guidance_decides_the_pictures_of_a_call(
    sd1: tuple[ZS2Sampler, ModelInfo], sd1_memory: Memory
):
    """A model that prefers no guidance has one picture a frame instead of two; what edits has three."""
    info = sd1[1]
    plain = estimate(replace(info, defaults=replace(info.defaults, guidance_scale=1.0)))
    assert 2 * plain.unet == pytest.approx(sd1_memory.unet, rel=0.01)


def test_sdxl_decodes_in_float32(sd1: tuple[ZS2Sampler, ModelInfo], sd1_memory: Memory):
    """In float16 SDXL's autoencoder is made float32 to decode: its activations are those of float32,
    and its weights take half as much again as they do in float32. bfloat16 does not overflow."""
    sampler, info = sd1
    sdxl = replace(info, pipeline="StableDiffusionXLPipeline")
    weights = sum(weight.nbytes for weight in sampler.pipe.vae.parameters())  # in float32
    half = estimate(sdxl, dtype=torch.float16)
    assert half.decode == sd1_memory.decode + weights // 2
    assert estimate(sdxl, dtype=torch.bfloat16).decode == sd1_memory.decode // 2


def test_a_configuration_that_builds_nothing_is_refused(sd1: tuple[ZS2Sampler, ModelInfo]):
    """It names the model and says what is wrong, in one line."""
    info = sd1[1]
    configs = configurations(info)
    configs["unet/config.json"]["down_block_types"] = ["CrossAttnDownBlock3D"] * 4
    with pytest.raises(ModelError, match=r"(?s)^(?!.*\n)model .*CrossAttnDownBlock3D.*; check"):
        estimate(info, configs=configs)
