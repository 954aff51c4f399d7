"""The text side of zs2-mini: a byte-pair vocabulary built from the grammar, and a small CLIP text
encoder trained to tell the scene's attributes from its caption.

    python -m infra.mini.train_text --minutes 6

The encoder is trained before the diffusion model and then frozen: from the end-of-text token on,
every position carries all that the caption says.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from infra.mini.backgrounds import PLACES, TIMES
from infra.mini.captions import POSITIONS, caption, position, words
from infra.mini.command import positive_number, run, whole_number
from infra.mini.data import TEST_SEED, TRAIN_SEED, WORK, scene_list
from infra.mini.scenes import COLOURS, COUNTS, SIZES, Scene
from infra.mini.things import STYLES, THINGS
from infra.mini.training import Clock, finished, learning_rate, log, save

CHECKPOINT = WORK / "text.pt"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT = 32  # tokens, begin and end included; the longest caption of the grammar has 22
WIDTH = 128
SIDES = ("free", *POSITIONS)
HEADS: dict[str, tuple[str | int, ...]] = {
    "thing": THINGS,
    "colour": COLOURS,
    "place": PLACES,
    "time": TIMES,
    "count": COUNTS,
    "size": SIZES,
    "style": STYLES,
}


def byte_letters() -> list[str]:
    """Return the 256 letters that CLIP's byte-level BPE writes bytes with."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in shown}
    for number, byte in enumerate(b for b in range(256) if b not in letters):
        letters[byte] = chr(256 + number)
    return [letters[byte] for byte in range(256)]


def merges_for(vocabulary: list[str]) -> list[tuple[str, str]]:
    """Train byte-pair merges until every word of the vocabulary is one token."""
    pieces = [[*word[:-1], word[-1] + "</w>"] for word in vocabulary]
    merges = []
    while True:
        pairs = Counter(pair for word in pieces for pair in pairwise(word))
        if not pairs:
            return merges
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        pieces = [_merge(word, best) for word in pieces]


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write vocab.json, merges.txt and the rest of a CLIPTokenizer into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = byte_letters()
    merges = merges_for(words())
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += list(dict.fromkeys(left + right for left, right in merges))
    vocabulary = {token: number for number, token in enumerate([*tokens, BEGIN, END])}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    pairs: Any = merges
    tokenizer = CLIPTokenizer(vocabulary, pairs, model_max_length=CONTEXT)
    tokenizer.save_pretrained(folder)
    return tokenizer


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return token ids as the pipeline makes them, (caption, CONTEXT)."""
    return tokenizer(
        captions, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt"
    ).input_ids


def build(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained text encoder for a tokenizer."""
    special: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        **special,
    )
    return CLIPTextModel(config)


def attributes(scene: Scene) -> list[int]:
    """Return the attributes' class numbers: those of `HEADS` in their order, then the side."""
    found = [names.index(getattr(scene, head)) for head, names in HEADS.items()]
    return [*found, SIDES.index(position(scene) or "free")]


def disturb(text: str, rng: np.random.Generator) -> str:
    """Put words that the grammar lacks into a caption, so that the encoder learns to skip them."""
    parts = text.split(" ")
    for _ in range(int(rng.integers(1, 3))):
        letters = rng.integers(97, 123, int(rng.integers(2, 5)))
        parts.insert(int(rng.integers(len(parts) + 1)), "".join(map(chr, letters)))
    return " ".join(parts)


class Attributes(nn.Module):
    """Linear heads, one per attribute, on any position of the encoder's last hidden state."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [*map(len, HEADS.values()), len(SIDES)]
        self.heads = nn.ModuleList(nn.Linear(WIDTH, size) for size in sizes)

    def loss(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy summed over heads and each head's accuracy.

        hidden (caption, width); labels (caption, head).
        """
        logits = [head(hidden) for head in self.heads]
        pairs = list(zip(logits, labels.unbind(1), strict=True))
        loss = torch.stack([F.cross_entropy(made, label) for made, label in pairs]).sum()
        right = torch.stack([(made.argmax(1) == label).float().mean() for made, label in pairs])
        return loss, right


def sample_batch(
    scenes: list[Scene], tokenizer: CLIPTokenizer, size: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return token ids (size, CONTEXT) and labels (size, head) of random scenes."""
    chosen = [scenes[i] for i in rng.integers(len(scenes), size=size)]
    texts = [caption(scene, rng) for scene in chosen]
    texts = [disturb(text, rng) if rng.random() < 0.15 else text for text in texts]
    return tokenize(tokenizer, texts), torch.tensor([attributes(scene) for scene in chosen])


def hidden_pair(encoder: CLIPTextModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden states at the end token and at the last padding, each (caption, width)."""
    output = encoder(ids)
    return output.pooler_output, output.last_hidden_state[:, -1]


def train(minutes: float, batch: int, peak: float, tokenizer: CLIPTokenizer) -> None:
    """Train the encoder and its heads; keep the encoder."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    scenes = scene_list(TRAIN_SEED, 20_000)
    encoder, heads = build(tokenizer), Attributes()
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, peak, betas=(0.9, 0.98), weight_decay=0.01)
    clock, step = Clock(minutes), 0
    while clock.progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak, step, clock.progress, warm_up=50, hold=0.3)
        ids, labels = sample_batch(scenes, tokenizer, batch, rng)
        ends = hidden_pair(encoder, ids)
        (at_end, right), (at_pad, _) = (heads.loss(hidden, labels) for hidden in ends)
        optimizer.zero_grad()
        (at_end + at_pad).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            names = [*HEADS, "side"]
            figures = dict(zip(names, right.tolist(), strict=True))
            log("text", WORK / "text.log", step, clock, loss=at_end.item(), **figures)
    save(CHECKPOINT, {"network": encoder.state_dict(), "heads": heads.state_dict()})
    held_out = sample_batch(scene_list(TEST_SEED, 2000), tokenizer, 2000, rng)
    with torch.no_grad():
        _, right = heads.loss(hidden_pair(encoder.eval(), held_out[0])[0], held_out[1])
    log("text", WORK / "text.log", step, clock, **dict(zip(HEADS, right.tolist(), strict=False)))


def trained() -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Return the tokenizer and the trained, frozen encoder."""
    tokenizer = write_tokenizer(WORK / "tokenizer")
    state = finished(CHECKPOINT, "text")
    encoder = build(tokenizer)
    encoder.load_state_dict(state["network"])
    return tokenizer, encoder.eval().requires_grad_(False)


def main() -> None:
    """Write the tokenizer and train the text encoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=positive_number, default=6)
    parser.add_argument("--batch", type=whole_number, default=128)
    parser.add_argument("--rate", type=positive_number, default=1e-3)
    parser.add_argument("--threads", type=whole_number, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = write_tokenizer(WORK / "tokenizer")
    train(arguments.minutes, arguments.batch, arguments.rate, tokenizer)


if __name__ == "__main__":
    run(main)
