"""The service alert_bridge: passes messages about incidents on to the receivers of the inventory's `alerts:`.

It is next to Alertmanager, and on another container that watches Alertmanager. Without Prometheus and Alertmanager, a
timer next to the pipelines finds failed and late builds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from homelab.errors import InputError
from homelab.host import Result
from homelab.model import (
    Alerts,
    Container,
    Endpoint,
    Health,
    Inventory,
    Secret,
    SecretName,
    Service,
    ServiceContext,
    Step,
)
from homelab.model.alert_receivers import BRIDGE
from homelab.model.stages import ANALYTICS, INGESTION
from homelab.model.urls import SERVER
from homelab.paths import bundled_path
from homelab.render import render
from homelab.services.late_limits import late_limits, stream_limits
from homelab.services.monitoring import SETTINGS, Daemon
from homelab.steps import Directory, File, Packages, SystemdUnit, Tree

PORT = 9095
_DAEMON = Daemon("prometheus-alerts", PORT)  # only for its sandbox and its requests: no package has this name
_SANDBOX = _DAEMON.sandbox
_FOLDER = "/opt/homelab-alerts"
_FILE = f"{SETTINGS}/alerts.json"
_UNIT = "homelab-alerts.service"
_CHECK, _TIMER = "homelab-alert-check.service", "homelab-alert-check.timer"
_SCRIPT = "/usr/local/sbin/homelab-alert-check"
_SECOND_URL = re.compile(r"[\s,][A-Za-z0-9+.-]+://")
_SILENCE = 300  # seconds without a sign of life of Alertmanager


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertBridge(Service):
    """alert_bridge: sends the messages of `alerts:` by mail, to Slack, to webhooks, and over Apprise."""

    many: ClassVar[bool] = True

    def endpoints(self) -> Sequence[Endpoint]:
        """Return that of Alertmanager's webhooks; the bridge itself refuses all other clients."""
        return (Endpoint(name="web", port=PORT, description="messages", audience="dependents", protocol="http"),)

    def data_folders(self) -> Sequence[str]:
        """Return the folder with the open incidents."""
        return _SANDBOX.writable

    def units(self) -> Sequence[str]:
        """Return the unit of the bridge."""
        return (_UNIT,)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, scripts, settings and units. Raises InputError for a receiver that cannot be used."""
        inventory = context.inventory
        alerts = _alerts(inventory)
        packages = ["python3", *(["apprise"] if alerts.urls else [])]
        scripts = Tree.of(_FOLDER, bundled_path("templates/alert_bridge/scripts"))
        values = context.user_secrets(alerts.secrets)
        text = json.dumps(_settings(context, alerts, values), indent=1) + "\n"
        settings = File(_FILE, text.encode(), group=_SANDBOX.user, mode=0o640, secret=True)
        unit = File(
            f"/etc/systemd/system/{_UNIT}",
            render("alert_bridge/homelab-alerts.service.j2", folder=_FOLDER, sandbox=_SANDBOX),
        )
        return (
            *_SANDBOX.account(),
            _SANDBOX.file(),
            Directory(SETTINGS),
            Packages(packages),
            scripts,
            settings,
            unit,
            SystemdUnit(_UNIT, triggered_by=[scripts, settings, unit]),
            *_checks(context),
        )

    def health_probes(self) -> Sequence[str]:
        """Return a request for the last failure of each receiver."""
        return (_DAEMON.request("/"),)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it answers, and each receiver took its last message."""
        if not answers[0].ok:
            return Health(False, "does not answer")
        failures: Mapping[str, str] = json.loads(answers[0].text)["receivers"]
        failed = [f"{name}: {reason}" for name, reason in failures.items() if reason]
        text = "; ".join(failed) or f"sends to {', '.join(failures)}"
        return Health(not failed, text, {"receivers": dict(failures)}, ready=True)


def is_monitored(inventory: Inventory) -> bool:
    """Return True if Prometheus finds the incidents, and Alertmanager sends them."""
    return all(inventory.containers_with(name) for name in ("prometheus", "alertmanager"))


def watcher(inventory: Inventory) -> Container | None:
    """Return the container that watches Alertmanager: the first other one with a bridge; None if there is none."""
    if not is_monitored(inventory):
        return None
    sender = inventory.container_with("alertmanager").name
    return next((each for each in inventory.containers_with(BRIDGE) if each.name != sender), None)


def sender(inventory: Inventory) -> Container:
    """Return the container that sends the messages, for test messages, too: that of the program that finds incidents.

    Raises InputError without receivers.
    """
    _alerts(inventory)
    if inventory.containers_with(ANALYTICS) and not is_monitored(inventory):
        return inventory.container_with(ANALYTICS)
    return inventory.container_with("alertmanager" if inventory.containers_with("alertmanager") else BRIDGE)


def test_command() -> str:
    """Return shell text that sends a test message through each receiver and prints the results as JSON."""
    return _SANDBOX.run("/usr/bin/python3", "-B", f"{_FOLDER}/send.py", "--test")


def _alerts(inventory: Inventory) -> Alerts:
    if inventory.alerts is None:
        raise InputError(
            "Cannot send alerts: the inventory has no receivers",
            f"{inventory.path} has no section `alerts:`.",
            "Add it as described in docs/how-to/alerts.md, then run `homelab deploy`.",
        )
    return inventory.alerts


def _settings(context: ServiceContext, alerts: Alerts, values: Mapping[str, Secret]) -> Mapping[str, Any]:
    inventory, container = context.inventory, context.container
    clients = [*inventory.containers_with("alertmanager"), container]
    quiet = alerts.quiet
    return {
        "lab": inventory.lab,
        "container": container.name,
        "address": str(container.address),
        "port": PORT,
        "clients": sorted({str(each.known_address) for each in clients if each.known_address}),
        "quiet": quiet and {"from": quiet.from_, "to": quiet.to, "except": quiet.except_},
        "receivers": dict(zip(alerts.receivers, _receivers(alerts, values), strict=True)),
        "pipelines": _pipelines(context),
        **({"streams": streams} if (streams := _streams(context)) else {}),
        "watchdog": _SILENCE if _is_watcher(context) else 0,
    }


def _receivers(alerts: Alerts, values: Mapping[str, Secret]) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of each receiver, in the order of their names."""

    def revealed(value: str | SecretName) -> str:
        return values[value].reveal().strip() if isinstance(value, SecretName) else value

    if mail := alerts.email:
        host, port = mail.server
        yield {
            "kind": "email",
            "host": host,
            "port": port,
            "from": mail.from_,
            "to": list(mail.to),
            "user": mail.user,
            "password": mail.password and revealed(mail.password),
        }
    if alerts.slack:
        yield {"kind": "slack", "url": _http_url("slack", revealed(alerts.slack.webhook))}
    if alerts.webhook:
        yield {"kind": "webhook", "url": _http_url("webhook", revealed(alerts.webhook))}
    for number, url in enumerate(map(revealed, alerts.urls), 1):
        if _SECOND_URL.search(url):
            raise InputError(
                f"Cannot send alerts to url-{number}: it has more than one URL",
                "A message that one of them refuses would be repeated to the others.",
                "Write each one as an item of `alerts: urls:`; write a comma that belongs to a URL as %2C.",
            )
        yield {"kind": "apprise", "url": url}


def _http_url(receiver: str, url: str) -> str:
    """Return the URL of a receiver. Raises InputError, which does not quote it, if its host or port cannot be used.

    A value that is no URL at all is reported when a message is sent.
    """
    if "://" in url and not re.fullmatch(rf"https?://([^\s@/?#]*@)?{SERVER}([/?]\S*)?", url):
        raise InputError(
            f"Cannot send alerts to {receiver}: its URL cannot be used",
            "It begins with https:// or http://, and has a host and at most the port 65535.",
            "Correct it: in the inventory, or with `homelab secret set NAME`.",
        )
    return url


def _is_watcher(context: ServiceContext) -> bool:
    found = watcher(context.inventory)
    return found is not None and found.name == context.container.name


def _pipelines(context: ServiceContext) -> Mapping[str, float | None]:
    """Return the pipelines that this container checks, with the seconds after which their data are late."""
    inventory = context.inventory
    if is_monitored(inventory) or ANALYTICS not in context.container.services:
        return {}
    limits = late_limits(inventory)
    return {pipeline.name: limits.get(pipeline.name) for pipeline in inventory.pipelines}


def _streams(context: ServiceContext) -> Mapping[str, float]:
    """Return the streams of these pipelines, with the seconds after which their newest row is late."""
    limits = stream_limits(context.inventory) if INGESTION in context.inventory.stages_on(context.container) else {}
    return {name: limit for name, limit in limits.items() if name in _pipelines(context)}


def _checks(context: ServiceContext) -> Iterator[Step]:
    """Yield the timer for incidents that Prometheus does not find, if there are any."""
    if not _pipelines(context) and not _is_watcher(context):
        return
    has_pipelines = bool(_pipelines(context))
    commands = context.container.services[ANALYTICS].metric_commands(context).values() if has_pipelines else ()
    program = _SANDBOX.as_user("/usr/bin/python3", "-B", f"{_FOLDER}/check.py")
    yield (script := File(_SCRIPT, render("alert_bridge/check.j2", commands=commands, program=program), mode=0o700))
    values = {"script": _SCRIPT, "folder": _SANDBOX.writable[0]}
    unit = File(f"/etc/systemd/system/{_CHECK}", render("alert_bridge/homelab-alert-check.service.j2", **values))
    timer = File(f"/etc/systemd/system/{_TIMER}", render("alert_bridge/homelab-alert-check.timer.j2"))
    yield from (unit, timer, SystemdUnit(_TIMER, triggered_by=[script, unit, timer], settle=0))
