"""The training tools: schedules by the clock, averages, checkpoints, losses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from infra.mini import training
from infra.mini.train_autoencoder import reconstruction_loss
from infra.mini.train_unet import CHANNELS, build, scheduler, v_loss


def test_clock_counts_over_interruptions():
    """Time spent before a restart counts towards the plan."""
    assert training.Clock(10, spent=300).progress == pytest.approx(0.5, abs=0.01)
    assert training.Clock(1, spent=90).progress == 1


def test_learning_rate_rises_holds_and_falls():
    """Linear warm-up, the peak until `hold`, then a half cosine down to a fiftieth."""
    rate = training.learning_rate
    assert rate(1.0, 0, 0.0, 10, 0.5) == pytest.approx(0.1)
    assert rate(1.0, 99, 0.4, 10, 0.5) == pytest.approx(1.0)
    assert rate(1.0, 99, 0.75, 10, 0.5) == pytest.approx(0.51)
    assert rate(1.0, 99, 1.0, 10, 0.5) == pytest.approx(0.02)


def test_average_follows_and_then_lags():
    """Early updates move the average at once; later it moves by 1 − decay."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = training.Average(network, 0.99)
    nn.init.ones_(network.weight)
    average.update(network, step=0)
    assert average.shadow["weight"].item() == pytest.approx(0.9)
    average.update(network, step=100_000)
    assert average.shadow["weight"].item() == pytest.approx(0.901)


def test_checkpoint_is_whole_and_resumable(tmp_path):
    """A saved state comes back equal; nothing half-written is left; none yet is None."""
    path = tmp_path / "state.pt"
    assert training.load(path) is None
    training.save(path, {"step": 3, "weights": torch.arange(4)})
    state = training.load(path)
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["weights"], torch.arange(4))
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_batches_see_everything_once_a_pass():
    """Each pass visits every index once, in a new order."""
    found = training.batches(12, 4, seed=0)
    first = torch.cat([next(found) for _ in range(3)])
    second = torch.cat([next(found) for _ in range(3)])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert first.tolist() != second.tolist()


def test_reconstruction_loss_weighs_the_thing():
    """No error is no loss; an error inside the thing costs more than the same one outside."""
    wanted = torch.zeros(1, 3, 64, 64)
    disc = torch.tensor([[[0.25, 0.25, 0.2], [0, 0, 0], [0, 0, 0]]])
    inside, outside = wanted.clone(), wanted.clone()
    inside[..., 12:20, 12:20] = 0.5
    outside[..., 44:52, 44:52] = 0.5
    assert reconstruction_loss(wanted, wanted, disc) == 0
    assert reconstruction_loss(inside, wanted, disc) > reconstruction_loss(outside, wanted, disc)


def test_v_loss_is_zero_for_the_true_velocity():
    """A denoiser that answers v = √ᾱ ε − √(1−ᾱ) x has no loss; one that answers 0 has some."""
    bars = scheduler().alphas_cumprod
    clean = torch.zeros(16, 4, 8, 8)  # then v = √ᾱ ε and the noisy latent is √(1−ᾱ) ε

    class Oracle:
        def __call__(self, noisy, time, states):
            bar = bars[time][:, None, None, None]
            return type("Output", (), {"sample": bar.sqrt() * noisy / (1 - bar).sqrt()})

    class Silent:
        def __call__(self, noisy, time, states):
            return type("Output", (), {"sample": torch.zeros_like(noisy)})

    torch.manual_seed(0)
    assert v_loss(Oracle(), clean, torch.zeros(0), bars) < 1e-8
    assert v_loss(Silent(), clean, torch.zeros(0), bars) > 1e-2


@pytest.mark.parametrize("size", [64, 128])
def test_the_recipe_does_both_sizes(size: int):
    """A denoiser of either size takes its latents; the larger one has more to it."""
    network = build(size)
    latents = torch.zeros(1, CHANNELS, size // 8, size // 8)
    assert network(latents, 5, torch.zeros(1, 32, 128)).sample.shape == latents.shape
    parameters = sum(weight.numel() for weight in network.parameters())
    assert parameters * 2 < (40e6 if size == 64 else 80e6)
