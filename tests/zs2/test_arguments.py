"""Arguments as callers write them: natural types are taken, everything else is refused in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    MotionAdapter,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionLDM3DPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
)
from jaxtyping import config
from PIL import Image

from tests import tiny_models
from zs2 import ZS2Sampler, dependency_noise, momentum_matrix
from zs2.baselines import text2video_zero
from zs2.config import ClipConfig

SIDE = 2 * tiny_models.LATENT
QUICK: dict[str, Any] = {"num_inference_steps": 2, "num_frames": 3, "output_type": "latent"}


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """As users have it: types are checked at run time in our other tests alone."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_models.sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture
def sampler(tiny_pipe: Any) -> ZS2Sampler:
    return ZS2Sampler(tiny_pipe)


@pytest.fixture(scope="module")
def guided(tiny_pipe: Any) -> ZS2Sampler:
    net = tiny_models.controlnet(tiny_pipe)
    pipe = StableDiffusionControlNetPipeline(
        **tiny_pipe.components, controlnet=net, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return ZS2Sampler(pipe)


def pictures(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("kl_traget", 5.0, "kl_target"),
        ("segment_frame", 1, "segment_frames"),
        ("negative_promt", "b", "negative_prompt"),
        ("video_length", 9, "num_frames"),
        ("num_images_per_prompt", 2, "num_videos_per_prompt"),
        ("image", None, "conditioning_frames for a ControlNet, video for InstructPix2Pix"),
        ("return_dict", False, "nothing: a Clip is returned"),
        ("foo", 1, "leave it out"),
    ],
)
def test_unknown_names_are_refused(sampler: ZS2Sampler, name: str, value: Any, hint: str):
    """No argument is without effect in silence: a TypeError that names the right one."""
    with pytest.raises(TypeError, match=f"^{name}: expected an argument of .*{hint}"):
        sampler("a", **{name: value}, **QUICK)
    if name != "segment_frame":
        with pytest.raises(TypeError, match=f"^{name}: "):
            text2video_zero(sampler, "a", **{name: value}, **QUICK)


def same(one: Any, other: Any) -> bool:
    return torch.equal(one.latents, other.latents)


def test_numbers_of_numpy_and_torch_are_numbers(sampler: ZS2Sampler):
    """The same clip from numpy's and torch's scalars and arrays as from Python's own."""
    own = sampler("a", seed=4, kl_target=0.1, momentum=[0.5] * 3, guidance_scale=3.0, **QUICK)
    theirs = {
        "seed": np.int64(4),
        "num_inference_steps": np.int32(2),
        "num_frames": torch.tensor(3),
        "momentum": np.full(3, 0.5),
        "guidance_scale": torch.tensor(3.0),
        "output_type": "latent",
    }
    assert same(own, sampler("a", kl_target=torch.tensor(0.1, dtype=torch.float64), **theirs))
    assert same(own, sampler("a", kl_target=np.array([0.1, 0.1]), **theirs))
    both = sampler(["a", "b"], seed=np.array([4, 5]), kl_target=0.1, **QUICK)
    assert [clip.seed for clip in both] == [4, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 2.5}, "num_frames: expected a whole number of at least 1, found 2.5"),
        ({"num_frames": "8"}, "num_frames: expected a whole number of at least 1, found '8'"),
        ({"num_frames": True}, "num_frames: expected a whole number of at least 1, found True"),
        ({"num_inference_steps": 0}, "num_inference_steps: expected a whole number of at least 1"),
        ({"num_inference_steps": 1.5}, "num_inference_steps: expected a whole number"),
        ({"height": 0}, "height: expected a whole number of at least 1, found 0"),
        ({"height": "32"}, "height: expected a whole number of at least 1, found '32'"),
        ({"guidance_scale": "a"}, "guidance_scale: expected a number, found 'a'"),
        ({"guidance_scale": float("nan")}, "guidance_scale: expected a number, found nan"),
        ({"kl_target": "0.1"}, "kl_target: expected a number, found '0.1'"),
        ({"momentum": [0.5, None, 0.5]}, "momentum: expected a number, found None"),
        ({"seed": 1.5}, "seed: expected a whole number of at least 0, found 1.5"),
        ({"seed": -1}, "seed: expected a whole number of at least 0, found -1"),
        ({"generator": 5}, "generator: expected a torch.Generator, found 5"),
        ({"latents": np.zeros((3, 4, 16, 16))}, "latents: expected a tensor of shape"),
        (
            {"clip_skip": 99},
            "clip_skip: expected 0 to 1, as the text encoder has 2 layers, found 99",
        ),
        ({"negative_prompt": 5}, "negative_prompt: expected a text or None.*found 5"),
        (
            {"negative_prompt": [["x"]]},
            r"negative_prompt: expected a text or None.*found \[\['x'\]\]",
        ),
        ({"cross_attention_kwargs": [1]}, r"cross_attention_kwargs: expected a dict.*found \[1\]"),
        ({"noise": "mixed", "alpha": "x"}, "alpha: expected a number, found 'x'"),
        ({"prompt": 3}, "prompt: expected a text, or a list of clips.*found 3"),
        ({"prompt": [None]}, "prompt: expected a text, or a list of clips"),
        ({"prompt": [[]]}, "prompt: expected a text, or a list of clips"),
        ({"prompt_2": "b"}, "prompt_2, negative_prompt_2: expected none without a second"),
        ({"video": pictures()}, "video: expected none, as the model makes clips from text"),
    ],
)
def test_values_that_are_none(sampler: ZS2Sampler, arguments: dict[str, Any], message: str):
    """A ValueError that names the argument, what it takes and what was found."""
    call = {"prompt": "a", **QUICK, **arguments}
    with pytest.raises(ValueError, match=message):
        sampler(call.pop("prompt"), **call)


def test_arrays_of_timesteps_and_sigmas(sampler: ZS2Sampler):
    """numpy's and torch's are taken as lists are, and the steps need not be named beside them."""
    run = {"seed": 1, "num_frames": 2, "output_type": "latent", "scheduler": "euler"}
    for name, values in (("sigmas", [9.0, 3.0, 0.5]), ("timesteps", [900.0, 500.0, 100.0])):
        own = sampler("a", **{name: values}, **run)
        for other in (np.array(values), torch.tensor(values)):
            assert same(own, sampler("a", **{name: other}, **run))


def test_the_algorithm_takes_their_numbers_too():
    """numpy's and torch's scalars and arrays are λ, μ and numbers of candidates of the functions that are
    called without a sampler."""
    wanted = momentum_matrix(0.5, 3)
    theirs = (np.float32(0.5), torch.tensor(0.5), np.full(3, 0.5), torch.full((3,), 0.5))
    for value in (*theirs, list(theirs[3])):
        assert torch.equal(momentum_matrix(value, 3), wanted)
        assert ClipConfig(3, momentum=value if value is theirs[0] else 0.5).momentums == (0.5,) * 3
    wanted = drawn(kl_target=0.5)
    for value in (*theirs[:2], np.full(2, 0.5), list(torch.full((2,), 0.5))):
        assert torch.equal(drawn(kl_target=value), wanted)
    assert torch.equal(drawn(kl_target=0.5, candidates=np.int64(1)), wanted)
    with pytest.raises(ValueError, match=r"candidates: expected a whole number .* found 1\.5"):
        drawn(candidates=1.5)
    with pytest.raises(ValueError, match="kl_target: expected a number, found 'a'"):
        drawn(kl_target="a")
    with pytest.raises(ValueError, match=r"alpha: expected a number in \[0, 1\], found 'x'"):
        ClipConfig(noise="mixed", alpha="x")


def drawn(**arguments: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return dependency_noise((4, 8, 8), 3, generator=generator, **arguments)[0]


def test_lists_and_arrays_of_lambda(sampler: ZS2Sampler):
    """A list of torch's numbers is one clip's λ, an array of two dimensions a row for each prompt."""
    listed = sampler("a", seed=4, kl_target=list(torch.tensor([0.25, 0.5])), **QUICK)
    assert same(listed, sampler("a", seed=4, kl_target=[0.25, 0.5], **QUICK))
    rows = np.array([[0.25, 0.5], [0.5, 0.25]])
    wanted = sampler(["a", "b"], seed=[4, 5], kl_target=rows.tolist(), **QUICK)
    for value in (rows, torch.from_numpy(rows), list(rows)):
        clips = sampler(["a", "b"], seed=[4, 5], kl_target=value, **QUICK)
        assert all(same(*pair) for pair in zip(clips, wanted, strict=True))


def test_copies_are_whole_under_text2video_zero(sampler: ZS2Sampler):
    """2.0 is none, as for the sampler itself."""
    with pytest.raises(ValueError, match=r"num_videos_per_prompt: expected a whole .* found 2\.0"):
        text2video_zero(sampler, "a", num_videos_per_prompt=2.0, **QUICK)


def test_a_controlnet_pipeline_is_never_unguided(guided: ZS2Sampler):
    """Without the clip, or with diffusers' own word for it, an error; not the unguided clip."""
    with pytest.raises(ValueError, match="conditioning_frames: expected the clip that guides"):
        guided("a", **QUICK)
    with pytest.raises(TypeError, match=r"image: .* here it is conditioning_frames"):
        guided("a", image=Image.fromarray(pictures()[0]), **QUICK)


def test_clips_are_arrays_or_lists_of_pictures(guided: ZS2Sampler):
    """PIL pictures and single arrays make the clip that the whole array makes."""
    clip = pictures()
    own = guided("a", seed=1, conditioning_frames=clip, **QUICK)
    for other in (list(clip), [Image.fromarray(frame) for frame in clip], [clip]):
        assert same(own, guided("a", seed=1, conditioning_frames=other, **QUICK))


@pytest.mark.parametrize(
    ("clip", "found"),
    [
        (pictures() / 255, r"found float64 \(3, 32, 32, 3\)"),
        (pictures()[..., 0], r"found uint8 \(3, 32, 32\)"),
        (torch.zeros(3, 3, SIDE, SIDE), r"found torch.float32"),
        (Image.fromarray(pictures()[0]), "found Image"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))], "found list"),
    ],
)
def test_other_clips_are_refused(guided: ZS2Sampler, clip: Any, found: str):
    """Numbers between 0 and 1, other shapes and types: never read as something else."""
    with pytest.raises(ValueError, match=f"conditioning_frames: expected a uint8 array.*{found}"):
        guided("a", conditioning_frames=clip, **QUICK)


def test_guess_mode_is_diffusers_own(guided: ZS2Sampler):
    """guess_mode: the same latents as diffusers' ControlNet pipeline, exactly, at f = 1; others than
    without."""
    call = {"num_inference_steps": 2, "output_type": "latent", "guess_mode": True}
    picture = Image.fromarray(pictures(1)[0])
    for guidance_scale in (1.0, 4.0):
        generator = torch.Generator().manual_seed(9)
        wanted = guided.pipe(
            "a", picture, generator=generator, guidance_scale=guidance_scale, **call
        ).images
        run = {"seed": 9, "num_frames": 1, "conditioning_frames": pictures(1), **call}
        clip = guided("a", guidance_scale=guidance_scale, **run)
        assert torch.equal(clip.latents, wanted)
        assert not same(
            clip, guided("a", guidance_scale=guidance_scale, **run | {"guess_mode": False})
        )


def test_sdxl_tells_no_negative_prompt_from_an_empty_one(sdxl: Any):
    """None is zeros and "" is encoded, as in diffusers; both exactly at f = 1."""
    sampler = ZS2Sampler(sdxl)
    clips = []
    for negative in (None, ""):
        generator = torch.Generator().manual_seed(9)
        call = {"negative_prompt": negative, "num_inference_steps": 2, "output_type": "latent"}
        wanted = sdxl("a", height=SIDE, width=SIDE, generator=generator, **call).images
        clips.append(sampler("a", seed=9, num_frames=1, **call))  # its own guidance of 5, too
        assert torch.equal(clips[-1].latents, wanted)
    assert not same(*clips)


def test_sdxls_second_prompts(sdxl: Any):
    """prompt_2 and negative_prompt_2 are what the second encoder reads: diffusers' own at f = 1."""
    sampler = ZS2Sampler(sdxl)
    for second in ({"prompt_2": "q w"}, {"negative_prompt": "z", "negative_prompt_2": "y"}):
        call = {**second, "num_inference_steps": 2, "output_type": "latent"}
        generator = torch.Generator().manual_seed(9)
        wanted = sdxl("a", height=SIDE, width=SIDE, generator=generator, **call).images
        assert torch.equal(sampler("a", seed=9, num_frames=1, **call).latents, wanted)
    with pytest.raises(
        ValueError, match="expected none without a second text encoder or with long"
    ):
        sampler("a", prompt_2="b", long_prompt="chunk", **QUICK)


def test_sdxls_second_negative_prompt_alone(sdxl: Any):
    """Where no negative prompt is zeros, diffusers drops negative_prompt_2 in silence: refused with what
    to give; elsewhere it is diffusers' own at f = 1."""
    sampler = ZS2Sampler(sdxl)
    call = {"negative_prompt_2": "y", "num_inference_steps": 2, "output_type": "latent"}
    with pytest.raises(ValueError, match="negative_prompt_2: expected beside a negative_prompt"):
        sampler("a", seed=9, num_frames=1, **call)
    both = sampler("a", seed=9, num_frames=1, negative_prompt="", **call)
    sdxl.register_to_config(force_zeros_for_empty_prompt=False)
    try:
        generator = torch.Generator().manual_seed(9)
        wanted = sdxl("a", height=SIDE, width=SIDE, generator=generator, **call).images
        clip = sampler("a", seed=9, num_frames=1, **call)
    finally:
        sdxl.register_to_config(force_zeros_for_empty_prompt=True)
    assert torch.equal(clip.latents, wanted)
    assert same(clip, both)


def test_the_pipelines_own_steps_and_guidance(sdxl: Any, sampler: ZS2Sampler, tmp_path: Any):
    """Where the checkpoint says nothing, its pipeline's call does: 5.0 for SDXL, 100 steps for
    InstructPix2Pix."""
    own = [ZS2Sampler(pipe).defaults for pipe in (sampler.pipe, sdxl, tiny_models.ip2p(tmp_path))]
    assert [(d.num_inference_steps, d.guidance_scale) for d in own] == [
        (50, 7.5),
        (50, 5.0),
        (100, 7.5),
    ]


class Perturbed(StableDiffusionPipeline):
    """A user's own, with the argument of diffusers' PAG pipelines."""

    def __call__(self, *args: Any, pag_scale: float = 3.0, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


def test_other_things_than_pipelines(tiny_pipe: Any, tmp_path: Any):
    """The constructor refuses what it cannot sample from, and says what it takes and what it found:
    pipelines with other guidance, attention, inputs or outputs are no less other things for having a
    UNet, an autoencoder and a scheduler."""
    parts = {k: v for k, v in tiny_pipe.components.items() if k != "image_encoder"}
    plain = {"requires_safety_checker": False}
    motion = {k: v for k, v in parts.items() if k != "safety_checker"}
    adapter = MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=4
    )
    others = [
        StableDiffusionImg2ImgPipeline(**parts, **plain),
        StableDiffusionPAGPipeline(**parts, **plain),
        StableDiffusionLDM3DPipeline(**parts, **plain, image_encoder=None),
        AnimateDiffPipeline(**motion, motion_adapter=adapter),
        tiny_models.upscaler_x4(tmp_path),
        Perturbed(**parts, **plain),
    ]
    for pipe in (None, "zs2-mini", tiny_pipe.unet, *others):
        wanted = (
            f"pipe: expected a diffusers StableDiffusionPipeline.* found {type(pipe).__name__};"
        )
        with pytest.raises(TypeError, match=wanted):
            ZS2Sampler(pipe)


class Suspicious(torch.nn.Module):
    """A processor that treats self-attention by `encoder_hidden_states is None`."""

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, **_: Any):
        return hidden_states if encoder_hidden_states is None else 0.5 * hidden_states


def test_one_frame_leaves_attention_to_the_user(tiny_pipe: Any):
    """With one frame no processor is replaced: any processor answers as in the plain pipeline."""
    kept = dict(tiny_pipe.unet.attn_processors)
    tiny_pipe.unet.set_attn_processor(Suspicious())
    try:
        call = {"num_inference_steps": 2, "output_type": "latent"}
        wanted = tiny_pipe("a", generator=torch.Generator().manual_seed(9), **call).images
        clip = ZS2Sampler(tiny_pipe)("a", seed=9, num_frames=1, **call)
    finally:
        tiny_pipe.unet.set_attn_processor(kept)
    assert torch.equal(clip.latents, wanted)
