"""The trained CLIP as a CLIPModel folder."""

from __future__ import annotations

from pathlib import Path

from transformers import CLIPImageProcessorPil

from infra.mini import train_text
from infra.mini.train_clip import SIDE, trained_clip

CARD = """---
license: apache-2.0
pipeline_tag: zero-shot-image-classification
---
# zs2-mini-clip

A small CLIP in transformers' CLIPModel layout, bundled with zs2 so that it scores zs2-mini's clips
without a download: how well a picture shows a caption, and how alike two pictures are. 64×64
pixels, captions of up to {context} tokens, {parameters:.1f} million parameters, float16 weights.

    from transformers import CLIPModel, CLIPTokenizer, CLIPImageProcessorPil

    model = CLIPModel.from_pretrained("zs2/mini/zs2-mini-clip")

Made on a CPU by `infra/mini/train_clip.py` of the zs2 repository, on scenes that the project draws
itself and their captions by grammar; it has seen no photograph. Its text tower started from
zs2-mini's own text encoder: where that one misreads a word, this one may forgive the picture. A
third of the pictures it learned from had been through zs2-mini's autoencoder, others were blurred
and recoloured, as generated ones are. `infra/mini/README.md` says what it scored. Licence:
Apache-2.0.

It knows one to three things of one kind and colour in one place, by day, at sunset or at night
(zs2-mini's card lists the words). Of anything else, of motion and beauty it says nothing. Its scores
are not on the scale of OpenAI's CLIPs: compare them with each other only.
"""


def export(folder: Path) -> None:
    """Write the model's folder."""
    model = trained_clip()
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    model.half().save_pretrained(folder)
    train_text.write_tokenizer(folder)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor.save_pretrained(folder)
    card = CARD.format(context=train_text.CONTEXT, parameters=parameters)
    (folder / "README.md").write_text(card, encoding="utf-8")
