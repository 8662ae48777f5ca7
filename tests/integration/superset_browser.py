"""A real browser that opens dashboards of Superset: the system's chromium, headless, driven by playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Page, Response, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="needs the package chromium, or google-chrome")
SIZES = {"desktop": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}
_WAIT = 240_000  # milliseconds
_CHART = "[data-test=chart-grid-component]"
_LOADING = "[data-test=loading-indicator]"


@dataclass(frozen=True)
class ShownDashboard:
    """The texts of the drawn charts and the rows of their data by chart, errors, and the width of the page."""

    texts: dict[str, str]
    rows: dict[str, list[dict[str, Any]]]
    errors: list[str]
    width: int


@contextmanager
def logged_in(url: str, user: str, password: str, size: str = "desktop") -> Iterator[Page]:
    """Log in through the form, and yield the page."""
    with sync_playwright() as playwright:
        # The tests run as root. They check the certificate with other clients.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server"], timeout=_WAIT
        )
        phone = size == "phone"
        context = browser.new_context(viewport=SIZES[size], is_mobile=phone, has_touch=phone, ignore_https_errors=True)  # type: ignore[arg-type]
        context.set_default_timeout(_WAIT)
        page = context.new_page()
        page.goto(f"{url}/login/")
        page.fill("input[name=username], #username", user)
        page.fill("input[name=password], #password", password)
        page.click("button[type=submit], input[type=submit]")
        page.wait_for_url("**/welcome/**")
        yield page
        browser.close()


def show(page: Page, url: str, slug: str) -> ShownDashboard:
    """Open a dashboard, and wait until all its charts are drawn."""
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer) if "/api/v1/chart/data" in answer.url else None)
    page.goto(f"{url}/superset/dashboard/{slug}/")
    page.wait_for_selector(_CHART)
    page.wait_for_load_state("networkidle")
    page.wait_for_function(f"document.querySelectorAll('{_LOADING}').length === 0")
    charts = page.locator(_CHART).all()
    names = {each.get_attribute("data-test-chart-id"): each.get_attribute("data-test-chart-name") for each in charts}
    rows, errors = {}, page.locator("[role=alert]").all_inner_texts()
    for answer in answers:
        if not answer.ok:
            errors.append(f"{answer.status}: {answer.text()[:500]}")
            continue
        number = str((answer.request.post_data_json or {}).get("form_data", {}).get("slice_id"))
        if name := names.get(number):
            rows[name] = answer.json()["result"][0]["data"]
    texts = {str(each.get_attribute("data-test-chart-name")): each.inner_text() for each in charts}
    width = page.evaluate("document.documentElement.scrollWidth")
    return ShownDashboard(texts, rows, errors, int(width))
