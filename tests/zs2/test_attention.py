"""Momentum attention against a plain loop over frames and its limits (ALGORITHM.md section 2)."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from zs2.attention import (
    MomentumAttnProcessor,
    MomentumState,
    momentum_attention,
    momentum_average,
    momentum_matrix,
)

COPIES, FRAMES, TOKENS, FEATURES = 2, 6, 5, 16


def hidden(seed: int = 0, frames: int = FRAMES) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(COPIES, frames, TOKENS, FEATURES, dtype=torch.float64, generator=g)


def attention_layer(bias: bool = True) -> Attention:
    torch.manual_seed(0)
    layer = Attention(query_dim=FEATURES, heads=2, dim_head=8, bias=bias)
    return layer.double().eval()


def loop_oracle(layer: Attention, x: torch.Tensor, momentum: list[float]) -> torch.Tensor:
    """Eq. 2 frame by frame: average the *projected* keys and values, attend, one frame at a time."""
    out = torch.empty_like(x)
    for copy in range(x.shape[0]):
        key = value = None
        for i in range(x.shape[1]):
            k, v = layer.to_k(x[copy, i]), layer.to_v(x[copy, i])
            key = k if key is None else momentum[i] * key + (1 - momentum[i]) * k
            value = v if value is None else momentum[i] * value + (1 - momentum[i]) * v
            q = layer.to_q(x[copy, i])
            heads = []
            for h in range(layer.heads):
                part = slice(h * 8, (h + 1) * 8)
                weights = (q[:, part] @ key[:, part].T / 8**0.5).softmax(-1)
                heads.append(weights @ value[:, part])
            out[copy, i] = layer.to_out[0](torch.cat(heads, -1))
    return out


def run(layer: Attention, x: torch.Tensor, momentum: list[float]) -> torch.Tensor:
    state = MomentumState(momentum)
    state.enter_segment(0, x.shape[1], x.shape[1])
    layer.set_processor(MomentumAttnProcessor("layer", AttnProcessor2_0(), state))
    with torch.no_grad():
        return layer(x.flatten(0, 1)).unflatten(0, (COPIES, -1))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("momentum", [[0.98] * 6, [0.5] * 6, [0.3, 0.9, 0.0, 1.0, 0.7, 0.2]])
def test_processor_equals_a_loop_over_frames(momentum: list[float], bias: bool):
    """Averaging hidden states once equals averaging K and V frame by frame, to 1e-12 in float64."""
    layer, x = attention_layer(bias), hidden()
    with torch.no_grad():
        wanted = loop_oracle(layer, x, momentum)
    assert (run(layer, x, momentum) - wanted).abs().max() < 1e-12


def test_zero_momentum_is_plain_self_attention():
    """μ = 0 equals diffusers' own processor, bit by bit."""
    layer, x = attention_layer(), hidden()
    ours = run(layer, x, [0.0] * FRAMES)
    layer.set_processor(AttnProcessor2_0())
    with torch.no_grad():
        assert torch.equal(ours.flatten(0, 1), layer(x.flatten(0, 1)))


def test_full_momentum_is_cross_frame_attention_to_the_first():
    """μ = 1 takes keys and values from frame 1 alone."""
    layer, x = attention_layer(), hidden()
    ours = run(layer, x, [1.0] * FRAMES)
    layer.set_processor(AttnProcessor2_0())
    first = x[:, :1].expand_as(x).flatten(0, 1)
    with torch.no_grad():
        wanted = layer(x.flatten(0, 1), encoder_hidden_states=first)
    assert (ours.flatten(0, 1) - wanted).abs().max() < 1e-14


@pytest.mark.parametrize("momentum", [0.98, 0.0, 1.0, [0.1, 0.2, 0.9, 0.0, 1.0, 0.4]])
def test_momentum_matrix_is_the_average(momentum):
    """M·x equals the running average; M is lower-triangular and its rows sum to 1."""
    M = momentum_matrix(momentum, FRAMES)
    values = [momentum] * FRAMES if isinstance(momentum, float) else momentum
    assert torch.equal(M, M.tril())
    assert (M.sum(1) - 1).abs().max() < 1e-15
    x = hidden()
    wanted = torch.einsum("ij,cjtf->citf", M, x)
    assert (momentum_average(x, values, None) - wanted).abs().max() < 1e-14


def test_momentum_matrix_entries_are_eq_2s():
    """M_ij = (1−μ_j)·Π_{k>j} μ_k with (1−μ_1) replaced by 1."""
    mu = [0.5, 0.25, 0.75]
    wanted = torch.tensor(
        [[1, 0, 0], [0.25, 0.75, 0], [0.25 * 0.75, 0.75 * 0.75, 0.25]], dtype=torch.float64
    )
    assert torch.allclose(momentum_matrix(mu, 3), wanted)


@pytest.mark.parametrize("cut", [1, 2, 4, 5])
def test_carrying_the_average_is_exact(cut: int):
    """Cut anywhere and carried on, the average is bit by bit the uncut one."""
    x = hidden()
    whole = momentum_average(x, [0.98] * FRAMES, None)
    head = momentum_average(x[:, :cut], [0.98] * cut, None)
    tail = momentum_average(x[:, cut:], [0.98] * (FRAMES - cut), head[:, -1])
    assert torch.equal(torch.cat([head, tail], 1), whole)


def test_anchor_restarts_from_the_last_frame():
    """chain="anchor": the next segment's average begins at the previous segment's last frame."""
    x = hidden()
    state = MomentumState([0.9] * FRAMES, chain="anchor")
    state.enter_segment(0, 3, 3)
    state.average("layer", x[:, :3].flatten(0, 1))
    state.enter_segment(3, 3, 3)
    got = state.average("layer", x[:, 3:].flatten(0, 1)).unflatten(0, (COPIES, -1))
    assert torch.equal(got, momentum_average(x[:, 3:], [0.9] * 3, x[:, 2]))


def test_half_precision_averages_in_float32():
    """1,000 float16 frames of a slowly moving state: the average is right to float16's own rounding.

    Summed in float16 itself, increments of 1−μ = 0.02 are lost in rounding.
    """
    steps = torch.linspace(1, 2, 1000, dtype=torch.float64)
    x = steps[None, :, None, None].expand(1, -1, 1, 4)
    exact = momentum_average(x, [0.98] * 1000, None)
    half = momentum_average(x.half(), [0.98] * 1000, None)
    assert (half.double() - exact).abs().max() < 2**-10


def test_processors_are_restored_after_success_and_after_an_exception(tiny_pipe):
    """The UNet has its very own processor objects back, however the context ends."""
    before = dict(tiny_pipe.unet.attn_processors)
    with momentum_attention(tiny_pipe.unet, MomentumState([0.98])):
        inside = tiny_pipe.unet.attn_processors
        changed = [name for name in before if inside[name] is not before[name]]
    assert changed == [name for name in before if ".attn1." in name]
    assert changed
    assert all(tiny_pipe.unet.attn_processors[name] is before[name] for name in before)
    with (
        pytest.raises(RuntimeError, match="stop"),
        momentum_attention(tiny_pipe.unet, MomentumState([0.98])),
    ):
        raise RuntimeError("stop")
    assert all(tiny_pipe.unet.attn_processors[name] is before[name] for name in before)


@pytest.mark.parametrize("momentum", [1.1, -0.1, [0.5, 0.5]])
def test_bad_momentum_is_refused(momentum):
    """μ outside [0, 1] and a wrong number of them raise ValueError."""
    with pytest.raises(ValueError, match="momentum: expected"):
        momentum_matrix(momentum, 3)
