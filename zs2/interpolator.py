"""Learned in-between frames: a TorchScript or ONNX model of (frame0, frame1, t), FILM's signature.

FILM: Reda et al., "FILM: Frame Interpolation for Large Motion", ECCV 2022; its published TorchScript
port takes pictures (1, 3, height, width) of 0..1 and the moment (1, 1), and returns a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from zs2.post_models import PostModel, PostModelError

# FILM halves its pictures six times; other published models halve theirs no more often.
MULTIPLE = 64
# What a model may go beyond 0..1 at an edge; one of another scale (0..255, −1..1) goes further.
OVERSHOOT = 0.25

Picture = UInt8[np.ndarray, "height width 3"]
Interpolate = Callable[[Picture, Picture, float], Picture]
_Run = Callable[[Float32[np.ndarray, "1 3 h w"], Float32[np.ndarray, "1 3 h w"], float], Any]


def load_interpolator(model: PostModel) -> Interpolate:
    """A described model as a function of two neighbours and a moment 0 < t < 1 between them.

    It computes on the CPU: pictures are padded to multiples of 64 by repeating their last pixels.
    Frames are 0..1 both ways, given and returned; a model may go beyond by OVERSHOOT, which is cut.

    Raises:
        PostModelError: it cannot be loaded. So does the function when the model raises, returns
            another shape, numbers that are not finite, or of another scale than 0..1.
    """
    try:
        run = _load_onnx(model) if model.kind == "onnx" else _load_torchscript(model)
    except PostModelError:
        raise
    except Exception as error:  # a file of any kind makes the libraries raise anything
        raise PostModelError(
            f"{model.name}: expected a {model.kind} model that loads; found that it cannot be "
            f"loaded ({_brief(error)}); export it again for this version"
        ) from error

    def interpolate(a: Picture, b: Picture, t: float) -> Picture:
        height, width, _ = a.shape
        try:
            made = run(_to_tensor(a), _to_tensor(b), t)
        except Exception as error:  # whatever the model's own code raises
            raise PostModelError(
                f"{model.name}: expected a frame between two of {height}×{width} at t = {t:g}; found "
                f"that the model fails ({_brief(error)}); it must take (frame0, frame1, t) of shapes "
                "(1, 3, height, width) twice and (1, 1), or use temporal_sr flow"
            ) from error
        return _to_picture(made, model.name, height, width)

    return interpolate


def _to_tensor(picture: Picture) -> Float32[np.ndarray, "1 3 h w"]:
    height, width, _ = picture.shape
    below, right = -height % MULTIPLE, -width % MULTIPLE
    padded = np.pad(picture, ((0, below), (0, right), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)


def _to_picture(made: Any, name: str, height: int, width: int) -> Picture:
    tall, wide = height + -height % MULTIPLE, width + -width % MULTIPLE
    if not isinstance(made, np.ndarray) or made.shape != (1, 3, tall, wide):
        found = (
            f"shape {made.shape}" if isinstance(made, np.ndarray) else f"a {type(made).__name__}"
        )
        raise PostModelError(
            f"{name}: expected a picture of shape (1, 3, {tall}, {wide}), as large as the two given; "
            f"found {found}; export the model so that it returns the in-between picture alone"
        )
    if not np.isfinite(made).all():
        raise PostModelError(
            f"{name}: expected a picture of 0..1; found NaN or infinity; try its float32 weights, or "
            "use temporal_sr flow"
        )
    low, high = float(made.min()), float(made.max())
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise PostModelError(
            f"{name}: expected a picture of 0..1, as the two given; found {low:.3g}..{high:.3g}; export "
            "the model so that it takes and returns 0..1"
        )
    shown = np.rint(made[0].astype(np.float32).clip(0, 1) * 255)
    return np.ascontiguousarray(shown.transpose(1, 2, 0)[:height, :width], dtype=np.uint8)


def _load_torchscript(model: PostModel) -> _Run:
    import torch

    if not model.trusted:
        raise PostModelError(
            f"{model.name}: expected a file that is trusted; found TorchScript, which carries code and "
            "is not; trust it (--trust-pickle, trusted= in Python), or export it as ONNX"
        )
    network = torch.jit.load(model.location, map_location="cpu").eval().float()

    def run(a: np.ndarray, b: np.ndarray, t: float) -> Any:
        moment = torch.full((1, 1), t, dtype=torch.float32)
        # Not optimised by what the first calls looked like: every call computes the same.
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            made = network(torch.from_numpy(a), torch.from_numpy(b), moment)
        return made.float().numpy() if isinstance(made, torch.Tensor) else made

    return run


def _load_onnx(model: PostModel) -> _Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the same bytes on any machine
    options.log_severity_level = 3
    # From its bytes: what its digest was taken of, and no other file.
    session = onnxruntime.InferenceSession(
        Path(model.location).read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    inputs = session.get_inputs()
    if len(inputs) != 3:
        raise PostModelError(
            f"{model.name}: expected the three inputs frame0, frame1, t; found "
            f"{', '.join(i.name for i in inputs) or 'none'}; export the model with that signature"
        )
    types = [np.float16 if i.type == "tensor(float16)" else np.float32 for i in inputs]
    rank = len(inputs[2].shape)

    def run(a: np.ndarray, b: np.ndarray, t: float) -> Any:
        values = (a, b, np.full((1,) * rank, t))
        feed = {i.name: v.astype(d) for i, v, d in zip(inputs, values, types, strict=True)}
        return session.run(None, feed)[0]

    return run


def _brief(error: Exception) -> str:
    """The last line of a message: TorchScript's carries the whole stack, the reason comes last."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1][:200]}" if lines else type(error).__name__
