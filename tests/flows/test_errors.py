"""Exit codes: every error that a user can cause has one, and no fault of the program has."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from flows import errors
from flows.errors import UsageError, exit_code_of


@pytest.mark.parametrize("name", sorted(errors._BAD_USAGE | errors._CANNOT_GO_ON))
def test_listed_errors_exist(name: str) -> None:
    """The errors are listed by name: each name leads to an exception class of that very name, and
    it has the code of its list (LockedError, a StorageError, has its own)."""
    module, _, kind = name.rpartition(".")
    found = getattr(import_module(module), kind)
    assert issubclass(found, Exception)
    error = found.__new__(found)
    assert exit_code_of(error) == (1 if name in errors._CANNOT_GO_ON else 2)


def test_the_disk() -> None:
    """A folder or file that cannot be used is bad usage (2) before a run has begun; once Prefect is
    there it means that the run cannot go on (1)."""
    script = """
import errno, sys
from flows.errors import exit_code_of
from manifests.storage import StorageError
found = [StorageError("x"), OSError(errno.ENOSPC, "full"), OSError(errno.ENOENT, "gone")]
print([exit_code_of(error) for error in found])
import prefect
print([exit_code_of(error) for error in found])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["[2, 2, 2]", "[1, 1, None]"], done.stderr


def test_other_errors_are_faults_of_the_program() -> None:
    """They have no exit code: their traceback is the report."""
    assert exit_code_of(KeyError("x")) is None
    assert exit_code_of(ValueError("x")) is None
    assert exit_code_of(UsageError("x")) == 2
