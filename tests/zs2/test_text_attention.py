"""Text is projected once a clip, for each distinct text, and gives the keys and values of every frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from zs2 import ZS2Sampler
from zs2.attention import MomentumState
from zs2.segments import Segment
from zs2.text_attention import MOST_HELD, TextAttnProcessor, TextState, text_attention

STEPS = 3
RUN: dict[str, Any] = {
    "num_inference_steps": STEPS,
    "guidance_scale": 5.0,
    "seed": 1,
    "output_type": "latent",
}


@contextmanager
def projected(unet: Any) -> Generator[Counter[str]]:
    """Counts the texts that each cross-attention layer makes keys of."""
    counts: Counter[str] = Counter()
    hooks = [
        module.to_k.register_forward_pre_hook(
            lambda _, inputs, name=name: counts.update({name: len(inputs[0])})
        )
        for name, module in unet.named_modules()
        if name.endswith("attn2")
    ]
    assert hooks
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def rows(tiny_pipe: Any, prompt: Any, **kwargs: Any) -> set[int]:
    with projected(tiny_pipe.unet) as counts:
        ZS2Sampler(tiny_pipe)(prompt, **{**RUN, **kwargs})
    return set(counts.values())


def test_each_text_is_projected_once_a_clip(tiny_pipe: Any):
    """However many frames, segments and steps: the prompt and the negative one, in every layer. A
    storyboard's texts too, once with each of its prompts; a prompt that comes again is known."""
    assert rows(tiny_pipe, "a", num_frames=4) == {2}
    assert rows(tiny_pipe, "a", num_frames=10, segment_frames=4) == {2}
    assert rows(tiny_pipe, "a", num_frames=4, guidance_scale=1.0) == {1}
    board = {"num_frames": 6, "segment_frames": 2}
    assert rows(tiny_pipe, [["a", "b", "a"]], **board) == {4}


def test_what_is_held_is_bounded(tiny_pipe: Any):
    """A storyboard of more prompts than are held projects each again in every step."""
    many = [chr(ord("a") + i) for i in range(MOST_HELD + 1)]
    board = {"num_frames": len(many), "segment_frames": 1}
    assert rows(tiny_pipe, [many[:-1]], **{**board, "num_frames": MOST_HELD}) == {2 * MOST_HELD}
    assert rows(tiny_pipe, [many], **board) == {2 * len(many) * STEPS}


def test_a_callback_may_change_the_weights(tiny_pipe: Any):
    """Nothing is held from a step to the next where one runs; the clip is the same."""
    callback = {"callback_on_step_end": lambda *_: {}}
    assert rows(tiny_pipe, "a", num_frames=4, **callback) == {2 * STEPS}
    sampler = ZS2Sampler(tiny_pipe)
    assert torch.equal(sampler("a", **RUN, **callback).latents, sampler("a", **RUN).latents)


def call(unet: Any, text: torch.Tensor, state: TextState | None) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    side = unet.config.sample_size
    latents = torch.randn(len(text), 4, side, side, generator=g)
    if state is not None:
        state.next_step(text)
        state.enter_segment(Segment(0, len(text) // 2, len(text) // 2), text)
    with torch.no_grad():
        return unet(latents, 10, text).sample


@pytest.mark.parametrize("layout", [[0, 0, 0, 1, 1, 1], [0, 0, 1, 2, 0, 0], [0, 1, 2, 3, 4, 5]])
def test_the_answer_is_the_models_own(tiny_pipe: Any, layout: list[int]):
    """Wherever texts change in the batch: to 1e-5. Embeddings that were changed in place are others."""
    unet = tiny_pipe.unet
    texts = torch.randn(6, 5, unet.config.cross_attention_dim)
    text = texts[layout].contiguous()
    wanted = call(unet, text, None)
    momentum = MomentumState([0.5] * 3)
    before = dict(unet.attn_processors)
    with text_attention(unet, momentum):
        state = momentum.texts
        assert torch.allclose(call(unet, text, state), wanted, atol=1e-5)
        assert torch.allclose(call(unet, text, state), wanted, atol=1e-5)  # with what is held
        text[0] += 1
        changed = call(unet, text, state)
    assert dict(unet.attn_processors) == before
    assert torch.allclose(changed, call(unet, text, None), atol=1e-5)
    assert not torch.allclose(changed, wanted, atol=1e-3)


def test_other_processors_stay(tiny_pipe: Any):
    """One that is not diffusers' standard may make more of the text than keys and values."""
    unet = tiny_pipe.unet
    before = dict(unet.attn_processors)
    odd = next(name for name in before if ".attn2." in name)
    unet.set_attn_processor({**before, odd: AttnProcessor()})
    try:
        with pytest.raises(RuntimeError), text_attention(unet, MomentumState([0.5])):
            kinds = {name: type(own) for name, own in unet.attn_processors.items()}
            assert kinds[odd] is AttnProcessor
            others = [kind for name, kind in kinds.items() if ".attn2." in name and name != odd]
            assert set(others) == {TextAttnProcessor}
            assert TextAttnProcessor not in {k for n, k in kinds.items() if ".attn1." in n}
            raise RuntimeError
        assert type(unet.attn_processors[odd]) is AttnProcessor
    finally:
        unet.set_attn_processor(before)
