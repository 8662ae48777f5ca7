"""The dashboards of Superset in a real browser."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Response, TimeoutError

from docs.browser import CHART, CHROMIUM, NOTHING_LOADS, browser_page, log_in, open_dashboard
from tests.integration.waiting import until

needs_browser = pytest.mark.skipif(not CHROMIUM, reason="needs the package chromium, or google-chrome")
_OPENINGS, _PATIENCE = 3, 120  # times a dashboard is opened, and the seconds of each wait
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}


@dataclass(frozen=True)
class ShownDashboard:
    """The texts of the drawn charts and the rows of their data by chart, errors, and the width of the page."""

    texts: dict[str, str]
    rows: dict[str, list[dict[str, Any]]]
    errors: list[str]
    width: int


@contextmanager
def browser_on(bridge: str, address: str, folder: Path) -> Iterator[str]:
    """A machine of its own on a bridge, with an address such as 10.99.2.30/28; yield a program that starts Chromium.

    Chromium ends all requests with ERR_NETWORK_CHANGED when a network device of its machine comes or goes, which each
    container of another lab does.
    """
    link = f"{bridge}-web"
    with subprocess.Popen(["unshare", "--net", "sleep", "infinity"]) as machine:
        try:
            inside = ["nsenter", "--target", str(machine.pid), "--net"]
            until(lambda: Path(f"/proc/{machine.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink())
            for command in (
                ["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid)],
                ["ip", "link", "set", link, "master", bridge, "up"],
                [*inside, "ip", "link", "set", "lo", "up"],
                [*inside, "ip", "link", "set", "eth0", "up"],
                [*inside, "ip", "address", "add", address, "dev", "eth0"],
            ):
                subprocess.run(command, check=True)
            program = folder / "chromium"
            program.write_text(f'#!/bin/sh\nexec {shlex.join([*inside, str(CHROMIUM)])} "$@"\n')
            program.chmod(0o755)
            yield str(program)
        finally:
            machine.kill()


@contextmanager
def logged_in(program: str, url: str, user: str, password: str, size: str = "desktop") -> Iterator[Page]:
    """Start a browser, log in through the form, and yield the page."""
    with browser_page(*SIZES[size], phone=size == "phone", program=program) as page:
        log_in(page, f"{url}/login/", user, password)
        page.wait_for_url("**/welcome/**")
        yield page


def show(page: Page, url: str, slug: str) -> ShownDashboard:
    """Open a dashboard, and wait until all its charts are drawn.

    On a busy machine, the first page of a new Superset can stay without charts: then it is opened again.
    """
    answers: list[Response] = []
    problems: list[str] = []
    page.on("response", lambda answer: answers.append(answer) if "/api/v1/chart/data" in answer.url else None)
    page.on("response", lambda answer: None if answer.ok else problems.append(f"{answer.status} {answer.url}"))
    page.on("requestfailed", lambda request: problems.append(f"{request.failure} {request.url}"))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.set_default_timeout(1000 * _PATIENCE)
    for left in reversed(range(_OPENINGS)):
        answers.clear()
        try:
            open_dashboard(page, f"{url}/superset/dashboard/{slug}/")
            charts = page.locator(CHART).all()
            # A slow page has moments without a request and without a loading indicator: its charts ask later.
            until(lambda: len({_chart_of(each) for each in _seen(page, answers)}) >= len(charts), _PATIENCE)  # noqa: B023
            break
        except (AssertionError, TimeoutError):
            print(page.locator("body").inner_text(), *problems, sep="\n")
            if not left:
                raise
    page.wait_for_function(NOTHING_LOADS)
    names = {each.get_attribute("data-test-chart-id"): each.get_attribute("data-test-chart-name") for each in charts}
    rows, errors = {}, page.locator("[role=alert]").all_inner_texts()
    for answer in answers:
        if not answer.ok:
            errors.append(f"{answer.status}: {answer.text()[:500]}")
            continue
        if name := names.get(_chart_of(answer)):
            rows[name] = answer.json()["result"][0]["data"]
    texts = {str(each.get_attribute("data-test-chart-name")): each.inner_text() for each in charts}
    width = page.evaluate("document.documentElement.scrollWidth")
    return ShownDashboard(texts, rows, errors, int(width))


def _seen(page: Page, answers: list[Response]) -> list[Response]:
    """Return the answers, after the time to receive further ones."""
    page.wait_for_timeout(200)
    return answers


def _chart_of(answer: Response) -> str:
    return str((answer.request.post_data_json or {}).get("form_data", {}).get("slice_id"))
