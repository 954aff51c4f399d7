"""speed=fast: deep features of one UNet call used in the next, guidance cut off, on tiny models of the
true architectures. zs2.speed's rules are in test_speed.py."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny_models
from zs2 import ZS2Sampler
from zs2.attention import MomentumState, momentum_attention
from zs2.baselines import text2video_zero
from zs2.models import ModelDefaults
from zs2.schedulers import make_scheduler

SIDE = 2 * tiny_models.LATENT
STEPS = 7  # 5 guided, 2 not; 0, 2, 4 and 5 whole
WHOLE = {0, 2, 4, 5}
GUIDED = 5
QUICK: dict[str, Any] = {
    "speed": "fast",
    "scheduler": "dpm++",
    "num_inference_steps": STEPS,
    "guidance_scale": 7.5,
    "kl_target": 0.3,
    "momentum": 0.7,
    "output_type": "latent",
}
BUILDERS = {"sd1": tiny_models.sd1, "sd2": tiny_models.sd2, "sdxl": tiny_models.sdxl}


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory):
    return {name: build(tmp_path_factory.mktemp(name)) for name, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def net(pipes: Any):
    return tiny_models.controlnet(pipes["sd1"])


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, SIDE, SIDE, 3), dtype=np.uint8)


class Reference:
    """A UNet's forward written out block by block, which keeps the deep feature between calls.

    Args:
        net: a ControlNet, computed whole in every call.
        frames: what guides it.
    """

    def __init__(self, unet: Any, state: MomentumState, net: Any, frames: Any, guess: bool) -> None:
        self.unet, self.state, self.net, self.frames, self.guess = unet, state, net, frames, guess
        self.call = -1
        self.feature: Any = None

    def control(self, x: Tensor, t: Any, text: Tensor, copies: int) -> list[Tensor]:
        if self.net is None:
            return []
        first = len(x) // copies if self.guess and copies > 1 else 0
        clip = torch.from_numpy(self.frames).permute(0, 3, 1, 2).float() / 255
        down, mid = self.net(
            x[first:],
            t,
            encoder_hidden_states=text[first:],
            controlnet_cond=clip.repeat((len(x) - first) // len(clip), 1, 1, 1),
            guess_mode=self.guess,
            return_dict=False,
        )
        zeros = [torch.zeros_like(part) for part in (*down, mid)]
        return [
            torch.cat([zero, part]) if first else part
            for zero, part in zip(zeros, (*down, mid), strict=True)
        ]

    def __call__(
        self,
        sample: Tensor,
        t: Any,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: Any = None,
        return_dict: bool = True,
        **_: Any,
    ) -> tuple[Tensor]:
        self.call += 1
        self.state.reset()
        unet, x, text, added = self.unet, sample, encoder_hidden_states, added_cond_kwargs
        copies = 2
        if self.call >= GUIDED:
            copies = 1
            x, text = x.chunk(2)[1], text.chunk(2)[1]
            added = {name: value.chunk(2)[1] for name, value in (added or {}).items()}
        residuals = self.control(x, t, text, copies)
        emb = unet.time_embedding(unet.time_proj(t.expand(len(x))).to(x.dtype))
        aug = unet.get_aug_embed(emb=emb, encoder_hidden_states=text, added_cond_kwargs=added)
        emb = emb if aug is None else emb + aug

        def run(block: Any, x: Tensor, *more: Any) -> Any:
            if getattr(block, "has_cross_attention", False):
                return block(x, *more, temb=emb, encoder_hidden_states=text)
            return block(x, *more, temb=emb)

        is_whole = self.call in WHOLE
        x = unet.conv_in(x)
        skips = [x]
        for block in unet.down_blocks if is_whole else unet.down_blocks[:1]:
            x, found = run(block, x)
            skips += found
        skips = [a + b for a, b in zip(skips, residuals, strict=False)] if residuals else skips
        if is_whole:
            x = run(unet.mid_block, x)
            x = x + residuals[-1] if residuals else x
            for block in unet.up_blocks[:-1]:
                count = len(block.resnets)
                x = run(block, x, tuple(skips[-count:]))
                del skips[-count:]
            self.feature = x
        last = unet.up_blocks[-1]
        x = run(last, self.feature, tuple(skips[: len(last.resnets)]))
        x = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
        return (torch.cat([x] * (len(sample) // len(x))),)


def reference(pipe: Any, n: int, noise: Tensor, net: Any = None, guess: bool = False) -> Tensor:
    """The latents of a plain pipeline whose UNet is a Reference, all frames at once."""
    state = MomentumState([0.7] * n)
    state.enter_segment(0, n, n)
    kept = pipe.scheduler
    with momentum_attention(pipe.unet, state):
        context = net and momentum_attention(net, state, "net.")
        if context:
            context.__enter__()
        pipe.scheduler = make_scheduler("dpm++", kept)
        pipe.unet.forward = Reference(pipe.unet, state, net, pictures(n), guess)
        try:
            return pipe(
                "a star",
                num_images_per_prompt=n,
                num_inference_steps=STEPS,
                guidance_scale=7.5,
                height=SIDE,
                width=SIDE,
                latents=noise,
                output_type="latent",
            ).images
        finally:
            del pipe.unet.forward
            pipe.scheduler = kept
            if context:
                context.__exit__(None, None, None)


def noise_of(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 4, SIDE // 2, SIDE // 2, generator=generator)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("family", BUILDERS)
def test_fast_is_a_plain_loop_that_reuses(pipes: Any, family: str, n: int):
    """A clip, and a picture, in every family: what a UNet written out block by block gives, which keeps
    the deep feature for every second call and sees the prompt alone in the last two of seven."""
    pipe, noise = pipes[family], noise_of(n)
    call = {**QUICK, "num_frames": n, "height": SIDE, "width": SIDE, "latents": noise}
    clip = ZS2Sampler(pipe)("a star", seed=1, **call)
    wanted = reference(pipe, n, noise)
    assert (clip.latents - wanted).abs().max() < 1e-4
    exact = ZS2Sampler(pipe)("a star", seed=1, **{**call, "speed": "exact"})
    assert (clip.latents - exact.latents).abs().max() > 1e-3


@pytest.mark.parametrize("guess", [False, True], ids=["both copies", "guess mode"])
def test_a_controlnet_beside_it(pipes: Any, net: Any, guess: bool):
    """The residuals that shallow calls use are those of a net computed whole."""
    pipe, noise = pipes["sd1"], noise_of(3)
    clip = ZS2Sampler(pipe, controlnet=net)(
        "a star",
        seed=1,
        num_frames=3,
        height=SIDE,
        width=SIDE,
        latents=noise,
        conditioning_frames=pictures(3),
        guess_mode=guess,
        **QUICK,
    )
    wanted = reference(pipe, 3, noise, net, guess)
    assert (clip.latents - wanted).abs().max() < 1e-4


@contextmanager
def counted(*layers: Any) -> Generator[list[list[int]]]:
    """The pictures that each layer takes in, call by call."""
    calls: list[list[int]] = [[] for _ in layers]
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, found=found: found.append(len(args[0])))
        for layer, found in zip(layers, calls, strict=True)
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def test_what_is_computed(pipes: Any, net: Any):
    """5 frames in segments of 2, padding included: three calls a step, of two copies while guided; the
    deep parts of UNet and ControlNet in whole calls alone, and nothing of them else."""
    unet = pipes["sd1"].unet
    layers = [
        *(unet.conv_in, unet.mid_block.resnets[0], unet.down_blocks[0].downsamplers[0].conv),
        *(unet.up_blocks[-2].resnets[-1].conv1, unet.up_blocks[-1].resnets[0].conv1),
        *(net.conv_in, net.mid_block.resnets[0]),
    ]
    with counted(*layers) as calls:
        ZS2Sampler(pipes["sd1"], controlnet=net)(
            "a star",
            num_frames=5,
            segment_frames=2,
            height=SIDE,
            width=SIDE,
            conditioning_frames=pictures(5),
            **QUICK,
        )
    every = [n for step in range(STEPS) for n in [4 if step < GUIDED else 2] * 3]
    whole = [n for step in sorted(WHOLE) for n in [4 if step < GUIDED else 2] * 3]
    assert calls == [every, whole, whole, whole, every, every, whole]


@pytest.mark.parametrize("controlled", [False, True])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_segments_are_the_clip_in_one(pipes: Any, family: str, controlled: bool):
    """Cut into segments of 2, the last one padded, or sampled at once: the same clip of 5 frames, so no
    segment has another's feature."""
    pipe = pipes[family]
    sampler = ZS2Sampler(pipe)
    more = {"height": SIDE, "width": SIDE, "num_frames": 5, **QUICK}
    if controlled:
        sampler.controlnet = tiny_models.controlnet(pipe)
        more["conditioning_frames"] = pictures(5)
    cut, whole = (sampler("a star", seed=2, segment_frames=m, **more).latents for m in (2, 5))
    assert (cut - whole).abs().max() < 1e-4


def test_neighbours_and_length_of_the_list_do_not_matter(tiny_pipe: Any):
    """Three clips of one call are bit by bit those of three calls: no feature outlives its clip."""
    sampler = ZS2Sampler(tiny_pipe)
    more = {"num_frames": 3, "segment_frames": 2, **QUICK}
    together = sampler(["a star", "a tree", "a star"], seed=[1, 2, 1], **more)
    alone = [sampler(p, seed=s, **more) for p, s in (("a star", 1), ("a tree", 2), ("a star", 1))]
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.latents, other.latents)


def test_one_frame_with_and_without_guidance(tiny_pipe: Any):
    """A picture is the same again; without guidance nothing is cut off, and deep features are reused."""
    sampler = ZS2Sampler(tiny_pipe)
    for guidance in (1.0, 7.5):
        more = {**QUICK, "num_frames": 1, "seed": 1, "guidance_scale": guidance}
        assert torch.equal(sampler("a", **more).latents, sampler("a", **more).latents)
    layers = tiny_pipe.unet.conv_in, tiny_pipe.unet.mid_block.resnets[0]
    with counted(*layers) as (every, whole):
        sampler("a", **{**QUICK, "num_frames": 1, "guidance_scale": 1.0})
    assert (every, whole) == ([1] * 7, [1] * 4)


class StoppedError(Exception):
    """Raised in the middle of a clip."""


def test_the_pipeline_is_unharmed(tiny_pipe: Any):
    """After fast clips, and after one that was stopped in a step that reuses, exact clips are bit by bit
    those of before, and no module has a forward of ours."""
    sampler = ZS2Sampler(tiny_pipe)
    exact = {"num_frames": 3, "segment_frames": 2, "num_inference_steps": 3, "seed": 5}

    def stop(*args: Any) -> dict[str, Any]:
        if args[1] == 1:
            raise StoppedError
        return {}

    before = sampler("a star", **exact).latents
    fast = sampler("a star", num_frames=3, seed=1, **QUICK).latents
    with pytest.raises(StoppedError):
        sampler("a star", num_frames=3, callback_on_step_end=stop, **QUICK)
    assert torch.equal(sampler("a star", num_frames=3, seed=1, **QUICK).latents, fast)
    assert torch.equal(sampler("a star", **exact).latents, before)
    named = sampler("a star", **exact, speed="exact").latents
    assert torch.equal(named, before)
    assert not any("forward" in module.__dict__ for module in tiny_pipe.unet.modules())


def test_half_the_steps_where_none_are_named(tiny_pipe: Any):
    """By name alone: four of the model's seven steps, by dpm++. Steps that are named stay, and then the
    pipeline's own scheduler, too."""
    sampler = ZS2Sampler(tiny_pipe, ModelDefaults(num_inference_steps=7))
    more: dict[str, Any] = {"num_frames": 2, "seed": 1, "output_type": "latent"}
    plain = sampler("a star", speed="fast", **more).latents
    named = {"scheduler": "dpm++", "num_inference_steps": 4}
    assert torch.equal(plain, sampler("a star", speed="fast", **named, **more).latents)
    steps = sampler("a star", speed="fast", num_inference_steps=4, **more).latents
    ddim = sampler("a star", speed="fast", scheduler="ddim", num_inference_steps=4, **more).latents
    assert torch.equal(steps, ddim) and not torch.equal(steps, plain)
    listed = sampler("a star", speed="fast", scheduler="euler", timesteps=[900, 500, 1], **more)
    assert torch.isfinite(listed.latents).all()


def test_what_cannot_be_fast(tmp_path: Any, tiny_pipe: Any):
    """Editing, Text2Video-Zero and speeds of other names are refused with what to do."""
    frames = pictures(2)
    with pytest.raises(ValueError, match=r"speed: expected exact with video.* leave it out"):
        ZS2Sampler(tiny_models.ip2p(tmp_path))("a", num_frames=2, video=frames, speed="fast")
    with pytest.raises(ValueError, match="speed: expected exact, as Text2Video-Zero"):
        text2video_zero(ZS2Sampler(tiny_pipe), "a", num_frames=2, speed="fast")
    with pytest.raises(ValueError, match="speed: expected one of exact, fast, found 'quick'"):
        ZS2Sampler(tiny_pipe)("a", speed="quick")


def test_all_of_a_unet_is_covered(pipes: Any):
    """A picture's share of the UNet that shallow calls compute is its outermost blocks: this guards the
    reference above against a UNet with parts that it does not know."""
    for pipe in pipes.values():
        parts = {name.split(".")[0] for name, _ in pipe.unet.named_parameters()}
        known = {"conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block"}
        assert parts <= known | {"up_blocks", "conv_norm_out", "conv_out"}
        blocks = chain(pipe.unet.down_blocks[:1], pipe.unet.up_blocks[-1:])
        assert all(len(block.resnets) >= 2 for block in blocks)
