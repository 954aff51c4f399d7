"""The page that a real run leaves: what it says renders a clip again does."""

from __future__ import annotations

import shlex
from hashlib import sha256
from pathlib import Path

import pytest

from manifests.ledger import iter_results
from tests.browser.conftest import OpenPage
from tests.browser.test_gallery_page import copied
from tests.flows.running import write_rows, zs2


@pytest.mark.slow
def test_copied_commands_render_the_same_bytes(
    tiny_model: Path, tmp_path: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
):
    """Of a row with its own values, of one whose values are the run's defaults, of a prompt that begins
    with a dash and has quotes, and of a storyboard: the command that the page gives, run elsewhere,
    makes the very file that the ledger names."""
    common = {"model": str(tiny_model), "num_frames": 3}
    rows = [
        {"id": "own", "prompt": ["a"], "kl_target": [0.01, 0.3], "momentum": [0.5, 0.7, 0.9]},
        {"id": "plain", "prompt": ["b"], "codec": "gif", "negative_prompt": 'it\'s "not" $HOME'},
        {"id": "dash", "prompt": ["--seed 'x' `y`"], "noise": "mixed", "alpha": 0.4},
        {"id": "story", "prompt": ["one", "two"], "segment_frames": 2, "temporal_scale": 2},
    ]
    manifest = write_rows(tmp_path / "m.parquet", [{**common, **row} for row in rows])
    out = tmp_path / "out"
    done = zs2("render", manifest, "-o", out, "--set", "num_inference_steps=2", "--set", "fps=6")
    assert done.code == 0, done.err
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    allowed = {"permissions": ["clipboard-read", "clipboard-write"]}
    for row in iter_results(out):
        page = open_page(out, f"#{row.id}", **allowed)
        words = shlex.split(copied(page, "Copy command"))
        made = zs2(*words[1:])
        assert made.code == 0, made.err
        (path,) = elsewhere.glob(f"{row.id}.*")
        assert sha256(path.read_bytes()).hexdigest() == row.sha256, words
