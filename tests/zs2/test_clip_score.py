"""CLIP embeddings are transformers' own, and the two scores made of them; CLIPs that cannot serve."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from tests import tiny_models
from zs2.clip_score import ClipScorer, clip_score, describe_scorer, frame_consistency
from zs2.models import ModelError

PROMPTS = ["a b c", "a", "z y x w v u"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture(scope="module")
def scorer(folder: Path) -> ClipScorer:
    return ClipScorer.from_pretrained(str(folder))


def frames_of(height: int, width: int, count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def by_transformers(folder: Path, frames: np.ndarray) -> np.ndarray:
    """Embeddings as CLIP's documentation makes them, picture by picture."""
    model = CLIPModel.from_pretrained(folder)
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    found = []
    for frame in frames:
        inputs = processor(images=Image.fromarray(frame), return_tensors="pt")
        tokens = CLIPTokenizer.from_pretrained(folder)(["a"], return_tensors="pt")
        with torch.no_grad():
            found.append(model(**tokens, **inputs).image_embeds[0].numpy())
    return np.stack(found)


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (20, 70), (5, 3)], ids=str)
def test_image_embeddings_are_those_of_transformers(
    scorer: ClipScorer, folder: Path, size: tuple[int, int]
):
    """For frames of any shape, also of three rows or columns: resized, cropped and normalised as the
    checkpoint's processor does, unit length."""
    frames = frames_of(*size)
    found = scorer.image_embeddings(frames)
    np.testing.assert_allclose(found, by_transformers(folder, frames), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_processor_of_its_own_size_and_normalisation_is_heeded(tmp_path: Path):
    """A CLIP of larger pictures, other means and another resize than crop: as transformers has it."""
    folder = tiny_models.clip(
        tmp_path / "large", 48, size={"shortest_edge": 56}, image_mean=[0.5] * 3, resample=2
    )
    frames = frames_of(40, 64)
    found = ClipScorer.from_pretrained(str(folder)).image_embeddings(frames)
    np.testing.assert_allclose(found, by_transformers(folder, frames), atol=1e-5)


def test_text_embeddings_are_those_of_transformers(scorer: ClipScorer, folder: Path):
    """Of prompts of different lengths at once as of each alone, unit length."""
    model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    wanted = []
    for prompt in PROMPTS:
        inputs = tokenizer([prompt], return_tensors="pt")
        with torch.no_grad():
            pooled = model.text_model(**inputs).pooler_output
            wanted.append(torch.nn.functional.normalize(model.text_projection(pooled))[0].numpy())
    np.testing.assert_allclose(scorer.text_embeddings(PROMPTS), np.stack(wanted), atol=1e-5)


def test_long_prompts_are_cut_and_said(scorer: ClipScorer):
    """Past the text length a prompt means what its beginning means; `truncates` tells which ones."""
    room = scorer.text_length - 2
    whole, longer = " ".join("a" * room), " ".join("a" * room + "b" * 9)
    assert scorer.truncates([whole, longer, ""]) == [False, True, False]
    found = scorer.text_embeddings([whole, longer])
    np.testing.assert_array_equal(found[0], found[1])


def test_many_frames_are_embedded_in_batches(scorer: ClipScorer):
    """More frames than go into one batch have the embeddings that each has alone."""
    frames = frames_of(16, 16, 70)
    found = scorer.image_embeddings(frames)
    assert found.shape == (70, 12)
    np.testing.assert_allclose(found[68:69], scorer.image_embeddings(frames[68:69]), atol=1e-5)


def test_clip_score():
    """100·cos, negative cosines count 0, mean over frames; a storyboard's frames have a text each."""
    images = np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]], np.float32)
    text = np.array([1.0, 0.0], np.float32)
    assert clip_score(images, text) == pytest.approx((100 + 60 + 0) / 3)
    assert clip_score(images, images) == pytest.approx(100)
    assert clip_score(images[:1], text) == pytest.approx(100)


def test_frame_consistency():
    """100·cos of neighbours, mean over pairs: 100 for a still clip, less the more its frames turn;
    NaN for one frame."""
    still = np.repeat(np.array([[0.6, 0.8]], np.float32), 4, 0)
    turn = [np.stack([np.cos(a), np.sin(a)], 1) for a in (0.1 * np.arange(4), np.arange(4))]
    assert frame_consistency(still) == pytest.approx(100)
    slow, fast = (frame_consistency(each.astype(np.float32)) for each in turn)
    assert slow == pytest.approx(100 * math.cos(0.1), abs=1e-4)
    assert fast == pytest.approx(100 * math.cos(1), abs=1e-4)
    assert math.isnan(frame_consistency(still[:1]))


def test_identity_follows_the_contents(folder: Path, tmp_path: Path):
    """A copy has the same identity, name@16 hex digits; a changed weight another."""
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    first = describe_scorer(str(folder)).identity
    assert describe_scorer(str(copy)).identity == first
    name, _, revision = first.partition("@")
    assert name == folder.name and len(revision) == 16
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert describe_scorer(str(copy)).identity != first


def test_describing_loads_no_torch(folder: Path):
    """A command line that only names a scorer does not wait for torch."""
    code = (
        "import sys; from zs2.clip_score import describe_scorer\n"
        f"describe_scorer({str(folder)!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def broken(folder: Path, to: Path, what: str) -> Path:
    """A copy of a CLIP that cannot serve."""
    shutil.copytree(folder, to)
    weights = to / "model.safetensors"
    if what == "not whole":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "pickled":
        weights.unlink()
        model = CLIPModel.from_pretrained(folder)
        torch.save(model.state_dict(), to / "pytorch_model.bin")
    elif what == "tensor missing":
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        del tensors["visual_projection.weight"]
        save_file(tensors, weights, {"format": "pt"})
    elif what == "no processor":
        (to / "preprocessor_config.json").unlink()
    elif what == "no vocabulary":
        for name in ("tokenizer.json", "vocab.json", "merges.txt"):
            (to / name).unlink(missing_ok=True)
    elif what == "another kind":
        (to / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    elif what == "other vocabulary":
        config = json.loads((to / "config.json").read_text())
        config["text_config"]["vocab_size"] -= 50
        (to / "config.json").write_text(json.dumps(config))
    return to


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("not whole", "expected whole safetensors files"),
        ("pickled", "found pickled weights pytorch_model.bin"),
        ("tensor missing", "visual_projection.weight"),
        ("no processor", "preprocessor_config.json"),
        ("no vocabulary", "expected a vocabulary"),
        ("another kind", "found model_type 'siglip'"),
        ("other vocabulary", "expected"),
    ],
)
def test_what_cannot_score_is_refused(folder: Path, tmp_path: Path, what: str, told: str):
    """Each with one ModelError that names the scorer and what is wrong: never random weights, never
    a pickle unasked."""
    bad = broken(folder, tmp_path / "bad", what)
    with pytest.raises(ModelError, match=told) as caught:
        ClipScorer.from_pretrained(str(bad))
    assert str(bad) in str(caught.value)


def test_trusted_pickles_load(folder: Path, tmp_path: Path, scorer: ClipScorer):
    """Pickled weights score as the same ones in safetensors do, once the user trusts them."""
    bad = broken(folder, tmp_path / "pickled", "pickled")
    trusted = ClipScorer.from_pretrained(str(bad), trusted=[str(bad)])
    frames = frames_of(32, 32)
    np.testing.assert_array_equal(trusted.image_embeddings(frames), scorer.image_embeddings(frames))


def test_unknown_names_are_refused():
    """A path that is not there, and a name that is no hub id, without asking a hub."""
    for name in ("/nowhere/clip", "./clip", "clip", "zs2-maxi-clip", ""):
        with pytest.raises(ModelError, match="expected 'zs2-mini-clip', a local folder"):
            describe_scorer(name)
