"""Tell a picture's thing, colour, setting and count from its pixels: the bundled model's judge.

A small convolutional network trained on drawn scenes alone, blurred, recoloured, made noisy and
compressed at random, so that it judges what people would still recognise. It shares nothing with
the diffusion model: neither weights nor latents nor its autoencoder.

    python -m infra.mini.checker --score           # what it says of drawn scenes
    python -m infra.mini.checker --minutes 9       # train again; replaces checker.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infra.mini.command import positive_number, run, whole_number
from infra.mini.data import COUNT, TEST_SEED, TRAIN_SEED, WORK, pictures, scene_list
from infra.mini.scenes import COLOURS, COUNTS, MOST, SETTINGS, Scene, crowd, draw
from infra.mini.things import THINGS
from infra.mini.training import Clock, batches, learning_rate, log

WEIGHTS = Path(__file__).parent / "checker.safetensors"
CLASSES: dict[str, tuple[str | int, ...]] = {
    "thing": THINGS,
    "colour": COLOURS,
    "setting": SETTINGS,
    "count": (*COUNTS, MOST + 1),  # the last: more than captions tell
}
CROWDED = 0.1  # scenes of more things than captions tell, beside the others
CROWD_SEED = 4_000_000_000
JUDGED = ("thing", "colour", "setting")  # what "all right" means; the count is told beside it
SIDE = 64


class Checker(nn.Module):
    """Pictures (batch, 3, SIDE, SIDE) in -1..1 to logits, one tensor for each attribute."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 64, 96)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.GroupNorm(8, after),
                nn.ReLU(),
            ]
        layers += [nn.Conv2d(96, 96, 3, padding=1), nn.GroupNorm(8, 96), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        # the largest value anywhere finds the thing, the mean and the rows tell the setting
        self.heads = nn.ModuleDict(
            {name: nn.Linear(96 * 6, len(labels)) for name, labels in CLASSES.items()}
        )

    def forward(self, pictures_: Tensor) -> dict[str, Tensor]:
        """Logits by question, (batch, labels) each, of pictures (batch, 3, h, w) in -1..1."""
        found = self.body(pictures_)
        rows = found.mean(3).flatten(1)
        pooled = torch.cat([found.amax((2, 3)), found.mean((2, 3)), rows], 1)
        return {name: head(pooled) for name, head in self.heads.items()}


def to_tensor(drawn: np.ndarray) -> Tensor:
    """Turn uint8 (batch, h, w, 3) into float (batch, 3, h, w) in -1..1."""
    return torch.from_numpy(np.array(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1


def labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Return the class numbers of scenes for each attribute, (scene,)."""

    def number(scene: Scene, name: str) -> int:
        value = min(scene.count, MOST + 1) if name == "count" else getattr(scene, name)
        return CLASSES[name].index(value)

    return {name: torch.tensor([number(scene, name) for scene in scenes]) for name in CLASSES}


def crowds(count: int, start: int = 0) -> list[Scene]:
    """Return scenes of more things than captions tell."""
    return [crowd(CROWD_SEED + number) for number in range(start, start + count)]


def degrade(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, shrink, recolour, compress or disturb a picture, uint8 (h, w, 3), at random."""
    side = picture.shape[0]
    if rng.random() < 0.4:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.5))
    if rng.random() < 0.3:
        small = int(side * rng.uniform(0.4, 0.9))
        picture = cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
        packed = cv2.imencode(".jpg", picture, quality)[1]
        picture = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
    changed = picture.astype(np.float32)
    if rng.random() < 0.5:
        coarse = rng.normal(0, rng.uniform(2, 14), (8, 8, 3)).astype(np.float32)
        changed += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        changed += rng.normal(0, rng.uniform(1, 10), changed.shape).astype(np.float32)
    changed = changed * rng.uniform(0.93, 1.07) + rng.uniform(-8, 8, 3).astype(np.float32)
    return np.clip(changed, 0, 255).astype(np.uint8)


def train(minutes: float, batch: int, peak: float, count: int) -> Checker:
    """Train on drawn scenes, half of them degraded."""
    drawn, crowded = pictures(count), crowds(round(count * CROWDED))
    wanted = labels([*scene_list(TRAIN_SEED, count), *crowded])
    drawn_crowds = np.stack([draw(scene) for scene in crowded])
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    checker = Checker()
    optimizer = torch.optim.AdamW(checker.parameters(), peak, weight_decay=0.01)
    clock = Clock(minutes)
    for step, chosen in enumerate(batches(len(wanted["count"]), batch, seed=5)):
        if clock.progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak, step, clock.progress, warm_up=50, hold=0.2)
        chosen = chosen.sort().values
        seen = [*drawn[chosen[chosen < count].numpy()]]
        seen += [*drawn_crowds[chosen[chosen >= count].numpy() - count]]
        seen = [degrade(p, rng) if rng.random() < 0.7 else p for p in seen]
        made = checker(to_tensor(np.stack(seen)))
        losses = {name: F.cross_entropy(made[name], wanted[name][chosen]) for name in CLASSES}
        optimizer.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            figures = {name: loss.item() for name, loss in losses.items()}
            log("checker", WORK / "checker.log", step + 1, clock, **figures)
    return checker.eval()


@torch.no_grad()
def right(
    checker: Checker,
    seen: np.ndarray,
    scenes: Sequence[Scene],
    attributes: Sequence[str] = JUDGED,
) -> dict[str, np.ndarray]:
    """Judge pictures, uint8 (picture, h, w, 3), by what the scenes say: bool (picture,) each.

    Larger pictures are reduced to SIDE pixels first.
    """
    if seen.shape[1] != SIDE:
        small = [cv2.resize(p, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for p in seen]
        seen = np.stack(small)
    made = [checker(to_tensor(seen[at : at + 256])) for at in range(0, len(seen), 256)]
    wanted = labels(scenes)
    return {
        name: (torch.cat([part[name].argmax(1) for part in made]) == wanted[name]).numpy()
        for name in attributes
    }


def chance(scenes: Sequence[Scene], attribute: str) -> float:
    """How often two of these scenes agree in an attribute by chance."""
    values = [getattr(scene, attribute) for scene in scenes]
    shares = np.unique(values, return_counts=True)[1] / len(values)
    return float((shares**2).sum())


@cache
def trained() -> Checker:
    """Return the checker with the weights beside this module."""
    checker = Checker()
    checker.load_state_dict({k: v.float() for k, v in load_file(WEIGHTS).items()})
    return checker.eval()


def main() -> None:
    """Train the checker and write its weights, unless --score; print how often it is right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=positive_number, default=9)
    parser.add_argument("--batch", type=whole_number, default=64)
    parser.add_argument("--rate", type=positive_number, default=2e-3)
    parser.add_argument("--count", type=whole_number, default=COUNT)
    parser.add_argument("--threads", type=whole_number, default=2)
    parser.add_argument("--score", action="store_true", help="only score what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.score:
        checker = train(arguments.minutes, arguments.batch, arguments.rate, arguments.count)
        save_file({k: v.half() for k, v in checker.state_dict().items()}, WEIGHTS)
        WEIGHTS.chmod(0o644)
    held_out = scene_list(TEST_SEED, 2000)
    drawn = np.stack([draw(scene) for scene in held_out])
    shuffled = [held_out[i] for i in np.random.default_rng(0).permutation(len(held_out))]
    of_others = right(trained(), drawn, shuffled, tuple(CLASSES))
    for name, hits in right(trained(), drawn, held_out, tuple(CLASSES)).items():
        print(
            f"{name}: {hits.mean():.2%} of {len(hits)} held-out scenes; with shuffled captions ",
            end="",
        )
        print(f"{of_others[name].mean():.2%}, by chance {chance(held_out, name):.2%}")
    many = crowds(500, COUNT)
    told = right(trained(), np.stack([draw(scene) for scene in many]), many, ("count",))["count"]
    print(f"more than {MOST}: told of {told.mean():.1%} of {len(many)} scenes of 4 or 5 things")


if __name__ == "__main__":
    run(main)
