"""How the sampler computes, as the command line says it."""

from __future__ import annotations

from flows.errors import UsageError
from tasks.job import ENGINES, Engine

DTYPES = ("auto", "float32", "float16", "bfloat16")


def computing(
    dtype: str = "auto",
    safety_checker: str = "on",
    engine: str = "eager",
    clips_per_call: int = 1,
) -> Engine:
    """The engine that options declare.

    Raises:
        UsageError: a value that is none of theirs.
    """
    choices = (
        ("--dtype", dtype, DTYPES),
        ("--engine", engine, ENGINES),
        ("--safety-checker", safety_checker, ("on", "off")),
    )
    for name, found, allowed in choices:
        if found not in allowed:
            raise UsageError(f"{name}: expected one of {', '.join(allowed)}, found {found!r}")
    if clips_per_call < 1:
        raise UsageError(f"--clips-per-call: expected at least 1, found {clips_per_call}")
    return Engine(dtype, safety_checker == "on", engine, clips_per_call)
