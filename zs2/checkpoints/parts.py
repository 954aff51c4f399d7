"""The parts that a model_index.json names: the files each must have, and whether the loaded ones fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from zs2.checkpoints import weights
from zs2.models import ModelError

# What configures the parts that have no weights; the others have a config.json.
_CONFIGURATIONS = {
    "scheduler": "scheduler_config.json",
    "low_res_scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
    "tokenizer_2": "tokenizer_config.json",
    "feature_extractor": "preprocessor_config.json",
}
_READERS = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}
# Either is a whole vocabulary. Without one transformers makes a tokenizer that knows no words.
_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
# A tensor that no other part has, by the end of its name; an AutoencoderTiny's names are others.
_TELLTALES = {
    "unet": ("time_embedding.linear_1.weight",),
    "vae": ("decoder.conv_in.weight", "decoder.layers.0.weight"),
    "text_encoder": ("token_embedding.weight",),
    "text_encoder_2": ("token_embedding.weight",),
    "image_encoder": ("patch_embedding.weight",),
}
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


def check_headers(name: str, folder: Path, selection: weights.Selection) -> dict[str, int]:
    """Refuse weights that are not whole, or of another part; pickles are not looked into.

    Args:
        folder: has the selection's files.

    Returns:
        Part → how many numbers its files hold.

    Raises:
        ModelError: with the file, or with the part.
    """
    files = [file for file in selection.weights if file not in selection.pickled]
    tensors: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for file in files:
        try:
            header = weights.read_named(folder, file)
        except (OSError, ValueError) as error:
            raise not_whole(name, error) from error
        part = file.partition("/")[0]
        tensors.setdefault(part, []).extend(header.shapes)
        counts[part] = counts.get(part, 0) + header.parameters()
    for part, names in tensors.items():
        wanted = _TELLTALES.get(part, ("",))
        if not any(tensor.endswith(wanted) for tensor in names):
            raise ModelError(
                f"model {name!r}: expected the weights of a {part} (…{wanted[0]}) in {folder / part}, found "
                f"those of something else ({min(names, default='nothing')}, …); {_AGAIN}"
            )
    return counts


def not_whole(name: str, error: Exception) -> ModelError:
    """What to say of weights whose header cannot be read or does not fit the file."""
    return ModelError(
        f"model {name!r}: expected whole safetensors files, found that {error}; "
        "copy or download them again"
    )


def check_loaded(name: str, where: str, pipe: Any, counts: Mapping[str, int] | None = None) -> None:
    """Refuse a loaded pipeline of which a tensor is missing, or a tokenizer is not its encoder's.

    Args:
        counts: from `check_headers`, of the parts that were loaded from there.

    Raises:
        ModelError: with the part, and what of it does not fit.
    """
    for part, module in pipe.components.items():
        tensors = dict(module.named_parameters()) if hasattr(module, "named_parameters") else {}
        absent = [tensor for tensor, values in tensors.items() if values.is_meta]
        if absent:
            raise ModelError(
                f"model {name!r}: expected all tensors of the {part} in {where}, found {len(absent)} "
                f"missing, the first of them {absent[0]}; {_AGAIN}"
            )
        needed = sum(values.numel() for values in tensors.values())
        if needed > (found := (counts or {}).get(part, needed)):  # the rest would be random
            raise ModelError(
                f"model {name!r}: expected the {needed:,} numbers of the {part} in {where}, found "
                f"{found:,}; {_AGAIN}"
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
