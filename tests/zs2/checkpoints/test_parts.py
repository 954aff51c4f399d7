"""zs2.checkpoints.parts: folders that are damaged or put together from several are refused, by the part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_models
from tests.original_layout import write_single_file
from zs2.checkpoints import parts
from zs2.models import ModelError, describe, load_pipeline


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_a_tokenizer_without_its_vocabulary_is_refused(model: Path):
    """transformers would make an empty one, and every prompt would say the same."""
    (model / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"expected a vocabulary in .*model/tokenizer, which is"):
        describe(str(model))
    (model / "tokenizer" / "vocab.json").write_text("{}")  # half of the other kind
    with pytest.raises(ModelError, match=r"expected a vocabulary .* found none"):
        describe(str(model))
    (model / "tokenizer" / "merges.txt").write_text("")
    describe(str(model))


def test_a_repositorys_list_of_files_is_enough():
    """What a hub lists is judged by its names, each tokenizer of it."""
    index = {name: ["transformers", "CLIPTokenizer"] for name in ("tokenizer", "tokenizer_2")}
    names = [f"{part}/tokenizer_config.json" for part in index]
    whole = [*names, "tokenizer/tokenizer.json", "tokenizer_2/vocab.json", "tokenizer_2/merges.txt"]
    parts.check_files("owner/name", "owner/name", index, whole)
    with pytest.raises(ModelError, match="a vocabulary in owner/name/tokenizer_2, which"):
        parts.check_files("owner/name", "owner/name", index, whole[:-1])


def test_a_single_files_configuration_needs_a_vocabulary(model: Path, tiny_pipe: Any):
    """The folder beside a checkpoint in one file is judged as a model's is."""
    file = write_single_file(tiny_pipe, model.with_suffix(".safetensors"))
    describe(str(file))
    (model / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"expected a vocabulary in .*model/tokenizer, which is"):
        describe(str(file))


def test_a_vocabulary_that_is_not_the_text_encoders(model: Path):
    """Two tokens for an encoder of many: it would load, and hear nothing."""
    path = model / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"the 190 tokens of its text encoder, found 2, so that"):
        load_pipeline(describe(str(model)))


def test_a_tokenizer_that_says_no_length(model: Path):
    """An empty tokenizer_config.json; the pipeline would pad each prompt without end."""
    (model / "tokenizer" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"model_max_length of at most 16, .* found none"):
        load_pipeline(describe(str(model)))


@pytest.mark.parametrize(
    "file",
    [
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
    ],
)
def test_every_part_needs_its_configuration(model: Path, file: str):
    """A part that model_index.json names and that is not there is named with its file."""
    (model / file).unlink()
    with pytest.raises(ModelError, match=rf"model '.*expected .*{file}"):
        describe(str(model))


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("file", "entry", "part"),
    [
        ("scheduler/scheduler_config.json", {"beta_start": "x"}, "scheduler"),
        ("text_encoder/config.json", {"hidden_size": 7}, "text_encoder"),
        ("unet/config.json", {"norm_num_groups": "x"}, "unet"),
    ],
)
def test_whatever_a_library_raises_names_the_part(
    model: Path, file: str, entry: dict[str, Any], part: str
):
    """A TypeError, a validation error, a ValueError: one ModelError of one line."""
    change(model / file, **entry)
    with pytest.raises(ModelError, match=rf"expected a {part} that loads from .*model, found") as e:
        load_pipeline(describe(str(model)))
    assert "\n" not in str(e.value)


def test_a_broken_tokenizer_is_named(model: Path):
    """A KeyError of transformers, with its kind."""
    (model / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"a tokenizer that loads .* KeyError: 'added_tokens'"):
        load_pipeline(describe(str(model)))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, "OutOfMemoryError"])
def test_what_is_no_fault_of_the_model_passes(
    model: Path, error: Any, monkeypatch: pytest.MonkeyPatch
):
    """An interrupt and a full memory stay what they are."""
    import diffusers
    import torch

    kind = getattr(torch, error) if isinstance(error, str) else error

    def interrupted(*_: Any, **__: Any) -> Any:
        raise kind

    monkeypatch.setattr(diffusers.DDIMScheduler, "from_pretrained", interrupted)
    with pytest.raises(kind):
        load_pipeline(describe(str(model)))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdxl")
    tiny_models.sdxl(folder).save_pretrained(folder / "model")
    return folder / "model"


def put(part: Path, into: Path) -> None:
    shutil.rmtree(into / part.name)
    shutil.copytree(part, into / part.name)


def test_another_familys_unet_is_refused(model: Path, sdxl: Path):
    """SDXL's UNet in Stable Diffusion 1 and the reverse: it would fail at the first step."""
    put(sdxl / "unet", model)
    with pytest.raises(ModelError, match=r"of a StableDiffusionPipeline .* one of Stable Diffusio"):
        describe(str(model))


def test_another_familys_text_encoder_is_refused(model: Path, sdxl: Path):
    """One of another width than the UNet attends to."""
    shutil.rmtree(model / "text_encoder")
    shutil.copytree(sdxl / "text_encoder_2", model / "text_encoder")
    with pytest.raises(ModelError, match=r"expected text encoders of 16 features .* found 24"):
        load_pipeline(describe(str(model)))


def test_a_tensor_of_another_shape_is_named(model: Path, sdxl: Path):
    """The tensor, its shape and the expected one; no advice that only programs could follow."""
    name = "diffusion_pytorch_model.safetensors"
    shutil.copy(sdxl / "unet" / name, model / "unet" / name)
    with pytest.raises(
        ModelError, match=r"unet .*: \S+ of shape \[.*\] where \[.*\] is expec"
    ) as e:
        load_pipeline(describe(str(model)))
    assert "low_cpu_mem_usage" not in str(e.value)


def test_a_part_that_lacks_a_tensor(model: Path):
    """What is absent is named, not left without values."""
    from safetensors.torch import load_file, save_file

    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["mid_block.resnets.0.conv1.bias"]
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"all tensors of the unet .*1 missing.* mid_block\.resn"):
        load_pipeline(describe(str(model)))


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model"])
@pytest.mark.parametrize("spoil", ["half", "other"])
def test_weights_that_are_not_whole_are_refused(model: Path, part: str, spoil: str):
    """Half a file, or one of another format: found by its header, before anything is planned, also in
    a half-precision variant beside whole weights."""
    path = model / f"{part}.safetensors"
    content = path.read_bytes()
    spoilt = content[: len(content) // 2] if spoil == "half" else b"not safetensors"
    path.with_suffix(".fp16.safetensors").write_bytes(spoilt)
    with pytest.raises(ModelError, match=rf"whole safetensors files, found that {part}.fp16.saf"):
        describe(str(model))
    path.with_suffix(".fp16.safetensors").replace(path)
    with pytest.raises(ModelError, match=rf"whole safetensors files, found that {part}.safetens"):
        describe(str(model))


def test_weights_of_another_part_are_refused(model: Path):
    """transformers would start from random weights, and the videos would be noise."""
    shutil.copy(
        model / "vae" / "diffusion_pytorch_model.safetensors",
        model / "text_encoder" / "model.safetensors",
    )
    with pytest.raises(ModelError, match=r"weights of a text_encoder .* \(decoder\.conv_in\.bias"):
        describe(str(model))


def test_a_text_encoder_that_lacks_a_tensor(model: Path):
    """transformers would fill it with random numbers."""
    from safetensors.torch import load_file, save_file

    path = model / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    del tensors[next(name for name in tensors if "mlp.fc1.weight" in name)]
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"numbers of the text_encoder in .*, found [\d,]+; copy"):
        load_pipeline(describe(str(model)))


def test_a_linked_part_is_as_good_as_its_own(model: Path, tiny_model: Path, tiny_pipe: Any):
    """A part that is a link to another model's folder is described and loaded."""
    import torch

    shutil.rmtree(model / "unet")
    (model / "unet").symlink_to(tiny_model / "unet")
    ours, theirs = (
        load_pipeline(describe(str(model))).unet.state_dict(),
        tiny_pipe.unet.state_dict(),
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
