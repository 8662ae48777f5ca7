"""The service consumer: writes the broker's messages to the raw tables, with the code of the ingestion."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from homelab.errors import InputError
from homelab.host import Result, argv
from homelab.model import DatabaseGrant, Health, Service, ServiceContext, Step
from homelab.model.inventory import RAW, WEATHER
from homelab.paths import bundled_path
from homelab.pipelines.broker_contract import PORT, SHARED_PARTS
from homelab.pipelines.weather import broker_secret
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services.broker import answers as broker_answers
from homelab.services.broker import consumer_user, too_many
from homelab.services.lab_certificates import CA_FILE
from homelab.services.monitoring import SETTINGS
from homelab.services.postgres_client import client_file
from homelab.steps import Directory, File, Packages, SystemdUnit, Tree, UvInstall, Venv, WaitFor
from homelab.steps.queries import Query, psql_with

UNIT = "homelab-consumer.service"
_ROLE = "broker_consumer"
_CLIENT, _ENVIRONMENT = f"{SETTINGS}/consumer-database.env", f"{SETTINGS}/consumer.env"
_SANDBOX = Sandbox("homelab-consumer", ("/var/lib/homelab-consumer",), (_CLIENT, _ENVIRONMENT))
_FOLDER = "/opt/homelab/consumer"
_STALE = 120  # seconds after which its state is too old: it writes it every half a minute
_METRIC = r"^homelab_consumer_[a-z_]+ [0-9]+$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer(Service):
    """Writes the broker's messages to PostgreSQL; several containers share the work."""

    requires: ClassVar[tuple[str, ...]] = ("postgres", "broker")
    minimum_memory: ClassVar[int] = 128
    many: ClassVar[bool] = True

    def combination_errors(
        self, services: Mapping[str, Sequence[Service]], neighbours: Collection[str]
    ) -> Iterator[tuple[Sequence[str | int], str]]:
        """Return an error if there are more consumers than parts of the work."""
        if too_many(len(services["consumer"])):
            yield (), f"at most {SHARED_PARTS} containers can share the work: remove one of them"

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """Append to the raw tables."""
        return (DatabaseGrant(RAW[0], _ROLE, "append", RAW[1]),)

    def data_folders(self) -> Sequence[str]:
        """Return the folder with its state."""
        return _SANDBOX.writable

    def units(self) -> Sequence[str]:
        """Return its unit."""
        return (UNIT,)

    def metric_commands(self, context: ServiceContext) -> Mapping[str, str]:
        """Return the command for its counters; it cannot write other metrics."""
        read = _SANDBOX.read(f"{_SANDBOX.writable[0]}/metrics.prom")
        return {"consumer": f"{read} | grep -E '{_METRIC}' | sort -u -k1,1"}

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, venv, scripts, settings and unit. Raises InputError without the weather, or its scripts."""
        inventory, locks = context.inventory, bundled_path("pipelines/shared/requirements")
        folder = inventory.pipeline(WEATHER).folder
        if not (folder / "scripts" / "consumer.py").exists():
            raise InputError(
                "Cannot deploy consumer: the copy of the weather has no consumer",
                f"{folder} has no scripts/consumer.py.",
                "Move the folder away, run `homelab pipeline copy weather`, and make your changes again.",
            )
        venv = Venv(f"{_FOLDER}/venv", (locks / "consumer.txt").read_bytes())
        files = Tree.of("", folder / "scripts", within=folder).files
        trees = [
            Tree(f"{_FOLDER}/scripts", files),
            Tree.of(f"{_FOLDER}/shared", bundled_path("pipelines/shared/scripts")),
        ]
        postgres, broker = inventory.container_with("postgres"), inventory.container_with("broker")
        user = consumer_user(context.container)
        environment = render(
            "consumer/broker.env.j2",
            broker=broker.address,
            port=PORT,
            user=user,
            password=context.secret_store.secret(broker_secret(user)).reveal(),
            ca_file=CA_FILE,
        )
        settings = [
            client_file(context, _CLIENT, RAW[0], _ROLE),
            File(_ENVIRONMENT, environment, mode=0o600, secret=True),
        ]
        names = [each.name for each in inventory.containers_with("consumer")]
        text = render(
            "consumer/homelab-consumer.service.j2",
            venv=venv.path,
            folder=_FOLDER,
            part=names.index(context.container.name),
            parts=len(names),
            sandbox=_SANDBOX,
        )
        unit = File(f"/etc/systemd/system/{UNIT}", text)
        return (
            *_SANDBOX.account(),
            Packages(["python3", "python3-venv", "ca-certificates", "postgresql-client"]),
            UvInstall((locks / "uv.txt").read_bytes()),
            Directory(SETTINGS),
            Directory(_FOLDER),
            venv,
            *trees,
            *settings,
            WaitFor(
                f"{postgres.name} accepts {_ROLE}",
                Query(psql_with(_CLIENT), RAW[0], "select 1"),
                postgres.name,
                context.failed,
                context.wait_deadline(postgres),
            ),
            WaitFor(
                f"the broker of {broker.name} answers",
                broker_answers(broker),
                broker.name,
                context.failed,
                context.wait_deadline(broker),
            ),
            unit,
            SystemdUnit(UNIT, triggered_by=[venv, *trees, *settings, unit], settle=0),
        )

    def health_probes(self) -> Sequence[str]:
        """Return the commands for the state of its unit, for the state that it wrote, and for the container's time."""
        read = _SANDBOX.read(f"{_SANDBOX.writable[0]}/state.json")
        return (argv("systemctl", "is-active", UNIT), read, "date +%s")

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it runs, and if it reached the broker and PostgreSQL last."""
        if not answers[0].ok:
            return Health(False, "does not run")
        if not answers[1].ok or not answers[1].text:
            return Health(False, "has not reported yet")
        state = json.loads(answers[1].text)
        shown = (
            f"{int(state['stored'])} rows stored, {int(state['unchanged'])} known, {int(state['quarantined'])} refused"
        )
        if state["problem"]:
            problem = " ".join(str(state["problem"]).split())[:300]
            return Health(False, f"waits since {str(state['since'])[:25]}: {problem}", state)
        if float(state["at"]) < int(answers[2].text) - _STALE:
            return Health(False, f"has not reported for {int(answers[2].text) - int(state['at'])} s; {shown}", state)
        return Health(True, shown, state)
