"""Learned in-between frames: files of FILM's signature, and what is wrong with others."""

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from tests.tiny_interpolators import (
    Blend,
    Bytes,
    Crash,
    NotANumber,
    Over,
    Several,
    Signed,
    Small,
    onnx_blend,
    script,
)
from zs2.interpolator import load_interpolator
from zs2.models import ModelError
from zs2.post_models import PostModelError, describe_interpolator


def pictures(height: int = 20, width: int = 70) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, size=(2, height, width, 3), dtype=np.uint8)
    return a, b


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_a_model_gets_two_pictures_and_a_moment(tmp_path: Path, kind: str):
    """A model that blends gives the blend at each moment, at sizes that are no multiples of 64, and the
    same bytes however often it has been called."""
    write = {"onnx": onnx_blend, "torchscript": script}[kind]
    path = write(tmp_path / {"onnx": "blend.onnx", "torchscript": "blend.pt"}[kind])
    interpolate = load_interpolator(describe_interpolator(f"model:{path}", trusted=[str(path)]))
    a, b = pictures()
    for t in (0.5, 0.125, 0.75):
        made = interpolate(a, b, t)
        assert made.shape == a.shape and made.dtype == np.uint8
        assert np.abs(made - (a * (1 - t) + b * t)).max() <= 0.51
        assert all(interpolate(a, b, t).tobytes() == made.tobytes() for _ in range(3))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Small, r"expected a picture of shape \(1, 3, 64, 128\).*found shape \(1, 3, 63, 128\)"),
        (NotANumber, "expected a picture of 0..1; found NaN or infinity"),
        (Bytes, r"expected a picture of 0..1, as the two given; found \d+\.?\d*..2\d\d; export"),
        (Signed, r"expected a picture of 0..1, as the two given; found -1\.?\d*\.\.\d"),
        (Crash, r"found that the model fails \(.*out of ideas.*use temporal_sr flow"),
        (
            Several,
            "found a tuple; export the model so that it returns the in-between picture alone",
        ),
    ],
)
def test_a_model_that_goes_wrong(tmp_path: Path, model: type[nn.Module], message: str):
    """Another shape, NaN, an exception or several results: what was expected, found, and to do."""
    path = script(tmp_path / "bad.pt", model)
    interpolate = load_interpolator(describe_interpolator(f"model:{path}", trusted=[str(path)]))
    with pytest.raises(PostModelError, match=message):
        interpolate(*pictures(), 0.5)


def test_a_small_overshoot_is_cut(tmp_path: Path):
    """What goes a little beyond 0..1 is shown as black or white."""
    path = script(tmp_path / "over.pt", Over)
    interpolate = load_interpolator(describe_interpolator(f"model:{path}", trusted=[str(path)]))
    a, b = pictures()
    expected = np.rint(((a / 255) * 1.4 - 0.2).clip(0, 1) * 255)
    assert np.abs(interpolate(a, b, 0.5) - expected).max() <= 1


def test_a_file_that_is_no_model(tmp_path: Path):
    """Bytes that are no TorchScript or ONNX, and an ONNX of other inputs, are refused when loaded."""
    for name in ("x.pt", "x.onnx"):
        (tmp_path / name).write_bytes(b"no model")
        model = describe_interpolator(f"model:{tmp_path / name}", trusted=[str(tmp_path / name)])
        with pytest.raises(PostModelError, match="found that it cannot be loaded"):
            load_interpolator(model)
    two = onnx_blend(tmp_path / "two.onnx", inputs=2)
    with pytest.raises(
        PostModelError, match="expected the three inputs frame0, frame1, t; found x0, x1"
    ):
        load_interpolator(describe_interpolator(f"model:{two}"))


def test_code_must_be_trusted(tmp_path: Path):
    """A TorchScript file that nobody named as trusted is refused before it is opened."""
    path = script(tmp_path / "blend.torchscript", Blend)
    with pytest.raises(ModelError, match="found TorchScript, which carries code; trust this one"):
        describe_interpolator(f"model:{path}", trusted=[str(tmp_path / "other.pt")])
    assert describe_interpolator(f"model:{path}", trusted=[str(path)]).trusted
    with pytest.raises(TypeError, match="expected a list of names, found the text"):
        describe_interpolator(f"model:{path}", trusted=str(path))


@pytest.mark.parametrize("name", ["model:nowhere.pt", "model:film.pth", "model:", "model:folder"])
def test_files_that_are_not_there(name: str):
    """A missing file, or another kind of file, is told by its name."""
    with pytest.raises(
        ModelError, match=r"expected model: and a \.pt or .torchscript or .onnx file"
    ):
        describe_interpolator(name, trusted=["nowhere.pt"])
