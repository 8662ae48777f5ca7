"""The services that run a script of the weather and append its rows to the raw tables: consumer and station."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homelab.host import argv
from homelab.model import DatabaseGrant, ServiceContext, Step
from homelab.model.inventory import RAW, WEATHER
from homelab.paths import bundled_path
from homelab.pipelines.weather import require_script
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services.monitoring import SETTINGS
from homelab.services.postgres_client import client_file
from homelab.steps import Directory, File, Packages, SystemdUnit, Tree, UvInstall, Venv, WaitFor
from homelab.steps.queries import Query, psql_with


@dataclass(frozen=True, slots=True)
class RawWriter:
    """The names of one of these services; `role` is its login at PostgreSQL, `part` the task of its script."""

    name: str
    role: str
    part: str

    @property
    def unit(self) -> str:
        """Its unit."""
        return f"homelab-{self.name}.service"

    @property
    def environment(self) -> str:
        """The file with its settings, which only root can read."""
        return f"{SETTINGS}/{self.name}.env"

    @property
    def sandbox(self) -> Sandbox:
        """Its user, and its one writable folder."""
        return Sandbox(f"homelab-{self.name}", (f"/var/lib/homelab-{self.name}",), (self._client, self.environment))

    @property
    def grants(self) -> Sequence[DatabaseGrant]:
        """The right to append to the raw tables."""
        return (DatabaseGrant(RAW[0], self.role, "append", RAW[1]),)

    @property
    def metric_commands(self) -> Mapping[str, str]:
        """The command for its counters; it cannot write other metrics."""
        metric = rf"^homelab_{self.name}_[a-z_]+ [0-9]+$"
        return {self.name: f"{self._read('metrics.prom')} | grep -E '{metric}' | sort -u -k1,1"}

    @property
    def health_probes(self) -> Sequence[str]:
        """The commands for the state of its unit, its last report, and the container's time."""
        return (argv("systemctl", "is-active", self.unit), self._read("state.json"), "date +%s")

    def steps(
        self,
        context: ServiceContext,
        settings: bytes,
        values: Mapping[str, Any],
        waits: Sequence[Step] = (),
        lock: str = "consumer.txt",
    ) -> Sequence[Step]:
        """Return user, venv, scripts, settings and unit; `values` are for the unit's template, `lock` is the venv's.

        Raises InputError without the weather, or if its copy does not have the script.
        """
        pipeline, locks = context.inventory.pipeline(WEATHER).folder, bundled_path("pipelines/shared/requirements")
        require_script(pipeline, f"{self.name}.py", f"deploy {self.name}", self.part)
        sandbox, folder = self.sandbox, f"/opt/homelab/{self.name}"
        venv = Venv(f"{folder}/venv", (locks / lock).read_bytes())
        trees = [
            Tree(f"{folder}/scripts", Tree.of("", pipeline / "scripts", within=pipeline).files),
            Tree.of(f"{folder}/shared", bundled_path("pipelines/shared/scripts")),
        ]
        files = [
            client_file(context, self._client, RAW[0], self.role),
            File(self.environment, settings, mode=0o600, secret=True),
        ]
        postgres = context.inventory.container_with("postgres")
        template = f"{self.name}/homelab-{self.name}.service.j2"
        text = render(template, venv=venv.path, folder=folder, sandbox=sandbox, **values)
        unit = File(f"/etc/systemd/system/{self.unit}", text)
        return (
            *sandbox.account(),
            Packages(["python3", "python3-venv", "ca-certificates", "postgresql-client"]),
            UvInstall((locks / "uv.txt").read_bytes()),
            Directory(SETTINGS),
            Directory(folder),
            venv,
            *trees,
            *files,
            WaitFor(
                f"{postgres.name} accepts {self.role}",
                Query(psql_with(self._client), RAW[0], "select 1"),
                postgres.name,
                context.failed,
                context.wait_deadline(postgres),
            ),
            *waits,
            unit,
            SystemdUnit(self.unit, triggered_by=[venv, *trees, *files, unit], settle=0),
        )

    @property
    def _client(self) -> str:
        """The file with its login."""
        return f"{SETTINGS}/{self.name}-database.env"

    def _read(self, name: str) -> str:
        sandbox = self.sandbox
        return sandbox.read(f"{sandbox.writable[0]}/{name}")
