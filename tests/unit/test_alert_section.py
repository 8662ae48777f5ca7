"""The section `alerts:` of the inventory: its values, its errors, and the containers that send."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.alerts import send_test
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.model import Alerts, Inventory, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.secrets import FileSecretStore
from homelab.services.alert_bridge import sender, watcher
from homelab.steps import File
from tests.support import FixedSecretStore, NoHost, make_session, observability

ALERTS = {
    "email": {
        "smtp": "mail.home.arpa",
        "from": "homelab@home.arpa",
        "to": ["me@home.arpa"],
        "user": "homelab",
        "password": {"secret": "smtp"},
    },
    "slack": {"webhook": {"secret": "slack"}},
    "webhook": "http://192.168.2.5:8000/alerts",
    "urls": ["ntfy://ntfy.sh/my-topic", {"secret": "telegram"}],
    "quiet": {"from": "22:00", "to": "07:00", "except": "critical"},
}
MONITORED = {"prometheus": {}, "alertmanager": {}}


def inventory(
    folder: Path, alerts: object, services: Mapping[str, object] | None = None, **containers: Any
) -> Inventory:
    """Return the shipped inventory with this section, and with services on a container `observability`."""
    key = folder / "key"
    key.write_text("openweather")
    key.chmod(0o600)
    document = {
        "containers": {**({} if services is None else observability(**services)), **containers},
        "pipelines": {"weather": {"api_key_file": str(key)}},
        **({} if alerts is None else {"alerts": alerts}),
    }
    path = folder / "overlay.yaml"
    path.write_text(json.dumps(document))
    return load([bundled_path("inventory.yaml"), path])


def problems(folder: Path, alerts: object, **more: Any) -> list[str]:
    """Return `path: text` of each problem."""
    with pytest.raises(InputError) as caught:
        inventory(folder, alerts, **more)
    assert "Nothing has been changed" in caught.value.resolution
    return [line.partition("overlay.yaml:1: ")[2] for line in caught.value.details.splitlines()]


def settings(wanted: Inventory, name: str) -> dict[str, Any]:
    """Return the settings of the bridge in a container."""
    container = next(each for each in wanted.containers if each.name == name)
    context = ServiceContext(inventory=wanted, container=container, secret_store=FixedSecretStore(), host_keys={})
    steps = container.services["alert_bridge"].steps(context)
    (file,) = [step for step in steps if isinstance(step, File) and step.path == "/etc/homelab/alerts.json"]
    assert (file.secret, file.mode, file.group) == (True, 0o640, "homelab-alerts")
    found: dict[str, Any] = json.loads(file.content)
    timers = [step.title for step in steps if "alert-check.timer" in step.title]
    return {**found, "timer": bool(timers)}


def bridges(wanted: Inventory) -> list[str]:
    """Return the containers with a bridge."""
    return [container.name for container in wanted.containers_with("alert_bridge")]


def test_receivers_have_names_and_secrets(tmp_path: Path) -> None:
    alerts = inventory(tmp_path, ALERTS).alerts
    assert isinstance(alerts, Alerts)
    assert alerts.receivers == ("email", "slack", "webhook", "url-1", "url-2")
    assert alerts.secrets == ["smtp", "slack", "telegram"]
    assert alerts.email
    assert alerts.email.server == ("mail.home.arpa", 587)


def test_without_the_section_no_container_has_a_bridge(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, None, MONITORED)
    assert (wanted.alerts, bridges(wanted)) == (None, [])
    with pytest.raises(InputError, match="the inventory has no receivers"):
        sender(wanted)


def test_without_monitoring_the_container_of_the_pipelines_checks_them_and_sends(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, ALERTS)
    assert bridges(wanted) == ["analytics-platform"]
    assert (sender(wanted).name, watcher(wanted)) == ("analytics-platform", None)
    found = settings(wanted, "analytics-platform")
    assert (found["pipelines"], found["watchdog"], found["timer"]) == ({"weather": 10800}, 0, True)
    assert found["clients"] == ["192.168.2.68"]
    assert found["receivers"]["slack"] == {"kind": "slack", "url": "secret-of-slack"}


def test_alertmanager_without_prometheus_leaves_the_messages_to_the_pipelines(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, ALERTS, {"alertmanager": {}})
    assert sender(wanted).name == "analytics-platform"
    assert settings(wanted, "analytics-platform")["pipelines"] == {"weather": 10800}


def test_with_monitoring_alertmanager_sends_and_the_container_of_the_pipelines_watches(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, ALERTS, MONITORED)
    assert bridges(wanted) == ["analytics-platform", "observability"]
    watching = watcher(wanted)
    assert (sender(wanted).name, watching and watching.name) == ("observability", "analytics-platform")
    found = settings(wanted, "analytics-platform")
    assert (found["pipelines"], found["watchdog"], found["timer"]) == ({}, 300, True)
    assert found["clients"] == ["192.168.2.68", "192.168.2.70"]
    assert settings(wanted, "observability")["timer"] is False


def test_prometheus_without_alertmanager_leaves_the_check_to_the_timer(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, ALERTS, {"prometheus": {}})
    assert settings(wanted, "analytics-platform")["pipelines"] == {"weather": 10800}


def test_another_container_can_watch(tmp_path: Path) -> None:
    spare = {"postgres-data": {"services": {"alert_bridge": {}}}}
    watching = watcher(inventory(tmp_path, ALERTS, MONITORED, **spare))
    assert watching
    assert watching.name == "postgres-data"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"email": {"smtp": "mail:0"}}, "alerts.email.smtp: must be a host with a port, such as mail.home.arpa:587"),
        ({"email": {"from": "homelab"}}, "alerts.email.from: must be an address such as homelab@home.arpa"),
        ({"email": {"to": []}}, "alerts.email.to: needs an address"),
        ({"email": {"user": None}}, "alerts.email: needs both user and password, or neither"),
        ({"email": {"password": "hunter2"}}, "alerts.email.password: must be {secret: NAME}"),
        ({"slack": "https://hunter2"}, "alerts.slack: must be a mapping of options, not this value"),
        ({"email": "mailto://me:hunter2@x"}, "alerts.email: must be a mapping of options, not this value"),
        ({"urls": "ntfy://hunter2"}, "alerts.urls: must be a list of URLs, not this value"),
        ({"email": {"smtp": "mail:65536"}}, "alerts.email: has the port 65536 in smtp, and the last one is 65535"),
        *(
            ({"email": {"to": [f"a{each}b@home.arpa"]}}, "alerts.email.to[0]: must be an address")
            for each in "();:[]\\,<>"
        ),
        ({"slack": {"webhook": "https://hunter2"}}, "alerts.slack.webhook: must be {secret: NAME}"),
        ({"webhook": "ftp://hunter2"}, "alerts.webhook: must be a URL such as http://192.168.2.5:8000/alerts"),
        ({"urls": ["hunter2"]}, "alerts.urls[0]: must be a URL of Apprise such as ntfy://ntfy.sh/my-topic"),
        ({"urls": {"a": "hunter2"}}, "alerts.urls: must be a list of URLs, not a mapping"),
        ({"quiet": {"to": "24:00"}}, 'alerts.quiet.to: must be a time in quotes such as "22:00"'),
        ({"quiet": {"to": "22:00"}}, "alerts.quiet: `from` and `to` are the same time"),
        ({"quiet": {"except": "warning"}}, "alerts.quiet.except: must be one of 'critical'"),
        ({"teams": {}}, "alerts.teams: unknown key"),
    ],
)
def test_wrong_value_is_an_error_that_shows_no_secret(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    ((key, value),) = change.items()
    known = ALERTS.get(key)
    changed = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    (found,) = problems(tmp_path, {**ALERTS, key: changed})
    assert found.startswith(problem)
    assert "hunter2" not in found


def bridge_with(folder: Path, alerts: Mapping[str, object], secret: str, value: str) -> Sequence[Step]:
    """Return the steps of the bridge for receivers with a secret."""
    wanted = inventory(folder, alerts)
    container = wanted.container_with("analytics")
    store = FileSecretStore(folder / "state")
    store.set(secret, value)
    context = ServiceContext(inventory=wanted, container=container, secret_store=store, host_keys={})
    return container.services["alert_bridge"].steps(context)


@pytest.mark.parametrize("receiver", ["slack", "webhook"])
@pytest.mark.parametrize(
    ("url", "is_usable"),
    [
        ("https://hooks.slack.com/services/hunter2", True),
        ("http://[fd00::1]:9000?key=hunter2", True),
        ("http://[::1/hunter2", False),
        ("http://x:99999/hunter2", False),
        ("http://x:abc/hunter2", False),
    ],
)
def test_url_of_a_receiver_is_checked_and_not_quoted(tmp_path: Path, receiver: str, url: str, is_usable: bool) -> None:
    named = {"secret": "hook"}
    alerts = {receiver: {"webhook": named} if receiver == "slack" else named}
    if is_usable:
        assert bridge_with(tmp_path, alerts, "hook", url)
        return
    with pytest.raises(InputError, match=f"Cannot send alerts to {receiver}: its URL cannot be used") as caught:
        bridge_with(tmp_path, alerts, "hook", url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        ("ntfy://ntfy.sh/hunter2,json://home.arpa", False),
        ("ntfy://ntfy.sh/hunter2 json://home.arpa", False),
        ("mailto://me:hunter2@x.org?to=a@b.org,c@d.org", True),
        ("json://hunter2/?link=https://home.arpa", True),
    ],
)
def test_item_of_urls_is_one_url(tmp_path: Path, url: str, is_one: bool) -> None:
    alerts = {"urls": ["ntfy://ntfy.sh/my-topic", {"secret": "two"}]}
    if is_one:
        assert bridge_with(tmp_path, alerts, "two", url)
        return
    with pytest.raises(InputError, match="Cannot send alerts to url-2: it has more than one URL") as caught:
        bridge_with(tmp_path, alerts, "two", url)
    assert "hunter2" not in f"{caught.value} {caught.value.details}"


@pytest.mark.parametrize("alerts", [{}, {"quiet": ALERTS["quiet"]}])
def test_section_without_a_receiver_is_an_error(tmp_path: Path, alerts: object) -> None:
    assert problems(tmp_path, alerts) == ["alerts: needs a receiver: email, slack, webhook or urls"]


def test_receivers_need_a_container_that_sends(tmp_path: Path) -> None:
    unused = {"analytics-platform": None, "airflow-orchestration": None}
    found = problems(tmp_path, ALERTS, **unused)
    assert found == ["alerts: needs a container that sends: one with the service `alertmanager` or `analytics`"]


def test_bridge_needs_receivers(tmp_path: Path) -> None:
    found = problems(tmp_path, None, **{"postgres-data": {"services": {"alert_bridge": {}}}})
    assert found == ["containers.postgres-data.services.alert_bridge: needs the receivers in `alerts:`"]


@dataclass
class Answering(NoHost):
    """A container that answers each command with the same output."""

    output: str

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        return Result(command, 1, self.output.encode(), b"no such file")


def test_results_of_the_test_messages_are_read_by_receiver(tmp_path: Path) -> None:
    output = json.dumps({"email": "cannot send over mail:25: Connection refused", "slack": ""})
    session = make_session(inventory(tmp_path, ALERTS, MONITORED), connector=lambda *_: Answering(output))
    outcome = send_test(session)
    assert (outcome.container, outcome.all_sent) == ("observability", False)
    assert [(each.receiver, each.sent) for each in outcome.deliveries] == [("email", False), ("slack", True)]


@pytest.mark.parametrize(
    ("output", "brief"), [("", "the alert bridge does not run there"), ("{", "read the results of the test messages")]
)
def test_container_that_cannot_send_is_an_error(tmp_path: Path, output: str, brief: str) -> None:
    session = make_session(inventory(tmp_path, ALERTS), connector=lambda *_: Answering(output))
    with pytest.raises(HomelabError, match=brief):
        send_test(session)
