"""Decoding: small frames several a call, in calls that do not depend on how a clip is cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from zs2.decode_calls import CALL_FRAMES, frames_a_call
from zs2.decoding import decode


def test_how_many_frames_are_decoded_together():
    """A segment of small ones; large ones by themselves."""
    assert frames_a_call(32, 32) == frames_a_call(64, 64) == CALL_FRAMES == 8
    assert frames_a_call(128, 128) == 2 and frames_a_call(128, 64) == 4
    assert frames_a_call(256, 256) == frames_a_call(1024, 1024) == 1


def test_calls_have_one_shape(tiny_pipe: Any):
    """19 frames are three calls of 8, the last one padded; however a clip is cut, the bytes are the same,
    also where a part is a single frame and says what a call has. One frame by itself is decoded alone."""
    g = torch.Generator().manual_seed(0)
    latents = torch.randn(19, 4, 16, 16, generator=g)
    latents[18] = latents[0]
    sizes: list[int] = []
    hook = tiny_pipe.vae.decoder.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    whole = decode(tiny_pipe, latents)
    assert sizes == [8, 8, 8]
    assert np.array_equal(whole[18], whole[0])
    for edges in ((0, 8, 16, 19), (0, 3, 18, 19)):
        parts = [decode(tiny_pipe, latents[a:b], 8) for a, b in pairwise(edges)]
        assert np.array_equal(whole, np.concatenate(parts))
    sizes.clear()
    alone = np.concatenate([decode(tiny_pipe, latent[None]) for latent in latents])
    hook.remove()
    assert sizes == [1] * 19
    assert np.abs(whole.astype(int) - alone).max() <= 1
