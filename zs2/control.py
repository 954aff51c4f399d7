"""Control pictures from a clip: what a ControlNet follows. Frames in, frames out; knows no files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from zs2.models import ModelError, placement

if TYPE_CHECKING:
    import torch

    from zs2.addons import AddOn

# Depth models whose convention is known. The others either need torchvision, which transformers'
# own processors of these do without, or a sensor's depth besides the picture.
DEPTH_MODELS = ("dpt", "depth_anything", "zoedepth", "glpn")
_NEAREST = 0.1  # metres; what is nearer counts as this near, or it alone would be bright


def canny_edges(
    frames: UInt8[np.ndarray, "frame height width 3"], low: int = 100, high: int = 200
) -> UInt8[np.ndarray, "frame height width 3"]:
    """The edges of every RGB frame: white (255) lines one pixel wide on black, in three channels.

    low, high: cv2's thresholds of the gradient, |dx| + |dy| of a 3×3 Sobel (0 to 2040): an edge
    begins where the gradient passes `high` and goes on while it passes `low`. The defaults are those
    of the canny ControlNets. A colour frame's gradient is its strongest channel's.

    Source: Canny, "A Computational Approach to Edge Detection", IEEE PAMI 1986, as cv2.Canny.
    """
    edges = [cv2.Canny(np.ascontiguousarray(frame), low, high) for frame in frames]
    return np.repeat(np.stack(edges)[..., None], 3, axis=-1)


@dataclass(frozen=True)
class DepthModel:
    """A transformers depth-estimation model and what its answer means.

    Attributes:
        name: as the user wrote it.
        model, processor: of transformers; the processor is the one that needs no torchvision.
        tells_distance: it answers in metres (far is large), not in inverse depth (near is large).
        wants_border: it errs at the border of a picture, which is mirrored outwards for it.
    """

    name: str
    model: Any
    processor: Any
    tells_distance: bool
    wants_border: bool


def load_depth_model(
    addon: AddOn,
    *,
    torch_dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> DepthModel:
    """Load a depth-estimation model of transformers, from its folder or a hub.

    Known are MiDaS's DPT, Depth Anything (relative and metric), ZoeDepth and GLPN.

    Args:
        torch_dtype: default float16 on a GPU, float32 on the CPU.
        device: default the GPU when there is one.

    Raises:
        ModelError: a model of another kind, or one that cannot be had or loaded.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

    from zs2.addons import PICKLED, fetch_addon
    from zs2.checkpoints.quiet import quiet

    device, dtype = placement(torch_dtype, device)
    path = fetch_addon(addon)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(path.parent, local_files_only=True)
            tells_distance = _tells_distance(addon.name, config)
            processor = AutoImageProcessor.from_pretrained(
                path.parent, local_files_only=True, backend="pil"
            )
            model: Any = AutoModelForDepthEstimation.from_pretrained(
                path.parent,
                dtype=dtype,
                variant="fp16" if ".fp16." in path.name else None,
                use_safetensors=not path.name.endswith(PICKLED),
                local_files_only=True,
            )
    except ModelError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ModelError(
            f"depth {addon.name!r}: expected a depth-estimation model of transformers in "
            f"{path.parent}, found that it cannot be loaded: {error}; name another model"
        ) from error
    wants_border = config.model_type == "zoedepth"
    return DepthModel(addon.name, model.eval().to(device), processor, tells_distance, wants_border)


def _tells_distance(name: str, config: Any) -> bool:
    kind = config.model_type
    # A DPT head on DINOv2, known by its projection, was trained for metres in bins, not by MiDaS.
    if kind not in DEPTH_MODELS or (kind == "dpt" and config.add_projection):
        raise ModelError(
            f"depth {name!r}: expected one of {', '.join(DEPTH_MODELS)} (the first as MiDaS trained "
            f"it), whose way of telling near from far is known; found {kind}; name one of these, "
            "or make the depth clip yourself and set control to depth"
        )
    if kind == "depth_anything":
        return config.depth_estimation_type == "metric"
    return kind in ("zoedepth", "glpn")


def depth_maps(
    model: DepthModel, frames: UInt8[np.ndarray, "frame height width 3"]
) -> UInt8[np.ndarray, "frame height width 3"]:
    """The inverse depth of every frame as the depth ControlNets want it: the clip's nearest point is
    white (255), its farthest black, in three equal channels; all black where all is equally near.

    One scale for the whole clip, so that a point that does not move does not flicker. Frames go
    through the model one by one: its memory does not grow with the clip.

    Raises:
        ModelError: the model answers with numbers that are not finite.
    """
    inverse = np.stack([_inverse_depth(model, frame) for frame in frames])
    least, most = inverse.min(), inverse.max()
    if not np.isfinite([least, most]).all():
        raise ModelError(
            f"depth {model.name!r}: expected finite depths, found others; "
            "load it in float32, or name another model"
        )
    inverse -= least
    inverse *= 255 / (most - least) if most > least else 0
    grey = np.rint(inverse, out=inverse).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _inverse_depth(
    model: DepthModel, frame: UInt8[np.ndarray, "height width 3"]
) -> Float32[np.ndarray, "height width"]:
    import torch

    height, width = frame.shape[:2]
    # ZoeDepth's own border (Bhat et al., 2023, as its authors run it): 3·√(side/2) pixels.
    down, right = (int(3 * np.sqrt(s / 2)) if model.wants_border else 0 for s in (height, width))
    seen = cv2.copyMakeBorder(frame, down, down, right, right, cv2.BORDER_REFLECT_101)
    options = {"do_pad": False} if model.wants_border else {}
    inputs = model.processor(images=seen, return_tensors="pt", **options)
    with torch.inference_mode():
        pixels = inputs["pixel_values"].to(model.model.device, model.model.dtype)
        answer = model.model(pixels).predicted_depth[0].float().cpu().numpy()
    inverse = 1 / np.maximum(answer, _NEAREST) if model.tells_distance else answer
    whole = cv2.resize(inverse, seen.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return whole[down : down + height, right : right + width]
