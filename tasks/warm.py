"""What one sampler actor keeps warm: a pipeline, its ControlNet, a depth model; and what it switches."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from manifests.object_store import ChangedError
from manifests.stored_inputs import StoredClip
from tasks.clips import ClipError, read_clip, read_picture
from tasks.job import Job, Signature
from zs2.addons import AddOn
from zs2.text_cache import TextCache

if TYPE_CHECKING:
    from zs2.clip_score import ClipScorer
    from zs2.control import DepthModel
    from zs2.sampler import ZS2Sampler

Frames = np.ndarray[Any, Any]


class WarmModels:
    """Models by the job that needs them: loaded when they differ from the last job's, else kept."""

    def __init__(self) -> None:
        self._signature: Signature | None = None
        self._sampler: ZS2Sampler | None = None
        self._is_offloaded = False
        self._controlnet: tuple[str, str] | None = None
        self._loras: tuple[tuple[str, float], ...] = ()
        self._depth: tuple[AddOn, DepthModel] | None = None
        self._scorer: ClipScorer | None = None

    def sampler(self, job: Job, *, offload: bool = False) -> ZS2Sampler:
        """The job's checkpoint as its signature says, without what `equip` adds.

        Args:
            offload: its parts are to be on the GPU only while they work; stays so until it is switched.

        Raises:
            ModelError: the weights cannot be loaded.
        """
        checkpoint = job.signature._replace(controlnet="", controlnet_revision="")
        if self._sampler is None or self._signature != checkpoint:
            # free the old model first
            self._signature = self._sampler = self._controlnet = None
            self._sampler, self._loras = _load(job, offload), ()
            self._sampler.texts = TextCache()  # rows of one prompt encode it once
            self._signature, self._is_offloaded = checkpoint, offload
        elif offload and not self._is_offloaded:
            self._depth = None
            _offload(self._sampler.pipe)
            self._is_offloaded = True
        return self._sampler

    def equip(self, job: Job) -> dict[str, Any]:
        """Switch ControlNet, LoRAs and IP-Adapter to the job's, and read its clips and its picture.

        Returns:
            The arguments of the sampler's call that these make.

        Raises:
            ModelError: an add-on that cannot be loaded. ClipError: an unusable clip or picture.
        """
        from zs2.addons import use_ip_adapter

        row, conditions = job.row, job.conditions
        if conditions.lost:
            raise ClipError(
                f"it was there when the run was planned, and is not now: {conditions.lost}"
            )
        sampler = self.sampler(job)
        arguments: dict[str, Any] = {}
        if conditions.control_video is not None:
            arguments["conditioning_frames"] = self._control_frames(job, conditions.control_video)
            arguments["controlnet_conditioning_scale"] = row.control_scale
        if conditions.source_video is not None:
            arguments["video"] = _frames(job, conditions.source_video)
            arguments["image_guidance_scale"] = row.image_guidance_scale
        if conditions.ip_adapter_image is not None:
            with _at_hand(conditions.ip_adapter_image) as picture:
                arguments["ip_adapter_image"] = Image.fromarray(read_picture(picture))
        self._use_controlnet(sampler, job)
        self._use_loras(sampler, job)
        use_ip_adapter(sampler.pipe, conditions.ip_adapter, row.ip_adapter_scale or 0.0)
        return arguments

    def scorer(self, job: Job) -> ClipScorer:
        """The CLIP that ranks the job's candidates, where the job's checkpoint computes.

        Raises:
            ModelError: it cannot be loaded.
        """
        from zs2.clip_score import ClipScorer

        info = job.conditions.scorer
        assert info is not None, "a row with candidates has a scorer"
        if self._scorer is None or self._scorer.info != info:
            self._scorer = None
            device = _device(self.sampler(job).pipe)
            self._scorer = ClipScorer.from_pretrained(info, device=device)
        return self._scorer

    def device_name(self, job: Job) -> str:
        """Where the job's checkpoint computes, for the ledger."""
        import torch

        device = _device(self.sampler(job).pipe)
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    def _use_loras(self, sampler: ZS2Sampler, job: Job) -> None:
        from zs2.addons import use_loras
        from zs2.checkpoints.lora import identity_of

        loras = job.conditions.loras
        wanted = tuple((identity_of(lora), lora.weight) for lora in loras)
        if wanted != self._loras and sampler.texts is not None:
            sampler.texts.clear()  # they may act on the text encoders
        self._loras = wanted
        use_loras(sampler.pipe, loras)

    def _use_controlnet(self, sampler: ZS2Sampler, job: Job) -> None:
        from zs2.addons import load_controlnet

        addon = job.conditions.controlnet
        if addon is None:
            return  # the one that is there has nothing to follow and no say
        wanted = (job.signature.controlnet, job.signature.controlnet_revision)
        if self._controlnet != wanted:
            sampler.controlnet = self._controlnet = None
            sampler.controlnet = load_controlnet(
                addon, torch_dtype=sampler.pipe.unet.dtype, device=_device(sampler.pipe)
            )
            self._controlnet = wanted

    def _control_frames(self, job: Job, clip: Path | StoredClip) -> Frames:
        from zs2.control import canny_edges, depth_maps

        row, depth = job.row, job.conditions.depth
        frames = _frames(job, clip)
        if row.canny_low is not None and row.canny_high is not None:
            return canny_edges(frames, row.canny_low, row.canny_high)
        return frames if depth is None else depth_maps(self._depth_model(depth, job), frames)

    def _depth_model(self, addon: AddOn, job: Job) -> DepthModel:
        from zs2.control import load_depth_model

        if self._depth is None or self._depth[0] != addon:
            self._depth = None
            pipe = self.sampler(job).pipe
            model = load_depth_model(addon, torch_dtype=pipe.unet.dtype, device=_device(pipe))
            self._depth = (addon, model)
        return self._depth[1]


def _load(job: Job, offload: bool) -> ZS2Sampler:
    from zs2.models import load_pipeline, placement
    from zs2.sampler import ZS2Sampler

    engine = job.engine
    device, dtype = placement(None if engine.dtype == "auto" else engine.dtype, None)
    pipe = load_pipeline(
        job.model,
        torch_dtype=dtype,
        device="cpu" if offload else device,
        safety_checker=engine.safety_checker,
    )
    pipe.set_progress_bar_config(disable=True)
    if offload:
        _offload(pipe)
    sampler = ZS2Sampler(pipe, job.model.defaults)
    if engine.engine == "compiled":
        sampler.compile()
    return sampler


def _offload(pipe: Any) -> None:
    from zs2.models import placement

    pipe.enable_model_cpu_offload(device=placement(None, None)[0])


def _device(pipe: Any) -> Any:
    """Where a pipeline computes; of one that is offloaded, `pipe.device` is where its parts wait."""
    return pipe._execution_device


def _frames(job: Job, clip: Path | StoredClip) -> Frames:
    row = job.row
    with _at_hand(clip) as path:
        return read_clip(
            path,
            num_frames=row.num_frames,
            fps=row.fps,
            height=row.height or job.model.height,
            width=row.width or job.model.width,
        )


@contextmanager
def _at_hand(clip: Path | StoredClip) -> Generator[Path]:
    """A clip or picture as a local path; one on a store is fetched as it was when it was planned.

    Raises:
        ClipError: it is another now, or gone; or what is raised inside, told of its URL.
    """
    if isinstance(clip, Path):
        yield clip
        return
    try:
        with clip.local_copy() as path:
            try:
                yield path
            except ClipError as error:
                raise ClipError(str(error).replace(str(path), clip.url)) from error
    except ChangedError as error:
        raise ClipError(
            f"it was there when the run was planned, and is not now: {error}"
        ) from error
