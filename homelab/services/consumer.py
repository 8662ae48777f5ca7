"""The service consumer: writes the broker's messages to the raw tables, with the code of the ingestion."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from homelab.host import Result
from homelab.model import DatabaseGrant, Health, Service, ServiceContext, Step
from homelab.model.inventory import WEATHER
from homelab.pipelines.broker_contract import SHARED_PARTS, broker_variables
from homelab.pipelines.weather import broker_secret, require_script
from homelab.render import render
from homelab.services.broker import answers as broker_answers
from homelab.services.broker import too_many
from homelab.services.broker_parts import consumer_user
from homelab.services.lab_certificates import CA_FILE
from homelab.services.raw_writer import RawWriter
from homelab.steps import WaitFor

_WRITER = RawWriter("consumer", "broker_consumer", "consumer")
_STALE = 120  # seconds after which its state is too old: it writes it every half a minute


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
        return _WRITER.grants

    def data_folders(self) -> Sequence[str]:
        """Return the folder with its state."""
        return _WRITER.sandbox.writable

    def units(self) -> Sequence[str]:
        """Return its unit."""
        return (_WRITER.unit,)

    def metric_commands(self, context: ServiceContext) -> Mapping[str, str]:
        """Return the command for its counters; it cannot write other metrics."""
        return _WRITER.metric_commands

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, venv, scripts, settings and unit. Raises InputError without the weather, or its scripts."""
        inventory = context.inventory
        broker, user = inventory.container_with("broker"), consumer_user(context.container)
        password = context.secret_store.secret(broker_secret(user)).reveal()
        variables = broker_variables(inventory, user, CA_FILE, password)
        settings = render("consumer/broker.env.j2", variables=variables)
        names = [each.name for each in inventory.containers_with("consumer")]
        wait = WaitFor(
            f"the broker of {broker.name} answers",
            broker_answers(broker),
            broker.name,
            context.failed,
            context.wait_deadline(broker),
        )
        part = {"part": names.index(context.container.name), "parts": len(names)}
        lock = "consumer.txt"
        if "KAFKA_URL" in variables:
            lock = "consumer-kafka.txt"
            require_script(inventory.pipeline(WEATHER).folder, "broker_kafka.py", "deploy consumer", "client of Kafka")
        return _WRITER.steps(context, settings, part, [wait], lock)

    def health_probes(self) -> Sequence[str]:
        """Return the commands for the state of its unit, for the state that it wrote, and for the container's time."""
        return _WRITER.health_probes

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
