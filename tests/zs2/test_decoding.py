"""Decoding: small frames several a call, in calls that do not depend on how a clip is cut."""

from __future__ import annotations

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


def test_whole_calls_then_one_by_one(tiny_pipe: Any):
    """19 frames are two calls of 8 and three of 1; the parts of a clip that is cut between calls have
    the same bytes, and all frames are there in order."""
    g = torch.Generator().manual_seed(0)
    latents = torch.randn(19, 4, 16, 16, generator=g)
    sizes: list[int] = []
    hook = tiny_pipe.vae.decoder.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    whole = decode(tiny_pipe, latents)
    hook.remove()
    assert sizes == [8, 8, 1, 1, 1]
    parts = [decode(tiny_pipe, latents[a:b]) for a, b in ((0, 8), (8, 16), (16, 19))]
    assert np.array_equal(whole, np.concatenate(parts))
    alone = np.concatenate([decode(tiny_pipe, latent[None]) for latent in latents])
    assert np.abs(whole.astype(int) - alone).max() <= 1
