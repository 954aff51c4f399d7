"""Bad rows among good: each fails for itself, where it fails and with what is wrong."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from manifests.ledger import iter_results
from tests import tiny_addons
from tests.flows.running import write_rows, zs2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROWS = 500
FAULTS = Path(__file__).parents[1] / "faults"


class Bad(NamedTuple):
    """A kind of bad row: how many there are, their columns, and how they must end."""

    rows: int
    columns: Mapping[str, Any]
    status: str
    stage: str
    error: str
    words: str


def kinds(folder: Path, controlnet: Path) -> dict[str, Bad]:
    """Twenty-five rows in all."""
    canny = {"control": "canny", "controlnet": str(controlnet)}
    gone = {"control_video": "gone.mp4", **canny}
    corrupt = {"control_video": "corrupt.mp4", **canny}
    empty = {"control_video": "empty.mp4", **canny}
    return {
        "control clip missing": Bad(
            3, gone, "invalid", "validate", "InvalidRow", "nothing of that name"
        ),
        "control clip corrupt": Bad(3, corrupt, "failed", "sample", "ClipError", "corrupt.mp4"),
        "control clip of 0 frames": Bad(2, empty, "failed", "sample", "ClipError", "empty.mp4"),
        "model missing": Bad(
            3, {"model": str(folder / "no-model")}, "invalid", "validate", "InvalidRow", "no-model"
        ),
        "text too long": Bad(
            3,
            {"prompt": "a " * 200, "long_prompt": "fail"},
            *("failed", "sample", "PromptError", "tokens"),
        ),
        "NaN latents": Bad(
            3,
            {"guidance_scale": 1e38, "num_inference_steps": 2},
            *("failed", "sample", "SamplingError", "NaN or infinity"),
        ),
        "out of memory": Bad(
            2, {"prompt": "out of memory"}, "failed", "sample", "OutOfMemory", "lower height"
        ),
        "crash of the process": Bad(
            2, {"prompt": "crash"}, "failed", "sample", "ActorDied", "(3 times)"
        ),
        "ffmpeg refuses": Bad(
            2, {"prompt": "refuse"}, "failed", "assemble", "AssembleError", "I will not"
        ),
        "disk full for one file": Bad(
            2, {"prompt": "full"}, "failed", "assemble", "AssembleError", "No space left"
        ),
    }


def moody_ffmpeg(path: Path) -> Path:
    """An ffmpeg that refuses one title, writes another one's file to a device that is full, and is
    itself otherwise."""
    path.write_text(
        "#!/bin/sh\n"
        'for part; do case "$part" in */.tmp-*) out="$part";;\n'
        "  *title=refuse*) echo I will not >&2; exit 1;;\n"
        "  *title=full*) full=1;; esac; done\n"
        'if [ "$full" ]; then ln -s /dev/full "$out"; fi\n'
        f'exec {imageio_ffmpeg.get_ffmpeg_exe()} "$@"\n'
    )
    path.chmod(0o755)
    return path


def write_clips(folder: Path) -> None:
    """A control clip cut in the middle of its pictures, and one that has none."""
    whole = folder / "whole.mp4"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"mp4v"), 8.0, (64, 64))
    for _ in range(16):
        writer.write(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    writer.release()
    content = whole.read_bytes()
    (folder / "corrupt.mp4").write_bytes(content[: len(content) // 2])
    whole.rename(folder / "unused.mp4")
    none = cv2.VideoWriter(
        str(folder / "empty.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 8.0, (64, 64)
    )
    none.release()
    if not (folder / "empty.mp4").exists():
        (folder / "empty.mp4").write_bytes(content[:32])


def test_475_ok_and_25_with_their_reasons(tiny_pipe: Any, tiny_model: Path, tmp_path: Path) -> None:
    """Of 500 rows 25 are bad in ten ways, spread among the others: 475 are ok, each bad one has its
    own stage and reason, none takes a neighbour with it; exit code 3; `zs2 status` groups them by
    cause. `zs2 retry` tries the failed ones alone."""
    write_clips(tmp_path)
    tiny_addons.controlnet_folder(tiny_pipe, tmp_path / "net")
    bad = kinds(tmp_path, tmp_path / "net")
    assert sum(kind.rows for kind in bad.values()) == 25
    names = [name for name, kind in bad.items() for _ in range(kind.rows)]
    places = {7 + 19 * i: name for i, name in enumerate(names)}
    common = {"prompt": "a", "num_inference_steps": 1, "num_frames": 2, "codec": "h264"}
    rows = [
        {
            "id": f"r{i:03d}",
            "model": str(tiny_model),
            **common,
            **(bad[places[i]].columns if i in places else {}),
        }
        for i in range(ROWS)
    ]
    manifest, out = write_rows(tmp_path / "m.parquet", rows), tmp_path / "out"
    faults = {
        "ZS2_FFMPEG": str(moody_ffmpeg(tmp_path / "ffmpeg")),
        "PYTHONPATH": os.pathsep.join([str(FAULTS), os.environ.get("PYTHONPATH", "")]),
    }
    done = zs2(
        "render", manifest, "-o", out, "--on-invalid=skip", "--json", time_limit=1200, **faults
    )
    assert done.code == 3, done.err
    found = {row.id: row for row in iter_results(out)}
    assert len(found) == ROWS
    assert Counter(row.status for row in found.values()) == {"ok": 475, "failed": 19, "invalid": 6}
    for place, name in places.items():
        kind, row = bad[name], found[f"r{place:03d}"]
        said = (row.status, row.stage, row.error_type)
        assert said == (kind.status, kind.stage, kind.error), (name, row.error_message)
        assert kind.words in str(row.error_message), (name, row.error_message)
    assert {r.attempts for r in found.values() if r.status == "ok"} == {1}

    report = json.loads(zs2("status", out, "--json").out)
    assert sum(cause["rows"] for cause in report["failures"]) == 25
    assert len(report["failures"]) == len(bad)

    again = zs2("retry", out, "--json")  # without the faults that were put in
    assert again.code == 3, again.err
    assert json.loads(again.out)["rendered"]["ok"] == 8
    assert {row.id for row in iter_results(out)} == set(found)
