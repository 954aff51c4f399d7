"""A job: one row with everything resolved, its digests, and the result row that it ends as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from manifests.best_by import parse_best_by
from manifests.digest import digest_of
from manifests.row import Fault, ManifestRow, RowError
from manifests.stored_inputs import StoredClip
from tasks.together import shared_fields, why_alone
from zs2.addons import AddOn
from zs2.clip_score import ScorerInfo
from zs2.models import ModelInfo
from zs2.post_models import PostModel
from zs2.speed import SPEEDS, Pictures, steps_of

RECIPE = "2"  # raised whenever the same settings begin to give other bytes

# UNet pictures that one with a ControlNet beside it costs: the net has 0.35 of the UNet's operations in
# SD 1.5 at 512 pixels and 0.45 in SDXL at 1024, counted by torch.utils.flop_counter.
CONTROLNET_COST = 1.4

# What of one remains where deep features are reused (`zs2.reuse`), counted the same way: 0.38 in SD 1.5,
# 0.46 in SD 2.1 at 768 pixels, 0.57 in zs2-mini; SDXL has next to nothing in its outermost blocks.
SHALLOW_COST = 0.4
SHALLOW_COST_SDXL = 0.07

CALL_DEADLINE = 3600.0  # seconds that one stage of one row may take

ENGINES = ("eager", "compiled")
MOST_CLIPS = 64  # in a UNet call: beyond, memory grows and nothing is gained

# Columns that decide the latents; those that only change what is made of them.
POST_COLUMNS = (
    "fps",
    "temporal_sr",
    "temporal_scale",
    "spatial_sr",
    "spatial_scale",
    "codec",
    "quality",
)
# Names, for which revisions and contents stand in the digest.
_NAMES = (
    *("model", "lora", "controlnet", "ip_adapter"),
    *("control_video", "source_video", "ip_adapter_image"),
)
_COLUMNS = tuple(name for name in ManifestRow.__slots__ if name != "meta")
_NOT_SAMPLED = frozenset({"id", *_NAMES, *POST_COLUMNS})
_values = attrgetter(*_COLUMNS)


@dataclass(frozen=True)
class Engine:
    """How the sampler computes; part of every digest, never chosen by the size of a run.

    Attributes:
        dtype: `float32`, `float16`, `bfloat16`, or `auto`: float16 on a GPU, float32 on the CPU.
        safety_checker: a checkpoint's own checker is honoured.
        engine: one of ENGINES; `compiled`: the UNet's blocks are compiled by torch (`zs2.compiled`).
        clips_per_call: clips side by side in a UNet call, of rows that can share one.
    """

    dtype: str = "auto"
    safety_checker: bool = True
    engine: str = "eager"
    clips_per_call: int = 1


class Signature(NamedTuple):
    """What rows must share to run on one warm actor without a switch.

    LoRAs and IP-Adapters are not in it: they are switched on the warm pipeline.
    """

    location: str
    revision: str
    dtype: str
    safety_checker: bool
    controlnet: str = ""
    controlnet_revision: str = ""
    engine: str = "eager"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a row brings beside its words: input files, found, and add-ons, described.

    Attributes:
        identity: by column, what enters the digest in place of the names: hashes of contents, and
            the revisions of add-ons with their weights.
        interpolator, upscaler: models that the frames go through, if any; `post` what enters the digest
            of the video in place of their names, by column.
        lost: why some of it, there when the run was planned, is no longer to be had.
    """

    control_video: Path | StoredClip | None = None
    source_video: Path | StoredClip | None = None
    ip_adapter_image: Path | StoredClip | None = None
    controlnet: AddOn | None = None
    depth: AddOn | None = None
    ip_adapter: AddOn | None = None
    loras: tuple[AddOn, ...] = ()
    scorer: ScorerInfo | None = None
    identity: Mapping[str, Any] = field(default_factory=dict[str, Any])
    interpolator: PostModel | None = None
    upscaler: PostModel | None = None
    post: Mapping[str, str] = field(default_factory=dict[str, str])
    lost: str = ""

    @property
    def reads_a_clip(self) -> bool:
        """Whether frames are taken from a clip, at the row's rate: then `fps` decides the latents."""
        return self.control_video is not None or self.source_video is not None


NO_CONDITIONS = Conditions()


@dataclass(frozen=True, slots=True)
class Job:
    """One row to render: what the user asked for, the model's choices filled in, and its names.

    Attributes:
        position: the row's number in the whole manifest.
        revision: the hub's commit, or the hash of a local model's weights.
        sample_digest: of all that decides the latents; `digest`: of all that decides the video.
    """

    row: ManifestRow
    position: int
    model: ModelInfo
    revision: str
    engine: Engine
    sample_digest: str
    digest: str
    conditions: Conditions = NO_CONDITIONS

    @property
    def signature(self) -> Signature:
        """What the job shares with those that need no switch after it."""
        engine, net = self.engine, self.conditions.controlnet
        return Signature(
            self.model.location,
            self.revision,
            engine.dtype,
            engine.safety_checker,
            controlnet=net.location if net else "",
            controlnet_revision=str(self.conditions.identity["controlnet"][0]) if net else "",
            engine=engine.engine,
        )

    @property
    def clips_per_call(self) -> int:
        """Clips side by side in the row's UNet calls."""
        return 1 if self.why_alone is not None else self.engine.clips_per_call

    @property
    def why_alone(self) -> str | None:
        """Why the row keeps its UNet calls to itself where others share them; None where it shares them,
        or none does."""
        if self.engine.clips_per_call == 1:
            return None
        return why_alone(self.row, self.conditions)

    def shares_calls_with(self, other: Job) -> bool:
        """Whether one UNet call may have both rows' clips side by side."""
        return (
            self.clips_per_call > 1
            and self.signature == other.signature
            and self.shared_fields == other.shared_fields
        )

    @property
    def shared_fields(self) -> dict[str, Any]:
        """What rows that share UNet calls agree in."""
        fields = sample_fields(self.row, self.revision, self.engine, self.conditions)
        return shared_fields(fields)

    @property
    def is_guided(self) -> bool:
        row = self.row
        follows = row.image_guidance_scale is None or row.image_guidance_scale >= 1
        return (row.guidance_scale or 0) > 1 and follows

    @property
    def unet_calls(self) -> int:
        """UNet calls of the clip and the other candidates: segments, and those of frames in between,
        times steps (PNDM takes one step more)."""
        return self._segments * sum(self._runs)

    @property
    def unet_pictures(self) -> int:
        """Pictures through the UNet, padding and guidance copies included: two with guidance, three
        where a clip is edited by instruction."""
        return self._pictures.all

    @property
    def shallow_pictures(self) -> int:
        """Those of `unet_pictures` of which the outermost blocks alone are computed."""
        return self._pictures.shallow

    @property
    def unet_copies(self) -> int:
        """Pictures of each frame in a UNet call, as long as it is guided."""
        return (3 if self.model.edits else 2) if self.is_guided else 1

    @property
    def padded_pictures(self) -> int:
        """Those of `unet_pictures` that only fill up the last segment of a clip, or of the frames in
        between."""
        row = self.row
        slots = self._segments * row.segment_frames
        frames = row.num_frames + (row.num_frames - 1) * (row.in_between - 1)
        return self.unet_pictures * (slots - frames) // slots

    @property
    def _segments(self) -> int:
        """UNet calls of each step: segments of the clip and of its frames in between."""
        row = self.row
        m, gaps = row.segment_frames, row.in_between - 1
        between = sum(
            -(-gaps * min(m, row.num_frames - 1 - start) // m)
            for start in range(0, row.num_frames - 1, m)
        )
        return row.num_segments + between

    @property
    def native_pictures(self) -> float:
        """`unet_pictures` in pictures of the model's own size, by area: what a rate is counted in.
        One with a ControlNet beside it counts as CONTROLNET_COST, a shallow one as SHALLOW_COST."""
        height, width = self.row.height or 0, self.row.width or 0
        cost = CONTROLNET_COST if self.conditions.controlnet else 1.0
        is_sdxl = self.model.pipeline == "StableDiffusionXLPipeline"
        spared = 1 - (SHALLOW_COST_SDXL if is_sdxl else SHALLOW_COST)
        made = self._pictures
        pictures = (made.all - spared * made.shallow) * cost
        return pictures * (height * width) / (self.model.height * self.model.width)

    @property
    def _runs(self) -> list[int]:
        """UNet calls of every denoising of the row, counted as if it had one segment."""
        row, steps = self.row, self.row.num_inference_steps or 0
        runs = [steps] * row.best_of
        if row.best_by is not None and (ranked := parse_best_by(row.best_by).steps) is not None:
            runs = [ranked] * row.best_of + [steps]
        return [run + (row.scheduler == "pndm") for run in runs]

    @property
    def _pictures(self) -> Pictures:
        speed, copies = SPEEDS[self.row.speed], self.unet_copies
        runs = [speed.pictures(run, copies) for run in self._runs]
        frames = self._segments * self.row.segment_frames
        return Pictures(
            frames * sum(run.all for run in runs), frames * sum(run.shallow for run in runs)
        )

    @property
    def output_frames(self) -> int:
        """Frames of the finished video."""
        return (self.row.num_frames - 1) * self.row.temporal_scale + 1


def check_engine(row: ManifestRow, engine: Engine) -> None:
    """See that the engine can compute a row, before anything is loaded.

    Raises:
        RowError: what it cannot, and what to do.
    """
    if engine.engine == "eager":
        return
    use = "use --engine eager"
    none = "no value with the engine compiled, which would compile each anew"
    faults: list[Fault] = []
    if row.lora:
        faults.append(Fault("lora", none, ", ".join(row.lora), f"leave it null, or {use}"))
    if row.ip_adapter:
        faults.append(Fault("ip_adapter", none, row.ip_adapter, f"leave it null, or {use}"))
    if row.in_between > 1:
        expected = "another method with the engine compiled, which samples no frames in between"
        faults.append(Fault("temporal_sr", expected, row.temporal_sr, use))
    if faults:
        raise RowError(faults)


def resolve(
    row: ManifestRow,
    position: int,
    model: ModelInfo,
    revision: str,
    engine: Engine,
    conditions: Conditions = NO_CONDITIONS,
) -> Job:
    """Fill in what the model decides (size, steps, guidance) and compute the digests."""
    defaults = model.defaults
    values = dict(zip(_COLUMNS, _values(row), strict=True))  # `replace` takes three times as long
    values["height"] = row.height or model.height
    values["width"] = row.width or model.width
    values["scheduler"], values["num_inference_steps"] = steps_of(
        row.speed, row.scheduler, row.num_inference_steps, defaults.num_inference_steps
    )
    values["guidance_scale"] = float(  # a model's own may be written as a whole number
        defaults.guidance_scale if row.guidance_scale is None else row.guidance_scale
    )
    resolved = ManifestRow(**values, meta=row.meta)
    sample_digest = digest_of(sample_fields(resolved, revision, engine, conditions))
    digest = digest_of(video_fields(resolved, sample_digest, engine, conditions))
    return Job(resolved, position, model, revision, engine, sample_digest, digest, conditions)


def sample_fields(
    row: ManifestRow, revision: str, engine: Engine, conditions: Conditions
) -> dict[str, Any]:
    """All that decides the latents: what the sample digest is of."""
    columns = columns_of(row)
    return {
        "recipe": RECIPE,
        "revision": revision,
        "dtype": engine.dtype,
        **({} if engine.engine == "eager" else {"engine": engine.engine}),
        **_call_field(row, engine, conditions),
        **{name: value for name, value in columns.items() if name not in _NOT_SAMPLED},
        **conditions.identity,
        **({"fps": row.fps} if conditions.reads_a_clip else {}),
        **({"in_between": row.in_between} if row.in_between > 1 else {}),
    }


def _call_field(row: ManifestRow, engine: Engine, conditions: Conditions) -> dict[str, int]:
    if engine.clips_per_call == 1 or why_alone(row, conditions) is not None:
        return {}
    return {"clips_per_call": engine.clips_per_call}


def video_fields(
    row: ManifestRow, sample_digest: str, engine: Engine, conditions: Conditions
) -> dict[str, Any]:
    """All that decides the video: what the digest is of."""
    return {
        "sample": sample_digest,
        "safety_checker": engine.safety_checker,
        **{name: getattr(row, name) for name in _post_columns(row)},
        **conditions.post,
    }


def columns_of(row: ManifestRow) -> dict[str, Any]:
    """The row's values; unset columns left out, so that a column added later changes no digest."""
    values = zip(_COLUMNS, _values(row), strict=True)
    return {name: value for name, value in values if value not in (None, ())}


def _post_columns(row: ManifestRow) -> list[str]:
    unused = {"temporal_sr"} if row.temporal_scale == 1 else set[str]()
    unused |= {"spatial_sr"} if row.spatial_scale == 1 else set[str]()
    return [name for name in POST_COLUMNS if name not in unused]
