"""Every knob a diffusers user expects: it changes the clip as documented, and with one frame the result
is diffusers' own with the same knob, exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig

from tests import tiny_models
from zs2 import ZS2Sampler

SIDE = 2 * tiny_models.LATENT
QUICK: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 7.5}
LATENT: dict[str, Any] = {**QUICK, "output_type": "latent"}


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return getattr(tiny_models, request.param)(tmp_path_factory.mktemp(request.param))


@pytest.fixture
def pipe(source: Any):
    """A pipeline of its own, for the test may change it."""
    return copy.deepcopy(source)


@pytest.fixture
def sampler(pipe: Any) -> ZS2Sampler:
    return ZS2Sampler(pipe)


def plain(pipe: Any, seed: int = 9, **kwargs: Any) -> torch.Tensor:
    """diffusers' own latents of one picture."""
    call = {"prompt": "a star", "height": SIDE, "width": SIDE, **LATENT, **kwargs}
    return pipe(generator=torch.Generator().manual_seed(seed), **call).images


def one_frame(sampler: ZS2Sampler, **kwargs: Any) -> torch.Tensor:
    call = {"prompt": "a star", "seed": 9, "num_frames": 1, **LATENT, **kwargs}
    prompt = call.pop("prompt")
    return sampler(prompt, **call).latents


def three_frames(sampler: ZS2Sampler, **kwargs: Any) -> torch.Tensor:
    return one_frame(sampler, num_frames=3, segment_frames=2, **kwargs)


def check(sampler: ZS2Sampler, **knob: Any) -> None:
    """With one frame diffusers' own answer, another than without the knob; and it acts on clips."""
    assert torch.equal(one_frame(sampler, **knob), plain(sampler.pipe, **knob))
    assert (one_frame(sampler, **knob) - one_frame(sampler)).abs().max() > 1e-4
    changed = (three_frames(sampler, **knob) - three_frames(sampler)).abs().amax((1, 2, 3))
    assert (changed > 1e-4).all()


def embeds_of(pipe: Any, text: str, negative: str) -> dict[str, torch.Tensor]:
    xl = hasattr(pipe, "text_encoder_2")
    names = ("prompt_embeds", "negative_prompt_embeds")
    names += ("pooled_prompt_embeds", "negative_pooled_prompt_embeds") if xl else ()
    options = {"device": torch.device("cpu"), "num_images_per_prompt": 1}
    encoded = pipe.encode_prompt(
        text, do_classifier_free_guidance=True, negative_prompt=negative, **options
    )
    return dict(zip(names, encoded, strict=True))


def test_negative_prompt(sampler: ZS2Sampler):
    check(sampler, negative_prompt="b b b")


def test_embeds_instead_of_prompts(sampler: ZS2Sampler):
    """prompt_embeds and negative_prompt_embeds (and SDXL's pooled ones) stand for the texts: one row
    for all frames, or a row a frame."""
    given = embeds_of(sampler.pipe, "q w e", "r t")
    check(sampler, prompt=None, **given)
    rows = {name: torch.cat([value, 2 * value, value]) for name, value in given.items()}
    one = three_frames(sampler, prompt=None, momentum=0.0, **given)
    other = three_frames(sampler, prompt=None, momentum=0.0, **rows)
    assert [torch.equal(a, b) for a, b in zip(one, other, strict=True)] == [True, False, True]


def test_embeds_of_a_wrong_shape(sampler: ZS2Sampler):
    """Two rows for three frames, another width, another length than the negative side's, no tensor, or
    no prompt at all: a ValueError that says what was expected."""
    given = embeds_of(sampler.pipe, "q w e", "r t")
    tokens = given["prompt_embeds"]
    two = {name: torch.cat([value, value]) for name, value in given.items()}
    with pytest.raises(ValueError, match=r"prompt_embeds: expected a tensor of shape \(1, token, "):
        three_frames(sampler, prompt=None, **two)
    for name, value in given.items():
        wanted = f"^{name}: expected a tensor .* found Tensor of shape"
        with pytest.raises(ValueError, match=wanted):
            three_frames(sampler, prompt=None, **given | {name: value[..., 1:]})
        with pytest.raises(ValueError, match=f"^{name}: expected a tensor .* found ndarray of"):
            three_frames(sampler, prompt=None, **given | {name: value.detach().numpy()})
    long = {"prompt_embeds": torch.cat([tokens, tokens], dim=1)}
    with pytest.raises(ValueError, match="as many tokens as the prompt has, 32, found 16"):
        three_frames(sampler, prompt=None, **given | long)
    with pytest.raises(ValueError, match="expected a prompt or prompt_embeds, found neither"):
        three_frames(sampler, prompt=None)


def test_a_text_beside_its_embeds(sampler: ZS2Sampler):
    """Which of them holds? A ValueError, as in diffusers; an empty text, which is none, is let be. The
    embeddings of one side may be beside the text of the other."""
    given = embeds_of(sampler.pipe, "q w e", "r t")
    for name in ("prompt", "negative_prompt"):
        with pytest.raises(ValueError, match=f"^{name}: expected none beside {name}_embeds"):
            three_frames(sampler, **{"prompt": None, **given, name: "a"})
    with pytest.raises(ValueError, match=r"^prompt: expected none beside prompt_embeds"):
        sampler([["", "a"]], num_frames=2, segment_frames=1, **given, **LATENT)
    both = three_frames(sampler, prompt=None, **given)
    assert torch.equal(three_frames(sampler, prompt="", negative_prompt="", **given), both)
    negative = {name: value for name, value in given.items() if name.startswith("negative")}
    positive = {name: value for name, value in given.items() if name not in negative}
    assert torch.equal(three_frames(sampler, prompt="q w e", **negative), both)
    assert torch.equal(three_frames(sampler, prompt=None, negative_prompt="r t", **positive), both)


def test_sdxls_two_conditions_of_a_text(sampler: ZS2Sampler):
    """One of them without the other is refused; one row of one goes with a row a frame of the other."""
    if not hasattr(sampler.pipe, "text_encoder_2"):
        return
    given = embeds_of(sampler.pipe, "q w e", "r t")
    for name in given:
        rest = {other: value for other, value in given.items() if other != name}
        with pytest.raises(ValueError, match=f"^{name}: expected beside .* found none"):
            three_frames(sampler, prompt=None, **rest)
    wanted = three_frames(sampler, prompt=None, **given)
    for name, value in given.items():
        rows = {name: torch.cat([value] * 3)}
        assert torch.equal(three_frames(sampler, prompt=None, **given | rows), wanted)


def test_a_pipeline_without_text_encoders(sampler: ZS2Sampler):
    """Embeddings made elsewhere need none: the very clip; a text says what to give instead of it. SDXL's
    negative side, which is zeros, needs no text, either."""
    given = embeds_of(sampler.pipe, "q w e", "r t")
    positive = {name: value for name, value in given.items() if not name.startswith("negative")}
    wanted = three_frames(sampler, prompt=None, **given)
    alone = three_frames(sampler, prompt=None, **positive)
    xl = hasattr(sampler.pipe, "text_encoder_2")
    for name in ("text_encoder", "tokenizer", *(("text_encoder_2", "tokenizer_2") if xl else ())):
        setattr(sampler.pipe, name, None)
    for long_prompt in ("truncate", "fail"):
        run = {"prompt": None, "long_prompt": long_prompt}
        assert torch.equal(three_frames(sampler, **run, **given), wanted)
        assert torch.equal(
            one_frame(sampler, **run, **given), plain(sampler.pipe, prompt=None, **given)
        )
        with pytest.raises(
            ValueError, match=r"^prompt: expected prompt_embeds, as .* found 'a star'"
        ):
            three_frames(sampler, long_prompt=long_prompt)
    if xl:
        assert torch.equal(three_frames(sampler, prompt=None, **positive), alone)
    else:
        with pytest.raises(
            ValueError, match=r"^negative_prompt: expected negative_prompt_embeds, as"
        ):
            three_frames(sampler, prompt=None, **positive)


def test_embeds_in_another_dtype(sampler: ZS2Sampler):
    """Float32 embeddings for a pipeline in bfloat16 are cast, as diffusers casts them."""
    given = embeds_of(sampler.pipe, "q w e", "r t")
    sampler.pipe.to(torch.bfloat16)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2)).bfloat16()
    call = {"prompt": None, "latents": noise, **given}
    assert torch.equal(one_frame(sampler, **call), plain(sampler.pipe, **call))


def test_the_missing_negative_is_encoded(sampler: ZS2Sampler):
    """With prompt_embeds alone the negative side is diffusers' own: of "" (SDXL: zeros)."""
    given = embeds_of(sampler.pipe, "q w e", "r t")
    positive = {name: value for name, value in given.items() if not name.startswith("negative")}
    check(sampler, prompt=None, **positive)


def test_latents(sampler: ZS2Sampler):
    """Given noise stands for the noise model's; a wrong shape is refused with both shapes."""
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    assert torch.equal(one_frame(sampler, latents=noise), plain(sampler.pipe, latents=noise))
    assert not torch.equal(one_frame(sampler, latents=noise), one_frame(sampler))
    with pytest.raises(ValueError, match=r"of shape \(3, 4, 16, 16\), found Tensor of shape \(1, "):
        three_frames(sampler, latents=noise)


def test_generator(sampler: ZS2Sampler):
    """A generator draws as a seed does, goes on from clip to clip, and excludes a seed."""
    generator = torch.Generator().manual_seed(9)
    first = one_frame(sampler, seed=None, generator=generator)
    assert torch.equal(first, plain(sampler.pipe))
    assert not torch.equal(first, one_frame(sampler, seed=None, generator=generator))
    with pytest.raises(ValueError, match="expected seed or generator, found both"):
        one_frame(sampler, generator=generator)


def test_callback_on_step_end(sampler: ZS2Sampler):
    """The callback sees all frames' latents after each step, may replace them, and is diffusers' own:
    the same steps, the same timesteps."""
    calls: list[tuple[int, int, tuple[int, ...]]] = []

    def halve(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        calls.append((step, int(timestep), tuple(tensors["latents"].shape)))
        return {"latents": tensors["latents"] / 2}

    check(sampler, callback_on_step_end=halve)
    assert {shape for *_, shape in calls} == {(1, 4, 16, 16), (3, 4, 16, 16)}
    assert calls[:2] == calls[2:4]


class Louder(AttnProcessor2_0):
    """A processor with an argument of its own."""

    def __call__(self, attn: Any, hidden_states: Any, *args: Any, loud: float = 1.0, **kwargs: Any):
        return loud * super().__call__(attn, hidden_states, *args, **kwargs)


def test_cross_attention_kwargs_reach_the_users_processors(sampler: ZS2Sampler):
    """Arguments of the user's own attention processors arrive, in self-attention too."""
    sampler.pipe.unet.set_attn_processor(Louder())
    check(sampler, cross_attention_kwargs={"loud": 1.5})
    kinds = {type(p).__name__ for p in sampler.pipe.unet.attn_processors.values()}
    assert kinds == {"Louder"}


def test_cross_attention_kwargs_scale_a_lora(sampler: ZS2Sampler):
    """`scale` weighs the LoRA, in the UNet and in the text encoder."""
    torch.manual_seed(0)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    lora = LoraConfig(r=2, init_lora_weights=False, target_modules=targets)
    sampler.pipe.unet.add_adapter(lora)
    text = LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
    sampler.pipe.text_encoder.add_adapter(text)
    check(sampler, cross_attention_kwargs={"scale": 0.4})


def test_clip_skip(sampler: ZS2Sampler):
    """As in diffusers; which for SD 1 asks transformers 5 for a module that it no longer has, so that
    its own answer needs help here, and ours does not."""
    wanted = one_frame(sampler, clip_skip=1)
    assert not hasattr(sampler.pipe.text_encoder, "text_model")
    sampler.pipe.text_encoder.__dict__["text_model"] = sampler.pipe.text_encoder
    assert torch.equal(wanted, plain(sampler.pipe, clip_skip=1))
    check(sampler, clip_skip=1)


def test_guidance_rescale(sampler: ZS2Sampler):
    check(sampler, guidance_rescale=0.7)


def test_guidance_scale(sampler: ZS2Sampler):
    check(sampler, guidance_scale=1.0)
    check(sampler, guidance_scale=3.0)


def test_eta(sampler: ZS2Sampler):
    """DDIM's η: the pipeline's own argument (for SDXL's default scheduler it has no meaning)."""
    check(sampler, eta=1.0) if type(sampler.pipe.scheduler).__name__ == "DDIMScheduler" else None
    sampler.pipe.scheduler = tiny_models.ddim()
    check(sampler, eta=0.5)


def test_output_type(sampler: ZS2Sampler):
    """np: uint8 frames; pil: pictures of the same bytes; latent: latents alone; else a ValueError."""
    call = {"seed": 1, "num_frames": 2, **QUICK}
    arrays = sampler("a star", output_type="np", **call)
    pictures = sampler("a star", output_type="pil", **call)
    latents = sampler("a star", output_type="latent", **call)
    assert arrays.frames.dtype == np.uint8
    assert arrays.frames.shape == (2, SIDE, SIDE, 3)
    for picture, frame in zip(pictures.images, arrays.frames, strict=True):
        assert np.array_equal(np.asarray(picture), frame)
    assert latents.frames is None
    assert torch.equal(latents.latents, arrays.latents)
    with pytest.raises(ValueError, match="output_type: expected one of"):
        sampler("a star", output_type="gif", **call)


def test_num_videos_per_prompt(sampler: ZS2Sampler):
    """k clips of each prompt, of seeds seed … seed+k−1, each as if rendered alone; with a generator
    they are diffusers' num_images_per_prompt pictures (to 1e-4: another batch)."""
    clips = sampler(["a", "b"], seed=[5, 8], num_frames=2, num_videos_per_prompt=2, **LATENT)
    assert [clip.seed for clip in clips] == [5, 6, 8, 9]
    assert [clip.prompts for clip in clips] == [("a",), ("a",), ("b",), ("b",)]
    assert torch.equal(clips[3].latents, sampler("b", seed=9, num_frames=2, **LATENT).latents)
    own = plain(sampler.pipe, num_images_per_prompt=2)
    copies = sampler(
        "a star",
        generator=torch.Generator().manual_seed(9),
        num_frames=1,
        num_videos_per_prompt=2,
        **LATENT,
    )
    ours = torch.cat([clip.latents for clip in copies])
    assert torch.allclose(ours, own, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="num_videos_per_prompt: expected a whole number"):
        sampler("a", num_videos_per_prompt=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype(sampler: ZS2Sampler, dtype: torch.dtype):
    """A pipeline in half precision samples in it: diffusers' own latents, exactly, for the same noise."""
    sampler.pipe.to(dtype)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2), dtype=dtype)
    clip = sampler("a star", latents=noise, num_frames=1, **LATENT)
    assert clip.latents.dtype == dtype
    assert torch.equal(clip.latents, plain(sampler.pipe, latents=noise))
    frames = sampler("a star", seed=1, num_frames=2, **QUICK).frames
    assert 0 < frames.mean() < 255


def test_model_offload(source: Any):
    """Modules that come to their device when called and leave it after: the same clip, to the bit, more
    than once, and the pipeline's hooks are in place afterwards."""
    wanted = ZS2Sampler(copy.deepcopy(source))("a star", seed=1, num_frames=3, **QUICK)
    pipe = copy.deepcopy(source)
    pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        clip = ZS2Sampler(pipe)("a star", seed=1, num_frames=3, **QUICK)
        assert torch.equal(clip.latents, wanted.latents)
        assert np.array_equal(clip.frames, wanted.frames)
        assert pipe.unet.forward.func.__qualname__ == "add_hook_to_module.<locals>.new_forward"
        assert pipe.unet._hf_hook in [hook.hook for hook in pipe._all_hooks]


def tile(pipe: Any) -> None:
    pipe.vae.enable_tiling()
    pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 8, 16


@pytest.mark.parametrize(
    ("switch", "changes"),
    [(tile, True), (lambda pipe: pipe.vae.enable_slicing(), False)],
    ids=["tiling", "slicing"],
)
def test_vae_tiling_and_slicing(sampler: ZS2Sampler, switch: Callable[[Any], None], changes: bool):
    """Tiled and sliced decoding are the pipeline's own: the same pixels as diffusers'; tiles show."""
    before = sampler("a star", seed=9, num_frames=1, **QUICK).frames[0]
    switch(sampler.pipe)
    wanted = np.asarray(plain(sampler.pipe, output_type="pil")[0])
    frame = sampler("a star", seed=9, num_frames=1, **QUICK).frames[0]
    assert np.array_equal(frame, wanted)
    assert np.array_equal(frame, before) is not changes


def test_fused_projections(sampler: ZS2Sampler):
    """fuse_qkv_projections changes nothing (< 1e-4), and momentum still acts."""
    before = three_frames(sampler)
    sampler.pipe.fuse_qkv_projections()
    fused = {type(p).__name__ for p in sampler.pipe.unet.attn_processors.values()}
    after = three_frames(sampler)
    assert (before - after).abs().max() < 1e-4
    assert (after - three_frames(sampler, momentum=0.0)).abs().max() > 1e-4
    assert {type(p).__name__ for p in sampler.pipe.unet.attn_processors.values()} == fused


def test_a_subclassed_pipeline(tmp_path: Any):
    """A user's subclass of a diffusers pipeline works, its own __call__ included."""

    class Dimmer(StableDiffusionPipeline):
        def __call__(self, *args: Any, **kwargs: Any):
            output = super().__call__(*args, **kwargs)
            output.images = output.images / 2
            return output

    whole = tiny_models.sd1(tmp_path)
    dim = Dimmer(**whole.components, requires_safety_checker=False)
    dim.set_progress_bar_config(disable=True)
    assert torch.equal(one_frame(ZS2Sampler(dim)), one_frame(ZS2Sampler(whole)) / 2)
