"""What compiling needs of a machine: a C++ compiler, and a place where compiled code is kept. No torch."""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
from contextlib import suppress
from pathlib import Path

from zs2.models import ModelError

PLACE = "TORCHINDUCTOR_CACHE_DIR"
REMEDY = "install them (Debian: apt install g++ python3-dev), or use the engine eager"


def check_compiler() -> None:
    """See that torch can compile here; it calls a C++ compiler, whose output includes Python's headers.

    $CXX names the compiler where it is set, as for torch itself; else it is g++.

    Raises:
        ModelError: what is missing, and how to get it.
    """
    compiler = os.environ.get("CXX") or "g++"
    header = Path(sysconfig.get_path("include"), "Python.h")
    found = [f"no {compiler}"] if shutil.which(compiler) is None else []
    found += [] if header.is_file() else [f"no {header}"]
    if found:
        raise ModelError(
            "engine: expected a C++ compiler and Python's headers, which the engine compiled needs, "
            f"found {' and '.join(found)}; {REMEDY}"
        )


def keep_compiled_code() -> None:
    """Let torch keep what it compiles in `~/.cache/zs2/compiled` ($XDG_CACHE_HOME counts), unless
    TORCHINDUCTOR_CACHE_DIR says where; in torch's own temporary folder where that cannot be written."""
    # torch sets its own as soon as it is imported
    temporary = str(Path(tempfile.gettempdir(), "torchinductor_"))
    if not os.environ.get(PLACE, temporary).startswith(temporary):
        return
    root = os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME", "/"), ".cache")
    folder = Path(root, "zs2", "compiled")
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            os.environ[PLACE] = str(folder)
