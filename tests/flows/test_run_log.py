"""The log of a flow run: everything is said or counted, and a flood is a few lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from flows.run_log import EVERY, FIRST, RunLog

log = logging.getLogger("zs2.test_run_log")


class Heard:
    """What a RunLog passed on, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[tuple[int, str]] = []
        self.handler = RunLog(lambda level, text: self.said.append((level, text)), lambda: self.now)


@pytest.fixture
def heard() -> Iterator[Heard]:
    made = Heard()
    log.addHandler(made.handler)
    log.setLevel(logging.INFO)
    yield made
    log.removeHandler(made.handler)


def fail(row: int, cause: str = "E") -> None:
    log.warning("row %s: %s", row, cause, extra={"zs2_cause": ("failed", cause)})


def test_few_records_are_passed_on_as_they_are(heard: Heard) -> None:
    """Level and text, of any cause; nothing is summed up that was said."""
    log.info("plan: %d rows", 3)
    fail(1)
    heard.handler.close()
    assert heard.said == [(logging.INFO, "plan: 3 rows"), (logging.WARNING, "row 1: E")]


def test_a_flood_is_a_few_lines_and_loses_no_count(heard: Heard) -> None:
    """100,000 failures of one cause within three minutes are FIRST lines, one a minute and one at the
    end; the numbers told add up to all; another cause in their midst is heard at once."""
    rows = 100_000
    for row in range(rows):
        heard.now = row * 3 * EVERY / rows
        fail(row)
        if row == rows // 2:
            fail(row, "another")
    assert (logging.WARNING, f"row {rows // 2}: another") in heard.said
    heard.handler.close()
    ours = [text for _, text in heard.said if not text.endswith("another")]
    summed_up = [int(text.split()[0]) for text in ours if " more like this one: row " in text]
    assert ours[:FIRST] == [f"row {row}: E" for row in range(FIRST)]
    assert len(ours) == FIRST + len(summed_up) and 2 <= len(summed_up) <= 4
    assert FIRST + sum(summed_up) == rows


def test_records_with_a_traceback_keep_it(heard: Heard) -> None:
    """Who reads the flow run's log sees where an exception came from."""
    try:
        raise ValueError("so it is")
    except ValueError:
        log.exception("failed")
    ((level, text),) = heard.said
    assert level == logging.ERROR and "Traceback" in text and "so it is" in text


def test_causes_without_a_word_of_their_own_are_told_apart_by_their_text(heard: Heard) -> None:
    """Two templates are two causes, however many values they are filled with."""
    for row in range(FIRST + 5):
        log.info("one %d", row)
        log.info("two %d", row)
    heard.handler.close()
    assert len(heard.said) == 2 * FIRST + 2
    assert heard.said[-1] == (logging.INFO, f"5 more like this one: two {FIRST + 4}")
