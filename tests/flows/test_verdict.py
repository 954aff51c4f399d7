"""`fail_if`: when a run with failed rows counts as failed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from flows.commands.run import settings_of
from flows.errors import UsageError
from flows.settings import RenderSettings
from flows.verdict import has_failed, told_of_failures
from tasks.publish import Cause


@pytest.mark.parametrize(
    ("fail_if", "failed", "invalid", "expected"),
    [
        ("any", 0, 0, False),
        ("any", 1, 0, True),
        ("any", 0, 1, True),
        ("never", 10, 0, False),
        (0.1, 1, 0, False),  # of ten rows: as many as the share
        (0.1, 1, 1, True),
        (0.0, 1, 0, True),
        (0.0, 0, 0, False),
        (1.0, 5, 5, False),
    ],
)
def test_when_a_run_has_failed(fail_if: object, failed: int, invalid: int, expected: bool) -> None:
    """Failed and invalid rows count alike; a share is exceeded by more than it; zero is any."""
    given = RenderSettings(fail_if=fail_if).fail_if
    rows = {"ok": 10 - failed - invalid, "failed": failed, "invalid": invalid}
    assert has_failed(given, rows) is expected


def test_rows_that_were_never_rendered_count() -> None:
    """A run of failed rows alone may leave some; it has not done what its manifest asks for."""
    rows = {"ok": 9, "failed": 0, "invalid": 0}
    assert has_failed("any", rows, 1) and not has_failed("never", rows, 1)
    assert has_failed(0.05, rows, 1) and not has_failed(0.1, rows, 1)
    told = told_of_failures("/o", "any", rows, [], 1)
    assert (
        "of 10 rows" in told
        and "again" not in told
        and told.endswith("1 were never rendered: a run without only_failed does that")
    )


def test_a_manifest_without_rows_has_not_failed() -> None:
    """No rows, no failure, whatever the share."""
    none = dict.fromkeys(("ok", "failed", "invalid"), 0)
    assert not any(has_failed(fail_if, none) for fail_if in ("any", "never", 0.0, 0.5))


@pytest.mark.parametrize("wrong", ["some", -0.1, 1.1, "1.5", None, [1], "nan"])
def test_what_fail_if_is_not(wrong: object) -> None:
    """Anything else is refused, in words that say what may stand there."""
    with pytest.raises(ValidationError) as caught:
        RenderSettings.model_validate({"fail_if": wrong})
    (fault,) = caught.value.errors()
    assert fault["loc"] == ("fail_if",)
    assert fault["msg"] == "expected any, never, or a share of the rows from 0 to 1"


def test_on_the_command_line() -> None:
    """A share is a number there too, and a wrong one is named with its option."""
    assert settings_of(defaults=None, fail_if="0.25").fail_if == 0.25
    assert settings_of(defaults=None, fail_if="never").fail_if == "never"
    with pytest.raises(UsageError, match=r"--fail-if: expected any, never, .* found 'half'"):
        settings_of(defaults=None, fail_if="half")


def test_the_form_knows_what_may_stand_there() -> None:
    """Prefect checks parameters against the JSON schema before a run starts: words and the bounds
    are in it."""
    found = RenderSettings.model_json_schema()["properties"]["fail_if"]
    words, share = found["anyOf"]
    assert words["enum"] == ["any", "never"]
    assert (share["type"], share["minimum"], share["maximum"]) == ("number", 0, 1)


def test_the_message_tells_counts_causes_and_what_to_do() -> None:
    """Counts first, then three causes with an example each, the number of further ones, and the
    command that renders the failed rows again."""
    causes = [Cause("sample", "E", "m", 9 - i, f"row-{i}", f"told {i}") for i in range(5)]
    told = told_of_failures("/o", "any", {"ok": 1, "failed": 34, "invalid": 1}, causes)
    first, *rest, last = told.splitlines()
    assert "34 failed and 1 invalid of 36 rows of /o" in first and "zs2 retry /o" in first
    assert rest == [f"{9 - i} × sample: E: told {i} (row-{i})" for i in range(3)]
    assert last == "and 2 more causes: `zs2 status /o`"
