"""The package as a whole: what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import manifests

MODULES = sorted(path.stem for path in Path(str(manifests.__file__)).parent.glob("*.py"))
HEAVY = ("torch", "ray", "prefect", "pandas", "datasets", "diffusers", "zs2", "tasks", "flows")


def test_no_module_imports_anything_heavy():
    """`zs2 manifest …` answers in about a second: no torch, no Ray, no Prefect, no pandas."""
    imports = "\n".join(f"import manifests.{name}" for name in MODULES if name != "__init__")
    code = f"{imports}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_manifest_is_validated_without_pandas(write: Any):
    """pyarrow imports pandas when it builds an array; reading a manifest builds none."""
    path = write({"id": ["a"], "prompt": ["p"], "kl_target": [[0.1]], "meta_x": [{"k": 1}]})
    code = (
        "import sys\nfrom manifests.read import open_manifest\n"
        "from manifests.validate import check_rows\n"
        "assert len(list(check_rows(open_manifest(sys.argv[1])))) == 1\n"
        "print('pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
