"""Run the README's commands as they are printed, in order, in one shell: `python -m tests.readme_commands`.

Every ```sh block counts. `make test` is left out: who runs this has just run it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEFT_OUT = {"make test"}
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The lines of every sh block, continuation lines joined, comments dropped."""
    blocks = "\n".join(_BLOCK.findall(text)).replace("\\\n", " ")
    lines = (re.sub(r"\s+# .*$", "", line).strip() for line in blocks.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def main() -> int:
    """Run them with `bash -e`, each echoed before it runs; returns bash's exit code."""
    wanted = [c for c in commands((ROOT / "README.md").read_text("utf-8")) if c not in LEFT_OUT]
    script = "set -eu\n" + "\n".join(f"printf '\\n$ %s\\n' {_quoted(c)}\n{c}" for c in wanted)
    return subprocess.run(["bash", "-c", script], cwd=ROOT, check=False).returncode


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


if __name__ == "__main__":
    sys.exit(main())
