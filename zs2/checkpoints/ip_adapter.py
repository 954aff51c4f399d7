"""An IP-Adapter on a warm pipeline: a picture as part of the prompt of every frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from weakref import WeakKeyDictionary

import torch

from zs2.addons import PICKLED, AddOn, fetch_addon, identity_of
from zs2.checkpoints.folders import read_json
from zs2.checkpoints.quiet import brief, quiet
from zs2.checkpoints.weights import read_header
from zs2.models import ModelError


@dataclass(frozen=True)
class _Conditioning:
    """Everything of a pipeline that an IP-Adapter changes.

    Attributes:
        processors: of the UNet's attention, by layer.
        projection, projection_type: the UNet's `encoder_hid_proj` and its kind.
        image_encoder, feature_extractor: the pipeline's.
    """

    processors: Mapping[str, Any]
    projection: Any
    projection_type: str | None
    image_encoder: Any
    feature_extractor: Any

    @classmethod
    def of(cls, pipe: Any) -> _Conditioning:
        return cls(
            pipe.unet.attn_processors,
            pipe.unet.encoder_hid_proj,
            pipe.unet.config.encoder_hid_dim_type,
            pipe.image_encoder,
            pipe.feature_extractor,
        )

    def restore(self, pipe: Any) -> None:
        pipe.unet.set_attn_processor(dict(self.processors))
        pipe.unet.encoder_hid_proj = self.projection
        pipe.unet.config.encoder_hid_dim_type = self.projection_type
        pipe.register_modules(
            image_encoder=self.image_encoder, feature_extractor=self.feature_extractor
        )
        pipe.maybe_free_model_hooks()  # where parts are offloaded: now those that are there


@dataclass(frozen=True)
class _InUse:
    """Our IP-Adapter on a pipeline: which one, how to know it there, and what was before."""

    identity: str
    projection: Any
    before: _Conditioning


_in_use: WeakKeyDictionary[Any, _InUse] = WeakKeyDictionary()


def use_ip_adapter(pipe: Any, addon: AddOn | None, scale: float = 1.0) -> None:
    """Make this IP-Adapter, or none of ours, act on a pipeline; one that acts only changes its scale.

    Pictures are read by the pipeline's own image encoder, else by the folder `image_encoder` beside
    the adapter's file, or beside it in `models` (the adapters' first repository shares one so).
    Without an adapter the pipeline has its very own processors and parts again.

    Raises:
        ModelError: an adapter that cannot be had or does not fit, or no image encoder for it; then
            none of ours acts.
    """
    ours = _in_use.get(pipe)
    if ours and pipe.unet.encoder_hid_proj is not ours.projection:
        ours = None  # its owner has unloaded or replaced it
    if ours and (addon is None or ours.identity != identity_of(addon)):
        ours.before.restore(pipe)
        ours = None
    if ours is None:
        _in_use.pop(pipe, None)
    if addon is None:
        return
    if ours is None:
        _in_use[pipe] = _load(pipe, addon)
    pipe.set_ip_adapter_scale(scale)


def _load(pipe: Any, addon: AddOn) -> _InUse:
    before = _Conditioning.of(pipe)
    file = PurePosixPath(addon.file or "")
    folders = [file.parent / "image_encoder", file.parent.parent / "models" / "image_encoder"]
    path = fetch_addon(addon, *(f"{folder}/config.json" for folder in folders))
    encoder = _image_encoder(pipe, addon, path)
    try:
        pipe.register_modules(image_encoder=encoder)
        with quiet():
            pipe.load_ip_adapter(
                str(path.parent),
                subfolder="",
                weight_name=path.name,
                image_encoder_folder=None,
                local_files_only=True,
            )
    except Exception as error:  # a file that is not as it expects makes the loader raise anything
        before.restore(pipe)
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelError(
            f"ip_adapter {addon.name!r}: expected one made for this checkpoint's family, found that "
            f"it cannot be loaded: {brief(error)}; name another IP-Adapter or another model"
        ) from error
    pipe.maybe_free_model_hooks()  # where parts are offloaded, the encoder is too
    return _InUse(identity_of(addon), pipe.unet.encoder_hid_proj, before)


def _image_encoder(pipe: Any, addon: AddOn, path: Path) -> Any:
    """The pipeline's own, else the first beside the file that gives what the adapter reads."""
    part, wanted = _reads(path)
    if pipe.image_encoder is not None:
        found = getattr(pipe.image_encoder.config, part)
        if wanted not in (None, found):
            raise ModelError(
                f"ip_adapter {addon.name!r}: expected an image encoder with {part} {wanted}, found "
                f"{found} in the pipeline's own; name an adapter made for it"
            )
        return pipe.image_encoder
    seen: list[str] = []
    for folder in (path.parent / "image_encoder", path.parent.parent / "models" / "image_encoder"):
        if not (folder / "config.json").is_file():
            continue
        found = read_json(addon.name, folder / "config.json").get(part)
        if wanted in (None, found):
            return _load_encoder(pipe, addon, path, folder)
        seen.append(f"{folder} with {found}")
    raise ModelError(
        f"ip_adapter {addon.name!r}: expected a folder image_encoder beside {path.name}, a CLIP vision "
        f"model with {part} {wanted}; found {', '.join(seen) or 'none'}; put one there"
    )


def _load_encoder(pipe: Any, addon: AddOn, path: Path, folder: Path) -> Any:
    from transformers import CLIPVisionModelWithProjection

    if addon.revision is not None:
        root = path.parents[len(PurePosixPath(addon.file or "").parts) - 1]
        fetch_addon(addon, (folder / "model.safetensors").relative_to(root).as_posix())
    try:
        with quiet():
            encoder = CLIPVisionModelWithProjection.from_pretrained(
                folder, dtype=pipe.unet.dtype, use_safetensors=True, local_files_only=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"ip_adapter {addon.name!r}: expected a CLIP vision model with .safetensors weights in "
            f"{folder}, found {brief(error)}; copy or save it again"
        ) from error
    return encoder.eval().to(pipe.device)


def _reads(path: Path) -> tuple[str, int | None]:
    """What an adapter reads of an image encoder: the configuration's name of it, and how many
    numbers (None: a pickle does not tell)."""
    if path.name.endswith(PICKLED):
        return "projection_dim", None
    shapes = read_header(path).shapes
    if "image_proj.proj.weight" in shapes:  # plain: the projected embedding
        return "projection_dim", shapes["image_proj.proj.weight"][1]
    for name in ("image_proj.proj.0.weight", "image_proj.proj_in.weight"):  # full face; plus
        if name in shapes:
            return "hidden_size", shapes[name][1]
    return "hidden_size", None
