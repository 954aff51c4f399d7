"""How the sampler computes, as the command line says it."""

from __future__ import annotations

from flows.errors import UsageError
from tasks.job import ENGINES, MOST_CLIPS, Engine

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
    if not 1 <= clips_per_call <= MOST_CLIPS:
        raise UsageError(f"--clips-per-call: expected 1 to {MOST_CLIPS}, found {clips_per_call}")
    return Engine(dtype, safety_checker == "on", engine, clips_per_call)
