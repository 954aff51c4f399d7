"""The columns of a manifest, one record each: names, defaults and limits live here alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from manifests.best_by import DEFAULT as BEST_BY
from manifests.best_by import MOST_CANDIDATES, best_by_kind
from manifests.kinds import (
    Kind,
    KindError,
    choice,
    names,
    number,
    per_frame,
    steps,
    text,
    texts,
    whole,
)

META = "meta_"  # columns of this prefix are the user's own and ride along to the results
MAX_SIDE = 8192  # pixels; a larger frame is a typing error
MAX_FPS = 240.0
SCHEDULERS = ("ddim", "dpm++", "unipc", "euler", "euler_a", "pndm", "lcm")
NOISES = ("dependency", "iid", "mixed", "progressive")
NOISES_WITH_ALPHA = ("mixed", "progressive")
FAST_SCHEDULER = "dpm++"  # of a fast row that names neither scheduler nor steps
SOLVERS = ("expected", "exact", "search", "algorithm1")
CODECS = ("h264", "h265", "av1", "ffv1", "gif", "webp", "png")
SEGMENT_FRAMES = 8  # the paper's m
CONTROLS = ("canny", "depth", "pose")
CANNY_MOST = 2040  # of OpenCV's gradient: |dx| + |dy|, each at most 4 · 255 under a 3×3 Sobel

# Defaults that a row gets only where the column has a use: other rows' digests do not know of them.
WHERE_USED: dict[str, int | float] = {
    "control_scale": 1.0,
    "canny_low": 100,
    "canny_high": 200,
    "image_guidance_scale": 1.5,
    "ip_adapter_scale": 1.0,
}

# codec -> (lowest, highest, default) of `quality`; a codec that is not here has no such setting
QUALITY = {
    "h264": (0, 51, 18),
    "h265": (0, 51, 20),
    "av1": (0, 63, 24),
    "webp": (0, 100, 90),
}

# codec -> fewest pixels of a side; encoders of smaller pictures crash
LEAST_SIDE = {"h265": 32, "av1": 16}
# codec -> most pixels of (height, width); encoders refuse larger pictures: x264, SVT-AV1, libwebp
MOST_SIDES = {"h264": (16384, 16384), "av1": (8704, 16384), "webp": (16383, 16383)}

# codec -> most frames a second that its container keeps; `fps` times `temporal_scale` may not pass it
LEAST_FPS = 0.01  # of every codec: a frame that stands for 100 s
MOST_FPS = dict.fromkeys(CODECS, 1000.0) | {"gif": 100.0, "av1": 240.0}

# What a row is called in the ledger whose id is wrong; no other row may have such a name.
INVALID_ROW = "invalid-row-"
_ID = re.compile(rf"(?!{INVALID_ROW}[0-9]+\Z)[A-Za-z0-9_-][A-Za-z0-9._-]{{0,127}}")
_ID_EXPECTED = "1 to 128 of `A-Za-z0-9._-`, not starting with a dot"


def fits_ffmpeg(height: int, width: int) -> bool:
    """Whether ffmpeg takes pictures of that size, whatever the codec: a little less than 2^28 pixels
    (its `av_image_check_size2`)."""
    return (8 * width + 1024) * (height + 128) < 2**31 - 1


def is_id(value: object) -> bool:
    """Whether a value may name a row: 1-128 of A-Za-z0-9._-, not starting with a dot."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _parse_id(value: Any) -> str:
    if is_id(value):
        return value
    reserved = isinstance(value, str) and value.startswith(INVALID_ROW)
    raise KindError(
        _ID_EXPECTED, f"`{INVALID_ROW}N` is the name of a row without an id" if reserved else ""
    )


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the manifest.

    `default` is the built-in default; None where there is none, or where `default_text` says what
    decides it (the model, the id, another column).
    """

    name: str
    arrow: str
    kind: Kind
    default: Any
    meaning: str
    default_text: str = ""
    settable: bool = True

    @property
    def shown_default(self) -> str:
        """The default in words."""
        if self.default_text:
            return self.default_text
        if self.default is None or self.default == ():
            return "none"
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default) or '""'


def _named(name: str, expected: str, meaning: str) -> Column:
    return Column(name, "string", text(expected, empty=False), None, meaning)


def _where_used(name: str, kind: Kind, meaning: str, use: str) -> Column:
    default = WHERE_USED[name]
    arrow = "float" if isinstance(default, float) else "int32"
    return Column(name, arrow, kind, None, meaning, default_text=f"{default:g} (with {use})")


_CLIP = "the path of a video or of a folder of images"
_ADAPTER = "a hub id with its file (owner/name/folder/file.safetensors) or a local file"
_STRING_OR_LIST = "string or list<string>"
_FLOAT_OR_LIST = "float or list<float>"

_TABLE = (
    Column(
        "id",
        "string",
        Kind(_ID_EXPECTED, "text", _parse_id),
        None,
        "unique name of the row; 1-128 of A-Za-z0-9._-, not starting with a dot",
        default_text="required",
        settable=False,
    ),
    Column(
        "prompt",
        _STRING_OR_LIST,
        texts("text of at most 100,000 characters, or a list of such texts"),
        None,
        "what to show; a list is a storyboard, one prompt per segment",
        default_text="required",
        settable=False,
    ),
    Column("negative_prompt", "string", text(), "", "what to avoid"),
    Column(
        "seed",
        "int64",
        whole(0, 2**63 - 1),
        None,
        "0 ≤ seed < 2^63",
        default_text="from the id's hash",
    ),
    Column(
        "model",
        "string",
        text("a bundled name, a hub id, a local folder or a .safetensors file", empty=False),
        "zs2-mini",
        "a bundled name, a hub id with optional @revision, a local folder or a .safetensors file",
    ),
    Column(
        "lora",
        "list<string>",
        names("LoRAs, each a hub id or file, optionally with `:weight`"),
        (),
        "hub ids (owner/name, owner/name/file.safetensors) or local files, each optionally :weight",
    ),
    Column("num_frames", "int32", whole(1), 8, "frames of the sampled clip (n)"),
    Column(
        "segment_frames",
        "int32",
        whole(1),
        None,
        "frames sampled in one UNet call (m), at most num_frames",
        default_text=f"min({SEGMENT_FRAMES}, num_frames)",
    ),
    Column(
        "chain",
        "string",
        choice(("exact", "anchor")),
        "exact",
        "how segments are chained: exact (as one shot) or anchor (restart at the last frame)",
    ),
    Column(
        "height",
        "int32",
        whole(8, MAX_SIDE, 8),
        None,
        "pixels, a multiple of 8",
        default_text="the model's",
    ),
    Column(
        "width",
        "int32",
        whole(8, MAX_SIDE, 8),
        None,
        "pixels, a multiple of 8",
        default_text="the model's",
    ),
    Column(
        "num_inference_steps",
        "int32",
        whole(1, 1000),
        None,
        "denoising steps",
        default_text="the model's",
    ),
    Column(
        "guidance_scale",
        "float",
        number(0),
        None,
        "classifier-free guidance",
        default_text="the model's",
    ),
    Column("scheduler", "string", choice(SCHEDULERS), "ddim", "the denoising scheduler"),
    Column("noise", "string", choice(NOISES), "dependency", "the model of the initial noise"),
    Column(
        "alpha",
        "float",
        number(0, 1),
        None,
        "α of mixed and progressive noise; required there, refused elsewhere",
    ),
    Column(
        "kl_target",
        _FLOAT_OR_LIST,
        per_frame(number(0), "num_frames − 1"),
        0.01,
        "λ, the KL divergence between neighbours' noise: speed of motion; 0 is a still clip",
    ),
    Column(
        "solver",
        "string",
        choice(SOLVERS),
        "expected",
        "how α is found from λ; algorithm1, as printed, can stand still",
    ),
    Column("noise_candidates", "int32", whole(1), 1, "noises drawn per frame before the solver"),
    Column(
        "momentum",
        _FLOAT_OR_LIST,
        per_frame(number(0, 1), "num_frames"),
        0.98,
        "μ of temporal momentum attention; of a list the first value is not used",
    ),
    Column(
        "speed",
        "string",
        choice(("exact", "fast")),
        "exact",
        "fast: half the model's steps by dpm++ where the row names neither, no guidance in the last 3 "
        "tenths of them, deep features computed in every second one; clips move a little less",
    ),
    Column(
        "long_prompt",
        "string",
        choice(("truncate", "chunk", "fail")),
        "truncate",
        "past the text encoder's length: truncate (warns in the ledger), chunk or fail",
    ),
    Column(
        "control",
        "string",
        choice(CONTROLS, named=("depth",)),
        None,
        "what the control clip is: canny computes edges from it, depth and pose take it as it is, "
        "depth:MODEL computes depth with that transformers model",
    ),
    _named("controlnet", "a hub id, folder or file", "the ControlNet that reads the control clip"),
    _named("control_video", _CLIP, "the control clip, relative to the manifest's folder"),
    _where_used("control_scale", number(0), "strength of the control", "control"),
    _where_used("canny_low", whole(0, CANNY_MOST), "lower Canny threshold", "control canny"),
    _where_used("canny_high", whole(0, CANNY_MOST), "upper Canny threshold", "control canny"),
    _named("source_video", _CLIP, "the clip that an InstructPix2Pix model edits by the prompt"),
    _where_used(
        "image_guidance_scale", number(0), "how closely to follow the source clip", "source_video"
    ),
    _named("ip_adapter", _ADAPTER, "the IP-Adapter that reads ip_adapter_image"),
    _named("ip_adapter_image", "the path of a picture", "the picture to take after"),
    _where_used("ip_adapter_scale", number(0), "strength of the picture", "ip_adapter"),
    Column(
        "best_of",
        "int32",
        whole(1, MOST_CANDIDATES),
        1,
        "clips to sample, each from a noise of its own, of which the best is kept",
    ),
    Column(
        "best_by",
        "string",
        best_by_kind(),
        None,
        "what is best: a score or a weighted sum (clip_score + 0.5*dynamic_degree), optionally "
        "`with MODEL`, a CLIP, and `in N steps`, to rank by shorter sampling",
        default_text=f"{BEST_BY} (with best_of above 1)",
    ),
    Column("fps", "float", number(0, MAX_FPS, above=True), 8.0, "of the sampled clip"),
    Column(
        "temporal_sr",
        "string",
        choice(("flow", "latent"), named=("model",)),
        "flow",
        "how frames are put in between: flow; latent, sampled by the model; or model:FILE, a "
        "TorchScript or ONNX file that takes "
        "(frame0, frame1, t), as FILM",
    ),
    Column(
        "temporal_scale",
        "int32",
        steps(1, 2, 4, 8),
        1,
        "1, 2, 4 or 8: output has (n−1)·k+1 frames at fps·k",
    ),
    Column(
        "spatial_sr",
        "string",
        choice(("mini-sr", "lanczos"), named=("diffusers", "spandrel")),
        "mini-sr",
        "how frames are enlarged: mini-sr (bundled), lanczos, diffusers:MODEL (an upscaling pipeline) or "
        "spandrel:FILE",
    ),
    Column("spatial_scale", "int32", steps(1, 2, 4), 1, "1, 2 or 4"),
    Column(
        "codec",
        "string",
        choice(CODECS),
        "h264",
        "h264, h265 or av1 (.mp4), ffv1 (.mkv), gif, webp, or png (a folder)",
    ),
    Column(
        "quality",
        "int32",
        whole(0, 100),
        None,
        "h264: 0 (best) to 51; h265: 0 to 51; av1: 0 to 63; webp: 0 to 100 (best); gif, ffv1 and png "
        "have none: there it is not used",
        default_text="18 (h265: 20, av1: 24, webp: 90)",
    ),
)

COLUMNS: dict[str, Column] = {column.name: column for column in _TABLE}


def column_records() -> list[dict[str, str]]:
    """The table that `zs2 manifest columns` prints: column, type, default, meaning, limits."""
    rows = [
        {
            "column": column.name,
            "type": column.arrow,
            "default": column.shown_default,
            "meaning": column.meaning,
            "expected": column.kind.expected,
        }
        for column in _TABLE
    ]
    rows.append(
        {
            "column": "meta_*",
            "type": "any",
            "default": "none",
            "meaning": "your own columns, carried through to the results",
            "expected": "anything",
        }
    )
    return rows
