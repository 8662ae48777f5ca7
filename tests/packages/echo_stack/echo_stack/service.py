"""A service that answers each HTTP request with a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from homelab.api import (
    BackupHooks,
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
    Upgrade,
)

TEMPLATES = Templates(Path(__file__).parent / "templates", "echo-stack's templates")
DATA = "/var/lib/echo"
SANDBOX = Sandbox("echo", (DATA,))
_FORMATS = f'[ {{0}} -lt 9 ] || {{{{ echo "format {{0}} is unknown" >&2; exit 3; }}}}; echo {{0}} >{DATA}/format'


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo(Service):
    """A text over HTTP."""

    port: Annotated[int, Option("Port of the web server.", low=1024, high=65535)] = 8901
    text: Annotated[str, Option("The answer.")] = "hello"
    format: Annotated[int, Option("Format of its data.", low=1)] = 1

    def endpoints(self) -> Sequence[Endpoint]:
        """Return that of the web server."""
        return (
            Endpoint(name="web", port=self.port, description="echo", audience="lan", protocol="http", web_ui="Echo"),
        )

    def data_folders(self) -> Sequence[str]:
        """Return the folder that it writes."""
        return SANDBOX.writable

    def backup_hooks(self) -> BackupHooks:
        """Dump the format for the backup, and read the dump after a restore."""
        return BackupHooks(
            before=(SANDBOX.run("/bin/cp", f"{DATA}/format", f"{DATA}/dump"),),
            after=(SANDBOX.run("/bin/rm", "-f", f"{DATA}/dump"),),
            restored=(SANDBOX.run("/bin/cp", f"{DATA}/dump", f"{DATA}/restored"),),
        )

    def units(self) -> Sequence[str]:
        """Return its unit."""
        return ("echo.service",)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return package, user, page and unit."""
        upgrade = Upgrade(
            service="echo",
            version=f"format {self.format}",
            before=(SANDBOX.run("/bin/cp", f"{DATA}/format", f"{DATA}/format.before"),),
            after=(SANDBOX.run("/bin/sh", "-c", _FORMATS.format(self.format)),),
        )
        page = File("/srv/echo/index.html", f"{self.text}\n".encode())
        text = TEMPLATES.render("echo.service.j2", port=self.port, sandbox=SANDBOX)
        unit = File("/etc/systemd/system/echo.service", text)
        return (
            upgrade.prepare(),
            Packages(["python3"]),
            *SANDBOX.account(),
            SANDBOX.file(),
            Directory("/srv/echo"),
            page,
            unit,
            upgrade.finish(),
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
