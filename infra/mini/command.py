"""What the recipe's programs share as commands: numbers that must be positive, errors told in one line."""

from __future__ import annotations

import math
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path


class RecipeError(Exception):
    """What whoever runs the recipe can mend: what was expected, what was found and what to do."""


def whole_number(text: str) -> int:
    """Return an option's whole number of 1 or more.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected a whole number of 1 or more, found {text!r}")
    return int(text)


def positive_number(text: str) -> float:
    """Return an option's number above 0.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return number


def run(main: Callable[[], None], *errors: type[Exception]) -> None:
    """Run a program; a RecipeError, and `errors`, end it with their message alone and status 1."""
    try:
        main()
    except (RecipeError, *errors) as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")
