"""Alerts of the whole stack in a lab: each incident and its end is sent once to each of five real receivers."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from homelab.commands.alerts import send_test
from homelab.commands.pipeline_new import new_pipeline
from homelab.inventory import load
from homelab.lab import Lab
from homelab.runtime.lab_report import report_lab
from tests.integration.alert_sinks import RECEIVERS, AlertSinks
from tests.integration.lab_fixture import LabFixture, changes, in_a_lab, lab_with, query_prometheus
from tests.integration.waiting import until

LAB = Lab("alerts", IPv4Network("10.99.2.112/28"), "hl-aler", 18177, 8260)
SINKS = "10.99.2.118"
ANALYTICS = "analytics-platform"
FRESH = "fresh-rates"  # the timer that keeps the data of `rates` fresh
PROMETHEUS = "http://10.99.2.115:9090"
query = partial(query_prometheus, PROMETHEUS)
# The incidents, with the titles of their messages.
SCHEDULER = "The unit airflow-scheduler.service of airflow-orchestration does not run"
TITLES = {
    "scheduler": SCHEDULER,
    "disk": "The file system /srv/full of postgres-data is full within four days",
    "build": "The last build of the pipeline prices failed",
    "age": "The data of the pipeline rates is",
    "container": "No service of spare answers",
}
SILENCE = "Alertmanager has given no sign of life for"  # with the minutes, which grow until the end
KNOWN = {**TITLES, "silence": SILENCE}

pytestmark = in_a_lab()


def inventory(folder: Path, sinks: AlertSinks | None, *, monitoring: bool) -> str:
    """Return the inventory, with receivers or without."""
    services = {"prometheus": {"scrape_interval": "5s"}, "blackbox_exporter": {}, "alertmanager": {"group_wait": "1s"}}
    containers = {
        "observability": (115, 512, services if monitoring else {}),
        "postgres-data": (114, 512, {"postgres": {"version": 15}}),
        ANALYTICS: (116, 1024, {"analytics": {}}),
        "airflow-orchestration": (117, 2048, {"airflow": {}}),
        "receivers": (118, 256, {}),
        "spare": (119, 256, {}),
    }
    document = {
        "lab": "x",
        "proxmox": {"host": "x", "token_id": "homelab@pve!x"},
        "network": {"subnet": "10.99.2.112/28", "gateway": ".113", "bridge": "x"},
        "defaults": {"monitoring": monitoring},
        "containers": {
            name: {"vmid": 120 + last, "ip": f".{last}", "cores": 1, "memory": memory, "disk": 4, "services": services}
            for name, (last, memory, services) in containers.items()
        },
        "pipelines": {name: {"path": f"pipelines/{name}"} for name in ("prices", "rates")},
    }
    for name in (ANALYTICS, "receivers"):
        document["containers"][name]["template"] = "debian-13"  # type: ignore[index]
    return json.dumps({**document, **(sinks.section(folder) if sinks else {})})


def each_receiver(messages: Mapping[str, list[str]]) -> dict[str, Mapping[str, list[str]]]:
    """Return the same messages for each receiver."""
    return dict.fromkeys(RECEIVERS, messages)


def until_messages(stack: Monitored, since: float, messages: Mapping[str, list[str]], seconds: float = 90) -> None:
    """Wait until each receiver has these messages and no others.

    If the check runs already, a start does not repeat it: the timer does, a minute later.
    """
    end = time.monotonic() + seconds
    while (found := stack.messages(since)) != each_receiver(messages) and time.monotonic() < end:
        time.sleep(1)
    assert found == each_receiver(messages)


def write_pipelines(folder: Path) -> None:
    """Write two pipelines without a schedule: `prices` has a test of its rows, the data of `rates` are soon late."""
    for name in ("prices", "rates"):
        new_pipeline(folder, name)
        manifest = folder / "pipelines" / name / "pipeline.yaml"
        late = "expected_every: 1m" if name == "rates" else ""
        manifest.write_text(re.sub("^schedule:.*", late, manifest.read_text(), flags=re.MULTILINE))
    tests = folder / "pipelines" / "prices" / "dbt" / "tests"
    tests.mkdir()
    (tests / "no_negative_reading.sql").write_text("select * from {{ ref('prices_daily') }} where lowest < 0\n")


@dataclass(frozen=True)
class Monitored(LabFixture):
    """The lab with its receivers."""

    sinks: AlertSinks

    def messages(self, since: float) -> dict[str, dict[str, list[str]]]:
        """Return the messages by receiver and by incident: `begin` or `over`; an unknown title names itself."""
        found: dict[str, dict[str, list[str]]] = {name: {} for name in RECEIVERS}
        for receiver, title, _ in self.sinks.messages(self, since):
            title = title.removeprefix("[alerts] ")
            text = title.removeprefix("Over: ")
            name = next((name for name, known in KNOWN.items() if text.startswith(known)), text)
            found[receiver].setdefault(name, []).append("begin" if text == title else "over")
        return found

    def with_inventory(self, text: str) -> Monitored:
        """Change the inventory, and deploy it."""
        path = self.inventory.path
        path.write_text(text)
        changed = replace(self, inventory=replace(load([path, LAB.overlay]), state_dir=self.inventory.state_dir))
        changes(changed)
        return changed

    def build(self, name: str) -> None:
        """Build a pipeline, and read the metrics of the build."""
        self.run(f"homelab-pipeline {name}.build >/dev/null 2>&1; systemctl start homelab-metrics", ANALYTICS)

    def psql(self, sql: str) -> str:
        """Run SQL in the database of the pipelines."""
        words = ["runuser", "-u", "postgres", "--", "psql", "-qAt", "project_data", "-c", sql]
        return self.run(f"cd /; {shlex.join(words)}", "postgres-data")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    folder = tmp_path_factory.mktemp("monitoring")
    write_pipelines(folder)
    sinks = AlertSinks.at(SINKS, folder)
    with lab_with(LAB, folder, inventory(folder, sinks, monitoring=True)) as lab:
        stack = Monitored(lab.inventory, sinks)
        sinks.set_secrets(stack)
        stack.up()
        changes(stack)
        sinks.start(stack, ["observability", ANALYTICS])
        yield stack


def test_deployed_stack_has_no_incident(stack: Monitored) -> None:
    assert changes(stack) == []
    # A pending alert is no incident: a security update of the distribution may be two days old before it is one.
    firing = 'ALERTS{alertstate="firing"}'
    until(lambda: {each["metric"]["alertname"] for each in query(firing)} == {"Watchdog"})
    services = [service for each in report_lab(stack.session).containers for service in each.services]
    assert [service.health.summary for service in services if service.health and not service.health.ready] == []


def test_test_message_reaches_each_receiver(stack: Monitored) -> None:
    since = time.time()
    outcome = send_test(stack.session)
    assert outcome.container == "observability"
    assert {each.receiver: each.reason for each in outcome.deliveries} == dict.fromkeys(
        ("email", "slack", "webhook", "url-1", "url-2"), ""
    )
    assert stack.messages(since) == each_receiver({"Test message from observability": ["begin"]})


def test_unreachable_mail_server_and_wrong_webhook_are_named(stack: Monitored) -> None:
    stack.run("systemctl stop mail", "receivers")
    stack.session.secrets.set("slack", f"http://{SINKS}:8000/services/T0/B0/another-secret-token")
    changes(stack)
    reasons = {each.receiver: each.reason for each in send_test(stack.session).deliveries}
    assert reasons == {
        "email": f"cannot send over {SINKS}:25: Connection refused",
        "slack": f"{SINKS} answers 404: no_service",
        "webhook": "",
        "url-1": "",
        "url-2": "",
    }
    stack.sinks.set_secrets(stack)
    changes(stack)


def test_secrets_are_in_private_files_only(stack: Monitored) -> None:
    for container in ("observability", ANALYTICS):
        assert stack.run("stat -c '%U:%G %a' /etc/homelab/alerts.json", container) == "root:homelab-alerts 640"
        assert "secret-token" not in stack.run("journalctl --no-pager; ps -eo args", container)
        assert stack.run("ss -Hltn 'sport = :9095' | awk '{print $4}'", container).startswith("10.99.2.")
        stack.run("systemd-analyze security --no-pager --threshold=30 homelab-alerts.service", container)
    stack.run("systemd-analyze security --no-pager --threshold=30 homelab-alert-check.service", ANALYTICS)
    print(f"memory of the bridge: {stack.memory('homelab-alerts', 'observability')} KiB")


def test_each_incident_is_sent_once_to_each_receiver_and_so_is_its_end(stack: Monitored) -> None:
    """The mail server does not run at the beginning: its messages are sent later, and the others are not repeated."""
    for name in ("prices", "rates"):
        stack.run(f"homelab-pipeline {name}.fetch", ANALYTICS)
        stack.build(name)
    since = time.time()
    stack.psql("insert into prices.readings values ('gas', '2026-01-03', -1)")
    stack.run("mkdir -p /srv/full; mount -t tmpfs -o size=20m none /srv/full", "postgres-data")
    stack.run("dd if=/dev/zero of=/srv/full/zeros bs=1M 2>/dev/null || true", "postgres-data")
    stack.run("systemctl poweroff --no-block", "spare")
    stack.build("prices")
    until(lambda: "age" in stack.messages(since)["webhook"], 300)  # before its cause would be the stopped scheduler
    stack.run("systemctl stop airflow-scheduler", "airflow-orchestration")
    stopped = time.monotonic()

    until(lambda: "scheduler" in stack.messages(since)["webhook"])
    print(f"from a stopped scheduler to its message: {time.monotonic() - stopped:.0f} s")
    others = [name for name in RECEIVERS if name != "email"]
    until(lambda: all(stack.messages(since)[name].keys() >= TITLES.keys() for name in others))
    assert stack.messages(since)["email"] == {}
    stack.sinks.start_mail(stack)
    until(lambda: stack.messages(since)["email"].keys() >= TITLES.keys())
    assert stack.messages(since) == each_receiver({name: ["begin"] for name in TITLES})
    (text,) = (
        text
        for receiver, title, text in stack.sinks.messages(stack, since)
        if receiver == "email" and TITLES["build"] in title
    )
    assert "test no_negative_reading: Got 1 result, configured to fail if != 0" in text
    assert "Run: homelab pipeline status prices" in text

    stack.run("umount /srv/full", "postgres-data")
    stack.run("systemctl start airflow-scheduler", "airflow-orchestration")
    stack.up()
    stack.psql("delete from prices.readings where value < 0")
    stack.build("prices")
    timer = f"systemd-run -q --unit={FRESH} --on-active=1 --on-unit-inactive=5 --timer-property=AccuracySec=1"
    # The timer of the metrics alone would show an age of up to a minute more.
    builds = "homelab-pipeline rates.build; systemctl start homelab-metrics"
    stack.run(f"{timer} sh -c {shlex.quote(builds)}", ANALYTICS)
    until_messages(stack, since, {name: ["begin", "over"] for name in TITLES}, 420)


def test_silent_alertmanager_is_reported_by_another_container(stack: Monitored) -> None:
    since, sign = time.time(), "/var/lib/homelab-alerts/watchdog"

    def age() -> float:
        return time.time() - float(stack.run(f"stat -c %Y {sign}", ANALYTICS))

    assert age() < 150
    stack.run("systemctl stop prometheus-alertmanager", "observability")
    stack.run(f"touch -d '10 minutes ago' {sign}; systemctl start homelab-alert-check", ANALYTICS)
    until_messages(stack, since, {"silence": ["begin"]})
    (title,) = {title.removeprefix("[alerts] ") for _, title, _ in stack.sinks.messages(stack, since)}
    assert re.fullmatch(f"{SILENCE} 1[01] min: no other alert is sent", title)
    stack.run("systemctl start prometheus-alertmanager", "observability")
    until(lambda: age() < 100)
    stack.run("systemctl start homelab-alert-check", ANALYTICS)
    until_messages(stack, since, {"silence": ["begin", "over"]})


def test_without_prometheus_failed_builds_and_late_data_are_reported(stack: Monitored) -> None:
    alone = stack.with_inventory(inventory(stack.inventory.path.parent, stack.sinks, monitoring=False))
    assert alone.run("ss -Hltn 'sport = :9090 or sport = :9093'", "observability") == ""
    since = time.time()

    def build_prices() -> None:
        alone.run("homelab-pipeline prices.build >/dev/null 2>&1; systemctl start homelab-alert-check", ANALYTICS)

    alone.run(f"systemctl stop {FRESH}.timer", ANALYTICS)  # the data of `rates` are late after a while
    alone.psql("insert into prices.readings values ('gas', '2026-01-04', -1)")
    build_prices()
    until_messages(alone, since, {"build": ["begin"]})
    alone.psql("delete from prices.readings where value < 0")
    build_prices()
    until(lambda: "age" in alone.messages(since)["webhook"])
    alone.run("homelab-pipeline rates.build; systemctl start homelab-alert-check", ANALYTICS)
    until_messages(alone, since, {name: ["begin", "over"] for name in ("build", "age")})


def test_bridges_are_removed_with_their_section(stack: Monitored) -> None:
    without = stack.with_inventory(inventory(stack.inventory.path.parent, None, monitoring=False))
    for container in ("observability", ANALYTICS):
        assert not re.search(":9[0-9]{3}", without.run("ss -Hltn", container)), container
        without.run("! test -e /etc/homelab/alerts.json && ! systemctl is-active homelab-alert-check.timer", container)
    assert changes(without) == []
