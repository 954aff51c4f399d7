"""Colours end to end: a chart through every codec, decoded by zs2 and by ffmpeg itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infra.codecs import chart, decoded_by_ffmpeg, tags
from manifests.storage import SUFFIXES
from tasks.assemble import assemble, decode

# mean error in grey levels that a codec may have at its default quality
MOST = {"h264": 2.0, "h265": 2.0, "av1": 2.0, "ffv1": 0.0, "png": 0.0}


@pytest.mark.parametrize("codec", MOST)
def test_a_colour_chart_survives(tmp_path: Path, codec: str) -> None:
    """Patches all over the RGB cube, ramps and saturated edges come back within 2/255 on average from
    the lossy codecs at their defaults (h264's is 18) and bit by bit from the lossless ones, whether zs2
    or the ffmpeg program reads the file; lossy ones say that they are BT.709, limited range."""
    frames = np.repeat(chart()[None], 2, 0)
    path = tmp_path / f"chart{SUFFIXES[codec]}"
    assemble(frames, path, 8.0, codec)
    for found in (decode(path)[0], decoded_by_ffmpeg(path, frames.shape)):
        error = np.abs(found.astype(float) - frames)
        assert error.mean() <= MOST[codec]
        if MOST[
            codec
        ]:  # one colour alone is far nearer: no wrong matrix or range hides in the mean
            assert error[:, 10:30, 10:30].mean() <= 2
    assert tags(path) == ("BT.709, limited, yuv420p" if MOST[codec] else "RGB")
