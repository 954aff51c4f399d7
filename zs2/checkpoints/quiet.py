"""The libraries' talk while zs2 loads a part: silenced, and their errors in one short line."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

_LONGEST_ERROR = 300  # characters: torch names every tensor that does not fit


def brief(error: Exception) -> str:
    """A library's error in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + " …"


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
