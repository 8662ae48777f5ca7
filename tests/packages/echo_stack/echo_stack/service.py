"""A service that answers each HTTP request with a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from homelab.api import (
    Directory,
    Endpoint,
    File,
    Health,
    Option,
    Packages,
    Result,
    Sandbox,
    Service,
    ServiceContext,
    Step,
    SystemdUnit,
    Templates,
)

TEMPLATES = Templates(Path(__file__).parent / "templates", "echo-stack's templates")
SANDBOX = Sandbox("echo", ("/var/lib/echo",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo(Service):
    """A text over HTTP."""

    port: Annotated[int, Option("Port of the web server.", low=1024, high=65535)] = 8901
    text: Annotated[str, Option("The answer.")] = "hello"

    def endpoints(self) -> Sequence[Endpoint]:
        """Return that of the web server."""
        return (
            Endpoint(name="web", port=self.port, description="echo", audience="lan", protocol="http", web_ui="Echo"),
        )

    def data_folders(self) -> Sequence[str]:
        """Return the folder that it writes."""
        return SANDBOX.writable

    def units(self) -> Sequence[str]:
        """Return its unit."""
        return ("echo.service",)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return package, user, page and unit."""
        page = File("/srv/echo/index.html", f"{self.text}\n".encode())
        text = TEMPLATES.render("echo.service.j2", port=self.port, sandbox=SANDBOX)
        unit = File("/etc/systemd/system/echo.service", text)
        return (
            Packages(["python3"]),
            *SANDBOX.account(),
            Directory("/srv/echo"),
            page,
            unit,
            SystemdUnit("echo.service", triggered_by=[unit]),
        )

    def health_probes(self) -> Sequence[str]:
        """Return a request to the web server."""
        code = (
            f'import urllib.request as r; print(r.urlopen("http://127.0.0.1:{self.port}", timeout=5).read().decode())'
        )
        return (f"python3 -c '{code}'",)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it answers."""
        return Health(answers[0].ok, f"answers: {answers[0].text}" if answers[0].ok else "does not answer")
