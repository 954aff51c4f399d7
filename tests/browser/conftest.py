"""A headless Chromium of the system, driven by Playwright; nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
OpenPage = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests. A machine without one skips them; CI has to have it."""
    executable = shutil.which("chromium")
    if executable is None:
        reason = "no Chromium: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens a run folder's page. At the end of the test nothing may have gone wrong in any of them:
    no error on the console, no dialog, no request but for files of the folder."""
    faults: list[str] = []
    contexts: list[Any] = []

    def open_one(folder: Path, fragment: str = "", **options: Any) -> Page:
        size = {"width": 1440, "height": 900}
        context = browser.new_context(**{"viewport": size, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else 0)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(f"dialog {dialog.message}"))
        prefix = folder.absolute().as_uri()
        page.on(
            "request",
            lambda request: 0 if request.url.startswith(prefix) else faults.append(request.url),
        )
        page.goto((folder / "index.html").absolute().as_uri() + fragment)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not faults, faults
