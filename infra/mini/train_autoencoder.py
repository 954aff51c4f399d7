"""Train the autoencoder: pictures to latents of an eighth of their size in twelve channels, and back.

    python -m infra.mini.train_autoencoder --minutes 30 --compile
    python -m infra.mini.train_autoencoder --minutes 15 --decoder   # later: sharpen the decoder

Resumes from its checkpoint. The second command leaves the encoder and so the latents as they are,
and may run after the diffusion model is trained. The loss is the absolute error at full size and
averaged over 2, 4 and 8 pixels, which keeps colours; the thing's pixels count thrice, because an
error there is what people see.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from infra.mini.command import positive_number, run, whole_number
from infra.mini.data import (
    COUNT,
    SIZES,
    TEST_SEED,
    TRAIN_SEED,
    WORK,
    pictures,
    scene_list,
)
from infra.mini.scenes import MOST, Scene, draw
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

CHECKPOINT = WORK / "autoencoder.pt"
DECODER_CHECKPOINT = WORK / "decoder.pt"
KL_WEIGHT = 8e-4
KL_RISES = (0.05, 0.2)  # shares of the plan between which its weight goes from nothing to the whole
THING_WEIGHT = 2.0
EXTRA_NOISE = 0.06  # of a latent's spread: what the decoder alone learns to forgive


ARCHITECTURE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (16, 32, 64, 96),
    "layers_per_block": 1,
    "latent_channels": 12,
    "norm_num_groups": 16,
    "sample_size": 64,
}


def build(size: int = 64) -> AutoencoderKL:
    """Return an untrained autoencoder, f=8, twelve latent channels, whose latents have little noise at
    first: with as much as the prior's, it learns for long to do without them."""
    sized: dict[str, Any] = ARCHITECTURE | {"sample_size": size}
    network = AutoencoderKL(**sized)
    assert network.quant_conv is not None and network.quant_conv.bias is not None
    torch.nn.init.constant_(network.quant_conv.bias[ARCHITECTURE["latent_channels"] :], -5.0)
    return network


def encode(network: Any, seen: Tensor) -> DiagonalGaussianDistribution:
    """Return the latents' distribution, (batch, 12, h/8, w/8), of pictures (batch, 3, h, w)."""
    return network.encode(seen).latent_dist


def decode(network: Any, latents: Tensor) -> Tensor:
    """Return pictures (batch, 3, h, w) in about -1..1."""
    return network.decode(latents).sample


def to_tensor(drawn: np.ndarray) -> Tensor:
    """Turn uint8 (batch, h, w, 3) into float (batch, 3, h, w) in -1..1."""
    return torch.from_numpy(np.array(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1


def discs(scenes: list[Scene]) -> Tensor:
    """Return each scene's things as centre and radius, (scene, MOST, 3); those it lacks have no radius."""
    found = torch.zeros(len(scenes), MOST, 3)
    for row, scene in zip(found, scenes, strict=True):
        for number, spot in enumerate(scene.spots):
            row[number] = torch.tensor((spot.x, spot.y, spot.radius))
    return found


def reconstruction_loss(made: Tensor, wanted: Tensor, disc: Tensor) -> Tensor:
    """Return the weighted absolute and squared error, the first over four scales.

    Pictures (batch, 3, h, w); disc (batch, MOST, 3).
    """
    side = wanted.shape[-1]
    line = (torch.arange(side, device=wanted.device) + 0.5) / side
    x, y, radius = (part[..., None, None] for part in disc.unbind(2))
    inside = ((line - x) ** 2 + (line[:, None] - y) ** 2 < (radius * 1.1) ** 2).any(1)
    weight = (1 + THING_WEIGHT * inside)[:, None]
    error = made - wanted
    loss = (weight * (error.abs() + error.square())).mean()
    for scale, share in ((2, 0.5), (4, 0.5), (8, 1.0)):
        loss = loss + share * F.avg_pool2d(error, scale).abs().mean()
    return loss


@torch.no_grad()
def psnr(network: AutoencoderKL, count: int = 256, size: int = 64) -> float:
    """Return the mean PSNR in dB over held-out scenes."""
    wanted = to_tensor(np.stack([draw(s, size) for s in scene_list(TEST_SEED, count)]))
    found = []
    for part in wanted.split(64):
        made = decode(network, encode(network, part).mode())
        error = ((made.clamp(-1, 1) - part) / 2).square().mean((1, 2, 3))
        found.append(-10 * error.log10())
    return float(torch.cat(found).mean())


def start(decoder_only: bool, size: int = 64) -> AutoencoderKL:
    """Return what training starts from: new weights, or the trained ones, encoder frozen."""
    if not decoder_only:
        torch.manual_seed(0)
        return build(size)
    network = _averaged(size, finished(CHECKPOINT, "autoencoder", size=size)).train()
    network.encoder.requires_grad_(False)
    assert network.quant_conv is not None
    network.quant_conv.requires_grad_(False)
    return network


def train(
    minutes: float,
    batch: int,
    peak: float,
    count: int,
    decoder_only: bool,
    size: int,
    compile_: bool,
) -> None:
    """Train until the plan's minutes have passed, from the checkpoint where there is one."""
    checkpoint = DECODER_CHECKPOINT if decoder_only else CHECKPOINT
    stage = checkpoint.stem
    drawn = pictures(count, size)
    disc = discs(scene_list(TRAIN_SEED, count))
    network = start(decoder_only, size)
    made_of: dict[str, Any] = {"size": size}
    if decoder_only:
        made_of["encoder"] = encoder_digest(network)
    network = network.to(device(), memory_format=torch.channels_last)  # pyright: ignore
    learning = [p for p in network.parameters() if p.requires_grad]
    average = Average(network, 0.998)
    optimizer = torch.optim.AdamW(learning, peak, betas=(0.9, 0.98), weight_decay=1e-3)
    step, clock = 0, Clock(minutes)
    if state := load(checkpoint, **made_of):
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average.shadow = state["average"]
        step, clock = state["step"], Clock(minutes, state["spent"])
    passed = torch.compile(_pass) if compile_ else _pass
    total = 0.0
    for chosen in batches(count, batch, seed=step + decoder_only):
        if clock.progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak, step, clock.progress, warm_up=100, hold=0.3)
        chosen = chosen.sort().values
        wanted = to_tensor(drawn[chosen.numpy()]).to(device(), memory_format=torch.channels_last)
        with mixed():
            made, parameters = passed(network, wanted, EXTRA_NOISE if decoder_only else 0.0)
        posterior = DiagonalGaussianDistribution(parameters.float())
        loss = reconstruction_loss(made.float(), wanted, disc[chosen].to(device()))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        weight = 0 if decoder_only else KL_WEIGHT * _rise(clock.progress)
        (loss + weight * kl).backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        average.update(network, step)
        step, total = step + 1, total + loss.item()
        if step % 50 == 0:
            spread, noise = posterior.mean.std().item(), posterior.std.mean().item()
            figures = {"loss": total / 50, "kl": kl.item(), "std": spread, "noise": noise}
            log(stage, WORK / f"{stage}.log", step, clock, **figures)
            total = 0.0
        if step % 400 == 0:
            save(checkpoint, training_state(network, optimizer, average, step, clock, **made_of))
    save(checkpoint, training_state(network, optimizer, average, step, clock, **made_of))
    network.load_state_dict(average.shadow)
    found = psnr(network.eval().cpu(), size=size)
    log(stage, WORK / f"{stage}.log", step, clock, psnr=found)


def _rise(progress: float) -> float:
    """How much of the KL weight counts: with any at first, latents learn to tell nothing."""
    begin, end = KL_RISES
    return min(1.0, max(0.0, (progress - begin) / (end - begin)))


def _pass(network: AutoencoderKL, wanted: Tensor, extra: float) -> tuple[Tensor, Tensor]:
    """Return pictures by way of sampled latents, and the parameters of the latents' distribution.

    Args:
        extra: noise on the latents besides, as a share of their spread.
    """
    posterior = encode(network, wanted)
    sample = posterior.sample()
    if extra:
        spread = posterior.mean.std((0, 2, 3), keepdim=True)
        sample = sample + extra * spread * torch.randn_like(sample)
    return decode(network, sample), posterior.parameters


def _averaged(size: int, state: dict[str, Any]) -> AutoencoderKL:
    network = build(size)
    network.load_state_dict(state["average"])
    return network.eval()


def encoder_digest(network: AutoencoderKL) -> str:
    """Tell latents from others: the digest of what makes them."""
    made = ("encoder.", "quant_conv.")
    return digest({n: w for n, w in network.state_dict().items() if n.startswith(made)})


def trained(size: int | None = None) -> AutoencoderKL:
    """Return the autoencoder with its averaged weights, its sharpened decoder where there is one.

    Args:
        size: of the pictures it must have been trained on, in pixels; None: any.

    Raises:
        RecipeError: there is none yet, or of another size, or the decoder is another encoder's.
    """
    state = finished(CHECKPOINT, "autoencoder", **({} if size is None else {"size": size}))
    side: int = state["made_of"]["size"]
    network = _averaged(side, state)
    made_of = {"size": side, "encoder": encoder_digest(network)}
    sharpened = load(DECODER_CHECKPOINT, **made_of)
    return network if sharpened is None else _averaged(side, sharpened)


def main() -> None:
    """Train the autoencoder, or with --decoder its decoder alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=positive_number, default=30)
    parser.add_argument("--batch", type=whole_number, default=32)
    parser.add_argument("--rate", type=positive_number, default=1.6e-3)
    parser.add_argument("--count", type=whole_number, default=COUNT)
    parser.add_argument("--size", type=int, default=64, choices=SIZES)
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler")
    parser.add_argument("--decoder", action="store_true", help="sharpen the decoder alone")
    parser.add_argument("--threads", type=whole_number, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(
        arguments.minutes,
        arguments.batch,
        arguments.rate,
        arguments.count,
        arguments.decoder,
        arguments.size,
        arguments.compile,
    )


if __name__ == "__main__":
    run(main)
