"""Figures about one clip, from its pixels alone.

Read consistency beside motion: a clip that does not move has no warp error at all.
"""

from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import UInt8

from zs2.optical_flow import flow, visible, warp


def warp_error(frames: UInt8[np.ndarray, "frame height width 3"]) -> float:
    """How much a clip's pixels change that motion does not explain: 0 is best.

    For each pair of neighbours, frame i+1 is warped back to frame i along the flow i→i+1; the error
    is the mean squared difference over channels and non-occluded pixels (those whose forward and
    backward flow agree; all pixels when none agree), and the result is the mean over pairs. Unit:
    intensity in [0, 1], squared; tables often print it ×10². NaN for a single frame: it has no
    pair, and 0 would rank it as perfect. A camera that shakes moves, so this figure forgives it.

    Source: Lai et al., "Learning Blind Video Temporal Consistency", ECCV 2018. The flow is DIS on
    the clip itself, where they use FlowNet2 on its source video.
    """
    errors: list[float] = []
    for a, b in pairwise(frames):
        forward, backward = flow(a, b), flow(b, a)
        difference = np.square((warp(b, forward) - a) / 255).mean(-1)
        seen = visible(forward, backward)
        errors.append(float(difference[seen].mean() if seen.any() else difference.mean()))
    return float(np.mean(errors)) if errors else float("nan")


def dynamic_degree(frames: UInt8[np.ndarray, "frame height width 3"]) -> float:
    """How much a clip moves: mean length of the flow over pixels and neighbouring pairs.

    Unit: pixels a frame, at the clip's own size (the same clip at twice the size has twice the
    degree). NaN for a single frame, which cannot say whether it moves.

    Source: the name and the idea (optical-flow magnitude) are those of Huang et al., "VBench", CVPR
    2024, which takes RAFT flow and the top 5 % of pixels to decide "dynamic or not"; here it is the
    plain mean, of DIS flow, so that small motions have a figure too.
    """
    lengths = [float(np.linalg.norm(flow(a, b), axis=-1).mean()) for a, b in pairwise(frames)]
    return float(np.mean(lengths)) if lengths else float("nan")


def flicker(frames: UInt8[np.ndarray, "frame height width 3"]) -> float:
    """How much a clip's brightness comes and goes where neither motion nor a fade explains it: 0 is
    best.

    For each frame with two neighbours, both are warped onto it along the flow; the figure is the
    mean difference between the frame and the mean of the two, absolute, over channels and pixels
    that both neighbours show (all pixels when there are none), then over frames. A light that is on
    in every other frame counts whole, a steady pan or fade not at all, a cut half in the two frames
    beside it. Unit: grey levels, 0 to 255. NaN below three frames.

    Source: "temporal flickering" of Huang et al., "VBench", CVPR 2024, is the mean absolute
    difference of neighbours and wants still scenes; here motion is taken out first, as in Lai et
    al., ECCV 2018 (see `warp_error`), and the second difference forgives a steady change.
    """
    changes: list[float] = []
    for before, now, after in zip(frames, frames[1:], frames[2:], strict=False):
        to_before, to_after = flow(now, before), flow(now, after)
        expected = (warp(before, to_before) + warp(after, to_after)) / 2
        change = np.abs(expected - now).mean(-1)
        seen = visible(to_before, flow(before, now)) & visible(to_after, flow(after, now))
        changes.append(float(change[seen].mean() if seen.any() else change.mean()))
    return float(np.mean(changes)) if changes else float("nan")


def sharpness(frames: UInt8[np.ndarray, "frame height width 3"]) -> float:
    """How much fine detail a clip's frames show: the variance of the Laplacian of the grey picture,
    mean over frames.

    Unit: grey levels (0 to 255), squared; compare clips of one size and of the same subjects only. A
    blurred picture has less, and a noisy one more: noise is detail as well.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative
    study", ICPR 2000 (LAPV), with OpenCV's 3×3 Laplacian.
    """
    greys = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)
    found = [float(cv2.Laplacian(grey, cv2.CV_64F).var()) for grey in greys]
    return float(np.mean(found))
