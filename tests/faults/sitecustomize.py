"""Real faults in the processes of a real run, put in from outside: not a branch of the product.

With this folder on PYTHONPATH, Python imports the file as it starts. A row whose prompt says so then
meets torch's own out-of-memory error, or the end of its process, while it is sampled.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

TARGET = "tasks.sampling"


class Faults:
    """Finds `tasks.sampling` as Python does, and wraps its `sample` once it is executed."""

    _asking = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The module's own spec; none for other modules."""
        if name != TARGET or self._asking:
            return None
        # It stays in sys.meta_path: another thread that imports may be going through that list.
        self._asking = True
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            vars(module)["sample"] = _faulty(vars(module)["sample"])

        spec.loader.exec_module = exec_module
        return spec


def _faulty(sample: Any) -> Any:
    def faulty(models: Any, job: Any, *rest: Any) -> Any:
        if job.row.prompt[0] == "out of memory":
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        if job.row.prompt[0] == "crash":
            os.abort()
        return sample(models, job, *rest)

    return faulty


sys.meta_path.insert(0, Faults())
