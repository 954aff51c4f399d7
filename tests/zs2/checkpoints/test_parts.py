"""zs2.checkpoints.parts: folders that are damaged or put together from several are refused, by the part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

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
