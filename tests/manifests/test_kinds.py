"""manifests.kinds: parsing and describing one value."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from manifests.kinds import (
    MAX_TEXT,
    Kind,
    KindError,
    choice,
    describe,
    number,
    per_frame,
    plain,
    steps,
    text,
    texts,
    whole,
)

UNIT = number(0, 1)


@pytest.mark.parametrize(
    ("kind", "value", "parsed"),
    [
        (whole(1), 8, 8),
        (whole(1), 8.0, 8),
        (whole(1), Decimal("8.00"), 8),
        (whole(0, 2**63 - 1), 2**63 - 1, 2**63 - 1),
        (number(0), 3, 3.0),
        (number(0), Decimal("0.5"), 0.5),
        (UNIT, 1, 1.0),
        (per_frame(UNIT, "n"), [0.5], 0.5),
        (per_frame(UNIT, "n"), (0, 1), (0.0, 1.0)),
        (per_frame(UNIT, "n"), 1, 1.0),
        (text(), "", ""),
        (text(), "line\none\t\x1b[31m \u202e", "line\none\t\x1b[31m \u202e"),
        (texts("text"), "a", ("a",)),
        (texts("text"), ["a", ""], ("a", "")),
        (choice(("a", "b")), "b", "b"),
        (steps(1, 2, 4), 4.0, 4),
    ],
)
def test_values_are_normalised(kind: Kind, value: Any, parsed: Any):
    """Whole-number doubles are integers, numbers of one kind have one type, lists are tuples and a
    list of length 1 is the scalar."""
    found = kind.parse(value)
    assert found == parsed
    assert type(found) is type(parsed)


def test_minus_zero_is_zero():
    """-0.0 and 0.0 ask for the same clip, so they have one digest."""
    assert str(number(0).parse(-0.0)) == "0.0"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (whole(1), 0),
        (whole(1), True),
        (whole(1), "8"),
        (whole(1), 8.5),
        (whole(1), float("nan")),
        (whole(1), float("inf")),
        (whole(1), [8]),
        (whole(1), 2**31),
        (whole(8, 64, 8), 37),
        (number(0), -1e-9),
        (number(0), float("nan")),
        (number(0), float("inf")),
        (number(0), 10**400),
        (number(0), False),
        (number(0, 240, above=True), 0.0),
        (per_frame(UNIT, "n"), []),
        (per_frame(UNIT, "n"), [0.5, None]),
        (per_frame(UNIT, "n"), [0.5, 1.5]),
        (per_frame(UNIT, "n"), [[0.5]]),
        (per_frame(UNIT, "n"), "0.5"),
        (text(), "a\0b"),
        (text(), "x" * (MAX_TEXT + 1)),
        (text(), b"\xff"),
        (text(), 7),
        (text(empty=False), "  "),
        (texts("text"), []),
        (texts("text"), ["a", None]),
        (texts("text"), {"a": 1}),
        (choice(("a",)), "A"),
        (choice(("a",)), ["a"]),
        (choice(("a",)), "b"),
        (steps(1, 2, 4), 3),
        (steps(1, 2, 4), True),
    ],
)
def test_other_values_are_refused(kind: Kind, value: Any):
    """Booleans are not numbers, text is not a number, nothing is not finite, nothing is cut."""
    with pytest.raises(KindError) as refusal:
        kind.parse(value)
    assert refusal.value.expected


def test_a_refusal_says_what_would_do():
    """The hint names the nearest multiple and the option that was meant."""
    with pytest.raises(KindError) as refusal:
        whole(8, 8192, 8).parse(37)
    assert "32 or 40" in refusal.value.hint
    with pytest.raises(KindError) as refusal:
        choice(("ddim", "euler")).parse("DDIM")
    assert "`ddim`" in refusal.value.hint


@pytest.mark.parametrize(
    "value",
    [
        "x" * 1_000_000,
        ["y" * 100_000] * 100_000,
        b"\xff" * 1_000_000,
        {"k": "v" * 1000},
        "\x1b[2J\u202e",
    ],
)
def test_any_value_is_described_in_one_short_printable_line(value: Any):
    """A report cannot be flooded, nor a terminal be driven, by what a manifest holds."""
    shown = describe(value)
    assert len(shown) < 200
    assert shown.isprintable()


def test_lists_are_described_with_their_length():
    """A list of the wrong length shows how long it is."""
    assert describe((0.1, 0.2)) == "[0.1, 0.2] (2 values)"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("3.00"), 3),
        (Decimal("3.25"), "3.25"),
        (date(2026, 1, 2), "2026-01-02"),
        (b"\x00\xff", "00ff"),
        ({"a": (1, Decimal(2))}, {"a": [1, 2]}),
        (None, None),
        (True, True),
    ],
)
def test_meta_values_become_json_types(value: Any, expected: Any):
    """What rides along can be written to the journal, whatever it was."""
    assert plain(value) == expected
    json.dumps(plain(value))
