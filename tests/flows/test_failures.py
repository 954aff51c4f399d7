"""Rows that fail at run time: the run goes on, says which and why, and `retry` renders only them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from tests.flows.running import write_rows, zs2

pytestmark = pytest.mark.slow


def test_failed_rows_and_retry(tiny_model: Path, tmp_path: Path) -> None:
    """A model whose weights are present but damaged passes planning and fails when it is loaded: its
    rows are `failed`, the other row is ok, exit code 3, and 0 where as many may fail. `status` groups
    the two by cause. After mending, `retry` renders those two alone and exits 0; the other's file is
    not touched."""
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_model, damaged)
    (weights,) = (damaged / "unet").glob("*.safetensors")
    whole = weights.read_bytes()
    # whole, so that planning finds nothing; of another shape than the configuration says
    tensors = load_file(weights)
    save_file(tensors | {"conv_in.weight": tensors["conv_in.weight"][:-1].clone()}, weights)
    common = {"prompt": "a", "num_inference_steps": 1, "num_frames": 2}
    models = {"good": tiny_model, "bad-1": damaged, "bad-2": damaged}
    rows = [{"id": row_id, "model": str(model), **common} for row_id, model in models.items()]
    manifest, out = write_rows(tmp_path / "m.parquet", rows), tmp_path / "out"

    answer = zs2("render", manifest, "-o", out)
    assert answer.code == 3, answer.err
    assert "Traceback" not in answer.err and "Warning" not in answer.err
    assert "2 failed, 0 invalid" in answer.err
    assert f"zs2 retry {out}" in answer.err
    ledger = {row["id"]: row for row in pq.read_table(out / "results").to_pylist()}
    assert {row_id: row["status"] for row_id, row in ledger.items()} == {
        "good": "ok",
        "bad-1": "failed",
        "bad-2": "failed",
    }
    assert ledger["bad-1"]["stage"] == "sample"
    assert ledger["bad-1"]["error_type"] == "ModelError"
    assert str(damaged) in ledger["bad-1"]["error_message"]
    assert ledger["bad-1"]["file_name"] is None

    (cause,) = json.loads(zs2("status", out, "--json").out)["failures"]
    assert (cause["stage"], cause["error"], cause["rows"]) == ("sample", "ModelError", 2)
    assert cause["example"].startswith("bad-")
    text = zs2("status", out).out
    assert "1 ok, 2 failed, 0 invalid, 0 left of 3 rows" in text and "2×" in text

    borne = zs2("render", manifest, "-o", out, "--fail-if", 0.7, "--json")
    assert borne.code == 0, borne.err
    assert json.loads(borne.out)["rows"] == {"ok": 1, "failed": 2, "invalid": 0}

    weights.write_bytes(whole)
    good = (out / ledger["good"]["file_name"]).stat().st_mtime_ns
    answer = zs2("retry", out, "--json")
    assert answer.code == 0, answer.err
    summary = json.loads(answer.out)
    assert summary["rendered"] == {"ok": 2, "failed": 0, "invalid": 0}
    assert summary["rows"] == {"ok": 3, "failed": 0, "invalid": 0}
    assert (out / ledger["good"]["file_name"]).stat().st_mtime_ns == good

    write_rows(manifest, [*rows, {"id": "new", "model": str(tiny_model), **common}])
    answer = zs2("retry", out)
    assert answer.code == 0, answer.err  # 0.7 of the rows may be without a video
    assert f"1 row was never rendered, which a retry leaves: `zs2 render {manifest}" in answer.err
    status = json.loads(zs2("status", out, "--json").out)
    assert (status["state"], status["left"]) == ("incomplete", 1)
    assert '"state":"incomplete"' in (out / "index.html").read_text()
