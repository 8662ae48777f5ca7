"""The service Metabase: dashboards of the published tables, with its metadata in PostgreSQL.

Its jars are files of the user. No test runs Metabase: no package registry has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from homelab.distributions import Distribution
from homelab.host import Result
from homelab.model import DatabaseGrant, Endpoint, Health, ServiceContext, Step
from homelab.model.options import Option
from homelab.pipelines.published_files import COPIES
from homelab.render import render
from homelab.services.metabase_setup import (
    ADMIN,
    DAEMON,
    DATABASE,
    DRIVER,
    FOLDER,
    JAR,
    ROLE,
    checked_file,
    first_user,
    settings_files,
)
from homelab.services.monitoring import SETTINGS, Daemon, DaemonService
from homelab.services.password_stamp import STAMPS
from homelab.services.publications import PUSHES, reading_sandbox, receive_publications
from homelab.steps import Directory, File, Packages, SystemdUnit, Tree, WaitFor

_JAVA = 21
_SHA256 = Option("SHA-256 of the file.", pattern=r"[0-9a-f]{64}", expected="64 hexadecimal digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metabase(DaemonService):
    """Metabase: dashboards of the published tables of all pipelines, from its jar, which you download."""

    jar: Annotated[Path, Option("Metabase's jar.", examples=("metabase.jar",))]
    jar_sha256: Annotated[str, _SHA256]
    driver: Annotated[Path, Option("Metabase's driver for DuckDB.", examples=("duckdb.metabase-driver.jar",))]
    driver_sha256: Annotated[str, _SHA256]

    daemon: ClassVar[Daemon] = DAEMON
    requires: ClassVar[tuple[str, ...]] = ("postgres", "analytics")
    minimum_memory: ClassVar[int] = 2048
    reads_published: ClassVar[bool] = True

    def unsupported_options(self, distribution: Distribution) -> Iterator[tuple[str, str]]:
        """Return an error for a distribution with an older Java."""
        if distribution.java < _JAVA:
            error = f"Metabase runs on Java {_JAVA} or newer, and {distribution.alias} has {distribution.java}"
            yield "jar", f"{error}: use another template"

    def option_errors(self) -> Iterator[tuple[Sequence[str | int], str]]:
        """Return an error for each missing file."""
        for name, path in (("jar", self.jar), ("driver", self.driver)):
            if not path.is_file():
                yield (name,), f"{path} is not a file: download it, or correct the path"

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """Own the metadata."""
        return (DatabaseGrant(DATABASE, ROLE, "own"),)

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the web UI, with a login, and SSH, over which the published files are pushed."""
        return (
            Endpoint(
                name="web",
                port=DAEMON.port,
                description="Metabase",
                audience="lan",
                protocol="http",
                health_path="/api/health",
                web_ui="Metabase",
                credentials=(ADMIN,),
            ),
            PUSHES,
        )

    def data_folders(self) -> Sequence[str]:
        """Return the folder of the program, and that of the copies of published files."""
        return (*DAEMON.sandbox.writable, COPIES)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, jars, settings, unit, and first user. Raises InputError for a file with another SHA-256."""
        sandbox = reading_sandbox(context, DAEMON.sandbox)
        files = {JAR: checked_file(self.jar, self.jar_sha256), DRIVER: checked_file(self.driver, self.driver_sha256)}
        jars, settings = Tree(f"{FOLDER}/jars", files), settings_files(context)
        text = render("metabase/metabase.service.j2", folder=jars.path, jar=JAR, driver=DRIVER, sandbox=sandbox)
        unit = File(f"/etc/systemd/system/{DAEMON.unit}", text)
        return (
            *sandbox.account(),
            Packages(["default-jre-headless", "python3"]),
            *(Directory(each) for each in (SETTINGS, STAMPS, FOLDER)),
            jars,
            *settings,
            *receive_publications(context),
            unit,
            SystemdUnit(DAEMON.unit, triggered_by=[jars, *settings, unit]),
            WaitFor("Metabase answers", DAEMON.request("/api/health"), context.container.name, context.failed, 900),
            *first_user(context, sandbox),
        )

    def health_probes(self) -> Sequence[str]:
        """Return a request for its state."""
        return (DAEMON.request("/api/health"),)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it answers and has started completely."""
        works = answers[0].ok and json.loads(answers[0].text)["status"] == "ok"
        return Health(works, "answers" if works else "does not answer")
