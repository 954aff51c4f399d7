"""LoRAs on a warm pipeline: each is loaded once, then switched without reloading anything."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers.utils.peft_utils import delete_adapter_layers
from peft.tuners.lora import LoraLayer

from zs2.addons import PICKLED, AddOn, fetch_addon, identity_of
from zs2.checkpoints.quiet import brief, quiet
from zs2.checkpoints.weights import read_header
from zs2.models import ModelError

MOST_LOADED = 8  # at 10 to 400 MB each they stay below the size of a checkpoint
_PREFIX = "zs2_"  # of our adapters; those of any other name are the owner's of the pipeline
# One per layer that a file changes: as diffusers, older diffusers, PEFT and kohya name it.
_DOWN = re.compile(r"lora(_linear_layer)?\.down\.weight|lora_A\.weight|lora_down\.weight")
_log = logging.getLogger(__name__)
# UNet → names of our adapters, least recently used first.
_used: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()


def use_loras(pipe: Any, loras: Sequence[AddOn]) -> None:
    """Make exactly these LoRAs act on a pipeline, with their weights, beside its owner's own.

    The ones before stay loaded, up to `MOST_LOADED` (the least recently used goes first): to switch
    among them reads no file. Neither the checkpoint's weights nor the owner's LoRAs change. The
    order given counts in the last bits, for they are summed in it.

    Raises:
        ModelError: a LoRA that cannot be had or does not fit; then none of ours acts. Or a pipeline
            whose owner has fused LoRAs or switched them off.
    """
    wanted = {_PREFIX + identity_of(lora): lora for lora in loras}
    if len(wanted) < len(loras):
        names = ", ".join(lora.name for lora in loras)
        raise ModelError(
            f"lora: expected each LoRA once, found {names}; leave out the repeated one"
        )
    present = _ours(pipe)
    if not wanted and not present:
        return
    _check_switchable(pipe, bool(wanted))
    owners = _owners_part(pipe)
    _activate(pipe, owners, {})
    missing = [name for name in wanted if name not in present]
    idle = [name for name in present if name not in wanted]
    surplus = max(0, len(idle) + len(wanted) - MOST_LOADED)
    _remove(pipe, idle[:surplus])
    active: dict[str, float] = {}
    try:
        for name in missing:
            _load(pipe, name, wanted[name])
        active = {name: lora.weight for name, lora in wanted.items()}
    finally:
        _activate(pipe, owners, active)
    _used[pipe.unet] = [*idle[surplus:], *wanted]


def _components(pipe: Any) -> list[Any]:
    parts = [getattr(pipe, name, None) for name in pipe._lora_loadable_modules]
    return [part for part in parts if part is not None]


def _layers(pipe: Any) -> Iterator[Any]:
    for part in _components(pipe):
        yield from (module for module in part.modules() if isinstance(module, LoraLayer))


def _ours(pipe: Any) -> list[str]:
    """Our adapters that are loaded, least recently used first; those of a copied pipeline as well."""
    loaded = {name for names in pipe.get_list_adapters().values() for name in names}
    used = _used.get(pipe.unet, [])
    known = [name for name in used if name in loaded]
    return [*sorted(name for name in loaded - {*used} if name.startswith(_PREFIX)), *known]


def _check_switchable(pipe: Any, on: bool) -> None:
    for layer in _layers(pipe):
        if layer.merged:
            raise ModelError(
                "lora: expected a pipeline without fused LoRAs, found "
                f"{', '.join(layer.merged_adapters)} fused; call pipe.unfuse_lora() first"
            )
        if on and layer.disable_adapters:
            raise ModelError(
                "lora: expected a pipeline with LoRAs switched on, found them switched off; "
                "call pipe.enable_lora() first"
            )


def _owners_part(pipe: Any) -> dict[Any, tuple[list[str], dict[str, float]]]:
    """Layer → the owner's active adapters, and the strength of each there is."""
    return {
        layer: (
            [name for name in layer.active_adapters if not name.startswith(_PREFIX)],
            {k: v for k, v in layer.scaling.items() if not k.startswith(_PREFIX)},
        )
        for layer in _layers(pipe)
    }


def _activate(
    pipe: Any,
    owners: Mapping[Any, tuple[list[str], dict[str, float]]],
    weights: Mapping[str, float],
) -> None:
    for layer in _layers(pipe):
        theirs, scaling = owners.get(layer, ([], {}))
        layer.scaling.update(scaling)
        layer.set_adapter([*theirs, *weights])
        for name, weight in weights.items():
            layer.set_scale(name, weight)


def _load(pipe: Any, name: str, lora: AddOn) -> None:
    path = fetch_addon(lora)
    try:
        with quiet():
            pipe.load_lora_weights(
                str(path.parent), weight_name=path.name, adapter_name=name, local_files_only=True
            )
    except (
        Exception
    ) as error:  # a file that is not as they expect makes the converters raise anything
        _remove(pipe, [name])
        pipe.maybe_free_model_hooks()  # loading has suspended offloading
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelError(
            f"lora {lora.name!r}: expected one made for this checkpoint's family, found that it "
            f"cannot be loaded: {brief(error)}; name another LoRA or another model"
        ) from error
    placed = sum(name in layer.lora_A for layer in _layers(pipe))
    count = placed if path.name.endswith(PICKLED) else _layer_count(path)
    if 2 * placed < count or not placed:  # another family shares some of the layers' names
        _remove(pipe, [name])
        raise ModelError(
            f"lora {lora.name!r}: expected one made for this checkpoint's family, found a place for "
            f"{placed} of its {count} layers; name another LoRA or another model"
        )
    if placed < count:
        _log.warning("lora %s: %d of %d layers found a place", lora.name, placed, count)


def _layer_count(path: Path) -> int:
    return sum(bool(_DOWN.search(tensor)) for tensor in read_header(path).shapes)


def _remove(pipe: Any, names: Sequence[str]) -> None:
    with quiet():
        for part in _components(pipe):
            for name in names:
                delete_adapter_layers(part, name)
