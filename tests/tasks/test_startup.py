"""Who makes way for whom while a run starts, and when it reached what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from tasks.startup import POST_NICENESS, SAMPLER_NICENESS


def said(code: str) -> object:
    """What a fresh process prints, as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_process_makes_way_and_never_pushes():
    """Niceness goes up to what is asked for and stays where it is higher already; post-processing
    makes way for samplers."""
    code = (
        "import os, json; from tasks.startup import make_way; before = os.nice(0); "
        "make_way(before + 2); after = os.nice(0); make_way(before); "
        "print(json.dumps([after - before, os.nice(0) - before]))"
    )
    room = min(2, 19 - os.nice(0))  # of the test's own process
    assert said(code) == [room, room]
    assert 0 < SAMPLER_NICENESS < POST_NICENESS <= 19


def test_a_step_is_marked_once_from_the_start_of_the_process():
    """Seconds since the process began, imports included, and of the first time alone."""
    code = (
        "import json, time; time.sleep(0.5); from tasks.startup import mark, marks; mark('a'); "
        "time.sleep(0.3); mark('a'); mark('b'); print(json.dumps(marks()))"
    )
    began = time.monotonic()
    found = said(code)
    taken = time.monotonic() - began
    assert isinstance(found, dict) and list(found) == ["a", "b"]
    assert 0.4 <= found["a"] <= found["b"] - 0.25 <= taken
