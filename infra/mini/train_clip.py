"""Train the CLIP that scores zs2-mini's clips: a vision and a text tower on one sphere.

    python -m infra.mini.train_clip --minutes 12.5

Resumes from its checkpoint. The text tower starts from the diffusion model's text encoder, which
tells a caption's attributes already; the vision tower starts from nothing. A contrastive loss alone
needs far more pictures than one core shows it, so two more losses teach the vision tower what is
there: the scene's attributes from its pooled token, and from every patch the thing that covers it.
Their heads are thrown away.

A third of each batch has been through the diffusion model's autoencoder, with noise on its latents,
and most pictures are blurred, recoloured or compressed: what is scored later is generated.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextModel

from infra.mini import train_text
from infra.mini.captions import caption
from infra.mini.checker import degrade
from infra.mini.command import positive_number, run, whole_number
from infra.mini.data import COUNT, TRAIN_SEED, WORK, pictures, scene_list
from infra.mini.scenes import Scene
from infra.mini.things import THINGS
from infra.mini.train_autoencoder import decode, discs, encode, to_tensor, trained
from infra.mini.training import (
    Average,
    Clock,
    batches,
    digest,
    finished,
    learning_rate,
    load,
    log,
    save,
    training_state,
)

CHECKPOINT = WORK / "clip.pt"
DECODED_COUNT = 6_000  # the first scenes, as the autoencoder gives them back
DECODED_SHARE = 1 / 3  # of a batch
LATENT_NOISE = 0.15  # of a latent's spread, at most
DEGRADED_SHARE = 0.6
PATCH = 8
SIDE = 64

VISION: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}


def build() -> CLIPModel:
    """Return the model with the trained text tower and an untrained vision tower."""
    _, encoder = train_text.trained()
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=encoder.config.to_dict(),
        vision_config=VISION,
        projection_dim=train_text.WIDTH,
    )
    model = CLIPModel(config)
    model.text_model.load_state_dict(tower_of(encoder))
    return model


def tower_of(encoder: CLIPTextModel) -> dict[str, Tensor]:
    """Return a text encoder's weights under the names that they have inside a CLIPModel."""
    return {name.removeprefix("text_model."): w for name, w in encoder.state_dict().items()}


class Attributes(nn.Module):
    """What the vision tower is asked besides: attributes of the scene, the thing on every patch."""

    def __init__(self) -> None:
        super().__init__()
        width = VISION["hidden_size"]
        sizes = [*map(len, train_text.HEADS.values()), len(train_text.SIDES)]
        self.pooled = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        self.patch = nn.Linear(width, 1 + len(THINGS))

    def forward(
        self, pooled: Tensor, patches: Tensor, scene_labels: Tensor, patch_labels: Tensor
    ) -> Tensor:
        """Return the cross-entropy summed over attributes, plus that of the patches.

        pooled (picture, width); patches (picture, patch, width); scene_labels (picture, head);
        patch_labels (picture, patch).
        """
        pairs = zip(self.pooled, scene_labels.unbind(1), strict=True)
        scene = torch.stack([F.cross_entropy(head(pooled), label) for head, label in pairs])
        made = self.patch(patches).flatten(0, 1)
        return scene.sum() + 2 * F.cross_entropy(made, patch_labels.flatten())


def patch_labels(scenes: list[Scene]) -> Tensor:
    """Return which thing covers each patch's centre, 0 for none; (scene, patch)."""
    line = (torch.arange(SIDE // PATCH) + 0.5) * PATCH / SIDE
    x, y, radius = (part[..., None, None] for part in discs(scenes).unbind(2))
    inside = ((line - x) ** 2 + (line[:, None] - y) ** 2 < radius**2).any(1)
    things = torch.tensor([1 + THINGS.index(s.thing) for s in scenes])
    return (inside * things[:, None, None]).flatten(1)


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, meanings: Tensor) -> Tensor:
    """InfoNCE in both directions (Radford et al. 2021); pairs that mean the same are no negatives.

    images, texts (pair, d), of unit length; meanings (pair, attribute): rows that are equal are
    pictures that either caption may describe.
    """
    logits = scale * images @ texts.T
    same = (meanings[:, None] == meanings[None]).all(-1)
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, float("-inf"))
    wanted = torch.arange(len(images))
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2


@torch.no_grad()
def decoded_pictures(drawn: np.ndarray) -> np.ndarray:
    """Return the first scenes as the autoencoder decodes them, its latents disturbed; made once
    for each autoencoder.

    uint8 (picture, h, w, 3).
    """
    network, generator = trained(), torch.Generator().manual_seed(0)
    path = WORK / f"clip-decoded-{digest(network.state_dict())}.npy"
    if path.exists():
        return np.load(path, mmap_mode="r")
    made: list[np.ndarray] = []
    for start in range(
        0, min(DECODED_COUNT, len(drawn)), 16
    ):  # few at a time: they fit into a core's cache
        latents = encode(network, to_tensor(drawn[start : start + 16])).mode()
        spread = LATENT_NOISE * latents.std((0, 2, 3), keepdim=True)
        share = torch.rand((len(latents), 1, 1, 1), generator=generator)
        latents = latents + share * spread * torch.randn(latents.shape, generator=generator)
        pixels = (decode(network, latents).clamp(-1, 1) + 1) * 127.5
        made.append(pixels.round().byte().permute(0, 2, 3, 1).numpy())
    np.save(path.with_suffix(".part.npy"), np.concatenate(made))
    path.with_suffix(".part.npy").replace(path)
    return np.load(path, mmap_mode="r")


class Pairs:
    """Batches of pictures with captions and labels, endless, from a seed."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.tokenizer, _ = train_text.trained()
        self.drawn = pictures(count)
        self.decoded = decoded_pictures(self.drawn)
        self.scenes = scene_list(TRAIN_SEED, count)
        self.rng = np.random.default_rng(seed)
        few = round(batch * DECODED_SHARE)
        self.of_drawn = batches(count, batch - few, seed)
        self.of_decoded = batches(len(self.decoded), few, seed + 1)

    def next(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return pixels (pair, 3, h, w), token ids (pair, token), labels of scenes and patches."""
        drawn, decoded = (
            next(part).sort().values.numpy() for part in (self.of_drawn, self.of_decoded)
        )
        seen = [*self.drawn[drawn], *self.decoded[decoded]]
        degraded = self.rng.random(len(seen)) < DEGRADED_SHARE
        seen = [degrade(p, self.rng) if bad else p for p, bad in zip(seen, degraded, strict=True)]
        scenes = [self.scenes[i] for i in (*drawn, *decoded)]
        captions = [caption(scene, self.rng, complete=True) for scene in scenes]
        ids = train_text.tokenize(self.tokenizer, captions)
        longest = max(len(self.tokenizer(each).input_ids) for each in captions)
        labels = torch.tensor([train_text.attributes(scene) for scene in scenes])
        return to_tensor(np.stack(seen)), ids[:, :longest], labels, patch_labels(scenes)


def train(minutes: float, batch: int, peak: float, count: int) -> CLIPModel:
    """Train until the plan's minutes have passed, from the checkpoint where there is one."""
    model, heads = build(), Attributes()
    both = nn.ModuleDict({"model": model, "heads": heads})
    average = Average(both, 0.995)
    optimizer = torch.optim.AdamW(both.parameters(), peak, betas=(0.9, 0.98), weight_decay=0.02)
    step, spent = 0, 0.0
    if state := load(CHECKPOINT):
        both.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average.shadow = state["average"]
        step, spent = state["step"], state["spent"]
    pairs = Pairs(count, batch, seed=step)
    clock = Clock(minutes, spent)
    while clock.progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak, step, clock.progress, warm_up=100, hold=0.3)
        pixels, ids, labels, patches = pairs.next()
        with torch.autocast("cpu", torch.bfloat16):  # a quarter faster, where the core knows it
            seen = model.vision_model(pixel_values=pixels)
        pooled, tokens = seen.pooler_output.float(), seen.last_hidden_state[:, 1:].float()
        read = model.text_model(input_ids=ids).pooler_output
        images = F.normalize(model.visual_projection(pooled), dim=-1)
        texts = F.normalize(model.text_projection(read), dim=-1)
        meanings = labels[:, :5]  # thing, colour, place, time, count
        matching = contrastive_loss(images, texts, model.logit_scale.exp(), meanings)
        told = heads(pooled, tokens, labels, patches)
        optimizer.zero_grad()
        (matching + 0.5 * told).backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(100)))
        average.update(both, step)
        step += 1
        if step % 25 == 0:
            right = (images @ texts.T).argmax(1) == torch.arange(len(images))
            figures = {"matching": matching.item(), "told": told.item()}
            figures |= {
                "right": right.float().mean().item(),
                "scale": model.logit_scale.exp().item(),
            }
            log("clip", WORK / "clip.log", step, clock, **figures)
        if step % 100 == 0:
            save(CHECKPOINT, training_state(both, optimizer, average, step, clock))
    save(CHECKPOINT, training_state(both, optimizer, average, step, clock))
    return trained_clip()


def trained_clip() -> CLIPModel:
    """Return the model with its averaged weights."""
    weights = finished(CHECKPOINT, "clip")["average"]
    model = build()
    inner = {n.removeprefix("model."): w for n, w in weights.items() if n.startswith("model.")}
    model.load_state_dict(inner)
    return model.eval().requires_grad_(False)


def main() -> None:
    """Train the scorer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=positive_number, default=12.5)
    parser.add_argument("--batch", type=whole_number, default=96)
    parser.add_argument("--rate", type=positive_number, default=1.5e-3)
    parser.add_argument("--count", type=whole_number, default=COUNT)
    parser.add_argument("--threads", type=whole_number, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.minutes, arguments.batch, arguments.rate, arguments.count)


if __name__ == "__main__":
    run(main)
