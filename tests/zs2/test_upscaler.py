"""Larger frames by models: diffusers' pipelines in their true architectures, and what is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny_models
from tests.hub_server import HubServer, contents
from zs2 import diffusion_upscaler
from zs2.models import ModelError
from zs2.post_models import PostModelError, describe_upscaler
from zs2.upscaler import Words, load_upscaler

PIPELINES: dict[str, tuple[Callable[[Path], Any], int]] = {
    "StableDiffusionUpscalePipeline": (tiny_models.upscaler_x4, 4),
    "StableDiffusionLatentUpscalePipeline": (tiny_models.upscaler_x2, 2),
}
WORDS = Words("a star", "blue", seed=7)


@pytest.fixture(scope="module", params=PIPELINES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A saved upscaling pipeline's folder, its class and its scale."""
    build, scale = PIPELINES[request.param]
    folder = tmp_path_factory.mktemp("upscaler")
    (folder / "parts").mkdir()
    build(folder / "parts").save_pretrained(folder / "model")
    return folder / "model", request.param, scale


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch):
    for settings in diffusion_upscaler.SETTINGS.values():
        monkeypatch.setitem(settings, "num_inference_steps", 2)


def frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def test_a_pipeline_enlarges_frames(saved: tuple[Path, str, int]):
    """The class says the scale; odd sizes come back enlarged; the same frame, seed and words give the
    same bytes whatever was enlarged before, other words or another seed do not."""
    folder, pipeline, scale = saved
    model = describe_upscaler(f"diffusers:{folder}")
    assert (model.kind, model.pipeline, model.scale) == ("diffusers", pipeline, scale)
    enlarge = load_upscaler(model, scale)
    first = enlarge(frame(24, 40), WORDS)
    assert first.shape == (24 * scale, 40 * scale, 3) and first.dtype == np.uint8
    enlarge(frame(24, 40, 1), WORDS)
    assert enlarge(frame(24, 40), WORDS).tobytes() == first.tobytes()
    assert enlarge(frame(24, 40), Words("a star", "blue", seed=8)).tobytes() != first.tobytes()
    assert enlarge(frame(24, 40), Words("a ship", "blue", seed=7)).tobytes() != first.tobytes()


def test_large_frames_go_in_tiles(saved: tuple[Path, str, int], monkeypatch: pytest.MonkeyPatch):
    """No call sees more than a tile, and neighbours cut their noise from one canvas."""
    import torch

    folder, pipeline, scale = saved
    monkeypatch.setitem(diffusion_upscaler.TILES, pipeline, (64, 32))
    model = describe_upscaler(f"diffusers:{folder}")
    enlarge = load_upscaler(model, scale)
    calls: list[tuple[tuple[int, int], torch.Tensor]] = []
    true_call = diffusion_upscaler.call

    def call(pipe: Any, model: Any, seen: Any, words: Any, noise: Any, corner: Any) -> Any:
        calls.append((corner, noise))
        assert max(seen.shape[:2]) <= 64
        return true_call(pipe, model, seen, words, noise, corner)

    monkeypatch.setattr(diffusion_upscaler, "call", call)
    assert enlarge(frame(64, 128), WORDS).shape == (64 * scale, 128 * scale, 3)
    assert [corner for corner, _ in calls] == [(0, 0), (0, 32), (0, 64)]
    (_, left), (_, right), _ = calls
    half = left.shape[-1] // 2
    assert torch.equal(left[..., half:], right[..., :half])


def test_another_scale_is_refused(saved: tuple[Path, str, int]):
    """A ×4 model cannot enlarge twice; the message names the scale to set."""
    folder, _, scale = saved
    with pytest.raises(PostModelError, match=f"found one of {scale}; set spatial_scale to {scale}"):
        load_upscaler(describe_upscaler(f"diffusers:{folder}"), 6 - scale)


def test_other_pipelines_are_refused(tmp_path: Path):
    """A folder of a pipeline that samples, code of the checkpoint's own, and no folder at all."""
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(ModelError, match="expected a StableDiffusionUpscalePipeline or Stable"):
        describe_upscaler(f"diffusers:{tmp_path}")
    index.write_text(json.dumps({"_class_name": ["mine", "Pipeline"]}))
    with pytest.raises(ModelError, match="code of the checkpoint's own"):
        describe_upscaler(f"diffusers:{tmp_path}")
    with pytest.raises(ModelError, match="expected diffusers: and a hub id or a folder"):
        describe_upscaler("diffusers:./nowhere")


@pytest.mark.parametrize("name", ["esrgan", "diffusers:", "model:x.pt", ""])
def test_names_that_mean_nothing(name: str):
    """The forms there are, and what to do."""
    with pytest.raises(ModelError, match="expected mini-sr, lanczos, diffusers:MODEL or spandrel:"):
        describe_upscaler(name)


def test_spandrel_files(tmp_path: Path):
    """A missing file and an untrusted pickle are refused; so is any where spandrel cannot run."""
    with pytest.raises(ModelError, match="found no such file"):
        describe_upscaler("spandrel:nowhere.safetensors")
    pickled, tensors = tmp_path / "x4.pth", tmp_path / "x4.safetensors"
    pickled.touch()
    tensors.touch()
    with pytest.raises(ModelError, match=r"found pickled weights x4.pth.*--trust-pickle"):
        describe_upscaler(f"spandrel:{pickled}")
    if find_spec("spandrel") is None or find_spec("torchvision") is None:
        with pytest.raises(ModelError, match=r"found no (torchvision|spandrel); pip install"):
            describe_upscaler(f"spandrel:{tensors}")


ON_HUB = """
import numpy as np
from zs2 import diffusion_upscaler
from zs2.post_models import describe_upscaler
from zs2.upscaler import Words, load_upscaler
diffusion_upscaler.SETTINGS["StableDiffusionUpscalePipeline"]["num_inference_steps"] = 1
model = describe_upscaler("diffusers:o/x4@v1")
made = load_upscaler(model, 4)(np.zeros((16, 16, 3), np.uint8), Words("a", seed=1))
print(model.revision, model.is_local, made.shape)
"""


@pytest.mark.slow
def test_a_pipeline_from_a_hub(tmp_path: Path):
    """A hub id is told by its commit, and only what is needed comes."""
    (tmp_path / "parts").mkdir()
    tiny_models.upscaler_x4(tmp_path / "parts").save_pretrained(tmp_path / "x4")
    with HubServer() as hub:
        commit = hub.add("o/x4", {}).commit(
            {**contents(tmp_path / "x4"), "unet/diffusion_pytorch_model.bin": b"not wanted"}, "v1"
        )
        home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        home["PYTHONPATH"] = str(Path(__file__).parents[2])
        done = subprocess.run(
            [sys.executable, "-c", ON_HUB],
            env={**os.environ, **home},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split("\n")[0] == f"{commit} False (64, 64, 3)"
        assert not [name for name in hub.downloads() if name.endswith(".bin")]
