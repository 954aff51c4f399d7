from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import transformers

from zs2.addons import describe_addon
from zs2.control import DepthModel, canny_edges, depth_maps, load_depth_model
from zs2.models import ModelError


def square(inside: tuple[int, int, int], around: tuple[int, int, int]) -> np.ndarray:
    """One frame of 64×64: a square of 32 pixels in the middle."""
    frame = np.full((1, 64, 64, 3), around, dtype=np.uint8)
    frame[:, 16:48, 16:48] = inside
    return frame


def test_canny_draws_the_outline_in_white_on_black() -> None:
    """A square gives its closed outline and nothing else: 0 and 255 only, equal channels, every
    line within a pixel of the border, every border pixel within a pixel of a line."""
    edges = canny_edges(square((255, 255, 255), (0, 0, 0)))
    assert edges.shape == (1, 64, 64, 3) and edges.dtype == np.uint8
    assert set(np.unique(edges)) == {0, 255}
    assert (edges[..., 0] == edges[..., 1]).all() and (edges[..., 1] == edges[..., 2]).all()
    y, x = np.mgrid[0:64, 0:64]
    distance = np.abs(np.maximum(np.abs(y - 31.5), np.abs(x - 31.5)) - 16)
    line = edges[0, ..., 0] > 0
    assert distance[line].max() <= 1.5
    thick = cv2.dilate(line.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert thick[distance <= 0.5].all()


def step(left: tuple[int, int, int], right: tuple[int, int, int]) -> np.ndarray:
    """One frame of 64×64 of two colours, side by side."""
    frame = np.full((1, 64, 64, 3), left, dtype=np.uint8)
    frame[:, :, 32:] = right
    return frame


def test_canny_thresholds_decide_what_is_an_edge() -> None:
    """A step of s grey levels has a gradient of 4·s: it is an edge where that passes `high`, also
    for a step in colour that keeps the brightness; `low` lets a line that fades go on."""
    faint = step((70, 70, 70), (40, 40, 40))
    assert canny_edges(faint, 50, 119).any() and not canny_edges(faint, 50, 120).any()
    assert canny_edges(step((100, 0, 0), (0, 51, 0)), 300, 399).any()
    fading = np.full((1, 64, 64, 3), 20, dtype=np.uint8)
    fading[:, 32:] = np.linspace(20, 120, 64, dtype=np.uint8)[None, None, :, None]
    first = [
        np.flatnonzero(canny_edges(fading, low, 200)[0, ..., 0].any(0))[0] for low in (40, 190)
    ]
    assert first[0] < 15 and first[1] > 25  # its gradient is 40 at column 7, 190 at column 30


@pytest.mark.parametrize("threads", [1, 4])
def test_canny_of_a_frame_depends_on_that_frame_alone(threads: int) -> None:
    """A clip's edges are those of its frames, whatever OpenCV's number of threads, also for a view
    that is not contiguous."""
    clip = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    whole = canny_edges(clip)
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        assert np.array_equal(canny_edges(clip[::-1])[::-1], whole)
        alone = [canny_edges(clip[i : i + 1])[0] for i in range(3)]
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(np.stack(alone), whole)
    view = np.repeat(clip, 2, axis=2)[:, :, ::2]
    assert np.array_equal(canny_edges(view), whole)


def lively(model: Any) -> Any:
    """Random weights large enough that different pixels have different depths."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return model.eval()


def backbone(kind: type, side: int, patch: int, **options: Any) -> Any:
    return kind(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=side,
        patch_size=patch,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        **options,
    )


def dpt(**options: Any) -> tuple[Any, Any]:
    """MiDaS's DPT on a plain vision transformer."""
    config = transformers.DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        backbone_out_indices=[0, 1, 2, 3],
        image_size=32,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        **options,
    )
    processor = transformers.DPTImageProcessorPil(size={"height": 32, "width": 32})
    return transformers.DPTForDepthEstimation(config), processor


def depth_anything(kind: str) -> tuple[Any, Any]:
    """Depth Anything on DINOv2, of sides that are multiples of 14."""
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone(transformers.Dinov2Config, 28, 14, apply_layernorm=True),
        patch_size=14,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=10,
    )
    processor = transformers.DPTImageProcessorPil(
        size={"height": 28, "width": 28}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    return transformers.DepthAnythingForDepthEstimation(config), processor


def zoedepth() -> tuple[Any, Any]:
    """ZoeDepth on BEiT, with its bins of metres."""
    config = transformers.ZoeDepthConfig(
        backbone_config=backbone(transformers.BeitConfig, 32, 16, use_relative_position_bias=True),
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=8,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 1e-3, "max_depth": 10.0, "name": "nyu"}],
    )
    processor = transformers.ZoeDepthImageProcessorPil(size={"height": 32, "width": 32})
    return transformers.ZoeDepthForDepthEstimation(config), processor


def glpn() -> tuple[Any, Any]:
    config = transformers.GLPNConfig(
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=8,
    )
    return transformers.GLPNForDepthEstimation(config), transformers.GLPNImageProcessorPil()


BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "dpt": dpt,
    "depth anything": lambda: depth_anything("relative"),
    "depth anything, metric": lambda: depth_anything("metric"),
    "zoedepth": zoedepth,
    "glpn": glpn,
}


@pytest.fixture(scope="module")
def depth_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model with a true depth architecture, as its maker saves it."""
    parent = tmp_path_factory.mktemp("depth")

    def folder(kind: str) -> Path:
        path = parent / kind.replace(" ", "_").replace(",", "")
        if not path.exists():
            model, processor = BUILDERS[kind]()
            lively(model).save_pretrained(path)
            processor.save_pretrained(path)
        return path

    return folder


def clip() -> np.ndarray:
    """Three frames of 48×64 of smooth random colours."""
    noise = np.random.default_rng(3).normal(size=(3, 48, 64, 3)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(frame, (0, 0), 4) for frame in noise])
    low, high = smooth.min(), smooth.max()
    return np.rint((smooth - low) / (high - low) * 255).astype(np.uint8)


def load(folder: Path) -> DepthModel:
    return load_depth_model(describe_addon("depth", str(folder)), device="cpu")


def nearness(model: DepthModel, frame: np.ndarray) -> np.ndarray:
    """What the model answers by hand, with its own processor: inverse depth in the frame's size."""
    inputs = model.processor(images=frame, return_tensors="pt")
    with torch.inference_mode():
        answer = model.model(**inputs).predicted_depth[0].numpy()
    near = 1 / np.maximum(answer, 0.1) if model.tells_distance else answer
    if model.model.config.model_type != "zoedepth":
        return cv2.resize(near, (64, 48))
    down, right = int(np.sqrt(48 / 2) * 3), int(np.sqrt(64 / 2) * 3)  # its processor's border
    return cv2.resize(near, (64 + 2 * right, 48 + 2 * down))[down:-down, right:-right]


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_nearest_point_of_the_clip_is_white(
    kind: str, depth_folder: Callable[[str], Path]
) -> None:
    """For each architecture, maps of the clip's size with equal channels: the model's answers where
    it tells inverse depth, their inverses where it tells metres, from 0 to 255 over the clip."""
    model = load(depth_folder(kind))
    assert model.tells_distance == (kind in ("depth anything, metric", "zoedepth", "glpn"))
    maps = depth_maps(model, clip())
    assert maps.shape == clip().shape and maps.dtype == np.uint8
    assert (maps == maps[..., :1]).all()
    near = np.stack([nearness(model, frame) for frame in clip()])
    expected = 255 * (near - near.min()) / np.ptp(near)
    assert expected.std() > 3
    assert np.abs(maps[..., 0] - expected).max() <= (2 if kind == "zoedepth" else 0.6)


@pytest.mark.parametrize("kind", ["dpt", "depth anything"])
def test_one_scale_for_the_clip(kind: str, depth_folder: Callable[[str], Path]) -> None:
    """A frame's map beside other frames is its map alone, darkened and lightened by one line for all
    pixels; equal frames have equal maps, wherever they stand; twice the same gives the same bytes."""
    model = load(depth_folder(kind))
    frames = clip()
    maps = depth_maps(model, frames)
    again = depth_maps(model, frames[[0, 0, 2, 1]])
    assert np.array_equal(again[[0, 1, 3, 2]], maps[[0, 0, 1, 2]])
    ranges = [int(each.max()) - int(each.min()) for each in maps]
    assert min(ranges) < 255  # not each by itself
    for frame, together in zip(frames, maps, strict=True):
        alone = depth_maps(model, frame[None])[0, ..., 0].astype(float)
        line = np.polyfit(alone.ravel(), together[..., 0].ravel(), 1)
        assert np.abs(np.polyval(line, alone) - together[..., 0]).max() <= 1.5


def test_a_flat_scene_is_black(depth_folder: Callable[[str], Path]) -> None:
    """Where every point is equally near there is nothing to scale: black, without a warning."""
    model = load(depth_folder("dpt"))
    for parameter in model.model.head.parameters():
        parameter.data.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not depth_maps(model, clip()).any()


def test_depths_that_are_not_finite_are_an_error(depth_folder: Callable[[str], Path]) -> None:
    """A model that overflows: ModelError with the remedy, not a black clip."""
    model = load(depth_folder("dpt"))
    next(reversed(list(model.model.parameters()))).data.fill_(float("inf"))
    with pytest.raises(ModelError, match="finite depths, found others; load it in float32"):
        depth_maps(model, clip())


def test_zoedepth_gets_its_border(depth_folder: Callable[[str], Path]) -> None:
    """Without the border that its own processor adds, ZoeDepth's map is another."""
    model = load(depth_folder("zoedepth"))
    bare = depth_maps(replace(model, wants_border=False), clip()).astype(int)
    assert np.abs(bare - depth_maps(model, clip())).max() > 5


@pytest.mark.parametrize(
    "name", ["DPTImageProcessor", "DPTFeatureExtractor", "DPTImageProcessorFast"]
)
def test_processors_of_the_hub_load_without_torchvision(
    name: str, depth_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Whichever class a checkpoint's preprocessor_config.json names, the maps are the same."""
    source = depth_folder("dpt")
    folder = shutil.copytree(source, tmp_path / "model")
    path = folder / "preprocessor_config.json"
    settings = {k: v for k, v in json.loads(path.read_text()).items() if "processor" not in k}
    key = "feature_extractor_type" if "Extractor" in name else "image_processor_type"
    path.write_text(json.dumps({**settings, key: name}))
    assert np.array_equal(depth_maps(load(folder), clip()), depth_maps(load(source), clip()))


def test_a_model_whose_convention_is_unknown_is_refused(tmp_path: Path) -> None:
    """DPT as DINOv2's authors trained it tells metres in bins, not MiDaS's inverse depth; others
    want more than a picture: ModelError that names those that work."""
    model, processor = dpt(add_projection=True)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"expected one of dpt, depth_anything, .*found dpt; name"):
        load(tmp_path)


def test_damaged_weights_are_an_error(depth_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Weights of another shape than the configuration's: ModelError that names the model."""
    folder = shutil.copytree(depth_folder("dpt"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    with pytest.raises(ModelError, match=r"cannot be loaded.*; name another model"):
        load(folder)
