"""`make pictures`: take the pictures of docs/images from the lab of `homelab demo --with gateway,superset,monitoring`.

Web pages become PNG files, by Chromium; the output of commands becomes SVG files.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Error, Page
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from docs.browser import browser_page, log_in, open_dashboard
from homelab.errors import HomelabError
from homelab.inventory import load
from homelab.lab import Lab
from homelab.model import Inventory
from homelab.model.web_uis import published_url, start_page_url
from homelab.secrets import FileSecretStore

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
COLUMNS = 110
# A live change of a container, and a change that restarts a service.
_CHANGE = """containers:
  analytics-platform: {memory: 4608}
  airflow-orchestration: {services: {airflow: {parallelism: 8}}}
"""
_DRAWING = 5_000  # milliseconds until charts are drawn, after their data have arrived
_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)  # from a server: a picture loads nothing


def save_command(name: str, words: Sequence[str]) -> None:
    """Run a homelab command and save its output as it looks in a terminal. Raises HomelabError."""
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "LINES": "26", "TERM": "xterm-256color"}
    shown = f"homelab {name}"
    command = [sys.executable, "-m", "homelab", "--quiet", "--lab", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # 1: the picture shows an unhealthy part
        raise HomelabError(
            f"Cannot take the picture {name}: `{shown}` failed", done.stderr, "Run `make pictures` again."
        )
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("$ ", "bold green"), (shown, "bold")))
    console.print(Text.from_ansi(done.stdout), soft_wrap=False, overflow="fold")
    svg = console.export_svg(title="homelab", theme=DIMMED_MONOKAI, unique_id=name)
    (IMAGES / f"{name}.svg").write_text(_FONTS.sub("", svg))


def save_page(page: Page, name: str) -> None:
    """Save the visible part of a page."""
    page.screenshot(path=IMAGES / f"{name}.png")


def take_pages(inventory: Inventory) -> None:
    """Take the pictures of the web UIs. Raises playwright's Error."""
    secrets = FileSecretStore(inventory.state_dir)
    start, containers = start_page_url(inventory.containers), inventory.containers
    checked = "!document.querySelector('.state:not(.good, .bad)')"
    with browser_page(1100, 430) as page:
        page.goto(f"{start}/")
        page.wait_for_function(checked)
        save_page(page, "start-page")
    with browser_page(390, 760, phone=True, scale=2, scheme="dark") as page:
        page.goto(f"{start}/")
        page.wait_for_function(checked)
        save_page(page, "start-page-phone")
    with browser_page(1280, 800) as page:
        airflow = published_url(containers, "airflow")
        log_in(page, f"{airflow}/", "admin", secrets.secret("airflow-admin").reveal())
        page.goto(f"{airflow}/dags/weather_ingestion_pipeline/")
        page.wait_for_function("document.body.innerText.includes('verify_ingestion')")
        page.wait_for_timeout(_DRAWING)
        save_page(page, "airflow")
    if superset := published_url(containers, "superset"):
        with browser_page(1440, 900) as page:
            log_in(page, f"{superset}/login/", "admin", secrets.secret("superset-admin").reveal())
            open_dashboard(page, f"{superset}/superset/dashboard/weather/?standalone=1")
            page.wait_for_timeout(_DRAWING)
            save_page(page, "dashboard")


def take_commands() -> None:
    """Take the pictures of commands."""
    save_command("status", ["status"])
    save_command("top", ["top", "--once"])
    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder) / "change.yaml"
        overlay.write_text(_CHANGE)
        save_command("plan", ["--overlay", str(overlay), "plan"])


def main() -> int:
    """Take all pictures."""
    lab = Lab()
    inventory = load([ROOT / "inventory.yaml", *lab.overlays])
    if not start_page_url(inventory.containers):
        print("Error: the lab has no gateway. Run: homelab demo --with gateway,monitoring", file=sys.stderr)
        return 1
    IMAGES.mkdir(exist_ok=True)
    try:
        take_commands()
        take_pages(inventory)
    except (Error, HomelabError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    for picture in sorted(IMAGES.iterdir()):
        print(f"{picture.stat().st_size / 1000:6.0f} kB  {picture.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
