"""The models, add-ons and input files that a plan meets: each found once, and named by its content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from manifests.best_by import parse_best_by
from manifests.digest import digest_of, file_sha256, folder_weights_hash
from manifests.fault import Fault
from manifests.inputs import InputFiles
from manifests.row import ManifestRow, RowError
from tasks.job import Conditions, Engine, Job, check_engine, resolve
from zs2.addons import AddOn, describe_addon
from zs2.clip_score import ScorerInfo, describe_scorer
from zs2.models import SINGLE_FILES, ModelError, ModelInfo, describe
from zs2.post_models import MINI_SR, PostModel, describe_interpolator, describe_upscaler

Found = TypeVar("Found")

IN_WORDS = {
    "controlnet": "ControlNet",
    "depth": "depth model",
    "ip_adapter": "IP-Adapter",
    "lora": "LoRA",
    "best_by": "scorer (a CLIP)",
    "temporal_sr": "interpolation model",
    "spatial_sr": "upscaler",
}
REMEMBERED = 10_000  # names of models, and of add-ons; LoRAs count with their weights

# Where `use_ip_adapter` looks for an image encoder, from an IP-Adapter's file.
ENCODER_FOLDERS = ("image_encoder", "../models/image_encoder")


class Catalogue:
    """Describes each model and add-on once and hashes its weights; finds rows' input files.

    Args:
        allowed: hub ids (of any revision), files and folders, with what is in them, that rows may
            name as models and add-ons; None allows all.
        trusted: hub ids, files and folders whose pickled weights may be loaded.
        inputs: where rows may read clips and pictures from; default their manifest's folder alone.
    """

    def __init__(
        self,
        allowed: Sequence[str] | None = None,
        *,
        trusted: Sequence[str] = (),
        inputs: InputFiles | None = None,
    ) -> None:
        self.allowed = None if allowed is None else {_key(name) for name in allowed}
        self.trusted = tuple(trusted)
        self.inputs = inputs or InputFiles()
        self._models = lru_cache(REMEMBERED)(partial(_attempt, self._look_up))
        self._addons = lru_cache(REMEMBERED)(partial(_attempt, self._look_up_addon))
        self._scorers = lru_cache(REMEMBERED)(partial(_attempt, self._look_up_scorer))
        self._post = lru_cache(REMEMBERED)(partial(_attempt, self._look_up_post))
        self._glances = lru_cache(REMEMBERED)(partial(_attempt, self._glance))

    def find(self, model: str) -> tuple[ModelInfo, str]:
        """A model and its revision.

        Raises:
            ModelError: not to be had, or not allowed.
        """
        return _known(self._models(model))

    def job(
        self,
        row: ManifestRow,
        own: Mapping[str, Any],
        base: Path | str,
        position: int,
        engine: Engine,
    ) -> Job:
        """The job of a row.

        Args:
            own: the row's own values, without the run's defaults.
            base: the folder that names of input files count from.

        Raises:
            RowError: a model or add-on that is not to be had, an input that is not there, a source
                clip where the model edits none, and the other way round, an upscaler of another
                scale, or what the engine cannot compute.
        """
        try:
            model, revision = self.find(row.model)
        except ModelError as error:
            raise RowError([_unusable("model", row.model, error)]) from error
        row = fit_to_model(row, model, own)
        check_engine(row, engine)
        return resolve(row, position, model, revision, engine, self._conditions(row, base))

    def check(self, row: ManifestRow, own: Mapping[str, Any]) -> list[str]:
        """Look at the models and add-ons of a row that are on this machine; nothing is hashed and no
        hub is asked.

        Args:
            own: the row's own values, without the run's defaults.

        Returns:
            The names that only a hub can tell of.

        Raises:
            RowError: as `job` does for models and add-ons, with every fault.
        """
        unasked: list[str] = []
        faults: list[Fault] = []
        loras: list[AddOn] = []
        for kind, name in [("model", row.model), *_named(row), *_scorers(row), *_post(row)]:
            try:
                found = _known(self._glances(kind, name))
                if found is None:
                    unasked.append(name)
                elif isinstance(found, ModelInfo):
                    fit_to_model(row, found, own)
                elif isinstance(found, AddOn) and kind == "lora":
                    loras.append(found)
                elif isinstance(found, PostModel):
                    _check_scale(row, found)
            except ModelError as error:
                faults.append(_unusable(kind, name, error))
            except RowError as error:
                faults += error.faults
        try:
            _check_once(loras)
        except RowError as error:
            faults += error.faults
        if faults:
            raise RowError(faults)
        return unasked

    def _glance(self, kind: str, name: str) -> ModelInfo | AddOn | ScorerInfo | PostModel | None:
        """What is here under a name; None where a hub would be asked."""
        if kind in _POST:
            self._check_post_allowed(kind, name)
            model = name.partition(":")[2]
            is_hubs = name.startswith("diffusers:") and _is_for_a_hub("model", model)
            return None if is_hubs else _POST[kind](name, trusted=self.trusted)
        bare = _bare(name) if kind == "lora" else name
        self._check_allowed(kind, bare)
        if _is_for_a_hub(kind, bare):
            return None
        if kind == "model":
            return describe(name, trusted=self.trusted)
        if kind == "best_by":
            return describe_scorer(name, trusted=self.trusted)
        return describe_addon(kind, name, trusted=self.trusted)

    def _conditions(self, row: ManifestRow, base: Path | str) -> Conditions:
        files = self.inputs.find(row, base)
        identity: dict[str, Any] = {
            column: self.inputs.content(column, path) for column, path in files.items()
        }
        addons: dict[str, AddOn] = {}
        loras: list[tuple[AddOn, list[Any]]] = []
        for kind, name in _named(row):
            addon, known = self._addon(kind, name)
            if kind == "lora":
                loras.append((addon, known))
                continue
            addons[kind] = addon
            if kind == "depth":
                identity["control"] = [str(row.control).partition(":")[0], *known]
            else:
                identity[kind] = known
        if loras:
            _check_once([addon for addon, _ in loras])
            identity["lora"] = [[*known, addon.weight] for addon, known in loras]
        scorer = None
        if row.best_by is not None:
            by = parse_best_by(row.best_by)
            scorer = self._scorer(by.scorer)
            identity["best_by"] = [by.terms, by.steps, scorer.revision]
        through = {column: self._post_model(column, name) for column, name in _post(row)}
        for model, _ in through.values():
            _check_scale(row, model)
        return Conditions(
            scorer=scorer,
            interpolator=through["temporal_sr"][0] if "temporal_sr" in through else None,
            upscaler=through["spatial_sr"][0] if "spatial_sr" in through else None,
            post={column: known for column, (_, known) in through.items()},
            control_video=files.get("control_video"),
            source_video=files.get("source_video"),
            ip_adapter_image=files.get("ip_adapter_image"),
            controlnet=addons.get("controlnet"),
            depth=addons.get("depth"),
            ip_adapter=addons.get("ip_adapter"),
            loras=tuple(addon for addon, _ in loras),
            identity=identity,
        )

    def _addon(self, kind: str, name: str) -> tuple[AddOn, list[Any]]:
        try:
            return _known(self._addons(kind, name))
        except ModelError as error:
            raise RowError([_unusable(kind, name, error)]) from error

    def _scorer(self, name: str) -> ScorerInfo:
        try:
            return _known(self._scorers(name))
        except ModelError as error:
            raise RowError([_unusable("best_by", name, error)]) from error

    def _post_model(self, column: str, name: str) -> tuple[PostModel, str]:
        try:
            return _known(self._post(column, name))
        except ModelError as error:
            raise RowError([_unusable(column, name, error)]) from error

    def _look_up_post(self, column: str, name: str) -> tuple[PostModel, str]:
        """A model that frames go through, and what stands for its name in the digest."""
        self._check_post_allowed(column, name)
        model = _POST[column](name, trusted=self.trusted)
        if model.is_local:
            model = replace(model, location=_rooted(model.location))
        revision = model.revision or folder_weights_hash(model.location)
        return model, f"{name.partition(':')[0]}:{revision}"

    def _check_post_allowed(self, column: str, name: str) -> None:
        if name != MINI_SR:  # which is part of zs2
            self._check_allowed(column, name.partition(":")[2])

    def _look_up_scorer(self, name: str) -> ScorerInfo:
        self._check_allowed("best_by", name)
        scorer = describe_scorer(name, trusted=self.trusted)
        return replace(scorer, location=_rooted(scorer.location)) if scorer.is_local else scorer

    def _look_up(self, model: str) -> tuple[ModelInfo, str]:
        self._check_allowed("model", model)
        info = describe(model, trusted=self.trusted)
        if info.is_local:
            configuration = info.configuration and _rooted(info.configuration)
            info = replace(info, location=_rooted(info.location), configuration=configuration)
        revision = info.revision or folder_weights_hash(info.location)
        if info.configuration_hash is not None:  # a single file's, which lies elsewhere
            revision = digest_of({"weights": revision, "configuration": info.configuration_hash})
        return info, revision

    def _look_up_addon(self, kind: str, name: str) -> tuple[AddOn, list[Any]]:
        self._check_allowed(kind, _bare(name) if kind == "lora" else name)
        addon = describe_addon(kind, name, trusted=self.trusted)
        if addon.revision is not None:
            return addon, [addon.revision, addon.file]
        addon = replace(addon, location=_rooted(addon.location))
        return addon, [_weights_hash(addon)]

    def _check_allowed(self, kind: str, name: str) -> None:
        if self.allowed is None:
            return
        key = _key(name)
        for allowed in self.allowed:
            inside = Path(allowed).is_absolute() and Path(key).is_relative_to(allowed)
            if key == allowed or inside:
                return
        raise ModelError(
            f"{kind} {name!r}: expected one of the allowed models "
            f"({', '.join(sorted(self.allowed)) or 'none'}), found another; allow it with "
            "--allow-model"
        )


def fit_to_model(row: ManifestRow, model: ModelInfo, own: Mapping[str, Any]) -> ManifestRow:
    """The row as its model can render it: a run default for a source clip has no use without a model
    that edits.

    Raises:
        RowError: the model edits clips and the row has none, or the other way round.
    """
    if model.edits and row.source_video is None:
        expected = f"the clip to edit, as {row.model} edits clips by instruction"
        raise RowError([Fault("source_video", expected, "no value")])
    if model.edits or row.source_video is None:
        return row
    if own.get("source_video") is not None:
        expected = f"no value, as {row.model} makes clips from text"
        hint = "name an InstructPix2Pix model, or leave it null"
        raise RowError([Fault("source_video", expected, repr(row.source_video), hint)])
    return replace(row, source_video=None, image_guidance_scale=None)


def _rooted(location: str) -> str:
    """A local path made absolute: an actor's working folder may be another. Hub ids stay."""
    path = Path(location)
    return str(path.absolute()) if path.exists() else location


def _attempt(look_up: Callable[..., Found], *names: str) -> Found | ModelError:
    """What is found; or why it is not, so that this is remembered, too."""
    try:
        return look_up(*names)
    except ModelError as error:
        return error
    except (OSError, RuntimeError) as error:  # a name too long, a home that is not there
        return ModelError(f"it cannot be looked up ({error}); check the name")


def _known(found: Found | ModelError) -> Found:
    if isinstance(found, ModelError):
        raise found
    return found


def _check_once(loras: Sequence[AddOn]) -> None:
    names = [addon.name for addon in loras]
    if len({(addon.location, addon.revision, addon.file) for addon in loras}) < len(loras):
        hint = "leave out the repeated one and give the other its weight"
        raise RowError([Fault("lora", "each LoRA once", ", ".join(names), hint)])


def _unusable(kind: str, name: str, error: ModelError) -> Fault:
    before, _, after = str(error).partition(": ")
    column = "control" if kind == "depth" else kind
    return Fault(column, f"a usable {IN_WORDS.get(kind, kind)}", name, after or before)


def _named(row: ManifestRow) -> list[tuple[str, str]]:
    """The row's add-ons: (kind, name)."""
    depth_model = (row.control or "").partition(":")[2]
    named = [("controlnet", row.controlnet), ("depth", depth_model), ("ip_adapter", row.ip_adapter)]
    loras = [("lora", name) for name in row.lora]
    return [(kind, name) for kind, name in named if name] + loras


def _scorers(row: ManifestRow) -> list[tuple[str, str]]:
    return [] if row.best_by is None else [("best_by", parse_best_by(row.best_by).scorer)]


_POST: dict[str, Callable[..., PostModel]] = {
    "temporal_sr": describe_interpolator,
    "spatial_sr": describe_upscaler,
}


def _post(row: ManifestRow) -> list[tuple[str, str]]:
    """The models that the row's frames go through: (column, name); none where the scale is 1."""
    temporal = [("temporal_sr", row.temporal_sr)] if row.temporal_scale > 1 else []
    spatial = [("spatial_sr", row.spatial_sr)] if row.spatial_scale > 1 else []
    return [
        (column, name)
        for column, name in temporal + spatial
        if ":" in name or (column == "spatial_sr" and name == MINI_SR)
    ]


def _check_scale(row: ManifestRow, model: PostModel) -> None:
    """That an upscaler enlarges by what the row asks for."""
    if model.scale not in (None, row.spatial_scale):
        expected = f"{model.scale}, as {row.spatial_sr} is a {model.pipeline}"
        hint = "set it so, or spatial_sr to mini-sr"
        raise RowError([Fault("spatial_scale", expected, str(row.spatial_scale), hint)])


def _bare(lora: str) -> str:
    """A LoRA's name without its weight; a file that is there under the whole name is that file."""
    return lora if Path(lora).expanduser().exists() else lora.rpartition(":")[0] or lora


def _is_for_a_hub(kind: str, name: str) -> bool:
    """Whether a name can only mean something on a hub: relative, not here, and shaped so."""
    path = Path(name).expanduser()
    if path.exists() or path.is_absolute() or name.startswith((".", "~")):
        return False
    parts = len(path.parts)
    if parts == 2:
        return path.suffix not in SINGLE_FILES
    return parts > 2 and kind not in ("model", "depth")


def _key(name: str) -> str:
    """What an allow-list compares: a local path resolved, of a hub name owner and repository."""
    path = Path(name).expanduser()
    if path.exists() or path.is_absolute() or name.startswith("."):
        return str(path.resolve())
    return "/".join(name.partition("@")[0].split("/")[:2])


def _weights_hash(addon: AddOn) -> str:
    """What stands for a local add-on's revision: the content of all that is loaded with it."""
    if addon.kind in ("controlnet", "depth"):
        return folder_weights_hash(addon.location)
    file = Path(addon.location, addon.file or "")
    parts = {"file": file_sha256(file)}
    if addon.kind == "ip_adapter":
        folders = {name: file.parent / name for name in ENCODER_FOLDERS}
        parts |= {n: folder_weights_hash(path) for n, path in folders.items() if path.is_dir()}
    return digest_of(parts)
