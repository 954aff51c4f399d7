"""The import rule of the house, proved by walking syntax trees, and what importing costs.

flows → tasks → {zs2, manifests}; zs2 and manifests import nothing local; nothing imports infra.
Prefect only in flows/, tasks/render.py and tasks/artifacts.py; Ray only in flows/ and in what handles
the cluster in tasks/; no torch in manifests.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("zs2", "manifests", "tasks", "flows", "infra")
MAY_IMPORT = {
    "zs2": {"zs2"},
    "manifests": {"manifests"},
    "tasks": {"tasks", "zs2", "manifests"},
    "flows": {"flows", "tasks", "zs2", "manifests"},
    "infra": set(PACKAGES),
}
RAY = (
    "actors",
    "cluster",
    "handover",
    "placement",
    "pool",
    "render",
    "telemetry",
)  # modules of tasks/
# Library → where it may be imported: a package, or a file of one.
ONLY_IN = {
    "prefect": ("flows/", "tasks/render.py", "tasks/artifacts.py", "infra/"),
    "ray": ("flows/", *(f"tasks/{name}.py" for name in RAY), "infra/"),
    "torch": ("zs2/", "tasks/", "flows/", "infra/"),
    "diffusers": ("zs2/", "tasks/", "flows/", "infra/"),
    "pyarrow": ("manifests/", "tasks/", "flows/", "infra/"),
}
CORE = ("noise", "attention", "segments", "sampler", "config")
CORE_LINES = 1100


def imports_of(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file of `package`, wherever it stands: inside functions
    and under TYPE_CHECKING too; `import_module("…")` and `__import__("…")` count."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, level=0) if module:
                yield node.lineno, module
            case ast.ImportFrom(module=module):
                yield node.lineno, f"{package}.{module}" if module else package
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield node.lineno, module
            case _:
                pass


def violations(root: Path) -> list[str]:
    """Every import that breaks the rule, as `file:line imports module (why not)`."""
    found: list[str] = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            for line, module in imports_of(path.read_text("utf-8"), package):
                top = module.partition(".")[0]
                reason = _reason(name, package, top)
                if reason:
                    found.append(f"{name}:{line} imports {module} ({reason})")
    return found


def _reason(name: str, package: str, top: str) -> str | None:
    if top == "tests":
        return "tests are no part of the program"
    if top in PACKAGES and top not in MAY_IMPORT[package]:
        return f"{package} may import {', '.join(sorted(MAY_IMPORT[package]))}"
    if top in ONLY_IN and not name.startswith(ONLY_IN[top]):
        return f"{top} belongs in {', '.join(ONLY_IN[top])}"
    return None


def test_imports_point_one_way():
    """No file of the program breaks the rule; the failure lists all that do."""
    assert not violations(ROOT), "\n" + "\n".join(violations(ROOT))


def test_the_walk_sees_the_whole_program():
    """All packages are there and hold code, so that an empty list means something."""
    files = {package: len(list((ROOT / package).rglob("*.py"))) for package in PACKAGES}
    assert all(count > 1 for count in files.values()), files
    read = [
        module
        for path in (ROOT / "tasks").glob("*.py")
        for _, module in imports_of(path.read_text("utf-8"), "tasks")
    ]
    assert {"ray", "prefect", "zs2.models", "manifests.storage"} <= set(read)


BAD = {
    "zs2/noise.py": ("import torch\nfrom manifests.row import ManifestRow\n", 2),
    "zs2/data.py": ("import pyarrow as pa\n", 1),
    "manifests/row.py": ("def f():\n    import torch.nn as nn\n", 2),
    "manifests/read.py": ("import ray\n", 1),
    "manifests/deep/model.py": ("from importlib import import_module\nimport_module('zs2.x')\n", 2),
    "tasks/plan.py": ("x = 1\n\nfrom prefect import task\n", 3),
    "tasks/job.py": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ray.actor\n",
        3,
    ),
    "tasks/stages.py": ("from flows import cli\n", 1),
    "tasks/assemble.py": (
        "try:\n    from infra.mini import train_text\nexcept ImportError:\n    pass\n",
        2,
    ),
    "flows/cli.py": ("import os, infra\n", 1),
    "flows/run.py": ("from tests.conftest import build_tiny_pipe\n", 1),
}
GOOD = {
    "zs2/sampler.py": "import torch\nfrom zs2 import noise\nfrom .config import x\n",
    "tasks/pool.py": "import ray\nfrom tasks.job import Job\nfrom zs2.models import y\n",
    "tasks/render.py": "import prefect, ray\n",
    "flows/render.py": "import prefect\nimport ray\nfrom tasks import pool\nimport rayleigh\n",
    "infra/mini/train.py": "import torch\nfrom zs2.sampler import ZS2Sampler\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, source in [*((n, s) for n, (s, _) in BAD.items()), *GOOD.items()]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path


def test_the_checker_finds_every_violation_of_a_bad_tree(tree: Path):
    """On a made-up tree each forbidden import is found at its file and line, and nothing else is."""
    found = [line.split(" imports ")[0] for line in violations(tree)]
    assert sorted(found) == sorted(f"{name}:{line}" for name, (_, line) in BAD.items())


def test_the_checker_says_what_would_be_right(tree: Path):
    """A violation names the import and where it may stand."""
    told = "\n".join(violations(tree))
    assert "tasks/plan.py:3 imports prefect (prefect belongs in flows/, tasks/render.py" in told
    assert "zs2/noise.py:2 imports manifests.row (zs2 may import zs2)" in told


LIGHT = {
    "flows.cli": ["flows.cli"],
    "flows.commands": ["flows.settings", *(f"flows.commands.{n}" for n in ("plan", "manifest"))],
    "tasks.plan": ["tasks.plan"],
    "manifests": [f"manifests.{path.stem}" for path in (ROOT / "manifests").glob("[a-z]*.py")],
}


@pytest.mark.parametrize("modules", LIGHT.values(), ids=LIGHT)
def test_light_modules_load_nothing_heavy(modules: list[str]):
    """In a fresh process the modules load neither torch, Ray, Prefect nor what is slow with them:
    `zs2 --help`, `zs2 plan` and `zs2 manifest` answer in about a second."""
    heavy = ("torch", "ray", "prefect", "diffusers", "transformers", "datasets", "cv2", "av")
    code = (
        f"import sys, {', '.join(modules)}\n"
        f"assert all(name in sys.modules for name in {modules})\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_core_reads_in_one_sitting():
    """The algorithm's five files stay under about 1,000 lines together."""
    lines = {name: len((ROOT / "zs2" / f"{name}.py").read_text().splitlines()) for name in CORE}
    assert sum(lines.values()) < CORE_LINES, lines
