"""The cache of texts: bounded, and the sampler's own only where its owner sets one."""

from __future__ import annotations

from typing import Any

import torch

from zs2 import ZS2Sampler
from zs2.conditions import Encoded
from zs2.text_cache import TextCache


def test_the_texts_used_last_are_kept():
    """Up to so many bytes; the longest unused goes first, one text is always kept."""
    made: list[str] = []

    def get(cache: TextCache, text: str) -> None:
        def encode() -> Encoded:
            made.append(text)
            return Encoded(torch.zeros(1, 5, 5), None)  # 100 bytes

        cache.get(text, encode)

    cache = TextCache(200)
    for text in "abacab":
        get(cache, text)
    assert made == ["a", "b", "c", "b"] and cache.bytes == 200
    cache.clear()
    get(cache, "a")
    assert made[-1] == "a" and cache.bytes == 100
    tiny = TextCache(1)
    for text in "xxyx":
        get(tiny, text)
    assert made[-3:] == ["x", "y", "x"]


def test_a_sampler_without_one_encodes_anew(tiny_pipe: Any):
    """A pipeline may change between calls; with a cache the clip is the same and nothing is encoded."""
    calls: list[int] = []
    hook = tiny_pipe.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    sampler = ZS2Sampler(tiny_pipe)
    run: dict[str, Any] = {"num_frames": 2, "num_inference_steps": 1, "seed": 1}
    clips = [sampler("a", output_type="latent", **run) for _ in range(2)]
    assert len(calls) == 4
    sampler.texts = TextCache()
    clips += [sampler("a", output_type="latent", **run) for _ in range(2)]
    hook.remove()
    assert len(calls) == 6
    assert all(torch.equal(clip.latents, clips[0].latents) for clip in clips)
