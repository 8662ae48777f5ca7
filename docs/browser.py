"""A headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

_STARTS_WITHIN = 60.0  # seconds
_POLL = 0.3  # seconds


class BrowserFailed(Exception):
    """The browser did not start, refused a command, or did not finish a page in time."""


@dataclass
class Page:
    """A tab of the browser."""

    _socket: aiohttp.ClientWebSocketResponse
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command and return its result. Raises BrowserFailed."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async for message in self._socket:
            answer = message.json()
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserFailed(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
        raise BrowserFailed(f"{method}: the browser has ended")

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in JavaScript. Raises BrowserFailed."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserFailed(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def resize(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        """Set the size in CSS pixels; a phone has two pixels of the picture for each."""
        scale = 2 if phone else 1
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def open(self, url: str, ready: str, seconds: float = 60) -> None:
        """Open a page and wait until an expression in JavaScript is true. Raises BrowserFailed."""
        await self.call("Page.navigate", url=url)
        await self.wait(ready, seconds)

    async def wait(self, ready: str, seconds: float = 60) -> None:
        """Wait until an expression in JavaScript is true. Raises BrowserFailed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not await self._is_true(ready):
            if loop.time() > until:
                address, text = await self.evaluate("[location.href, document.body?.innerText]")
                raise BrowserFailed(f"{address}: not within {seconds:.0f} s: {ready}\n{(text or '')[:500]}")
            await asyncio.sleep(_POLL)

    async def _is_true(self, expression: str) -> bool:
        try:
            return bool(await self.evaluate(f"document.readyState === 'complete' && Boolean({expression})"))
        except BrowserFailed:
            return False  # between two pages

    async def picture(self) -> bytes:
        """Return a PNG of the visible part."""
        answer = await self.call("Page.captureScreenshot", format="png", optimizeForSpeed=False)
        return base64.b64decode(answer["data"])


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """Start Chromium with an empty profile and yield a tab, which accepts the lab's certificate. Raises BrowserFailed.

    As root, Chromium runs without its own sandbox: it opens pages of the lab only.
    """
    program = shutil.which("chromium")
    if program is None:
        raise BrowserFailed("Chromium is missing: install Debian's package `chromium`")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        words += ["--disable-background-networking", "--disable-component-update", "--no-proxy-server"]
        words += [f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
        process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = await _port(process, Path(profile) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    tabs = [tab for tab in await answer.json() if tab["type"] == "page"]
                async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    page = Page(socket)
                    await page.call("Page.enable")
                    await page.call("Security.setIgnoreCertificateErrors", ignore=True)
                    yield page
        finally:
            process.terminate()
            process.wait(20)


async def _port(process: subprocess.Popen[bytes], file: Path) -> int:
    loop = asyncio.get_running_loop()
    until = loop.time() + _STARTS_WITHIN
    while not (file.exists() and file.read_text().strip()):
        if process.poll() is not None or loop.time() > until:
            raise BrowserFailed("Chromium does not start")
        await asyncio.sleep(_POLL)
    return int(file.read_text().split()[0])
