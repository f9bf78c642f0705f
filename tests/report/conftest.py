"""
Reports, opened as their readers open them: in a browser, from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

SCREENSHOTS = Path(__file__).parents[2] / "build" / "reports"
"""Where pictures of the pages are kept, to be looked at."""


@pytest.fixture(scope="module")
def browser(require_server: Callable[[str], str]) -> Iterator[Browser]:
    """
    Chromium, as Debian packages it.
    """
    path = require_server("chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path)
        yield chromium
        chromium.close()


class Opened:
    """
    A report in a window.

    Attributes:
        complaints: What the browser said on its console, and what was requested.
    """

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        page.on("request", lambda request: self.complaints.append(request.url))
        page.goto(address)
        # Opening the page itself is the one request that there is.
        self.complaints.remove(address.partition("#")[0])

    def rows(self) -> list[str]:
        """
        Return the rows that are drawn, each as the texts of its kind and its label.
        """
        found: list[str] = self.page.evaluate(
            "() => [...document.querySelectorAll('#inner .row')].map(row => "
            "row.querySelector('.kind').textContent + ' ' + "
            "row.querySelector('.label').textContent)"
        )
        return found

    def text(self, selector: str) -> str:
        return " ".join(self.page.inner_text(selector).split())

    def keep(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


Open = Callable[..., Opened]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """
    A function that opens the page at a path in a window, and in the end checks that the browser
    had nothing to say and that nothing was requested.
    """
    opened: list[Opened] = []

    def open_it(
        path: Path,
        fragment: str = "",
        *,
        width: int = 1440,
        height: int = 900,
        dark: bool = False,
        scripts: bool = True,
    ) -> Opened:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
        )
        opened.append(Opened(context.new_page(), path.as_uri() + fragment))
        return opened[-1]

    yield open_it
    for window in opened:
        window.page.context.close()
    assert [] == [complaint for window in opened for complaint in window.complaints]
