"""ControlNets segment by segment: guidance, its own momentum attention, bounded memory, several nets."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetUnionModel,
    MultiControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)
from PIL import Image

from tests import tiny_models
from zs2 import ZS2Sampler
from zs2.models import ModelError

SIDE = 2 * tiny_models.LATENT
QUICK: dict[str, Any] = {
    "num_inference_steps": 3,
    "guidance_scale": 7.5,
    "height": SIDE,
    "width": SIDE,
    "output_type": "latent",
}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory):
    return tiny_models.sd1(tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="module")
def net(pipe: Any):
    return tiny_models.controlnet(pipe)


@pytest.fixture
def sampler(pipe: Any, net: Any) -> ZS2Sampler:
    return ZS2Sampler(pipe, controlnet=net)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, SIDE, SIDE, 3), dtype=np.uint8)


def plain(pipe: Any, net: Any, image: Any, **kwargs: Any) -> torch.Tensor:
    """diffusers' own answer for one picture."""
    guided = StableDiffusionControlNetPipeline(
        **pipe.components, controlnet=net, requires_safety_checker=False
    )
    guided.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(9)
    call = {**QUICK, "generator": generator, **kwargs}
    return guided("a star", image=image, **call).images


@pytest.mark.parametrize(
    "part",
    [(0.0, 1.0), (0.0, 0.5), (0.4, 1.0), (0.3, 0.7)],
    ids=lambda part: f"{part[0]}-{part[1]}",
)
def test_part_of_the_denoising(sampler: ZS2Sampler, part: tuple[float, float]):
    """control_guidance_start and _end act as diffusers' own: the same latents, exactly, at f = 1."""
    window = {"control_guidance_start": part[0], "control_guidance_end": part[1]}
    steps = {"num_inference_steps": 10}
    wanted = plain(
        sampler.pipe, sampler.controlnet, Image.fromarray(pictures(1)[0]), **window, **steps
    )
    clip = sampler(
        "a star", seed=9, num_frames=1, conditioning_frames=pictures(1), **QUICK | steps, **window
    )
    assert torch.equal(clip.latents, wanted)


def test_a_part_that_is_none_is_refused(sampler: ZS2Sampler):
    """start ≥ end: a ValueError that says what was found."""
    with pytest.raises(ValueError, match=r"expected 0 ≤ start < end ≤ 1, found 0\.5 and 0\.5"):
        sampler(
            "a star",
            num_frames=1,
            conditioning_frames=pictures(1),
            control_guidance_start=0.5,
            control_guidance_end=0.5,
            **QUICK,
        )


def test_pictures_of_another_size_are_scaled_as_diffusers_does(sampler: ZS2Sampler):
    """A control clip of 48 × 80 for a clip of 32 × 32: diffusers' own scaling, exactly."""
    large = np.random.default_rng(1).integers(0, 255, (1, 48, 80, 3), dtype=np.uint8)
    wanted = plain(sampler.pipe, sampler.controlnet, Image.fromarray(large[0]))
    clip = sampler("a star", seed=9, num_frames=1, conditioning_frames=large, **QUICK)
    assert torch.equal(clip.latents, wanted)


def test_every_frame_is_guided_by_its_own_picture(sampler: ZS2Sampler):
    """At μ = 0, the picture of frame 4 decides frame 4 and no other."""
    run = {"seed": 1, "num_frames": 6, "segment_frames": 2, "momentum": 0.0, **QUICK}
    guide = pictures(6)
    other = guide.copy()
    other[3] = 255 - other[3]
    one = sampler("a star", conditioning_frames=guide, **run).latents
    two = sampler("a star", conditioning_frames=other, **run).latents
    same = [torch.equal(a, b) for a, b in zip(one, two, strict=True)]
    assert same == [True, True, True, False, True, True]


def test_scale_zero_is_no_control_and_scale_acts(sampler: ZS2Sampler):
    """Weight 0 gives the unguided clip; larger weights move further away from it."""
    run = {"seed": 1, "num_frames": 3, **QUICK}
    free = sampler("a star", **run).latents
    distances = [
        (
            sampler(
                "a star",
                conditioning_frames=pictures(3),
                controlnet_conditioning_scale=scale,
                **run,
            ).latents
            - free
        )
        .abs()
        .mean()
        .item()
        for scale in (0.0, 0.3, 1.0)
    ]
    assert distances[0] < 1e-6 < distances[1] < distances[2]


def test_the_nets_own_attention_has_momentum(sampler: ZS2Sampler):
    """With the UNet's frames independent (its layers at μ = 0) the ControlNet still carries momentum:
    frame 2 depends on frame 1's control picture exactly when μ > 0."""
    run = {"seed": 1, "num_frames": 2, "segment_frames": 1, **QUICK}
    guide = pictures(2)
    other = guide.copy()
    other[0] = 255 - other[0]
    for momentum, depends in ((0.0, False), (0.9, True)):
        one = sampler("a star", conditioning_frames=guide, momentum=momentum, **run).latents
        two = sampler("a star", conditioning_frames=other, momentum=momentum, **run).latents
        assert torch.equal(one[1], two[1]) is not depends
    net = sampler.controlnet
    seen: list[str] = []
    layer = next(
        module for name, module in net.named_modules() if name.endswith("attn1") and "mid" in name
    )
    hook = layer.register_forward_pre_hook(lambda m, _: seen.append(type(m.processor).__name__))
    sampler("a star", conditioning_frames=guide, **run)
    hook.remove()
    assert set(seen) == {"MomentumAttnProcessor"}
    assert type(layer.processor).__name__ == "AttnProcessor2_0"


def test_memory_does_not_grow_with_the_clip(sampler: ZS2Sampler):
    """256 frames in segments of 8: no ControlNet call sees more than a segment's pictures, and the
    residuals of one call at most are alive when the next begins."""
    net = sampler.controlnet
    alive: list[int] = []
    batches: set[int] = set()
    residuals: list[weakref.ref[torch.Tensor]] = []

    def before(_: Any, inputs: Any) -> None:
        alive.append(sum(ref() is not None for ref in residuals))
        batches.add(len(inputs[0]))

    def after(_: Any, __: Any, output: Any) -> None:
        residuals.extend(weakref.ref(tensor) for tensor in (*output[0], output[1]))

    hooks = [net.register_forward_pre_hook(before), net.register_forward_hook(after)]
    gc.disable()  # reference counts alone must free them
    try:
        sampler(
            "a star",
            seed=1,
            num_frames=256,
            segment_frames=8,
            conditioning_frames=pictures(256),
            **QUICK | {"num_inference_steps": 1},
        )
    finally:
        gc.enable()
        for hook in hooks:
            hook.remove()
    per_call = len(residuals) // len(alive)
    assert len(alive) == 256 // 8
    assert batches == {2 * 8}
    assert max(alive) <= per_call


def test_several_nets_add_up_as_in_diffusers(pipe: Any, net: Any):
    """Two ControlNets with a picture and a weight each: diffusers' own answer, exactly, at f = 1."""
    both = MultiControlNetModel([net, tiny_models.controlnet(pipe, seed=8)])
    clips = [pictures(1, 0), pictures(1, 1)]
    wanted = plain(
        pipe,
        both,
        [Image.fromarray(clip[0]) for clip in clips],
        controlnet_conditioning_scale=[0.7, 0.4],
    )
    clip = ZS2Sampler(pipe, controlnet=both)(
        "a star",
        seed=9,
        num_frames=1,
        conditioning_frames=clips,
        controlnet_conditioning_scale=[0.7, 0.4],
        **QUICK,
    )
    assert torch.equal(clip.latents, wanted)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_controlnet_pipeline_of_the_users(family: str, tmp_path_factory: pytest.TempPathFactory):
    """ZS2Sampler takes diffusers' ControlNet pipelines as they are, and leaves them so."""
    base = getattr(tiny_models, family)(tmp_path_factory.mktemp(family))
    net = tiny_models.controlnet(base)
    if family == "sdxl":
        guided = StableDiffusionXLControlNetPipeline(**base.components, controlnet=net)
    else:
        guided = StableDiffusionControlNetPipeline(
            **base.components, controlnet=net, requires_safety_checker=False
        )
    guided.set_progress_bar_config(disable=True)
    picture = Image.fromarray(pictures(1)[0])
    call = {**QUICK, "image": picture}
    wanted = guided("a star", generator=torch.Generator().manual_seed(9), **call).images
    sampler = ZS2Sampler(guided)
    clip = sampler("a star", seed=9, num_frames=1, conditioning_frames=pictures(1), **QUICK)
    assert torch.equal(clip.latents, wanted)
    assert sampler.pipe is guided
    again = guided("a star", generator=torch.Generator().manual_seed(9), **call).images
    assert torch.equal(again, wanted)


def test_the_pipelines_net_may_be_changed(pipe: Any, net: Any):
    """Another ControlNet put into the pipeline between two calls guides the second one."""
    other = tiny_models.controlnet(pipe, seed=8)
    guided = StableDiffusionControlNetPipeline(
        **pipe.components, controlnet=net, requires_safety_checker=False
    )
    guided.set_progress_bar_config(disable=True)
    sampler = ZS2Sampler(guided)
    run = {"seed": 9, "num_frames": 2, "conditioning_frames": pictures(2), **QUICK}
    first = sampler("a star", **run).latents
    guided.controlnet = other
    second = sampler("a star", **run).latents
    assert not torch.equal(first, second)
    assert torch.equal(second, ZS2Sampler(pipe, controlnet=other)("a star", **run).latents)


def test_what_does_not_fit_is_refused(sampler: ZS2Sampler, pipe: Any):
    """No net, a clip too few, a clip too short: a ValueError that names the argument."""
    with pytest.raises(ValueError, match="expected a ControlNet to guide, found none"):
        ZS2Sampler(pipe)("a star", conditioning_frames=pictures(8), **QUICK)
    with pytest.raises(ValueError, match="conditioning_frames: expected 1, one per ControlNet"):
        sampler("a star", conditioning_frames=[pictures(8), pictures(8)], **QUICK)
    with pytest.raises(ValueError, match="expected num_frames = 8 frames, found 3"):
        sampler("a star", conditioning_frames=pictures(3), **QUICK)


def test_a_net_of_another_family_is_refused(pipe: Any, tmp_path: Any):
    """SDXL's ControlNet under SD 1: a ModelError that tells both, and the pipeline is unharmed."""
    other = tiny_models.controlnet(tiny_models.sdxl(tmp_path))
    kept = dict(pipe.unet.attn_processors)
    with pytest.raises(
        ModelError, match=r"cross_attention_dim 16, .*found .*cross_attention_dim 40"
    ):
        ZS2Sampler(pipe, controlnet=other)(
            "a star", num_frames=2, conditioning_frames=pictures(2), **QUICK
        )
    assert dict(pipe.unet.attn_processors) == kept


def test_a_union_of_nets_is_refused(tmp_path: Any):
    """A ControlNetUnionModel asks which of its nets is meant, which nobody tells it: a ModelError."""
    pipe = tiny_models.sdxl(tmp_path)
    union = ControlNetUnionModel.from_unet(
        pipe.unet, conditioning_embedding_out_channels=(8, 16), load_weights_from_unet=False
    )
    with pytest.raises(ModelError, match="expected a ControlNetModel, found a ControlNetUnionMod"):
        ZS2Sampler(pipe, controlnet=union)(
            "a star", num_frames=2, conditioning_frames=pictures(2), **QUICK
        )
