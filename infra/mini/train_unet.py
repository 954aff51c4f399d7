"""Train the denoiser on the autoencoder's latents and the frozen text encoder's states.

    python -m infra.mini.train_unet --minutes 75

Resumes from its checkpoint. v-prediction: at high noise a small network's error in ε would be
multiplied fifteen-fold in the picture, its error in v is not. A tenth of the captions is empty, for
guidance.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from infra.mini import train_autoencoder, train_text
from infra.mini.captions import NULL_CAPTION, caption
from infra.mini.command import positive_number, run, whole_number
from infra.mini.data import COUNT, SIZES, TRAIN_SEED, WORK, pictures, scene_list
from infra.mini.scenes import draw
from infra.mini.training import (
    Average,
    Clock,
    batches,
    device,
    digest,
    finished,
    learning_rate,
    load,
    log,
    mixed,
    save,
    training_state,
)

CHECKPOINT = WORK / "unet.pt"
NULL_SHARE = 0.1
CHANNELS = train_autoencoder.ARCHITECTURE["latent_channels"]


ARCHITECTURE: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "block_out_channels": (96, 160),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": (4, 4),  # heads, in spite of the name
    "norm_num_groups": 16,
    "cross_attention_dim": train_text.WIDTH,
}


def build(size: int = 64) -> UNet2DConditionModel:
    """Return an untrained denoiser of a picture's latents, (12, size/8, size/8), conditioned on
    (token, 128) states: of two levels for 64 pixels, of three for 128, where there is a GPU to train it."""
    if size == 64:
        return UNet2DConditionModel(**ARCHITECTURE)
    larger: dict[str, Any] = {
        "sample_size": size // 8,
        "block_out_channels": (96, 160, 224),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
        "attention_head_dim": (4, 4, 4),
    }
    return UNet2DConditionModel(**ARCHITECTURE | larger)


def scheduler() -> DDIMScheduler:
    """Return SD 1.5's schedule, for v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


@torch.no_grad()
def normalise(network: AutoencoderKL, pictures_: Tensor) -> None:
    """Fold each latent channel's mean and spread into the 1×1 convolutions beside the latents.

    Afterwards every channel of the latents of `pictures_` (picture, 3, h, w) has mean 0 and
    standard deviation 1, so that `scaling_factor` is 1, and pictures decode as before.
    """
    means = torch.cat(
        [train_autoencoder.encode(network, part).mode() for part in pictures_.split(64)]
    )
    mean, spread = means.mean((0, 2, 3)), means.std((0, 2, 3))
    into, back = network.quant_conv, network.post_quant_conv
    assert into is not None and back is not None
    assert into.bias is not None and back.bias is not None
    channels = len(mean)
    into.weight[:channels] /= spread[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / spread
    into.bias[channels:] -= 2 * spread.log()
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight *= spread[None, :, None, None]
    network.register_to_config(scaling_factor=1.0)


def autoencoder(size: int = 64) -> AutoencoderKL:
    """Return the trained autoencoder with latents normalised over drawn scenes."""
    network = train_autoencoder.trained(size)
    drawn = np.stack([draw(scene, size) for scene in scene_list(TRAIN_SEED, 2048)])
    normalise(network, train_autoencoder.to_tensor(drawn))
    return network


@torch.no_grad()
def latents(count: int, size: int = 64) -> tuple[Tensor, Tensor]:
    """Return means and spreads of the training scenes' latents, each (count, 12, size/8, size/8);
    encoded once for each encoder."""
    drawn, network = pictures(count, size), autoencoder(size)
    encoder = train_autoencoder.encoder_digest(network)
    path = WORK / f"latents-{size}-{count}-{encoder}.pt"
    if path.exists():
        kept = torch.load(path, weights_only=True)
        return kept["mean"], kept["std"]
    network = network.to(device())  # pyright: ignore
    means, spreads = [], []
    for start in range(0, count, 32):  # few at a time: they fit into a core's cache
        wanted = train_autoencoder.to_tensor(drawn[start : start + 32]).to(device())
        posterior = train_autoencoder.encode(network, wanted)
        means.append(posterior.mean.cpu())
        spreads.append(posterior.std.cpu())
    mean, spread = torch.cat(means), torch.cat(spreads)
    save(path, {"mean": mean, "std": spread})
    return mean, spread


def made_of(size: int, encoder: CLIPTextModel) -> dict[str, Any]:
    """Return what a denoiser was made of: it is of use with these latents and this text encoder alone."""
    latents_of = train_autoencoder.encoder_digest(train_autoencoder.trained(size))
    return {"size": size, "latents": latents_of, "text": digest(encoder.state_dict())}


def v_loss(network: Callable[..., Any], clean: Tensor, states: Tensor, bars: Tensor) -> Tensor:
    """Return the weighted error in v; clean (batch, 12, h, w), bars the ᾱ by timestep.

    The weight 2√SNR/(1+SNR) is highest where signal and noise are equal. There and at higher noise
    the caption decides the thing's shape; min-SNR weights (arXiv:2303.09556), which favour nearly
    clean latents, had colours and settings right after 600 steps, but 4 shapes in 10 after 1,400.
    """
    time = torch.randint(0, len(bars), (len(clean),), device=clean.device)
    bar = bars[time][:, None, None, None]
    noise = torch.randn_like(clean)
    noisy = bar.sqrt() * clean + (1 - bar).sqrt() * noise
    wanted = bar.sqrt() * noise - (1 - bar).sqrt() * clean
    with mixed():
        made = network(noisy, time, states).sample.float()
    error = F.mse_loss(made, wanted, reduction="none").mean((1, 2, 3))
    snr = bars[time] / (1 - bars[time])
    return (error * 2 * snr.sqrt() / (snr + 1)).mean()


def train(
    minutes: float,
    batch: int,
    peak: float,
    count: int,
    checkpoint: Path,
    size: int = 64,
    compile_: bool = False,
) -> None:
    """Train until the plan's minutes have passed, from the checkpoint where there is one."""
    tokenizer, encoder = train_text.trained()
    below = made_of(size, encoder)
    state = load(checkpoint, **below)
    scenes = scene_list(TRAIN_SEED, count)
    mean, spread = latents(count, size)
    bars = scheduler().alphas_cumprod.to(device())
    torch.manual_seed(0)
    network = build(size).to(device())  # pyright: ignore
    encoder.to(device())  # pyright: ignore
    average = Average(network, 0.999)
    weights = list(network.parameters())
    optimizer = torch.optim.AdamW(weights, peak, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    step, clock = 0, Clock(minutes)
    if state:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average.shadow = state["average"]
        step, clock = state["step"], Clock(minutes, state["spent"])
    compiled = torch.compile(network) if compile_ else network
    torch.manual_seed(step)
    rng = np.random.default_rng(step)
    losses: list[float] = []
    for chosen in batches(count, batch, seed=step):
        if clock.progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak, step, clock.progress, warm_up=150, hold=0.5)
        clean = mean[chosen] + spread[chosen] * torch.randn_like(mean[chosen])
        texts = [
            NULL_CAPTION if rng.random() < NULL_SHARE else caption(scenes[i], rng)
            for i in chosen.tolist()
        ]
        with torch.no_grad():
            ids = train_text.tokenize(tokenizer, texts).to(device())
            states = encoder(ids).last_hidden_state
        loss = v_loss(compiled, clean.to(device()), states, bars)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        average.update(network, step)
        step += 1
        losses.append(loss.item())
        if step % 50 == 0:
            log("unet", WORK / "unet.log", step, clock, loss=float(np.mean(losses)))
            losses.clear()
        if step % 200 == 0:
            save(checkpoint, training_state(network, optimizer, average, step, clock, **below))
    save(checkpoint, training_state(network, optimizer, average, step, clock, **below))


def size_trained(checkpoint: Path = CHECKPOINT) -> int:
    """Return the side in pixels of the pictures that the denoiser was trained for.

    Raises:
        RecipeError: there is none yet.
    """
    return finished(checkpoint, "unet")["made_of"]["size"]


def trained(encoder: CLIPTextModel, checkpoint: Path = CHECKPOINT) -> UNet2DConditionModel:
    """Return the denoiser with its averaged weights, in evaluation mode.

    Raises:
        RecipeError: there is none yet, or it is not of this text encoder or of the autoencoder at hand.
    """
    size = size_trained(checkpoint)
    state = finished(checkpoint, "unet", **made_of(size, encoder))
    network = build(size)
    network.load_state_dict(state["average"])
    return network.eval()


def main() -> None:
    """Train the denoiser."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=positive_number, default=75)
    parser.add_argument("--batch", type=whole_number, default=64)
    parser.add_argument("--rate", type=positive_number, default=1e-3)
    parser.add_argument("--count", type=whole_number, default=COUNT)
    parser.add_argument("--size", type=int, default=64, choices=SIZES)
    parser.add_argument("--threads", type=whole_number, default=2)
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(
        arguments.minutes,
        arguments.batch,
        arguments.rate,
        arguments.count,
        CHECKPOINT,
        arguments.size,
        arguments.compile,
    )


if __name__ == "__main__":
    run(main)
