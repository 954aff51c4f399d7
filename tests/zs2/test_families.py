"""Every Stable Diffusion family under the sampler: SD 1, SD 2 (v-prediction), SDXL, ControlNets on both,
InstructPix2Pix. The pipelines are tiny and have the true architectures (tests/tiny_models.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny_models
from zs2 import ZS2Sampler
from zs2.config import SCHEDULERS
from zs2.schedulers import make_scheduler

STEPS = 3
SIDE = 2 * tiny_models.LATENT
QUICK = {"num_inference_steps": STEPS, "guidance_scale": 7.5}


def moving_picture(num_frames: int) -> np.ndarray:
    """A bright square that moves one pixel a frame over a fixed texture."""
    texture = np.random.default_rng(0).integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
    frames = np.repeat(texture[None], num_frames, axis=0)
    for i, frame in enumerate(frames):
        frame[8:18, 4 + i : 14 + i] = 255
    return frames


@dataclass(frozen=True)
class Family:
    """A sampler of the family; what a clip of n frames needs beside its prompt; and diffusers' own
    pipeline for one picture with what it needs."""

    sampler: ZS2Sampler
    plain: Any
    clip: Callable[[int], dict[str, Any]]
    picture: Callable[[], dict[str, Any]]

    def __call__(self, num_frames: int, prompt: Any = "a star", **kwargs: Any) -> Any:
        return self.sampler(
            prompt, num_frames=num_frames, **{**QUICK, **self.clip(num_frames), **kwargs}
        )

    def one(self, scheduler: str | None = None, **kwargs: Any) -> Any:
        own = self.plain.scheduler
        self.plain.scheduler = make_scheduler(scheduler, own)
        try:
            return self.plain("a star", **{**QUICK, **self.picture(), **kwargs})
        finally:
            self.plain.scheduler = own


def text_family(pipe: Any) -> Family:
    return Family(ZS2Sampler(pipe), pipe, lambda n: {}, lambda: {"height": SIDE, "width": SIDE})


def guided_family(pipe: Any, kind: type) -> Family:
    net = tiny_models.controlnet(pipe)
    extra = {} if hasattr(pipe, "text_encoder_2") else {"requires_safety_checker": False}
    plain = kind(**pipe.components, controlnet=net, **extra)
    plain.set_progress_bar_config(disable=True)
    scale = {"controlnet_conditioning_scale": 0.8}
    return Family(
        ZS2Sampler(pipe, controlnet=net),
        plain,
        lambda n: {"conditioning_frames": moving_picture(n), **scale},
        lambda: {"image": Image.fromarray(moving_picture(1)[0]), **scale},
    )


def editing_family(pipe: Any) -> Family:
    guidance = {"image_guidance_scale": 1.5}
    return Family(
        ZS2Sampler(pipe),
        pipe,
        lambda n: {"video": moving_picture(n), **guidance},
        lambda: {"image": Image.fromarray(moving_picture(1)[0]), **guidance},
    )


def build(name: str, folder: Path) -> Family:
    if name == "ip2p":
        return editing_family(tiny_models.ip2p(folder))
    base, _, guided = name.partition("+")
    pipe = {"sd1": tiny_models.sd1, "sd2": tiny_models.sd2, "sdxl": tiny_models.sdxl}[base](folder)
    if not guided:
        return text_family(pipe)
    xl = diffusers.StableDiffusionXLControlNetPipeline
    return guided_family(
        pipe, xl if base == "sdxl" else diffusers.StableDiffusionControlNetPipeline
    )


NAMES = ("sd1", "sd2", "sdxl", "sd1+controlnet", "sdxl+controlnet", "ip2p")


@pytest.fixture(scope="module", params=NAMES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return build(request.param, tmp_path_factory.mktemp("family"))


def noise(seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 4, tiny_models.LATENT, tiny_models.LATENT, generator=generator)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_one_frame_is_the_plain_pipeline(family: Family, scheduler: str):
    """f = 1 returns exactly (0.0) what diffusers' own pipeline of the family returns, under every
    scheduler."""
    wanted = family.one(
        scheduler,
        latents=noise(),
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
    ).images
    clip = family(
        1,
        latents=noise(),
        generator=torch.Generator().manual_seed(5),
        scheduler=scheduler,
        output_type="latent",
    )
    assert torch.equal(clip.latents, wanted)


def test_one_frame_has_the_plain_pictures_pixels(family: Family):
    """Decoding is the family's own: f = 1 gives the plain pipeline's picture, pixel by pixel."""
    wanted = family.one(generator=torch.Generator().manual_seed(11)).images[0]
    clip = family(1, seed=11)
    assert np.array_equal(clip.frames[0], np.asarray(wanted))


@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
def test_chaining_equals_one_shot(family: Family, guidance_scale: float):
    """10 frames in segments of 4 (the last one padded) are the one-shot clip, to 1e-4."""
    run = {"seed": 1, "kl_target": 0.1, "output_type": "latent", "guidance_scale": guidance_scale}
    whole = family(10, segment_frames=10, **run).latents
    parts = family(10, segment_frames=4, **run).latents
    assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-4)


def test_chaining_is_bit_exact_at_equal_shapes(family: Family):
    """Frames 1..4 of 8 in segments of 4 equal, to the bit, the 4-frame clip."""
    run = {"segment_frames": 4, "seed": 2, "kl_target": 0.1, "output_type": "latent"}
    assert torch.equal(family(8, **run).latents[:4], family(4, **run).latents)


QUICK_SCHEDULERS = ("ddim", "euler_a", "lcm")  # two of them stochastic


@pytest.mark.parametrize(
    "scheduler",
    [
        name if name in QUICK_SCHEDULERS else pytest.param(name, marks=pytest.mark.slow)
        for name in SCHEDULERS
    ],
)
def test_zero_lambda_is_still(family: Family, scheduler: str):
    """λ = 0 under every scheduler: all frames are the same bytes, as long as what guides them is."""
    still = {
        name: np.repeat(value[:1], 5, axis=0) if isinstance(value, np.ndarray) else value
        for name, value in family.clip(5).items()
    }
    clip = family(5, segment_frames=2, seed=4, kl_target=0.0, scheduler=scheduler, **still)
    assert all(torch.equal(latent, clip.latents[0]) for latent in clip.latents)
    assert all(np.array_equal(frame, clip.frames[0]) for frame in clip.frames)


def test_storyboard_and_lists_act_frame_by_frame(family: Family):
    """One prompt a segment, λ_i and μ_i a frame: a change in segment 2 leaves segment 1 as it was, to
    the bit, and changes segment 2."""
    run = {"segment_frames": 3, "seed": 6, "output_type": "latent"}
    base = {"kl_target": [0.1] * 5, "momentum": [0.9] * 6}
    one = family(6, [["a star", "a star"]], **base, **run)[0].latents
    assert torch.equal(one, family(6, "a star", kl_target=0.1, momentum=0.9, **run).latents)
    changes = (
        ("prompt", {}),
        ("kl_target", {"kl_target": [0.1, 0.1, 0.5, 0.1, 0.1]}),
        ("momentum", {"momentum": [0.9, 0.9, 0.9, 0.2, 0.9, 0.9]}),
    )
    for name, change in changes:
        prompts = ["a star", "b b b" if name == "prompt" else "a star"]
        other = family(6, [prompts], **{**base, **change}, **run)[0].latents
        assert torch.equal(one[:3], other[:3]), name
        assert not torch.equal(one[3:], other[3:]), name


def test_clips_do_not_depend_on_each_other(family: Family):
    """Two clips in one call are, to the bit, the clips rendered alone, in either order."""
    run = {"segment_frames": 2, "output_type": "latent"}
    both = family(3, ["a star", "a sea"], seed=[1, 2], **run)
    assert torch.equal(both[1].latents, family(3, "a sea", seed=2, **run).latents)
    assert torch.equal(both[0].latents, family(3, "a star", seed=1, **run).latents)


def test_the_pipeline_is_unharmed(family: Family):
    """After a call, and after one that fails half-way, the pipeline answers as before and keeps its
    processors, forward and scheduler."""
    pipe = family.sampler.pipe
    before = family.one(latents=noise(), output_type="latent").images
    kept = (dict(pipe.unet.attn_processors), pipe.scheduler)

    def fail(*_: Any) -> dict[str, Any]:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        family(3, seed=1, callback_on_step_end=fail)
    assert (dict(pipe.unet.attn_processors), pipe.scheduler) == kept
    assert "forward" not in pipe.unet.__dict__
    assert torch.equal(before, family.one(latents=noise(), output_type="latent").images)


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return build("ip2p", tmp_path_factory.mktemp("ip2p"))


def test_editing_keeps_the_sources_motion(editor: Family):
    """InstructPix2Pix at λ = 0: what moves in the result is what moves in the source, frame by frame;
    with the source's frames in reverse, the result of μ = 0 is reversed, to the bit."""
    run = {"seed": 4, "kl_target": 0.0, "momentum": 0.0, "segment_frames": 1}
    forth = editor(4, **run)
    back = editor(4, **{**run, "video": moving_picture(4)[::-1]})
    assert torch.equal(forth.latents.flip(0), back.latents)
    assert all(
        not torch.equal(a, b) for a, b in zip(forth.latents, forth.latents[1:], strict=False)
    )


def test_image_guidance_acts(editor: Family):
    """A higher image guidance brings the result nearer to the source's own latents' structure: the two
    guidances act apart, and scale 1 of both is the plain conditional answer without copies."""
    low = editor(2, seed=1, image_guidance_scale=1.0).latents
    high = editor(2, seed=1, image_guidance_scale=3.0).latents
    assert (low - high).abs().max() > 1e-3
    calls: list[int] = []
    hook = editor.sampler.pipe.unet.conv_in.register_forward_pre_hook(
        lambda _, inputs: calls.append(len(inputs[0]))
    )
    editor(4, seed=1, segment_frames=2)
    editor(4, seed=1, segment_frames=2, guidance_scale=1.0)
    hook.remove()
    assert calls == [6] * 2 * STEPS + [2] * 2 * STEPS


def test_an_editor_needs_a_clip_and_others_refuse_one(editor: Family, tiny_pipe: Any):
    """Without `video`, with one of another length, or with one for a text model: a ValueError each."""
    with pytest.raises(ValueError, match="video: expected the clip to edit, found none"):
        editor.sampler("a star")
    with pytest.raises(ValueError, match="video: expected num_frames = 8 frames, found 3"):
        editor.sampler("a star", video=moving_picture(3))
    with pytest.raises(ValueError, match="video: expected none"):
        ZS2Sampler(tiny_pipe)("a star", video=moving_picture(8))


def test_sdxl_decodes_half_precision_in_float32(tmp_path: Path):
    """SDXL's autoencoder overflows in float16: it decodes in float32 and is float16 again."""
    pipe = tiny_models.sdxl(tmp_path).to(torch.float16)
    seen: list[torch.dtype] = []
    hook = pipe.vae.decoder.register_forward_pre_hook(lambda _, x: seen.append(x[0].dtype))
    frames = ZS2Sampler(pipe).decode(torch.randn(2, 4, 16, 16))
    hook.remove()
    assert seen == [torch.float32]
    assert pipe.vae.dtype == torch.float16
    assert frames.shape == (2, SIDE, SIDE, 3)
