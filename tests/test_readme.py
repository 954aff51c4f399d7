"""The README's links and commands are real."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.readme_commands import commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
LINKS = sorted(set(re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", README)))
COMMANDS = commands(README)


@pytest.mark.parametrize("link", [link for link in LINKS if "://" not in link])
def test_links_lead_to_files(link: str):
    """Every relative link names a file or folder of the repository."""
    assert (ROOT / link).exists()


def test_paths_in_code_exist():
    """Every `path/…` of the tables under "Dive into the code" is there."""
    paths = re.findall(r"`((?:zs2|manifests|tasks|flows|infra|tests)/[\w./-]+)`", README)
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert paths
    assert not missing


def test_make_targets_exist():
    """Every `make …` of the README is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {command.split()[1] for command in COMMANDS if command.startswith("make ")}
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("zs2 ")])
def test_options_exist(command: str):
    """Every option of every `zs2 …` command is known to that command's --help."""
    words = shlex.split(command)[1:]
    path = [words[0]] if words[0] != "manifest" else words[:2]
    answer = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", *path, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": ""},
    )
    for word in words:
        if word.startswith("-"):
            assert re.search(rf"(^|[\s,]){re.escape(word)}\b", answer.stdout), word


def test_commands_are_split_as_bash_would():
    """Comments go, continued lines are joined, other blocks do not count."""
    text = "```sh\n# no\nmake demo   # yes\nzs2 plan \\\n  a.parquet\n```\n```python\nx = 1\n```\n"
    assert [" ".join(c.split()) for c in commands(text)] == ["make demo", "zs2 plan a.parquet"]


@pytest.mark.slow
def test_the_python_example_runs():
    """The README's Python block runs as printed and gives the shapes its comments say."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(block, names)
    assert names["clip"].frames.shape == (24, 64, 64, 3)
    assert len(names["clip"].trace.kl) == 23
    assert [clip.seed for clip in names["clips"]] == [1, 2]
    assert names["eps"].shape == (8, 4, 64, 64)
