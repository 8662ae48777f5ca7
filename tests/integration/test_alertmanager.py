"""A real Alertmanager with the settings that homelab renders, the bridge, and receivers, on loopback."""

from __future__ import annotations

import json
import shutil
import socket
import socketserver
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pytest

from homelab.inventory import load
from homelab.model import Alerts, ServiceContext
from homelab.model.alert_receivers import Email
from homelab.paths import bundled_path
from homelab.steps import File
from tests.alert_servers import Mailbox, Sink, bridged, mail, serving
from tests.integration.waiting import until, until_started
from tests.support import FixedSecretStore, observability

ROOT = Path(__file__).parents[2]
NAME = "prometheus-alertmanager"
TOOLS = ROOT / ".venv" / "promtool"
PROGRAM = shutil.which(NAME, path=TOOLS)
# The program opens its templates in /usr/share, which the machine of the tests does not have.
SHARE = "/usr/share"
MOUNTED = (
    f"mount -t tmpfs none {SHARE} && mkdir {SHARE}/prometheus && "
    f'cp -r {TOOLS}/templates {SHARE}/prometheus/alertmanager && exec "$@"'
)
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Alertmanager is missing: run `./bootstrap --test`")
BEGIN, END = "firing", "resolved"
CONTAINERS = {
    "defaults": {"monitoring": True},
    "containers": observability(prometheus={}, alertmanager={"group_wait": "1s"}),
    "alerts": {"webhook": "http://192.168.2.5/"},
}


def free_port() -> int:
    """Return a port that nothing uses."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def settings(folder: Path, bridge: int) -> str:
    """Return the settings for an inventory with a webhook and mail, with shorter intervals and this bridge."""
    overlay = folder / "overlay.yaml"
    overlay.write_text(json.dumps(CONTAINERS))
    inventory = load([bundled_path("inventory.yaml"), overlay])
    email = Email(smtp="127.0.0.1:25", from_="a@b.c", to=("d@e.f",))
    inventory = replace(inventory, alerts=Alerts(webhook="http://127.0.0.1/", email=email))
    container = inventory.container_with("alertmanager")
    context = ServiceContext(inventory=inventory, container=container, secret_store=FixedSecretStore(), host_keys={})
    steps = container.services["alertmanager"].steps(context)
    (file,) = [step for step in steps if isinstance(step, File) and step.path.endswith("alertmanager.yml")]
    text = file.content.decode()
    for old, new in (
        ("192.168.2.70:9095", f"127.0.0.1:{bridge}"),
        ("192.168.2.68:9095", f"127.0.0.1:{bridge}"),
        ("group_interval: 1m", "group_interval: 2s"),
        ("group_interval: 30s", "group_interval: 1s"),
        ("repeat_interval: 50s", "repeat_interval: 1s"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


def call(url: str, content: object = None) -> None:
    """Send a request without a proxy."""
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5):
        pass


@dataclass(frozen=True)
class Dispatcher:
    """Alertmanager with its receivers: the payloads of the webhook, and the mails."""

    url: str
    folder: Path
    quiet: dict[str, Any]  # empty: no quiet hours
    webhook: list[dict[str, Any]]
    mails: list[str]
    mail_port: int

    def post(self, name: str, over: bool = False, severity: str = "warning", **labels: str) -> None:
        """Post an alert, as Prometheus does."""
        labels |= {"alertname": name, "severity": severity}
        alert: dict[str, Any] = {"labels": labels, "annotations": {"summary": name}}
        if over:
            alert["endsAt"] = datetime.now(UTC).isoformat()
        call(f"{self.url}/api/v2/alerts", [alert])

    def sent(self) -> list[tuple[str, str]]:
        """Return the status and the name of each message to the webhook."""
        return [(each["status"], each["groupLabels"]["alertname"]) for each in self.webhook]


@pytest.fixture
def dispatcher(tmp_path: Path) -> Iterator[Dispatcher]:
    got: list[dict[str, Any]] = []
    quiet, port, mail_port = dict[str, Any](), free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    with serving(HTTPServer(("127.0.0.1", 0), type("", (Sink,), {"got": got}))) as sink:
        receivers = {"webhook": {"kind": "webhook", "url": f"http://127.0.0.1:{sink}/"}, "email": mail(mail_port)}
        with bridged(tmp_path, receivers=receivers, quiet=quiet) as bridge:
            (tmp_path / "alertmanager.yml").write_text(settings(tmp_path, bridge["port"]))
            words = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNTED, NAME]
            words += [str(PROGRAM), "--config.file=alertmanager.yml", "--storage.path=data"]
            words += ["--cluster.listen-address=", f"--web.listen-address=127.0.0.1:{port}"]
            with (tmp_path / "log").open("w") as log:
                process = subprocess.Popen(words, cwd=tmp_path, stdout=log, stderr=log)
            try:
                until_started(process, lambda: call(f"{url}/-/ready"), log=tmp_path / "log")
                yield Dispatcher(url, tmp_path, quiet, got, [], mail_port)
            finally:
                process.terminate()
                process.wait(20)


def test_receiver_that_does_not_answer_gets_its_messages_later_and_the_other_one_gets_them_once(
    dispatcher: Dispatcher,
) -> None:
    dispatcher.post("DiskFull", container="a")
    until(lambda: dispatcher.sent() == [(BEGIN, "DiskFull")])
    time.sleep(5)  # more than two intervals of the group, in which the mail fails
    with serving(_mail_server(dispatcher)):
        until(lambda: len(dispatcher.mails) == 1)
        dispatcher.post("DiskFull", over=True, container="a")
        until(lambda: len(dispatcher.mails) == 2)
        until(lambda: dispatcher.sent() == [(BEGIN, "DiskFull"), (END, "DiskFull")])
        time.sleep(5)
    assert len(dispatcher.mails) == 2
    assert len(dispatcher.sent()) == 2


def _mail_server(dispatcher: Dispatcher) -> socketserver.BaseServer:
    handler = type("", (Mailbox,), {"got": dispatcher.mails})
    return socketserver.ThreadingTCPServer(("127.0.0.1", dispatcher.mail_port), handler)


@pytest.mark.parametrize(
    ("cause", "effect"),
    [
        ({"name": "ContainerDown", "container": "postgres-data"}, {"name": "UnitFailed", "container": "postgres-data"}),
        (
            {"name": "ContainerDown", "container": "postgres-data"},
            {"name": "UnitFailed", "container": "airflow-orchestration"},
        ),
        ({"name": "PipelineFailed", "pipeline": "weather"}, {"name": "DagFailed", "dag": "weather_ingestion_pipeline"}),
    ],
)
def test_effect_of_a_cause_is_not_sent(
    dispatcher: Dispatcher, cause: Mapping[str, Any], effect: Mapping[str, Any]
) -> None:
    dispatcher.post(**cause)
    dispatcher.post(**effect)
    until(lambda: dispatcher.sent() == [(BEGIN, cause["name"])])
    dispatcher.post(**effect, over=True)
    time.sleep(3)
    dispatcher.post(**cause, over=True)
    until(lambda: len(dispatcher.sent()) == 2)
    time.sleep(3)
    assert dispatcher.sent() == [(BEGIN, cause["name"]), (END, cause["name"])]


def test_messages_of_quiet_hours_follow_for_open_and_known_incidents(dispatcher: Dispatcher) -> None:
    dispatcher.post("Known")
    until(lambda: dispatcher.sent() == [(BEGIN, "Known")])
    dispatcher.quiet.update({"from": "00:00", "to": "24:00", "except": "critical"})
    dispatcher.post("Known", over=True)
    dispatcher.post("Open")
    dispatcher.post("Short")
    dispatcher.post("Urgent", severity="critical")
    until(lambda: dispatcher.sent() == [(BEGIN, "Known"), (BEGIN, "Urgent")])
    dispatcher.post("Short", over=True)
    time.sleep(5)
    assert len(dispatcher.sent()) == 2
    dispatcher.quiet.clear()
    until(lambda: len(dispatcher.sent()) == 4)
    time.sleep(3)
    assert sorted(dispatcher.sent()[2:]) == [(BEGIN, "Open"), (END, "Known")]


def test_watchdog_is_a_sign_of_life_and_not_a_message(dispatcher: Dispatcher) -> None:
    dispatcher.post("Watchdog", severity="none")
    until((dispatcher.folder / "watchdog").exists)
    (dispatcher.folder / "watchdog").unlink()
    until((dispatcher.folder / "watchdog").exists)
    assert dispatcher.sent() == []
