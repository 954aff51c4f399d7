"""The libraries' talk while zs2 loads a part: silenced, and their errors in one short line."""

from __future__ import annotations

import logging
import re
import traceback
import warnings
from collections.abc import Generator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

_LONGEST_ERROR = 300  # characters: torch names every tensor that does not fit
# A tensor of another shape than the part has: as diffusers says it, and as torch does.
_MISFITS = (
    re.compile(
        r"because (?P<name>\S+) expected shape torch\.Size\((?P<expected>.*?)\), "
        r"but got torch\.Size\((?P<found>.*?)\)"
    ),
    re.compile(
        r"size mismatch for (?P<name>\S+): copying a param with shape torch\.Size\((?P<found>.*?)\) "
        r"from checkpoint, the shape in current model is torch\.Size\((?P<expected>.*?)\)"
    ),
)
# transformers prints which ones, and then says this.
_UNNAMED_MISFIT = "You set `ignore_mismatched_sizes` to `False`"
# diffusers' functions that load one part, called `name` there.
_PART_LOADERS = {"load_sub_model", "load_single_file_sub_model"}


def brief(error: Exception) -> str:
    """A library's error in one line; its kind where the words alone say little."""
    text = " ".join(str(error).split())
    for pattern in _MISFITS:
        if misfit := pattern.search(text):
            return "{name} of shape {found} where {expected} is expected".format(
                **misfit.groupdict()
            )
    if text.startswith(_UNNAMED_MISFIT):
        return "tensors of other shapes than its configuration says"
    if not isinstance(error, (OSError, ValueError, RuntimeError)):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    text = text or type(error).__name__
    return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + " …"


def part_of(error: Exception) -> str | None:
    """The part of a pipeline that diffusers was loading when it failed; None where it was at none."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name in _PART_LOADERS:
            return str(frame.f_locals["name"])
    return None


@contextmanager
def quiet() -> Generator[None]:
    """No warnings, log lines and progress bars of diffusers, transformers and peft; as before after."""
    levels = [
        (library, library.get_verbosity()) for library in (diffusers_logging, transformers_logging)
    ]
    bars = transformers_logging.is_progress_bar_enabled()
    for library, _ in levels:
        library.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, level in levels:
            library.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
