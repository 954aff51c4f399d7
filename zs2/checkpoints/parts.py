"""The parts that a model_index.json names: the files each must have, and whether the loaded ones fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from zs2.checkpoints import weights
from zs2.models import ModelError

# What configures the parts that have no weights; the others have a config.json.
_CONFIGURATIONS = {
    "scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
    "tokenizer_2": "tokenizer_config.json",
    "feature_extractor": "preprocessor_config.json",
}
_READERS = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}
# Either is a whole vocabulary. Without one transformers makes a tokenizer that knows no words.
_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_AGAIN = "copy, download or save the whole model again"


def check_files(
    name: str,
    where: str,
    index: Mapping[str, Any],
    names: Collection[str],
    *,
    without: Collection[str] = (),
) -> None:
    """Refuse a pipeline of which a part lacks its configuration, or a tokenizer its vocabulary.

    Args:
        where: the folder or repository, for messages.
        index: the content of model_index.json.
        names: files of the folder or repository, relative, with `/`.
        without: parts that will not be loaded.

    Raises:
        ModelError: with the part and the file.
    """
    present = set(names)
    for part in weights.components(index):
        if part in without:
            continue
        file = f"{part}/{_CONFIGURATIONS.get(part, 'config.json')}"
        if file not in present:
            raise ModelError(
                f"model {name!r}: expected {file} in {where}, since its model_index.json names a "
                f"{part}; found no such file; {_AGAIN}"
            )
        if part in _READERS and not any(
            {f"{part}/{file}" for file in vocabulary} <= present for vocabulary in _VOCABULARIES
        ):
            raise ModelError(
                f"model {name!r}: expected a vocabulary in {where}/{part}, which is tokenizer.json, or "
                f"vocab.json and merges.txt; found none, so that prompts would say nothing; {_AGAIN}"
            )


def check_loaded(name: str, where: str, pipe: Any) -> None:
    """Refuse a loaded pipeline of which a tensor is missing, or a tokenizer is not its encoder's.

    Raises:
        ModelError: with the part, and what of it does not fit.
    """
    for part, module in pipe.components.items():
        tensors = module.named_parameters() if hasattr(module, "named_parameters") else ()
        absent = [tensor for tensor, values in tensors if values.is_meta]
        if absent:
            raise ModelError(
                f"model {name!r}: expected all tensors of the {part} in {where}, found {len(absent)} "
                f"missing, the first of them {absent[0]}; {_AGAIN}"
            )
    for part, reader in _READERS.items():
        tokenizer, encoder = (getattr(pipe, each, None) for each in (part, reader))
        if tokenizer is not None and encoder is not None:
            _check_tokenizer(f"model {name!r}", f"the {part} in {where}", tokenizer, encoder)
    _check_width(name, where, pipe)


def _check_width(name: str, where: str, pipe: Any) -> None:
    encoders = [pipe.components[part] for part in _READERS.values() if part in pipe.components]
    wanted = pipe.unet.config.cross_attention_dim
    # a caller may do without an encoder, and a UNet may project what it reads
    if None in encoders or not isinstance(wanted, int) or pipe.unet.config.encoder_hid_dim_type:
        return
    width = sum(encoder.config.hidden_size for encoder in encoders)
    if wanted != width:
        raise ModelError(
            f"model {name!r}: expected text encoders of {wanted} features in {where}, as many as its UNet "
            f"attends to; found {width}: parts of several models; {_AGAIN}"
        )


def _check_tokenizer(model: str, what: str, tokenizer: Any, encoder: Any) -> None:
    known, taken = len(tokenizer), encoder.get_input_embeddings().weight.shape[0]
    if 2 * known < taken:  # some tokens may have been added to either
        raise ModelError(
            f"{model}: expected that {what} knows the {taken} tokens of its text encoder, found "
            f"{known}, so that prompts would say little or nothing; {_AGAIN}"
        )
    longest, positions = tokenizer.model_max_length, encoder.config.max_position_embeddings
    if longest > positions:
        raise ModelError(
            f"{model}: expected in the tokenizer_config.json of {what} a model_max_length of at most "
            f"{positions}, the positions of its text encoder; found "
            f"{longest if longest < 1e9 else 'none'}; {_AGAIN}"
        )
