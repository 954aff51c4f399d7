"""ZS2Sampler around a tiny Stable Diffusion: limits, chaining, storyboards, independence, cleanliness."""

from __future__ import annotations

import inspect
from dataclasses import fields
from importlib.metadata import version

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

import zs2
from zs2 import ZS2Sampler
from zs2.config import DEFAULTS, SCHEDULERS, ClipConfig
from zs2.schedulers import SCHEDULER_CLASSES, make_scheduler

STEPS = 4
QUICK = {"num_inference_steps": STEPS, "guidance_scale": 7.5}


@pytest.fixture
def sampler(tiny_pipe) -> ZS2Sampler:
    return ZS2Sampler(tiny_pipe)


def plain(pipe, prompt: str, latents: torch.Tensor, scheduler: str | None = None, **kwargs):
    """Diffusers' own answer for one picture."""
    own = pipe.scheduler
    pipe.scheduler = make_scheduler(scheduler, own)
    try:
        return pipe(prompt, latents=latents, **QUICK, **kwargs)
    finally:
        pipe.scheduler = own


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_one_frame_is_the_plain_pipeline(sampler: ZS2Sampler, scheduler: str):
    """f = 1 returns exactly (0.0) what the pipeline returns for the same latents and generator."""
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    wanted = plain(
        sampler.pipe,
        "a star",
        latents,
        scheduler,
        output_type="latent",
        generator=torch.Generator().manual_seed(5),
    ).images
    clip = sampler(
        "a star",
        num_frames=1,
        latents=latents,
        generator=torch.Generator().manual_seed(5),
        scheduler=scheduler,
        **QUICK,
    )
    assert torch.equal(clip.latents, wanted)


@pytest.mark.parametrize("scheduler", ["ddim", "euler_a", "lcm"])
def test_one_seeded_frame_is_the_plain_pictures_pixels(sampler: ZS2Sampler, scheduler: str):
    """f = 1 with a seed gives the plain pipeline's picture of that seed, pixel by pixel."""
    own = sampler.pipe.scheduler
    sampler.pipe.scheduler = make_scheduler(scheduler, own)
    try:
        generator = torch.Generator().manual_seed(11)
        wanted = sampler.pipe("a star", generator=generator, **QUICK).images[0]
        clip = sampler("a star", num_frames=1, seed=11, **QUICK)
    finally:
        sampler.pipe.scheduler = own
    assert clip.frames is not None
    assert np.array_equal(clip.frames[0], np.asarray(wanted))


@pytest.mark.parametrize("segment_frames", [1, 3, 4, 5])
@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
def test_exact_chaining_equals_one_shot(
    sampler: ZS2Sampler, segment_frames: int, guidance_scale: float
):
    """12 frames in segments of m are the one-shot clip, < 1e-4 at other UNet shapes."""
    run = {"num_frames": 12, "seed": 1, "kl_target": 0.1, "num_inference_steps": STEPS}
    run["guidance_scale"] = guidance_scale
    whole = sampler("a star", segment_frames=12, output_type="latent", **run).latents
    parts = sampler("a star", segment_frames=segment_frames, output_type="latent", **run).latents
    assert (whole - parts).abs().max() < 1e-4


def test_chaining_is_bit_exact_at_equal_shapes(sampler: ZS2Sampler):
    """Frames 1..4 of 12 in segments of 4 equal, to the bit, a 4-frame clip in one segment of 4."""
    long = sampler("a star", num_frames=12, segment_frames=4, seed=2, kl_target=0.1, **QUICK)
    short = sampler("a star", num_frames=4, segment_frames=4, seed=2, kl_target=0.1, **QUICK)
    assert torch.equal(long.latents[:4], short.latents)
    assert np.array_equal(long.frames[:4], short.frames)


def test_anchor_differs_from_exact_only_after_the_border(sampler: ZS2Sampler):
    """chain="anchor" is the same first segment and another second one."""
    run = {"num_frames": 8, "segment_frames": 4, "seed": 2, "kl_target": 0.1, **QUICK}
    exact = sampler("a star", chain="exact", output_type="latent", **run).latents
    anchor = sampler("a star", chain="anchor", output_type="latent", **run).latents
    assert torch.equal(exact[:4], anchor[:4])
    assert (exact[4:] - anchor[4:]).abs().max() > 1e-6


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_zero_lambda_is_still_under_every_scheduler(sampler: ZS2Sampler, scheduler: str):
    """λ = 0: all frames of the clip are the same bytes, stochastic schedulers included."""
    clip = sampler(
        "a star",
        num_frames=6,
        segment_frames=3,
        seed=4,
        kl_target=0.0,
        scheduler=scheduler,
        **QUICK,
    )
    assert all(torch.equal(latent, clip.latents[0]) for latent in clip.latents)
    assert all(np.array_equal(frame, clip.frames[0]) for frame in clip.frames)


def test_noise_that_no_seed_decides_is_refused(sampler: ZS2Sampler):
    """A checkpoint's own scheduler that draws from torchsde's Brownian trees, as diffusers'
    DPMSolverSDEScheduler does, is refused with the names of others; any of those may be named instead."""
    own = sampler.pipe.scheduler

    class SDEScheduler(EulerDiscreteScheduler):
        noise_sampler = None  # torchsde is no requirement: a stand-in with what tells those apart

    sampler.pipe.scheduler = SDEScheduler.from_config(own.config)
    try:
        with pytest.raises(ValueError, match=r"found the checkpoint's own SDEScheduler.*euler_a"):
            sampler("a star", num_frames=2, seed=1, **QUICK)
        named = [
            sampler("a star", num_frames=2, seed=1, scheduler="euler_a", **QUICK) for _ in "12"
        ]
    finally:
        sampler.pipe.scheduler = own
    assert torch.equal(named[0].latents, named[1].latents)


def test_stochastic_ddim_is_still_too(sampler: ZS2Sampler):
    """λ = 0 with DDIM at η = 1, whose noise the pipeline's own `eta` asks for."""
    clip = sampler("a star", num_frames=3, seed=4, kl_target=0.0, eta=1.0, **QUICK)
    assert all(torch.equal(latent, clip.latents[0]) for latent in clip.latents)


def test_a_larger_lambda_moves_more(sampler: ZS2Sampler):
    """Neighbouring latents differ more as λ grows, under a stochastic scheduler too."""
    for scheduler in ("ddim", "euler_a"):
        steps = [
            sampler(
                "a star", seed=4, kl_target=kl, scheduler=scheduler, output_type="latent", **QUICK
            )
            .latents.diff(dim=0)
            .abs()
            .mean()
            .item()
            for kl in (0.0, 0.01, 0.1, 0.5)
        ]
        assert steps == sorted(steps)
        assert steps[0] == 0 < steps[1]


def test_full_momentum_and_still_noise_agree_with_the_plain_picture(sampler: ZS2Sampler):
    """λ = 0, μ = 1, any frame count: every frame is the plain picture of the first noise (< 1e-4)."""
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    wanted = plain(sampler.pipe, "a star", latents, output_type="latent").images
    clip = sampler("a star", seed=4, kl_target=0.0, momentum=1.0, output_type="latent", **QUICK)
    assert (clip.latents - wanted).abs().max() < 1e-4


def test_momentum_list_equals_its_scalar_and_the_first_is_unused(sampler: ZS2Sampler):
    """μ as n equal values is the scalar; μ_1 does not matter."""
    run = {"num_frames": 4, "seed": 1, "kl_target": 0.2, "output_type": "latent", **QUICK}
    scalar = sampler("a star", momentum=0.6, **run).latents
    listed = sampler("a star", momentum=[0.1, 0.6, 0.6, 0.6], **run).latents
    assert torch.equal(scalar, listed)
    assert not torch.equal(scalar, sampler("a star", momentum=[0.6, 0.1, 0.6, 0.6], **run).latents)


def test_storyboard_conditions_each_frame_on_its_segments_prompt(sampler: ZS2Sampler):
    """The first segment is the first prompt's clip; one prompt repeated is the ordinary clip."""
    run = {"num_frames": 6, "segment_frames": 2, "seed": 1, "output_type": "latent", **QUICK}
    board = sampler([["a star", "a fish", "a boat"]], **run)[0]
    star = sampler("a star", **run)
    assert torch.equal(board.latents[:2], star.latents[:2])
    assert not torch.allclose(board.latents[2:], star.latents[2:])
    assert torch.equal(sampler([["a star"] * 3], **run)[0].latents, star.latents)
    assert board.prompts == ("a star", "a fish", "a boat")


def test_a_clips_bytes_do_not_depend_on_its_neighbours(sampler: ZS2Sampler):
    """Alone, beside others, before or after them: the same frames and latents, bit by bit."""
    alone = sampler("a star", seed=1, **QUICK)
    sampler("something else", seed=9, num_frames=3, kl_target=0.3, scheduler="euler_a", **QUICK)
    beside = sampler(["a fish", "a star", "a boat"], seed=[5, 1, 7], **QUICK)
    assert np.array_equal(alone.frames, beside[1].frames)
    assert torch.equal(alone.latents, beside[1].latents)
    assert [clip.seed for clip in beside] == [5, 1, 7]


def test_a_clip_without_a_seed_can_be_rendered_again(sampler: ZS2Sampler):
    """The drawn seed is on the clip and gives the same clip."""
    clip = sampler("a star", num_frames=2, **QUICK)
    assert clip.seed is not None
    again = sampler("a star", num_frames=2, seed=clip.seed, **QUICK)
    assert np.array_equal(clip.frames, again.frames)


def test_prompts_are_any_sequence(sampler: ZS2Sampler):
    """A tuple of clips is a list of them, a tuple in it a storyboard."""
    run = {"num_frames": 2, "segment_frames": 1, "seed": 1, "output_type": "latent", **QUICK}
    clips = sampler((("a", "b"), "a"), **run)
    assert [clip.prompts for clip in clips] == [("a", "b"), ("a",)]
    assert torch.equal(clips[0].latents, sampler([["a", "b"]], **run)[0].latents)


def test_the_package_shows_what_it_exports():
    """Names that are loaded when asked for are listed before, each is there, and the version is told."""
    assert {"ZS2Sampler", "ClipConfig", "Clip", "__version__"} <= set(dir(zs2))
    assert all(getattr(zs2, name) is not None for name in zs2.__all__)
    assert zs2.ClipConfig is ClipConfig
    assert zs2.__version__ == version("zs2")


def test_clip_has_the_promised_shapes(sampler: ZS2Sampler):
    """frames UInt8 (n, height, width, 3), latents (n, c, h, w), trace n−1 values."""
    clip = sampler("a star", num_frames=3, height=48, width=24, seed=0, **QUICK)
    assert clip.frames.shape == (3, 48, 24, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.latents.shape == (3, 4, 24, 12)
    assert len(clip.trace.kl) == len(clip.trace.alpha) == 2
    assert len(clip.images) == 3


def test_clips_and_traces_are_equal_to_themselves_alone(sampler: ZS2Sampler):
    """They hold arrays, which have no one answer to ==: each is itself, and may be a key."""
    clip, again = (sampler("a star", num_frames=3, seed=1, **QUICK) for _ in "12")
    for one, other in ((clip, again), (clip.trace, again.trace)):
        assert one == one
        assert one != other
        assert len({one, other, one}) == 2


def snapshot(pipe) -> dict:
    return {
        "processors": {k: id(v) for k, v in pipe.unet.attn_processors.items()},
        "forward": pipe.unet.__dict__.get("forward"),
        "scheduler": id(pipe.scheduler),
        "step": "step" in pipe.scheduler.__dict__,
        "timesteps": pipe.scheduler.timesteps.tolist(),
    }


def test_the_pipeline_is_unharmed_after_success(sampler: ZS2Sampler):
    """After a call the pipeline has its own processors, forward and scheduler object."""
    before = snapshot(sampler.pipe)
    sampler("a star", num_frames=6, segment_frames=2, scheduler="euler_a", **QUICK)
    assert snapshot(sampler.pipe) == before


def test_the_pipeline_is_unharmed_after_an_exception(sampler: ZS2Sampler):
    """An exception in the middle of denoising leaves the pipeline as it was."""
    before = snapshot(sampler.pipe)

    def stop(pipe, step, timestep, tensors):
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        sampler("a star", num_frames=6, segment_frames=2, callback_on_step_end=stop, **QUICK)
    assert snapshot(sampler.pipe) == before


def test_callbacks_see_every_step_of_all_frames(sampler: ZS2Sampler):
    """callback_on_step_end is the pipeline's own: once a step, with all frames' latents."""
    seen = []

    def watch(pipe, step, timestep, tensors):
        seen.append((step, tuple(tensors["latents"].shape)))
        return tensors

    sampler("a star", num_frames=6, segment_frames=2, callback_on_step_end=watch, **QUICK)
    assert seen == [(step, (6, 4, 16, 16)) for step in range(STEPS)]


def test_every_unet_call_has_one_shape(sampler: ZS2Sampler):
    """11 frames in segments of 4 with guidance: 3 calls a step, all of 8 pictures, the last padded."""
    shapes = []
    hook = sampler.pipe.unet.conv_in.register_forward_hook(
        lambda module, inputs, output: shapes.append(inputs[0].shape[0])
    )
    try:
        clip = sampler("a star", num_frames=11, segment_frames=4, seed=0, **QUICK)
    finally:
        hook.remove()
    assert shapes == [8] * 3 * STEPS
    assert len(clip.frames) == 11


def test_prompt_embeds_stand_for_the_prompt(sampler: ZS2Sampler):
    """Embeddings made by the pipeline itself give the prompt's clip, bit by bit."""
    positive, negative = sampler.pipe.encode_prompt("a star", "cpu", 1, True, "")
    run = {"num_frames": 3, "seed": 1, "output_type": "latent", **QUICK}
    given = sampler("", prompt_embeds=positive, negative_prompt_embeds=negative, **run)
    assert torch.equal(given.latents, sampler("a star", **run).latents)


def test_negative_prompt_and_guidance_change_the_clip(sampler: ZS2Sampler):
    """Both reach the pipeline."""
    run = {"num_frames": 2, "seed": 1, "output_type": "latent", "num_inference_steps": STEPS}
    base = sampler("a star", guidance_scale=7.5, **run).latents
    assert not torch.equal(base, sampler("a star", guidance_scale=3.0, **run).latents)
    negative = sampler("a star", guidance_scale=7.5, negative_prompt="fish", **run).latents
    assert not torch.equal(base, negative)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames: expected a whole number of at least 1, found 0"),
        ({"segment_frames": 9}, "segment_frames: expected at most num_frames=8, found 9"),
        ({"height": 37}, "height: expected a positive multiple of 8, found 37"),
        ({"kl_target": -1.0}, "kl_target: expected ≥ 0, found -1.0"),
        ({"kl_target": [0.1, 0.2]}, "kl_target: expected one number or num_frames − 1 = 7"),
        ({"momentum": 1.5}, r"momentum: expected a number in \[0, 1\], found 1.5"),
        ({"momentum": [0.5, 0.5]}, "momentum: expected one number or num_frames = 8"),
        ({"noise": "pink"}, "noise: expected one of dependency"),
        ({"noise": "mixed"}, "alpha: expected a value for noise='mixed'"),
        ({"alpha": 0.5}, "alpha: expected a value for noise='mixed'"),
        ({"chain": "loop"}, "chain: expected one of exact, anchor"),
        ({"scheduler": "magic"}, "scheduler: expected one of ddim"),
        ({"output_type": "gif"}, "output_type: expected one of"),
        ({"seed": -1}, "seed: expected a whole number of at least 0"),
        ({"seed": [1, 2]}, r"seed: expected one number or one per prompt \(1\), found 2"),
        ({"latents": torch.zeros(2, 4, 16, 16)}, "latents: expected a tensor of shape"),
    ],
)
def test_bad_arguments_are_refused(sampler: ZS2Sampler, arguments: dict, message: str):
    """Each says what was expected and what was found, and leaves the pipeline unharmed."""
    before = snapshot(sampler.pipe)
    with pytest.raises(ValueError, match=message):
        sampler("a star", **{**QUICK, **arguments})
    assert snapshot(sampler.pipe) == before


def test_a_wrong_number_of_prompts_is_refused(sampler: ZS2Sampler):
    """A storyboard needs one prompt per segment."""
    with pytest.raises(ValueError, match=r"expected 1 prompt or 3 .* found 2"):
        sampler([["a", "b"]], num_frames=6, segment_frames=2, **QUICK)


def test_defaults_have_one_home():
    """The sampler's keyword defaults are ClipConfig's; scheduler names are the table's."""
    signature = inspect.signature(ZS2Sampler.__call__).parameters
    for field in fields(ClipConfig):
        assert signature[field.name].default == getattr(DEFAULTS, field.name)
    assert tuple(SCHEDULER_CLASSES) == SCHEDULERS
