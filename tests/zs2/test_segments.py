"""Segments: the chunked UNet call (ALGORITHM.md section 3)."""

from __future__ import annotations

import pytest
import torch

from zs2.attention import MomentumState, momentum_attention
from zs2.per_frame import take_rows
from zs2.segments import Segment, segmented, segments


def test_segments_cover_the_clip_once_with_one_shape():
    """Every frame is in exactly one segment; every call has m frames, the last one padded."""
    for n in range(1, 20):
        for m in range(1, n + 1):
            plan = segments(n, m)
            assert {s.padded_count for s in plan} == {m}
            covered = [f for s in plan for f in range(s.start, s.start + s.count)]
            assert covered == list(range(n))


def test_rows_pad_with_the_last_frame_in_every_copy():
    """2 copies of 5 frames: the segment of frames 3..4 in a call of 3 frames."""
    rows = Segment(start=3, count=2, padded_count=3).rows(2, 5, torch.device("cpu"))
    assert rows.tolist() == [3, 4, 4, 8, 9, 9]


def test_take_rows_selects_in_nests_and_leaves_the_rest():
    """Tensors of the batch's size are cut wherever they are; others, numbers and None are kept."""
    batch = torch.arange(6.0)
    other = torch.arange(4.0)
    rows = torch.tensor([1, 4])
    nest = {"a": [batch, other], "b": (batch, None), "c": 3}
    cut = take_rows(nest, rows, 6)
    assert cut["a"][0].tolist() == [1, 4]
    assert cut["a"][1] is other
    assert cut["b"][0].tolist() == [1, 4]
    assert cut["b"][1] is None
    assert cut["c"] == 3
    assert isinstance(cut["b"], tuple)


@pytest.mark.parametrize("return_dict", [True, False])
def test_a_segmented_forward_equals_per_frame_calls_at_zero_momentum(tiny_pipe, return_dict: bool):
    """At μ = 0 nothing passes between frames: the segmented call equals one call per picture."""
    unet = tiny_pipe.unet
    g = torch.Generator().manual_seed(0)
    sample = torch.randn(10, 4, 16, 16, generator=g)  # 2 copies of 5 frames
    text = torch.randn(10, 16, 16, generator=g)
    state = MomentumState([0.0] * 5)
    with torch.no_grad():
        with momentum_attention(unet, state), segmented(unet, 5, 2, state):
            answer = unet(sample, 10, encoder_hidden_states=text, return_dict=return_dict)
        got = answer.sample if return_dict else answer[0]
        alone = [
            unet(x[None], 10, encoder_hidden_states=e[None]).sample
            for x, e in zip(sample, text, strict=True)
        ]
    assert (got - torch.cat(alone)).abs().max() < 1e-5


def test_a_batch_that_is_no_multiple_of_the_frames_is_refused(tiny_pipe):
    """The number of frames is given, never guessed: 7 pictures are not clips of 3 frames."""
    state = MomentumState([0.5] * 3)
    with (
        segmented(tiny_pipe.unet, 3, 3, state),
        pytest.raises(ValueError, match="a multiple of 3 frames, found 7"),
    ):
        tiny_pipe.unet(torch.zeros(7, 4, 16, 16), 1, torch.zeros(7, 16, 16))


def test_a_forward_of_the_instance_comes_back(tiny_pipe):
    """Offload hooks replace `forward` on the instance: theirs is there again afterwards."""
    unet = tiny_pipe.unet
    hooked = unet.forward
    unet.forward = hooked
    try:
        with segmented(unet, 2, 2, MomentumState([0.5] * 2)):
            assert unet.forward is not hooked
        assert unet.__dict__["forward"] is hooked
    finally:
        del unet.forward
