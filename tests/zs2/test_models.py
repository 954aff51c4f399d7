"""Checkpoints by name: what is found, and what is refused with which remedy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_models
from zs2 import ZS2Sampler
from zs2.models import (
    ModelDefaults,
    ModelError,
    bundled_models,
    describe,
    load_pipeline,
    names_model,
    parameters,
)


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


FAMILIES = {
    "sd1": ("StableDiffusionPipeline", False, ModelDefaults(50, 7.5)),
    "sd2": ("StableDiffusionPipeline", False, ModelDefaults(50, 7.5)),
    "sdxl": ("StableDiffusionXLPipeline", False, ModelDefaults(50, 5.0)),
    "ip2p": ("StableDiffusionInstructPix2PixPipeline", True, ModelDefaults(100, 7.5)),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny pipeline of a family as a folder."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family) / "model"
            getattr(tiny_models, family)(made[family].parent).save_pretrained(made[family])
        return made[family]

    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_the_families(family: str, saved):
    """Each is known by its class, with its pipeline's own defaults; latents are the autoencoder's,
    also where the UNet takes the source's beside them."""
    info = describe(str(saved(family)))
    assert (info.pipeline, info.edits, info.defaults) == FAMILIES[family]
    assert (info.latent_channels, info.height, info.width, info.scale_factor) == (4, 32, 32, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_diffusers(family: str):
    """What is assumed where the user says nothing is what the pipeline itself assumes."""
    import inspect

    import diffusers

    pipeline, _, defaults = FAMILIES[family]
    call = inspect.signature(getattr(diffusers, pipeline).__call__).parameters
    assert call["num_inference_steps"].default == defaults.num_inference_steps
    assert call["guidance_scale"].default == defaults.guidance_scale


def test_the_second_text_encoder_counts(saved, tmp_path: Path):
    """SDXL without the weights of its second text encoder is refused before anything is loaded."""
    folder = Path(shutil.copytree(saved("sdxl"), tmp_path / "model"))
    next((folder / "text_encoder_2").glob("*.safetensors")).unlink()
    with pytest.raises(ModelError, match=r"weights in .*text_encoder_2, found no weights"):
        describe(str(folder))


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_an_inpainting_model_is_refused(model_copy: Path):
    """Nine input channels under an ordinary class name: plainly not for zs2."""
    change(model_copy / "unet" / "config.json", in_channels=9)
    with pytest.raises(ModelError, match=r"of 4 input channels .*, found 9: an inpainting model"):
        describe(str(model_copy))


@pytest.mark.parametrize(("version", "size"), [("0.8.1", 128), ("0.42.1", 32), (None, 32)])
def test_the_size_of_old_checkpoints(model_copy: Path, version: str | None, size: int):
    """Before diffusers 0.9 a sample_size under 64 meant 64, and the pipeline still reads it so."""
    path = model_copy / "unet" / "config.json"
    config = json.loads(path.read_text())
    del config["_diffusers_version"]
    path.write_text(json.dumps(config | ({"_diffusers_version": version} if version else {})))
    assert describe(str(model_copy)).height == size
    assert load_pipeline(describe(str(model_copy))).unet.config.sample_size == size // 2


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_configuration_that_lacks_entries(model_copy: Path, part: str):
    """A hand-made configuration: the file and the entry are named."""
    (model_copy / part / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"expected the entries of .* found KeyError"):
        describe(str(model_copy))


def test_code_of_the_checkpoints_own_is_refused(model_copy: Path):
    """A part or a pipeline from a module that comes with the model is named and never run."""
    ran = model_copy / "ran"
    for place in ("unet", "."):
        (model_copy / place / "own.py").write_text(f"open({str(ran)!r}, 'w')")
    index = model_copy / "model_index.json"
    before = index.read_text()
    change(index, unet=["own", "Net"])
    with pytest.raises(ModelError, match=r"found unet from 'own': code of the checkpoint's own"):
        describe(str(model_copy))
    index.write_text(before)
    change(index, _class_name=["own", "Pipe"])
    with pytest.raises(ModelError, match=r"found the pipeline from 'own'"):
        describe(str(model_copy))
    assert not ran.exists()


def test_code_under_a_librarys_name_is_not_run(model_copy: Path):
    """A file that takes the place of a library inside a part is refused at loading."""
    ran = model_copy / "ran"
    (model_copy / "unet" / "diffusers.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_pipeline(describe(str(model_copy)))
    assert not ran.exists()


def half_variant(folder: Path, value: float) -> None:
    """Give a folder's UNet an fp16 variant, told from the full weights by its first ones."""
    import torch
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet").half()
    torch.nn.init.constant_(unet.conv_in.weight, value)
    unet.save_pretrained(folder / "unet", variant="fp16")


def test_the_fp16_variant_serves_half_precision(model_copy: Path):
    """Where a folder has both, float16 takes the variant, float32 and bfloat16 the full weights."""
    import torch

    half_variant(model_copy, 2.0)
    info = describe(str(model_copy))
    for dtype, takes in ((torch.float16, True), (torch.float32, False), (torch.bfloat16, False)):
        unet = load_pipeline(info, torch_dtype=dtype, device="cpu").unet
        assert unet.dtype == dtype
        assert bool((unet.conv_in.weight == 2.0).all()) is takes


def test_a_folder_with_nothing_but_fp16(model_copy: Path):
    """The variant is found and loads in any precision."""
    half_variant(model_copy, 2.0)
    (model_copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet = load_pipeline(describe(str(model_copy))).unet
    assert (unet.conv_in.weight == 2.0).all()


def test_sharded_weights_load(tiny_pipe, tmp_path: Path):
    """Weights in several files, with their index, are as good as in one."""
    import torch

    tiny_pipe.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list((tmp_path / "unet").glob("*-of-*.safetensors"))) > 1
    info = describe(str(tmp_path))
    ours, theirs = load_pipeline(info).unet.state_dict(), tiny_pipe.unet.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert parameters(info) == parameters_of(tiny_pipe)


def parameters_of(pipe: Any) -> int:
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    return sum(p.numel() for part in parts for p in part.parameters())


def test_parameters_are_counted_from_headers(model_copy: Path, tiny_pipe):
    """The count is the pipeline's own; a folder with weights cut off is a ModelError."""
    assert parameters(describe(str(model_copy))) == parameters_of(tiny_pipe)
    info = describe(str(model_copy))
    weights = model_copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ModelError, match="expected whole safetensors files, found that vae/"):
        parameters(info)


@pytest.fixture
def pickled(model_copy: Path, tiny_pipe) -> Path:
    """The model with a pickled UNet."""
    import torch

    folder = model_copy / "unet"
    next(folder.glob("*.safetensors")).unlink()
    torch.save(tiny_pipe.unet.state_dict(), folder / "diffusion_pytorch_model.bin")
    return model_copy


def test_trusted_pickles_load(pickled: Path, tiny_pipe):
    """Trusted by its folder, however that is written, the pickled UNet loads as it was saved."""
    import torch

    info = describe(str(pickled), trusted=[f"{pickled.parent}/./{pickled.name}/"])
    ours, theirs = load_pipeline(info).unet.state_dict(), tiny_pipe.unet.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class _Runs:
    """A pickle that writes a file when it is read without restraint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_even_trusted_pickles_run_no_code(pickled: Path):
    """torch's restricted unpickler reads them: one that is more than tensors is refused."""
    import torch

    torch.save({"x": _Runs(pickled / "ran")}, pickled / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"expected a unet that loads .* cannot be loaded"):
        load_pipeline(describe(str(pickled), trusted=[str(pickled)]))
    assert not (pickled / "ran").exists()


@pytest.mark.parametrize(
    ("model", "listed", "answer"),
    [
        ("owner/name", ["owner/name"], True),
        ("owner/name@v1", ["owner/name"], True),
        ("owner/name@v1", ["owner/name@v1"], True),
        ("owner/name@v2", ["owner/name@v1"], False),
        ("owner/name", ["owner/name@v1"], False),
        ("owner/name", ["owner/other", "name"], False),
    ],
)
def test_what_a_list_of_models_names(model: str, listed: list[str], answer: bool):
    """An id without a revision is meant with any; with one, it is that one."""
    assert names_model(model, listed) is answer


def checked(folder: Path, out: Path) -> Path:
    """The model with a tiny safety checker."""
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    vision = {**size, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(
        vision_config=vision, text_config={**size, "num_attention_heads": 2}, projection_dim=16
    )
    pipe = StableDiffusionPipeline.from_pretrained(
        folder,
        safety_checker=StableDiffusionSafetyChecker(config),
        feature_extractor=CLIPImageProcessor(),
        requires_safety_checker=True,
    )
    pipe.save_pretrained(out)
    return out


def test_a_safety_checker_is_honoured_unless_it_is_switched_off(tiny_model: Path, tmp_path: Path):
    """By default it is loaded; False goes without it, also where its weights could not be loaded."""
    info = describe(str(checked(tiny_model, tmp_path / "model")))
    assert load_pipeline(info).safety_checker is not None
    without = load_pipeline(info, safety_checker=False)
    assert without.safety_checker is None
    assert not without.config.requires_safety_checker
    weights = tmp_path / "model" / "safety_checker" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    assert load_pipeline(info, safety_checker=False).safety_checker is None
    with pytest.raises(ModelError, match=r"weights in .*safety_checker, found pickled weights"):
        load_pipeline(info)
    with pytest.raises(ModelError, match="expected tensors only in the pickles"):  # it is none
        load_pipeline(describe(info.name, trusted=[info.name]))


@pytest.mark.parametrize("family", ["sdxl", "ip2p"])
def test_every_family_loads_without_a_safety_checker(family: str, saved):
    """Also SDXL, whose pipeline knows no such thing."""
    pipe = load_pipeline(describe(str(saved(family))), safety_checker=False)
    assert getattr(pipe, "safety_checker", None) is None


def test_other_arguments_reach_the_pipeline(tiny_model: Path, tiny_pipe):
    """A part given by the user takes the place of the checkpoint's."""
    pipe = load_pipeline(describe(str(tiny_model)), vae=tiny_pipe.vae)
    assert pipe.vae is tiny_pipe.vae


@pytest.mark.parametrize("family", ["sd1", "sdxl", "ip2p"])
def test_an_argument_that_nothing_takes_is_refused(family: str, saved: Any):
    """A misspelt part would be left out in silence; those of diffusers that zs2 sets are its own."""
    info = describe(str(saved(family)))
    for name in ("foo", "vea", "local_files_only", "trust_remote_code"):
        with pytest.raises(ModelError, match=rf"no argument '{name}'; {info.pipeline} takes .*vae"):
            load_pipeline(info, **{name: True})


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "mps:7"])
def test_a_device_that_is_not_there_is_refused(tiny_model: Path, device: str):
    """Named with those that are, whatever torch raises for it."""
    with pytest.raises(
        ModelError, match=rf"device '{device}': expected one .* 'cpu'.* leave the d"
    ):
        load_pipeline(describe(str(tiny_model)), device=device)


def test_a_dtype_by_its_name(tiny_model: Path):
    """The three names are as good as torch's own; another thing is refused, not taken for float32."""
    import torch

    info = describe(str(tiny_model))
    for name in ("float16", "bfloat16", "float32"):
        pipe = load_pipeline(info, torch_dtype=name, device="cpu")
        assert pipe.unet.dtype == pipe.text_encoder.dtype == getattr(torch, name)
    for other in ("half", "int8", torch.int8, 16):
        with pytest.raises(ModelError, match="torch_dtype: expected float16, bfloat16, float32"):
            load_pipeline(info, torch_dtype=other, device="cpu")


def test_pickled_weights_are_refused(model_copy: Path):
    """Pickles can run code: refused by name, with the way out."""
    next((model_copy / "unet").glob("*.safetensors")).rename(
        model_copy / "unet" / "diffusion_pytorch_model.bin"
    )
    with pytest.raises(ModelError, match=r"found pickled weights .* safe_serialization=True"):
        describe(str(model_copy))


def test_another_family_is_refused(tmp_path: Path):
    """A pipeline class that is not supported is named, whatever parts it has."""
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="found FluxPipeline; other families are not supported"):
        describe(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[3]", '{"num_steps": 3}'])
def test_broken_own_defaults_are_refused(model_copy: Path, text: str):
    """zs2.json that is not JSON, or has unknown names."""
    (model_copy / "zs2.json").write_text(text)
    with pytest.raises(ModelError, match=r"zs2.json"):
        describe(str(model_copy))


def test_zs2_mini_is_bundled():
    """The default model comes with the package, 64 px, with its own steps and guidance."""
    assert "zs2-mini" in bundled_models()
    info = describe("zs2-mini")
    assert (info.height, info.width) == (64, 64)
    assert info.defaults.num_inference_steps < 50
