"""Train mini-sr, which enlarges pictures twice and four times.

    python -m infra.mini.train_sr --minutes 42

Resumes from its checkpoint; `--minutes` counts those spent before, so a larger number goes on. Half
the pictures are the project's own scenes, half are textures. Each step reduces clean crops by one of
several kernels; a part of them is also blurred, made noisy or compressed, as what a sampler gives
never is quite clean. Steps for ×2 and ×4 take turns.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from infra.mini.command import positive_number, run, whole_number
from infra.mini.data import TEST_SEED, TRAIN_SEED, WORK, scene_list
from infra.mini.scenes import draw
from infra.mini.textures import texture
from infra.mini.training import (
    Average,
    Clock,
    finished,
    learning_rate,
    load,
    log,
    save,
    training_state,
)
from zs2.mini_sr import MiniSR

CHECKPOINT = WORK / "sr.pt"
SIDE = 128
CROP = 32  # of what is enlarged
TEXTURE_SEED = 3_000_000_000
CLEAN = 0.6  # share of crops that are only reduced
CHUNK = 250

Array = np.ndarray


def _draw_chunk(start: int, count: int, side: int) -> Array:
    cv2.setNumThreads(1)
    drawn = [draw(scene, side) for scene in scene_list(TRAIN_SEED, count // 2, start // 2)]
    drawn += [texture(TEXTURE_SEED + start + i, side) for i in range(count - len(drawn))]
    return np.stack(drawn)


def pictures(count: int, side: int = SIDE, workers: int = 2) -> Array:
    """Return the training pictures, drawn on first use; uint8 (count, side, side, 3), read-only."""
    path = WORK / f"sr-{side}-{count}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        store = np.lib.format.open_memmap(part, "w+", np.uint8, (count, side, side, 3))
        starts = range(0, count, CHUNK)
        counts = [min(CHUNK, count - start) for start in starts]
        with ProcessPoolExecutor(workers) as pool:
            drawn = pool.map(_draw_chunk, starts, counts, [side] * len(starts))
            for start, made in zip(starts, drawn, strict=True):
                store[start : start + len(made)] = made
        store.flush()
        part.replace(path)
    return np.load(path, mmap_mode="r")


def reduce(picture: Array, scale: int, rng: np.random.Generator) -> Array:
    """Reduce float32 (h, w, 3) by one of several kernels."""
    size = (picture.shape[1] // scale, picture.shape[0] // scale)
    kind = rng.integers(4)
    if kind <= 1:
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    sigma = scale * (0.5 if kind == 2 else rng.uniform(0.3, 0.6))
    blurred = cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return cv2.resize(blurred, size, interpolation=cv2.INTER_LINEAR)


def spoil(small: Array, rng: np.random.Generator) -> Array:
    """Blur, add noise or compress float32 (h, w, 3) of 0..255; never much."""
    kind = rng.integers(3)
    if kind == 0:
        return cv2.GaussianBlur(small, (0, 0), rng.uniform(0.2, 0.7))
    if kind == 1:
        return small + rng.normal(0, rng.uniform(0.5, 4), small.shape).astype(np.float32)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))]
    _, data = cv2.imencode(".jpg", np.clip(small + 0.5, 0, 255).astype(np.uint8), quality)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.float32)


def pairs(drawn: Array, batch: int, scale: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return what is seen and what is wanted: (batch, 3, CROP, CROP) and `scale` times as large."""
    seen, wanted, side = [], [], CROP * scale
    for number in rng.integers(len(drawn), size=batch):
        y, x = rng.integers(0, drawn.shape[1] - side + 1, 2)
        crop = drawn[number, y : y + side, x : x + side].astype(np.float32)
        crop = np.rot90(crop, int(rng.integers(4)))[:, :: rng.choice((-1, 1)), rng.permutation(3)]
        crop = np.ascontiguousarray(crop)
        small = reduce(crop, scale, rng)
        if rng.random() > CLEAN:
            small = spoil(small, rng)
        seen.append(np.clip(np.rint(small), 0, 255))
        wanted.append(crop)
    return to_tensor(np.stack(seen)), to_tensor(np.stack(wanted))


def to_tensor(pictures: Array) -> Tensor:
    """Turn (batch, h, w, 3) of 0..255 into float (batch, 3, h, w) of 0..1, channels last."""
    found = torch.from_numpy(pictures.astype(np.float32) / 255).permute(0, 3, 1, 2)
    return found.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def psnr(network: MiniSR, scale: int = 2, count: int = 64) -> float:
    """Return the mean PSNR in dB over held-out scenes drawn at 64·scale and reduced to 64."""
    found = []
    for scene in scene_list(TEST_SEED, count, start=50_000):
        large = draw(scene, 64 * scale)
        small = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA)
        made = network(to_tensor(small[None]), scale).clamp(0, 1)
        error = (made - to_tensor(large[None])).square().mean()
        found.append(-10 * float(error.log10()))
    return float(np.mean(found))


def train(minutes: float, batch: int, peak: float, count: int) -> None:
    """Train until the plan's minutes have passed, from the checkpoint where there is one."""
    drawn = pictures(count)
    torch.manual_seed(0)
    network = MiniSR().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    average = Average(network, 0.998)
    optimizer = torch.optim.AdamW(network.parameters(), peak, betas=(0.9, 0.98), weight_decay=0)
    step, clock = 0, Clock(minutes)
    if state := load(CHECKPOINT):
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average.shadow = state["average"]
        step, clock = state["step"], Clock(minutes, state["spent"])
    rng = np.random.default_rng(step)
    losses = {2: 0.0, 4: 0.0}
    while clock.progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak, step, clock.progress, warm_up=100, hold=0.4)
        scale = 4 if step % 3 == 2 else 2
        seen, wanted = pairs(drawn, batch, scale, rng)
        error = network(seen, scale) - wanted
        loss = (error.square() + 1e-6).sqrt().mean()  # Charbonnier
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        average.update(network, step)
        step, losses[scale] = step + 1, losses[scale] + loss.item()
        if step % 150 == 0:
            figures = {"loss2": losses[2] / 100, "loss4": losses[4] / 50}
            if step % 600 == 0:
                save(CHECKPOINT, training_state(network, optimizer, average, step, clock))
                figures |= _figures(average)
            log("sr", WORK / "sr.log", step, clock, **figures)
            losses = {2: 0.0, 4: 0.0}
    save(CHECKPOINT, training_state(network, optimizer, average, step, clock))
    log("sr", WORK / "sr.log", step, clock, **_figures(average))


def _figures(average: Average) -> dict[str, float]:
    network = MiniSR().eval()
    network.load_state_dict(average.shadow)
    return {f"psnr{scale}": psnr(network, scale) for scale in (2, 4)}


def trained(checkpoint: Path = CHECKPOINT) -> MiniSR:
    """Return the network with its averaged weights."""
    state = finished(checkpoint, "sr")
    network = MiniSR()
    network.load_state_dict(state["average"])
    return network.eval()


def main() -> None:
    """Train mini-sr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=positive_number, default=42)
    parser.add_argument("--batch", type=whole_number, default=16)
    parser.add_argument("--rate", type=positive_number, default=2e-3)
    parser.add_argument("--count", type=whole_number, default=6_000)
    parser.add_argument("--threads", type=whole_number, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    train(arguments.minutes, arguments.batch, arguments.rate, arguments.count)


if __name__ == "__main__":
    run(main)
