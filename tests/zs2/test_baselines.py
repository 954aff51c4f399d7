"""The baselines: Text2Video-Zero beside diffusers' own, without its faults; iid, mixed, progressive noise."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.deprecated.text_to_video_synthesis import (
    pipeline_text_to_video_zero as theirs,
)

from tests import tiny_models
from zs2 import ZS2Sampler, kl_divergence
from zs2.baselines import (
    add_noise,
    iid,
    matched_mixed_alpha,
    matched_progressive_alpha,
    mixed,
    progressive,
    text2video_zero,
    translated,
    without_memory,
)
from zs2.config import SCHEDULERS
from zs2.noise import mixed_noise, progressive_noise
from zs2.schedulers import Part, make_scheduler, part, step_index

STEPS = 6
SMALL = {"height": 16, "width": 16}
LATENT = {"num_inference_steps": STEPS, "output_type": "latent", **SMALL}
STOCHASTIC = ("euler_a", "lcm")
MEMORY = ("dpm++", "unipc")  # they begin afresh at t1


@pytest.fixture
def sampler(tiny_pipe) -> ZS2Sampler:
    return ZS2Sampler(tiny_pipe)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> ZS2Sampler:
    return ZS2Sampler(tiny_models.sdxl(tmp_path_factory.mktemp("sdxl")))


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def reference(pipe: Any, kind: str = "TextToVideoZeroPipeline", **call: Any) -> torch.Tensor:
    """The latents of diffusers' deprecated pipeline, made of the same parts."""
    parts = {k: v for k, v in pipe.components.items() if k != "scheduler"}
    options = {"add_watermarker": False}
    if kind == "TextToVideoZeroPipeline":
        parts.pop("image_encoder", None)
        options = {"requires_safety_checker": False}
    scheduler = make_scheduler(call.pop("scheduler", None), pipe.scheduler)
    own = dict(pipe.unet.attn_processors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        video = getattr(diffusers, kind)(**parts, **options, scheduler=scheduler)
        video.set_progress_bar_config(disable=True)
        try:
            return video(output_type="latent", generator=generator(), **call).images
        finally:
            pipe.unet.set_attn_processor(own)


def plain(pipe: Any, scheduler: str | None, **call: Any) -> torch.Tensor:
    """The latents of the pipeline's own picture."""
    own = pipe.scheduler
    pipe.scheduler = make_scheduler(scheduler, own)
    try:
        return pipe(**LATENT, **call).images
    finally:
        pipe.scheduler = own


SETTINGS = {
    "defaults": {"num_inference_steps": 50},
    "other times": {"num_inference_steps": 50, "t0": 30, "t1": 40},
    "60 steps, one way": {"num_inference_steps": 60, "t0": 44, "t1": 47}
    | {"motion_field_strength_x": 0.0, "motion_field_strength_y": -31.0},
    "25 steps, far": {"num_inference_steps": 25, "t0": 17, "t1": 23}
    | {"motion_field_strength_x": 400.0, "motion_field_strength_y": 150.0},
    "no noise between": {"num_inference_steps": 8, "t0": 5, "t1": 5},
    "warped noise": {"num_inference_steps": 8, "t0": 7, "t1": 7},
    "wide": {"num_inference_steps": 8, "t0": 4, "t1": 6, "height": 24, "width": 56},
    "guidance": {"num_inference_steps": 8, "t0": 4, "t1": 6}
    | {"guidance_scale": 2.0, "negative_prompt": "fish"},
    "stochastic DDIM": {"num_inference_steps": 8, "t0": 4, "t1": 6, "eta": 0.7},
    "lcm": {"num_inference_steps": 8, "t0": 4, "t1": 6, "scheduler": "lcm"},
    "pndm": {"num_inference_steps": 12, "t0": 6, "t1": 9, "scheduler": "pndm"},
}


LONG = ("other times", "60 steps, one way", "25 steps, far")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(v, marks=pytest.mark.slow if k in LONG else (), id=k)
        for k, v in SETTINGS.items()
    ],
)
def test_latents_are_those_of_diffusers_text_to_video_zero(sampler: ZS2Sampler, settings: dict):
    """Where diffusers' pipeline works, ours gives its latents, < 1e-4, from the same generator."""
    wanted = reference(sampler.pipe, prompt="a star", video_length=3, **settings)
    clip = text2video_zero(
        sampler, "a star", num_frames=3, generator=generator(), output_type="latent", **settings
    )
    assert (clip.latents - wanted).abs().max() < 1e-4


@pytest.mark.slow
def test_latents_are_those_of_diffusers_with_pndm(tmp_path: Path):
    """With PNDM, Stable Diffusion's own scheduler, which remembers steps: < 1e-4 at its defaults."""
    pipe = tiny_models.sd1(tmp_path)
    pipe.scheduler = make_scheduler("pndm", pipe.scheduler)
    wanted = reference(pipe, prompt="a star", video_length=2, num_inference_steps=50)
    run = {"num_frames": 2, "num_inference_steps": 50, "output_type": "latent"}
    clip = text2video_zero(ZS2Sampler(pipe), "a star", generator=generator(), **run)
    assert (clip.latents - wanted).abs().max() < 1e-4


def test_latents_are_those_of_diffusers_for_v_prediction(tmp_path: Path):
    """With a v-predicting UNet of Stable Diffusion 2's architecture: < 1e-4."""
    pipe = tiny_models.sd2(tmp_path)
    call = {"num_inference_steps": 8, "t0": 4, "t1": 6}
    wanted = reference(pipe, prompt="a star", video_length=3, **call)
    run = {"num_frames": 3, "output_type": "latent", **call}
    clip = text2video_zero(ZS2Sampler(pipe), "a star", generator=generator(), **run)
    assert (clip.latents - wanted).abs().max() < 1e-4


def test_latents_are_those_of_diffusers_sdxl_pipeline(sdxl: ZS2Sampler):
    """An SDXL pipeline gives the latents of diffusers' TextToVideoZeroSDXLPipeline: < 1e-4 with DDIM."""
    call = {"num_inference_steps": 8, "t0": 4, "t1": 6, "scheduler": "ddim"}
    kind = "TextToVideoZeroSDXLPipeline"
    wanted = reference(sdxl.pipe, kind, prompt="a star", video_length=3, **call)
    run = {"num_frames": 3, "generator": generator(), "output_type": "latent", **call}
    clip = text2video_zero(sdxl, "a star", guidance_scale=7.5, **run)
    assert (clip.latents - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("strength", [12.0, -7.25, 300.0, 2000.0])
@pytest.mark.parametrize("size", [(64, 64), (16, 16), (40, 72), (12, 96)])
def test_the_motion_field_is_diffusers(size: tuple[int, int], strength: float):
    """Indices give what diffusers' 512-pixel grid gives: any size, strength, direction; reflected edges."""
    latents = torch.randn(4, *size, generator=generator())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = theirs.create_motion_field_and_warp_latents(
            strength, -strength / 3, [1, 2, 3, 4], latents.expand(4, -1, -1, -1)
        )
    moved = translated(latents, 5, strength, -strength / 3)
    assert torch.equal(moved[0], latents)
    assert torch.equal(moved[1:], wanted)


def test_default_times_follow_the_step_count(sampler: ZS2Sampler):
    """44 and 47 of 50 steps (diffusers', proved above) are 17 and 18 of 20, 0 and 1 of 2."""
    for steps, t0, t1 in [(20, 17, 18), (2, 0, 1)]:
        run = {"num_frames": 2, "seed": 1, **LATENT, "num_inference_steps": steps}
        own = text2video_zero(sampler, "a star", **run).latents
        assert torch.equal(own, text2video_zero(sampler, "a star", t0=t0, t1=t1, **run).latents)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 10, pytest.param(25, marks=pytest.mark.slow)])
def test_any_step_count_with_any_scheduler(sampler: ZS2Sampler, steps: int, scheduler: str):
    """Default t0 and t1 hold for every step count and scheduler: finite, different frames."""
    run = {"num_inference_steps": steps, "output_type": "latent", "scheduler": scheduler, **SMALL}
    run |= {"num_frames": 3, "seed": 1, "motion_field_strength_x": 128.0}  # 2 latent pixels
    frames = text2video_zero(sampler, "a star", **run).latents
    assert frames.isfinite().all()
    for i in range(2):
        assert (frames[i] - frames[i + 1]).abs().max() > 1e-2


@pytest.mark.parametrize("name", [s for s in SCHEDULERS if s not in (*STOCHASTIC, *MEMORY)])
def test_the_first_frame_is_the_pipelines_own_picture(sampler: ZS2Sampler, name: str):
    """Stopping at t1 and t0 and going on costs frame 1 nothing: < 1e-4, schedulers in σ-space included."""
    wanted = plain(sampler.pipe, name, prompt="a star", generator=generator())
    clip = text2video_zero(
        sampler, "a star", num_frames=3, generator=generator(), scheduler=name, **LATENT
    )
    assert (clip.latents[:1] - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("name", [*SCHEDULERS, "HeunDiscreteScheduler", "PNDMScheduler"])
def test_parts_of_a_schedule_make_the_whole(sampler: ZS2Sampler, name: str):
    """A schedule run in two parts is the schedule run at once, < 1e-4, at every step where it may be cut."""
    pipe = sampler.pipe
    own = pipe.scheduler
    if name in SCHEDULERS:
        run = {"scheduler": name}
    else:
        run = {}
        pipe.scheduler = getattr(diffusers, name).from_config(own.config)
    run |= {**LATENT, "num_frames": 1, "guidance_scale": 1.0, "num_inference_steps": 6}
    try:
        whole = sampler("a star", generator=generator(), **run).latents
        for cut in (0, 1, 3, 6):
            draws = generator()
            first = Part(0, cut)
            with part(first):
                begun = sampler("a star", generator=draws, **run).latents
            with part(Part(cut, None, first.scheduler)):
                begun = begun / first.scheduler.init_noise_sigma
                ended = sampler("a star", generator=draws, latents=begun, **run).latents
            assert (whole - ended).abs().max() < 1e-4, cut
    finally:
        pipe.scheduler = own


@pytest.mark.parametrize("name", MEMORY)
def test_a_solver_without_memory_begins_as_a_fresh_one(tiny_pipe, name: str):
    """After steps 0..3, stripped of its memory, a solver steps as one that set_begin_index starts at 4."""
    used, fresh = (make_scheduler(name, tiny_pipe.scheduler) for _ in range(2))
    x, y = torch.randn(2, 1, 4, 8, 8, generator=generator())
    for scheduler in (used, fresh):
        scheduler.set_timesteps(9)
    for t in used.timesteps[:4]:
        y = used.step(y.sin(), t, y, return_dict=False)[0]
    used = without_memory(used)
    fresh.set_begin_index(4)
    y = x
    for t in fresh.timesteps[4:]:
        x = fresh.step(x.sin(), t, x, return_dict=False)[0]
        y = used.step(y.sin(), t, y, return_dict=False)[0]
    assert torch.equal(x, y)


@pytest.mark.parametrize("name", MEMORY)
def test_solvers_with_memory_begin_afresh_at_t1(sampler: ZS2Sampler, name: str):
    """Frame 1 of such a solver is the picture whose schedule was cut at t1 and begun afresh: < 1e-4."""
    run = {"scheduler": name, **LATENT}
    to_t1 = Part(0, 3)
    with part(to_t1):
        x_t1 = sampler("a star", num_frames=1, generator=generator(), **run).latents
    fresh = make_scheduler(name, sampler.pipe.scheduler)
    fresh.set_timesteps(STEPS)
    fresh.set_begin_index(3)
    with part(Part(3, None, fresh)):
        wanted = sampler("a star", num_frames=1, latents=x_t1, seed=1, **run).latents
    times = {"t0": 1, "t1": STEPS - 1 - 3}
    clip = text2video_zero(sampler, "a star", num_frames=2, generator=generator(), **times, **run)
    assert (clip.latents[:1] - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("name", SCHEDULERS)
def test_noise_is_added_back_to_the_schedulers_own_level(tiny_pipe, name: str):
    """A picture noised to t0 and back to t1 has mean and spread of one noised to t1 at once: within 1 %."""
    scheduler = make_scheduler(name, tiny_pipe.scheduler)
    scheduler.set_timesteps(50)
    t0, t1 = (scheduler.timesteps[step_index(scheduler, step)] for step in (20, 10))
    picture = torch.full((1, 4, 256, 256), 3.0)
    draws = torch.randn(3, *picture.shape, generator=generator())
    at_t0 = scheduler.add_noise(picture, draws[0], t0[None])
    back = add_noise(scheduler, at_t0, draws[1], 20, 10)
    wanted = scheduler.add_noise(picture, draws[2], t1[None])
    assert at_t0.std() < 0.97 * wanted.std()
    spread = wanted.std().item()
    assert back.std().item() == pytest.approx(spread, rel=0.01)
    assert back.mean().item() == pytest.approx(wanted.mean().item(), abs=0.01 * spread)


def test_guidance_one(sampler: ZS2Sampler):
    """Without guidance the clip is diffusers' at a guidance just above 1, where it still works."""
    call = {"num_inference_steps": 8, "t0": 4, "t1": 6}
    nearly = reference(sampler.pipe, prompt="a", video_length=3, guidance_scale=1 + 1e-9, **call)
    run = {"num_frames": 3, "generator": generator(), "output_type": "latent", **call}
    clip = text2video_zero(sampler, "a", guidance_scale=1.0, **run)
    assert (clip.latents - nearly).abs().max() < 1e-4


def test_several_prompts_are_several_clips(sampler: ZS2Sampler):
    """A list gives each prompt's own clip of its own seed, bit by bit; copies count their seeds on."""
    run = {"num_frames": 2, **LATENT}
    alone = [text2video_zero(sampler, p, seed=s, **run) for p, s in [("a", 1), ("b", 5), ("b", 6)]]
    both = text2video_zero(sampler, ["a", "b"], seed=[1, 5], **run)
    copies = text2video_zero(sampler, "b", seed=5, num_videos_per_prompt=2, **run)
    assert [clip.seed for clip in [*both, copies[1]]] == [1, 5, 6]
    for clip, wanted in zip([*both, copies[1]], alone, strict=True):
        assert torch.equal(clip.latents, wanted.latents)


def test_a_tuple_of_prompts_is_a_list_of_clips(sampler: ZS2Sampler):
    """("a", "b") are two clips, and one in a tuple is a list of one."""
    run = {"num_frames": 2, "seed": 1, **LATENT}
    clips = text2video_zero(sampler, ("a", "b"), **run)
    assert [clip.prompts for clip in clips] == [("a",), ("b",)]
    assert len(text2video_zero(sampler, ("a",), **run)) == 1


def test_each_prompt_may_have_its_negative_prompt(sampler: ZS2Sampler):
    """A list has one per prompt, which its copies share; None is none."""
    run = {"num_frames": 2, "guidance_scale": 3.0, **LATENT}
    both = text2video_zero(sampler, ["a", "a"], negative_prompt=["x", None], seed=[1, 1], **run)
    for clip, negative in zip(both, ("x", None), strict=True):
        alone = text2video_zero(sampler, "a", negative_prompt=negative, seed=1, **run)
        assert torch.equal(clip.latents, alone.latents)
    assert not torch.equal(both[0].latents, both[1].latents)
    with pytest.raises(
        ValueError, match=r"negative_prompt: expected one per prompt \(1\), found 2"
    ):
        text2video_zero(sampler, "a", negative_prompt=["x", "y"], **run)


def test_embeds_are_checked_before_frame_1_is_denoised(sampler: ZS2Sampler):
    """Two rows for three frames, or a text beside them: refused before the UNet is called; one row a
    frame is taken, and each frame has its own."""
    tokens, unwanted = (sampler.pipe.encode_prompt(t, "cpu", 1, False)[0] for t in ("a", ""))
    calls: list[int] = []
    hook = sampler.pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    run = {"num_frames": 3, "seed": 1, "negative_prompt_embeds": unwanted, **LATENT}
    with pytest.raises(ValueError, match=r"^prompt_embeds: expected a tensor of shape"):
        text2video_zero(sampler, None, prompt_embeds=torch.cat([tokens] * 2), **run)
    with pytest.raises(ValueError, match=r"^prompt: expected none beside prompt_embeds"):
        text2video_zero(sampler, "b", prompt_embeds=tokens, **run)
    hook.remove()
    assert not calls
    one = text2video_zero(sampler, None, prompt_embeds=tokens, **run).latents
    rows = torch.cat([tokens, tokens, 2 * tokens])
    other = text2video_zero(sampler, None, prompt_embeds=rows, **run).latents
    same = [torch.equal(a, b) for a, b in zip(one, other, strict=True)]
    assert same == [True, True, False]


def test_a_storyboard_has_a_prompt_a_segment(sampler: ZS2Sampler):
    """Its first segment is the first prompt's clip; the second has other frames, of its own prompt."""
    run = {"num_frames": 4, "segment_frames": 2, "seed": 1, **LATENT}
    board = text2video_zero(sampler, [["a", "b"]], **run)[0].latents
    alone = text2video_zero(sampler, "a", **run).latents
    again = text2video_zero(sampler, [["a", "a"]], **run)[0].latents
    assert torch.equal(again, alone)
    assert torch.equal(board[:2], alone[:2])
    assert (board[2:] - alone[2:]).abs().amax((1, 2, 3)).min() > 1e-2
    with pytest.raises(ValueError, match=r"expected 1 prompt or 2 .* found 3"):
        text2video_zero(sampler, [["a", "b", "c"]], **run)


@pytest.mark.parametrize("scheduler", ["ddim", "euler_a", "unipc"])
def test_long_clips_in_segments_are_the_one_shot_clip(sampler: ZS2Sampler, scheduler: str):
    """7 frames in segments of 4 or 3 are those of one shot, < 1e-4, also where steps add noise."""
    run = {"num_frames": 7, "seed": 1, "scheduler": scheduler, "guidance_scale": 2.0, **LATENT}
    whole = text2video_zero(sampler, "a star", segment_frames=7, **run).latents
    for m in (4, 3):
        parts = text2video_zero(sampler, "a star", segment_frames=m, **run).latents
        assert (whole - parts).abs().max() < 1e-4


def test_no_two_frames_share_their_noise(sampler: ZS2Sampler):
    """Without motion the frames of all segments start at t1 from one picture and unrelated noises."""
    started = []

    def watch(pipe, step, timestep, tensors):
        started.append(tensors["latents"])
        return {"latents": tensors["latents"]}

    still = {"motion_field_strength_x": 0.0, "motion_field_strength_y": 0.0}
    run = {"num_frames": 9, "segment_frames": 3, "seed": 1, "t0": 2, "t1": 5, **still, **LATENT}
    # guidance 1 and an untrained model: one step hardly changes what the frames started from
    text2video_zero(sampler, "a", guidance_scale=1.0, callback_on_step_end=watch, **run)
    first = next(latents for latents in started if len(latents) == 9)[1:].flatten(1)
    correlation = torch.corrcoef(first - first.mean(0))
    off_diagonal = correlation[~torch.eye(8, dtype=torch.bool)]
    assert off_diagonal.abs().max() < 0.3  # −1/7 expected of independent ones less their mean


def test_every_frame_is_denoised_once(sampler: ZS2Sampler):
    """Frame 1 alone to t0, then each frame once from t1: no segment holds frame 1 again."""
    pictures = []
    hook = sampler.pipe.unet.conv_in.register_forward_hook(
        lambda module, inputs, output: pictures.append(inputs[0].shape[0])
    )
    try:
        run = {"num_frames": 6, "segment_frames": 2, "seed": 1, "t0": 2, "t1": 4, **LATENT}
        text2video_zero(sampler, "a star", guidance_scale=7.5, **run)
    finally:
        hook.remove()
    before_t0, after_t1 = STEPS - 1 - 2, STEPS - (STEPS - 1 - 4)
    assert pictures == [2] * before_t0 + [4] * (3 * after_t1)


@pytest.mark.parametrize("when", [0, 2, 4])
def test_an_exception_leaves_the_pipeline_as_it_was(sampler: ZS2Sampler, when: int):
    """Wherever a callback raises: before t1, before t0, after: processors, scheduler, forward are back."""
    pipe = sampler.pipe
    processors, scheduler = dict(pipe.unet.attn_processors), pipe.scheduler
    state = copy.deepcopy(scheduler.__dict__)

    def stop(pipe, step, timestep, tensors):
        if step == when:
            raise RuntimeError("stop here")
        return tensors

    run = {"num_frames": 3, "seed": 1, "t0": 2, "t1": 4, **LATENT}
    with pytest.raises(RuntimeError, match="stop here"):
        text2video_zero(sampler, "a star", callback_on_step_end=stop, **run)
    assert pipe.unet.attn_processors == processors
    assert pipe.scheduler is scheduler
    assert str(scheduler.__dict__) == str(state)
    assert "forward" not in pipe.unet.__dict__
    assert len(sampler("a star", num_frames=2, num_inference_steps=3, seed=1).frames) == 2


def test_prompt_embeds_stand_for_the_prompt(sampler: ZS2Sampler):
    """Embeddings of the pipeline's own give the prompt's clip bit by bit, one row or one a frame."""
    positive, negative = sampler.pipe.encode_prompt("a star", "cpu", 1, True, "")
    run = {"num_frames": 3, "seed": 1, **LATENT}
    wanted = text2video_zero(sampler, "a star", **run).latents
    for rows in (1, 3):
        embeds = {
            "prompt_embeds": positive.expand(rows, -1, -1),
            "negative_prompt_embeds": negative.expand(rows, -1, -1),
        }
        assert torch.equal(text2video_zero(sampler, None, **embeds, **run).latents, wanted)


def test_callbacks_see_every_step_and_may_change_it(sampler: ZS2Sampler):
    """Steps count in the schedule: frame 1 to t0, all frames from t1; what is returned is gone on with."""
    seen = []

    def watch(pipe, step, timestep, tensors):
        seen.append((step, len(tensors["latents"])))
        last = step == STEPS - 1
        return {"latents": torch.zeros_like(tensors["latents"])} if last else tensors

    run = {"num_frames": 3, "seed": 1, "t0": 2, "t1": 4, **LATENT}
    clip = text2video_zero(sampler, "a star", callback_on_step_end=watch, **run)
    assert seen == [(i, 1) for i in range(3)] + [(i, 3) for i in range(1, STEPS)]
    assert not clip.latents.any()


def test_cross_attention_kwargs_reach_the_model(tmp_path: Path):
    """A LoRA at scale 0 gives the clip without LoRA, at scale 1 another."""
    from peft import LoraConfig

    sampler = ZS2Sampler(tiny_models.sd1(tmp_path))
    run = {"num_frames": 2, "seed": 1, **LATENT}
    without = text2video_zero(sampler, "a star", **run).latents
    torch.manual_seed(0)
    layers = ["to_q", "to_v"]
    sampler.pipe.unet.add_adapter(
        LoraConfig(r=4, lora_alpha=16, init_lora_weights=False, target_modules=layers)
    )
    off, on = (
        text2video_zero(sampler, "a star", cross_attention_kwargs={"scale": scale}, **run).latents
        for scale in (0.0, 1.0)
    )
    assert (off - without).abs().max() < 1e-4
    assert (on - without).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_give_no_black_frames(tmp_path: Path, dtype: torch.dtype):
    """A model in half precision renders the float32 model's frames, but for some grey levels."""
    sampler = ZS2Sampler(tiny_models.sd1(tmp_path))
    run = {"num_frames": 2, "seed": 1, "num_inference_steps": 4, "guidance_scale": 2.0, **SMALL}
    wanted = text2video_zero(sampler, "a star", **run).frames.astype(float)
    sampler.pipe.to(dtype)
    clip = text2video_zero(sampler, "a star", **run)
    assert clip.latents.dtype == dtype
    assert clip.latents.isfinite().all()
    assert np.abs(clip.frames - wanted).mean() < 6
    assert clip.frames.std(axis=(1, 2, 3)).min() > 10


def test_sdxl_moves_with_its_own_scheduler(sdxl: ZS2Sampler):
    """SDXL with its Euler scheduler: frame 1 is the pipeline's own picture, the others differ."""
    wanted = plain(sdxl.pipe, None, prompt="a star", generator=generator(), guidance_scale=5.0)
    run = {"num_frames": 3, "generator": generator(), "guidance_scale": 5.0, **LATENT}
    clip = text2video_zero(sdxl, "a star", **run)
    assert (clip.latents[:1] - wanted).abs().max() < 1e-3
    assert (clip.latents[1:] - clip.latents[:1]).abs().amax((1, 2, 3)).min() > 1e-2


def test_a_control_clip_guides_every_frame(sampler: ZS2Sampler):
    """Frame 1 is the ControlNet's own picture; only frames whose guide changes change."""
    guided = ZS2Sampler(sampler.pipe, controlnet=tiny_models.controlnet(sampler.pipe))
    guides = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    run = {"generator": generator(), "guidance_scale": 2.0, **LATENT}
    one = guided("a star", num_frames=1, conditioning_frames=guides[:1], **run).latents
    other = guides.copy()
    other[2] = 255 - other[2]
    first, second = (
        text2video_zero(
            guided,
            "a star",
            num_frames=3,
            conditioning_frames=clip,
            **{**run, "generator": generator()},
        ).latents
        for clip in (guides, other)
    )
    assert (first[:1] - one).abs().max() < 1e-4
    assert torch.equal(first[:2], second[:2])
    assert (first[2] - second[2]).abs().max() > 1e-3


@pytest.mark.parametrize("scheduler", ["ddim", "pndm"])
@pytest.mark.parametrize(
    ("window", "guided_steps"),
    [
        ({"control_guidance_end": 0.5}, [0, 1, 2, 3, 2, 3, 4]),
        ({"control_guidance_start": 0.9}, [9]),
    ],
)
def test_a_control_window_counts_in_the_whole_schedule(
    sampler: ZS2Sampler, window: dict, guided_steps: list[int], scheduler: str
):
    """The three parts of the schedule are not each taken for all of it: of 10 steps, t1 after 2 and
    t0 after 4, half the schedule is steps 0 to 4 wherever they are run, its last tenth is step 9."""
    net = tiny_models.controlnet(sampler.pipe)
    guided = ZS2Sampler(sampler.pipe, controlnet=net)
    guides = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    seen: list[int] = []
    hook = net.register_forward_pre_hook(lambda _, inputs: seen.append(int(inputs[1])))
    run = {**LATENT, "num_inference_steps": 10, "t0": 5, "t1": 7, "scheduler": scheduler}
    text2video_zero(guided, "a", num_frames=2, seed=1, conditioning_frames=guides, **run, **window)
    hook.remove()
    made = make_scheduler(scheduler, sampler.pipe.scheduler)
    made.set_timesteps(10)
    if scheduler == "ddim":
        assert seen == [int(made.timesteps[step]) for step in guided_steps]
        return
    # PNDM has its second step twice: 11 timesteps
    total, begins = len(made.timesteps), [step_index(made, step) for step in (0, 2, 4)]
    parts = [range(0, begins[1]), range(begins[1], begins[2]), range(begins[1], total)]
    start, end = window.get("control_guidance_start", 0), window.get("control_guidance_end", 1)
    wanted = [i for part in parts for i in part if i / total >= start and (i + 1) / total <= end]
    assert seen == [int(made.timesteps[i]) for i in wanted]


def test_an_edited_clip_keeps_its_pictures(tmp_path: Path):
    """With InstructPix2Pix frame 1 is its own picture; a frame whose source changes changes alone."""
    editor = ZS2Sampler(tiny_models.ip2p(tmp_path))
    source = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    other = source.copy()
    other[2] = 255 - other[2]
    run = {"guidance_scale": 2.0, "num_inference_steps": 4, "output_type": "latent"}
    one = editor("a star", num_frames=1, video=source[:1], generator=generator(), **run).latents
    first, second = (
        text2video_zero(
            editor, "a star", num_frames=3, video=clip, generator=generator(), **run
        ).latents
        for clip in (source, other)
    )
    assert (first[:1] - one).abs().max() < 1e-4
    assert torch.equal(first[:2], second[:2])
    assert (first[2] - second[2]).abs().max() > 1e-3


def test_latents_are_frame_ones_noise(sampler: ZS2Sampler):
    """Given latents start frame 1; of another shape they are refused."""
    latents = torch.randn(1, 4, 8, 8, generator=generator(9))
    wanted = plain(sampler.pipe, None, prompt="a star", latents=latents)
    clip = text2video_zero(sampler, "a star", num_frames=2, latents=latents, seed=1, **LATENT)
    assert (clip.latents[:1] - wanted).abs().max() < 1e-4
    with pytest.raises(ValueError, match="latents: expected a tensor of shape"):
        text2video_zero(sampler, "a", num_frames=2, latents=torch.zeros(1, 4, 16, 16), **LATENT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"t0": 44},
            r"expected 0 ≤ t0 ≤ t1 < num_inference_steps = 6, found t0 = 44, t1 = 5; give",
        ),
        ({"t0": 5, "t1": 4}, "found t0 = 5, t1 = 4"),
        ({"t0": -1, "t1": 4}, "found t0 = -1, t1 = 4"),
        ({"t1": 10}, "found t0 = 4, t1 = 10"),
        ({"momentum": 0.5}, "momentum: expected none, as Text2Video-Zero settles it; leave it out"),
        ({"kl_target": 0.1}, "kl_target: expected none"),
        ({"chain": "anchor"}, "chain: expected none"),
        ({"seed": -1}, "seed: expected a whole number of at least 0"),
        ({"seed": 1, "generator": torch.Generator()}, "expected seed or generator, found both"),
        ({"num_frames": 0}, "num_frames: expected a whole number of at least 1"),
        (
            {"num_videos_per_prompt": 0},
            "num_videos_per_prompt: expected a whole number of at least 1",
        ),
        (
            {"clips_per_call": 2, "seed": 1},
            "clips_per_call: expected 1, as Text2Video-Zero .* found 2",
        ),
        ({"in_between": 2}, "in_between: expected 1, as Text2Video-Zero denoises"),
        ({"share": 5}, "share: expected None, as Text2Video-Zero denoises"),
        ({"speed": "fast"}, "speed: expected exact, as Text2Video-Zero denoises"),
    ],
)
def test_bad_arguments_are_refused(sampler: ZS2Sampler, arguments: dict, message: str):
    """Each says what was expected and what was found."""
    with pytest.raises(ValueError, match=message):
        text2video_zero(sampler, "a star", **{**LATENT, **arguments})


def test_iid_frames_are_the_pipelines_own_pictures(sampler: ZS2Sampler):
    """Each frame is what the pipeline makes of that frame's noise alone: DDIM frame by frame, < 1e-4."""
    draws = generator()
    noises = [torch.randn(1, 4, 8, 8, generator=draws) for _ in range(3)]
    clip = iid(sampler, "a star", num_frames=3, generator=generator(), scheduler="ddim", **LATENT)
    for frame, noise in zip(clip.latents, noises, strict=True):
        wanted = plain(sampler.pipe, "ddim", prompt="a star", latents=noise)[0]
        assert (frame - wanted).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("baseline", "settled"),
    [(iid, "noise"), (iid, "momentum"), (mixed, "noise"), (progressive, "noise")],
)
def test_what_a_baseline_settles_is_refused(sampler: ZS2Sampler, baseline: Any, settled: str):
    """By name, with what to do."""
    own = {} if baseline is iid else {"alpha": 0.5}
    wanted = f"^{settled}: expected none, as {baseline.__name__} settles it; leave it out"
    with pytest.raises(ValueError, match=wanted):
        baseline(sampler, "a", **{settled: 0.5}, **own, **LATENT)


@pytest.mark.parametrize("baseline", [mixed, progressive])
def test_noises_shared_or_handed_on(sampler: ZS2Sampler, baseline):
    """α = 1 is a still clip, α = 0 independent frames, momentum is passed on."""
    run = {"num_frames": 3, "seed": 1, **LATENT}
    still = baseline(sampler, "a star", alpha=1.0, **run).latents
    assert torch.equal(still, still[:1].expand(3, -1, -1, -1))
    moving = baseline(sampler, "a star", alpha=0.5, **run).latents
    assert (moving[1:] - moving[:-1]).abs().amax((1, 2, 3)).min() > 1e-2
    tied = baseline(sampler, "a star", alpha=0.5, momentum=0.98, **run).latents
    assert (tied - moving).abs().max() > 1e-2
    own = sampler(
        "a star", noise=baseline.__name__, alpha=0.5, kl_target=0.3, momentum=0.98, **run
    ).latents
    assert torch.equal(tied, own)


@pytest.mark.parametrize("kl_target", [0.0, 0.01, 0.3, 1.0])
def test_matched_alphas_reach_the_target(kl_target: float):
    """Noises drawn at the matched α are λ apart on average (± 3 % of √e), mixed and progressive alike."""
    shape = (16, 128, 128)
    for model, alpha in [
        (progressive_noise, matched_progressive_alpha(kl_target)),
        (mixed_noise, matched_mixed_alpha(kl_target)),
    ]:
        eps, _ = model(shape, 4, alpha, generator())
        assert kl_divergence(eps[1:], eps[:-1]).mean() == pytest.approx(kl_target, abs=0.05)
    assert matched_mixed_alpha(2.0) == 0
    with pytest.raises(ValueError, match="kl_target: expected ≥ 0, found -1"):
        matched_progressive_alpha(-1.0)


def test_progressive_at_the_matched_alpha_is_zs2(sampler: ZS2Sampler):
    """At α = (1 − λ/√e)² and ZS²'s momentum the progressive baseline is ZS²'s own clip, bit by bit."""
    run = {"num_frames": 3, "seed": 1, "momentum": 0.98, **LATENT}
    own = sampler("a star", kl_target=0.1, **run).latents
    alpha = matched_progressive_alpha(0.1)
    assert torch.equal(progressive(sampler, "a star", alpha=alpha, **run).latents, own)
