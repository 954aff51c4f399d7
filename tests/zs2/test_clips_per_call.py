"""Several clips in one UNet call: a clip's bytes depend on how many, never on which ones or where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from tests import tiny_models
from tests.conftest import build_tiny_pipe
from zs2 import ZS2Sampler
from zs2.schedulers import SCHEDULER_CLASSES

PROMPTS = ["a red star", "a blue fish over the sea", "", "a cat", "a red star"]
SEEDS = [5, 3, 2**40, 0, 6]
RUN: dict[str, Any] = {"num_frames": 3, "num_inference_steps": 3, "output_type": "latent"}


@pytest.fixture
def sampler(tiny_pipe: Any) -> ZS2Sampler:
    return ZS2Sampler(tiny_pipe)


def latents_of(
    sampler: ZS2Sampler, which: list[int], clips_per_call: int, **run: Any
) -> list[torch.Tensor]:
    """The clips of these numbers, sampled in this order."""
    clips = sampler(
        [PROMPTS[i] for i in which],
        seed=[SEEDS[i] for i in which],
        clips_per_call=clips_per_call,
        **RUN | run,
    )
    assert [clip.seed for clip in clips] == [SEEDS[i] for i in which]
    return [clip.latents for clip in clips]


KINDS: dict[str, dict[str, Any]] = {
    **{name: {"scheduler": name, "num_inference_steps": 4} for name in SCHEDULER_CLASSES},
    "segments": {"num_frames": 5, "segment_frames": 2},
    "anchored": {"num_frames": 5, "segment_frames": 2, "chain": "anchor"},
    "one frame": {"num_frames": 1},
    "one frame, euler_a": {"num_frames": 1, "scheduler": "euler_a"},
    "unguided": {"guidance_scale": 1.0},
    "fast": {"speed": "fast", "num_inference_steps": 8},
    "rescaled": {"guidance_rescale": 0.7},
    "stochastic ddim": {"eta": 1.0},
    "mixed noise": {"noise": "mixed", "alpha": 0.5, "scheduler": "lcm"},
    "odd size": {"height": 24, "width": 40},
}


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_and_places_have_no_say(sampler: ZS2Sampler, kind: str):
    """The same bytes in any company, in any place of the batch, and where the batch is filled up; and
    what one clip a call gives, to rounding."""
    run = KINDS[kind]
    together = latents_of(sampler, [0, 1, 2], 3, **run)
    moved = latents_of(sampler, [2, 0, 4, 3, 1], 3, **run)  # the second call is filled up
    assert torch.equal(together[0], moved[1])
    assert torch.equal(together[1], moved[4])
    assert torch.equal(together[2], moved[0])
    for number, found in enumerate(together):
        [alone] = latents_of(sampler, [number], 3, **run)
        assert torch.equal(found, alone)
        [single] = latents_of(sampler, [number], 1, **run)
        torch.testing.assert_close(found, single, atol=1e-3, rtol=1e-3)


def test_the_unet_is_called_once_for_all_of_them(sampler: ZS2Sampler):
    """Five clips of two segments in calls of 2: three batches, each of 2 copies × 2 clips × 2 frames."""
    seen: list[int] = []
    hook = sampler.pipe.unet.conv_in.register_forward_pre_hook(
        lambda _, args: seen.append(len(args[0]))
    )
    run = {"num_frames": 3, "segment_frames": 2, "num_inference_steps": 2}
    latents_of(sampler, [0, 1, 2, 3, 4], 2, **run)
    hook.remove()
    assert seen == [8] * (3 * 2 * 2)


def test_each_clip_has_its_own_words_and_noise(sampler: ZS2Sampler):
    """Storyboards beside single prompts, a negative prompt and λ each: what each gives by itself, in
    calls of equally many."""
    prompts: list[Any] = [["a", "b"], "c", ["d"]]
    unwanted, targets = [None, "blurry", "dark"], [0.01, [0.3, 0.0, 0.1], 1.0]
    shared = RUN | {"num_frames": 4, "segment_frames": 2, "clips_per_call": 2}
    together = sampler(
        prompts, negative_prompt=unwanted, kl_target=targets, seed=[1, 2, 3], **shared
    )
    for number, clip in enumerate(together):
        [alone] = sampler(
            [prompts[number]],
            negative_prompt=unwanted[number],
            kl_target=targets[number],
            seed=number + 1,
            **shared,
        )
        assert torch.equal(clip.latents, alone.latents)
        assert clip.prompts == alone.prompts
        assert clip.trace is not None and alone.trace is not None
        assert torch.equal(clip.trace.kl, alone.trace.kl)
    [other] = sampler([prompts[1]], kl_target=targets[1], seed=2, **shared)
    assert not torch.equal(together[1].latents, other.latents)  # without the negative prompt


def test_copies_of_a_prompt(sampler: ZS2Sampler):
    """Of seeds that count on, two a call, the last call filled up; as many prompts and seeds."""
    clips = sampler(["a star"], num_videos_per_prompt=3, seed=5, clips_per_call=2, **RUN)
    [third] = sampler(["a star"], seed=7, clips_per_call=2, **RUN)
    assert [clip.seed for clip in clips] == [5, 6, 7]
    assert torch.equal(clips[2].latents, third.latents)
    assert not torch.equal(clips[0].latents, clips[1].latents)


def test_two_threads(tiny_pipe: Any):
    """Work that is divided over threads by place in the batch has the same bytes in every place."""
    own = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        a, b = latents_of(ZS2Sampler(tiny_pipe), [0, 1], 2, num_frames=5)
        other, same = latents_of(ZS2Sampler(tiny_pipe), [3, 0], 2, num_frames=5)
    finally:
        torch.set_num_threads(own)
    assert torch.equal(a, same) and not torch.equal(b, other)


def test_the_bundled_model():
    """zs2-mini, at its own size: equal bytes in every place, and one clip's picture to rounding."""
    sampler = ZS2Sampler.from_pretrained("zs2-mini")
    run = {"num_frames": 8, "num_inference_steps": 2}
    together = latents_of(sampler, [0, 1, 2, 3], 4, **run)
    reordered = latents_of(sampler, [3, 2, 1, 0], 4, **run)
    assert all(torch.equal(a, b) for a, b in zip(together, reversed(reordered), strict=True))
    [single] = latents_of(sampler, [1], 1, **run)
    torch.testing.assert_close(together[1], single, atol=1e-3, rtol=1e-3)


def test_sdxl(tmp_path: Path):
    """With its second condition, sizes and pooled texts, and no negative prompt beside a given one."""
    sampler = ZS2Sampler(tiny_models.sdxl(tmp_path))
    run = RUN | {"clips_per_call": 2}
    a, b = sampler(["a", "b"], negative_prompt=[None, "x"], seed=[1, 2], **run)
    c, d = sampler(["b", "a"], negative_prompt=["x", None], seed=[2, 1], **run)
    assert torch.equal(a.latents, d.latents) and torch.equal(b.latents, c.latents)
    [single] = sampler(["a"], seed=1, **RUN)
    torch.testing.assert_close(a.latents, single.latents, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By compiled blocks, over segment borders and padding: the same bytes in every place."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "code"))
    sampler = ZS2Sampler(build_tiny_pipe(tmp_path))
    run = {"num_frames": 5, "segment_frames": 2}
    eager = latents_of(sampler, [0, 1], 2, **run)
    sampler.compile()
    together = latents_of(sampler, [0, 1], 2, **run)
    moved = latents_of(sampler, [3, 0, 1], 2, **run)
    assert torch.equal(together[0], moved[1]) and torch.equal(together[1], moved[2])
    torch.testing.assert_close(together, eager, atol=1e-3, rtol=1e-3)


REFUSED: dict[str, dict[str, Any]] = {
    "in_between": {"in_between": 2},
    "latents": {"latents": torch.zeros(3, 4, 8, 8)},
    "a generator": {"generator": torch.Generator()},
    "callback_on_step_end": {"callback_on_step_end": lambda *_: {}},
    "long_prompt='chunk'": {"long_prompt": "chunk"},
    "prompt_embeds": {"prompt_embeds": torch.zeros(1, 16, 16), "prompt": None},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_one_clip_has_to_itself_is_refused(sampler: ZS2Sampler, name: str):
    """With what was found, and the number of clips to ask for."""
    arguments: dict[str, Any] = {"prompt": ["a", "b"], "clips_per_call": 2} | RUN | REFUSED[name]
    with pytest.raises(ValueError, match=rf"clips_per_call: expected 1 with {name}.*found 2"):
        sampler(**arguments)


def test_numbers_that_do_not_agree(sampler: ZS2Sampler):
    """One negative prompt and one λ for all clips, or as many as clips."""
    with pytest.raises(
        ValueError, match=r"negative_prompt: expected one per prompt \(2\), found 3"
    ):
        sampler(["a", "b"], negative_prompt=["x", "y", "z"], **RUN)
    with pytest.raises(ValueError, match=r"kl_target: expected one per prompt \(2\), found 3"):
        sampler(["a", "b"], kl_target=[[0.1], [0.1], [0.1]], **RUN)
    with pytest.raises(ValueError, match="clips_per_call: expected a whole number of at least 1"):
        sampler(["a", "b"], clips_per_call=0, **RUN)


def test_a_scheduler_with_noise_of_its_own_shape_is_refused(
    sampler: ZS2Sampler, monkeypatch: pytest.MonkeyPatch
):
    """Noise that no clip's seed decides would be another in other company."""

    def step(self: Any, model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return (model_output + torch.randn(model_output.shape[1:]),)

    own = sampler.pipe.scheduler
    monkeypatch.setattr(DDPMScheduler, "step", step)
    sampler.pipe.scheduler = DDPMScheduler.from_config(own.config)
    try:
        with pytest.raises(ValueError, match="clips_per_call: expected 1 with a scheduler that"):
            latents_of(sampler, [0, 1], 2)
    finally:
        sampler.pipe.scheduler = own
