"""A headless browser on the lab's web UIs: the system's Chromium, driven by playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from playwright.sync_api import Page, TimeoutError, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHART = "[data-test=chart-grid-component]"  # of a dashboard in Superset
NOTHING_LOADS = "document.querySelectorAll('[data-test=loading-indicator]').length === 0"  # in a dashboard
_WAIT = 240_000  # milliseconds
_LOGINS = 4


@contextmanager
def browser_page(
    width: int,
    height: int,
    *,
    phone: bool = False,
    scale: int = 1,
    scheme: Literal["light", "dark"] = "light",
    program: str | None = CHROMIUM,
) -> Iterator[Page]:
    """Start the browser with an empty profile, and yield a page of this size in CSS pixels.

    `scale` is the number of pixels of a picture for each of them. The page accepts the lab's certificate.
    """
    with sync_playwright() as playwright:
        # As root, Chromium runs without its own sandbox: it opens pages of the lab only.
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--no-proxy-server"], timeout=_WAIT
        )
        context = browser.new_context(
            viewport={"width": width, "height": height},
            is_mobile=phone,
            has_touch=phone,
            device_scale_factor=scale,
            color_scheme=scheme,
            ignore_https_errors=True,
            # Superset's policy forbids `eval`, with which wait_for_function repeats its condition.
            bypass_csp=True,
        )
        context.set_default_timeout(_WAIT)
        yield context.new_page()
        browser.close()


def log_in(page: Page, url: str, user: str, password: str) -> None:
    """Log in through the form of Airflow or Superset at this address; again if a slow page lost the values."""
    for left in reversed(range(_LOGINS)):
        page.goto(url)
        page.fill("input[name=username], #username", user)
        page.fill("input[name=password], #password", password)
        page.click("button[type=submit], input[type=submit]")
        try:
            page.wait_for_url(lambda address: "login" not in address, wait_until="commit", timeout=_WAIT / _LOGINS)
        except TimeoutError:
            if not left:
                raise
        else:
            return


def open_dashboard(page: Page, url: str) -> None:
    """Open a dashboard of Superset, and wait until all its charts are drawn."""
    page.goto(url)
    page.wait_for_selector(CHART)
    page.wait_for_load_state("networkidle")
    page.wait_for_function(NOTHING_LOADS)
