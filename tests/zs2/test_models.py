"""Checkpoints by name: what is found, and what is refused with which remedy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zs2 import ZS2Sampler
from zs2.models import ModelDefaults, ModelError, bundled_models, describe, load_pipeline


@pytest.fixture
def model_copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_a_local_folder_is_described_without_torch(tiny_model: Path):
    """Size, channels and scale come from the configuration files; torch is not imported."""
    code = (
        "import sys; from zs2.models import describe; "
        f"i = describe({str(tiny_model)!r}); "
        "print(i.height, i.width, i.latent_channels, i.scale_factor, i.is_local, 'torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["32", "32", "4", "2", "True", "False"]


def test_a_folders_own_defaults(model_copy: Path):
    """zs2.json beside a model gives its steps, guidance and size; diffusers' hold otherwise."""
    assert describe(str(model_copy)).defaults == ModelDefaults(50, 7.5, None, None)
    own = {"num_inference_steps": 7, "guidance_scale": 2.5, "height": 48}
    (model_copy / "zs2.json").write_text(json.dumps(own))
    info = describe(str(model_copy))
    assert info.defaults == ModelDefaults(7, 2.5, 48, None)
    assert (info.height, info.width) == (48, 32)


def test_from_pretrained_samples_with_the_models_own_steps(model_copy: Path):
    """ZS2Sampler.from_pretrained(folder) takes steps and guidance from the folder."""
    (model_copy / "zs2.json").write_text(json.dumps({"num_inference_steps": 3}))
    sampler = ZS2Sampler.from_pretrained(model_copy)
    sampler.pipe.set_progress_bar_config(disable=True)
    steps = []
    sampler(
        "a star",
        num_frames=2,
        seed=0,
        callback_on_step_end=lambda pipe, step, t, tensors: steps.append(step) or tensors,
    )
    assert steps == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model", "expected a bundled name"),
        ("./no/such/folder", "expected a bundled name"),
        ("weights.safetensors", "expected a bundled name"),
        ("", "expected a bundled name"),
        ("owner/no-such-model-here", "HF_HUB_OFFLINE is set"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str):
    """What is neither bundled, nor a folder, nor on the hub raises ModelError with the remedy."""
    with pytest.raises(ModelError, match=message):
        describe(name)


def test_a_folder_that_is_no_pipeline(tmp_path: Path):
    """No model_index.json: the message says what was expected and how to make one."""
    with pytest.raises(ModelError, match=r"(?s)no model_index.json.*save_pretrained"):
        describe(str(tmp_path))


def test_a_folder_without_weights(model_copy: Path):
    """A missing weights file is found before anything is loaded."""
    next((model_copy / "unet").glob("*.safetensors")).unlink()
    with pytest.raises(
        ModelError, match=r"expected .safetensors weights in .*unet, found no weights"
    ):
        describe(str(model_copy))


def test_pickled_weights_are_refused(model_copy: Path):
    """Pickles can run code: refused by name, with the way out."""
    next((model_copy / "unet").glob("*.safetensors")).rename(
        model_copy / "unet" / "diffusion_pytorch_model.bin"
    )
    with pytest.raises(ModelError, match=r"found pickled weights .* safe_serialization=True"):
        describe(str(model_copy))


def test_another_family_is_refused(model_copy: Path):
    """A pipeline class that is not supported yet is named."""
    index = json.loads((model_copy / "model_index.json").read_text())
    index["_class_name"] = "FluxPipeline"
    (model_copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="found FluxPipeline"):
        describe(str(model_copy))


@pytest.mark.parametrize("text", ["{", '{"num_steps": 3}'])
def test_broken_own_defaults_are_refused(model_copy: Path, text: str):
    """zs2.json that is not JSON, or has unknown names."""
    (model_copy / "zs2.json").write_text(text)
    with pytest.raises(ModelError, match=r"zs2.json"):
        describe(str(model_copy))


def test_corrupt_weights_fail_at_loading_with_the_models_name(model_copy: Path):
    """Weights that cannot be read are a ModelError, not a traceback from a library."""
    next((model_copy / "unet").glob("*.safetensors")).write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="its weights cannot be loaded"):
        load_pipeline(describe(str(model_copy)))


def test_zs2_mini_is_bundled():
    """The default model comes with the package, 64 px, with its own steps and guidance."""
    assert "zs2-mini" in bundled_models()
    info = describe("zs2-mini")
    assert (info.height, info.width) == (64, 64)
    assert info.defaults.num_inference_steps < 50
