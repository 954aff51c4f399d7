"""The training tools: schedules by the clock, averages, checkpoints, losses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from infra.mini import train_autoencoder, training
from infra.mini.command import RecipeError
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


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    """Of another size, of other networks, or of an unknown origin; each with the file and both values."""
    path = tmp_path / "unet.pt"
    training.save(path, {"made_of": {"size": 64, "text": "ab"}})
    assert training.load(path, size=64) == training.load(path, size=64, text="ab")
    with pytest.raises(RecipeError, match=r"unet\.pt: expected a checkpoint of size 128, found 64"):
        training.load(path, size=128)
    with pytest.raises(RecipeError, match="of text cd, found ab; move it away"):
        training.finished(path, "unet", size=64, text="cd")
    with pytest.raises(RecipeError, match=r"found none; run `python -m infra\.mini\.train text`"):
        training.finished(tmp_path / "text.pt", "text")


def test_a_digest_tells_weights_apart():
    """By values and names, whatever their order."""
    one, two = torch.ones(3), torch.zeros(3)
    assert training.digest({"a": one, "b": two}) == training.digest({"b": two, "a": one.clone()})
    assert training.digest({"a": one, "b": two}) != training.digest({"a": two, "b": one})
    assert len(training.digest({"a": one})) == 16


def test_a_decoder_of_another_encoder_is_refused(tmp_path, monkeypatch):
    """Sharpened for latents that the autoencoder at hand does not make."""
    monkeypatch.setattr(train_autoencoder, "CHECKPOINT", tmp_path / "autoencoder.pt")
    monkeypatch.setattr(train_autoencoder, "DECODER_CHECKPOINT", tmp_path / "decoder.pt")
    network = train_autoencoder.build()

    def saved(stage: str, **made_of: object) -> None:
        weights = network.state_dict()
        training.save(tmp_path / f"{stage}.pt", {"average": weights, "made_of": made_of})

    saved("autoencoder", size=64)
    before = train_autoencoder.encoder_digest(train_autoencoder.trained())
    nn.init.zeros_(network.decoder.conv_out.weight)
    saved("decoder", size=64, encoder=before)
    assert not train_autoencoder.trained(64).decoder.conv_out.weight.any()
    nn.init.zeros_(network.encoder.conv_out.weight)
    saved("autoencoder", size=64)
    with pytest.raises(RecipeError, match=r"decoder\.pt: expected a checkpoint of encoder"):
        train_autoencoder.trained()
    with pytest.raises(RecipeError, match="of size 128, found 64"):
        train_autoencoder.trained(128)


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
    assert parameters * 2 < 35e6  # bytes in half precision, beside the other networks' 5 MB
