"""The gallery in a true browser: what rows say is shown, and nothing of it runs."""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from manifests.result import ResultRow
from manifests.storage import RunFolder
from tasks.gallery import write_gallery

BROWSER = shutil.which("chromium")
SUMMARY = {"rows": {"ok": 3, "failed": 3, "invalid": 0}, "frames": 8}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(BROWSER is None, reason="checked where there is a Chromium")
def test_nothing_in_a_row_runs(tmp_path: Path) -> None:
    """Scripts, handlers and addresses in prompts, errors, meta names and values end as text: the
    page has no element of theirs, its title stays, and nobody is connected to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        texts = [
            f"<script>document.title='ran'; fetch('{url}')</script>",
            f"</script><img src='{url}/x.png' onerror=\"document.title='ran'\">",
            f"<!-- ]]> &lt; {{{{data}}}} \u2028 \u202e \x00 🌌 ${{fetch('{url}')}}",
        ]
        rows: list[ResultRow] = []
        for number, text in enumerate(texts):
            meta = {f"meta_{text}": text}
            ok: dict[str, Any] = {"prompt": text, "model": text, "meta": meta, "params": "{}"}
            name = f"videos/ab/{number}.mp4"
            rows.append(ResultRow(f"a{number}", "ab" * 16, "ok", file_name=name, **ok))
            rows.append(ResultRow(f"b{number}", "", "failed", stage=text, error_message=text))
        write_gallery(RunFolder(tmp_path), rows, title=texts[1], summary=SUMMARY)
        page = (tmp_path / "index.html").as_uri()
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/c"]
        done = subprocess.run(
            [str(BROWSER), *options, "--virtual-time-budget=3000", "--dump-dom", page],
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert not select.select([listener], [], [], 0)[0], "the page connected"
    assert done.stdout.count("<article") == 6, done.stderr[-2000:]
    assert done.stdout.count("<script") == 2 and "<title>ran" not in done.stdout
    assert "<img" not in done.stdout
