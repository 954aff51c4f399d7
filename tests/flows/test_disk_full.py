"""A full disk, for real: OUT on a small file system of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch

from manifests.ledger import iter_results
from tasks.disk import DiskFullError
from tasks.sampling import Sampled, write_latents
from tests.flows.running import TIME_LIMIT, ZS2, environment, wait_until, write_rows, zs2

pytestmark = pytest.mark.slow

MB = 2**20
SIZE = 96  # MB; a run stops when less than 64 are left


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def ledger(out: Path) -> dict[str, str]:
    rows = [(row.id, row.status) for row in iter_results(out)]
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_a_run_stops_when_its_disk_is_full_and_goes_on_when_there_is_space(
    disk: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """The disk fills up in mid-run: the run ends with exit code 1 and one message that says what to
    do, no row fails for it, nothing partial is left under a final name. After space is made the
    same command renders what is missing, and every row ends once."""
    row = {"prompt": "a", "model": str(tiny_model), "num_inference_steps": 20, "num_frames": 16}
    manifest = write_rows(tmp_path / "m.parquet", [{"id": f"r{i}", **row} for i in range(16)])
    out, ballast = disk / "out", disk / "ballast"
    run = subprocess.Popen(
        [*ZS2, "render", str(manifest), "-o", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert wait_until(lambda: len(list(out.glob("videos/*/r*.mp4"))) >= 2, TIME_LIMIT)
    with ballast.open("wb") as file:
        while shutil.disk_usage(disk).free:
            file.write(b"\0" * min(MB, shutil.disk_usage(disk).free))
            file.flush()
    _, said = run.communicate(timeout=TIME_LIMIT)
    assert run.returncode == 1, said
    assert "make space" in said and "Traceback" not in said
    assert "failed" not in ledger(out).values()
    assert 2 <= len(ledger(out)) < 16

    ballast.unlink()
    done = zs2("render", manifest, "-o", out, "--json")
    assert done.code == 0, done.err
    assert ledger(out) == {f"r{i}": "ok" for i in range(16)}
    assert json.loads(done.out)["rendered"]["ok"] < 16
    assert not list(out.rglob(".tmp-*"))


def test_latents_wait_for_room(disk: Path) -> None:
    """Latents that meet a full disk are written when a neighbour's file is gone; while it stays full the
    run is told to stop, and what to do; nothing partial is left."""
    sampled = Sampled(torch.ones(4, 4, 64, 64), [], reused=False)
    ballast, path = disk / "ballast", disk / "latents" / "a.safetensors"
    path.parent.mkdir()
    ballast.write_bytes(b"\0" * shutil.disk_usage(disk).free)
    with pytest.raises(DiskFullError, match="make space"):
        write_latents(path, sampled)
    assert not list(path.parent.iterdir())
    threading.Timer(0.5, ballast.unlink).start()
    write_latents(path, sampled)
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_a_file_that_does_not_fit_fails_its_row_alone(
    disk: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """A video too large for the disk is tried in three attempts, then it is its row's failure, with the
    reason; the rows beside it, whose files met the full disk too, are ok."""
    row = {"prompt": "a", "model": str(tiny_model), "num_inference_steps": 4, "num_frames": 4}
    rows = [{"id": f"r{i}", **row} for i in range(8)]
    rows[2]["prompt"] = "huge"
    manifest = write_rows(tmp_path / "m.parquet", rows)
    greedy = tmp_path / "ffmpeg"
    greedy.write_text(
        "#!/bin/sh\n"
        'for part; do case "$part" in */.tmp-*) out="$part";; *title=huge*) huge=1;; esac; done\n'
        'if [ "$huge" ]; then exec dd if=/dev/zero bs=1M of="$out"; fi\n'
        f'exec {imageio_ffmpeg.get_ffmpeg_exe()} "$@"\n'
    )
    greedy.chmod(0o755)
    done = zs2("render", manifest, "-o", disk / "out", ZS2_FFMPEG=str(greedy))
    assert done.code == 3, done.err
    found = ledger(disk / "out")
    reasons = [row.error_message for row in iter_results(disk / "out")]
    assert found == {f"r{i}": "failed" if i == 2 else "ok" for i in range(8)}, reasons
    report = json.loads(zs2("status", disk / "out", "--json").out)
    [cause] = report["failures"]
    assert cause["stage"] == "assemble" and "No space left" in cause["message"]
