"""The service Superset: its distributions, its settings, and its access to the published files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from homelab.errors import InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.model import Inventory, Secret, ServiceContext, Step
from homelab.model.dashboards import connection_uuid
from homelab.model.firewall import desired_firewall
from homelab.paths import bundled_path
from homelab.runtime.convergence import steps_of
from homelab.services.superset import Superset
from homelab.steps import Command, Directory, File, Group, SystemdUnit
from tests.support import FixedSecretStore

APART = {"dashboards": {"vmid": 172, "ip": ".72", "cores": 1, "memory": 1024, "services": {"superset": {}}}}
TOGETHER = {"analytics-platform": {"services": {"superset": {}}}}
GATEWAY = {"door": {"vmid": 173, "ip": ".73", "cores": 1, "memory": 256, "services": {"gateway": {}}}}
PUBLISHED = "/opt/analytics-platform/pipelines/weather/data/published.duckdb"
COPY = "/var/lib/homelab-published/weather/published.duckdb"


@dataclass(frozen=True)
class Changed(FixedSecretStore):
    """A secret store in which one secret has another value."""

    name: str = ""

    def secret(self, name: str) -> Secret:
        """See SecretStore."""
        return Secret("another value") if name == self.name else super().secret(name)


def inventory(folder: Path, *containers: dict[str, object], **more: object) -> Inventory:
    overlay = folder / "overlay.yaml"
    merged: dict[str, object] = {}
    for each in containers:
        merged |= each
    key = folder / "key"
    key.write_text("openweather-key")
    key.chmod(0o600)
    weather = {"weather": {"api_key_file": str(key)}}
    overlay.write_text(json.dumps({"containers": merged, "pipelines": weather, **more}))
    return load([bundled_path("inventory.yaml"), overlay])


def steps(found: Inventory, name: str, known: Sequence[str] = ()) -> list[Step]:
    (container,) = [each for each in found.containers if each.name == name]
    keys = {each: f"ssh-ed25519 AAAA {each}" for each in known or [each.name for each in found.containers]}
    context = ServiceContext(inventory=found, container=container, secret_store=FixedSecretStore(), host_keys=keys)
    return list(steps_of(context))


def text(found: list[Step], end: str) -> str:
    return next(step.content.decode() for step in found if isinstance(step, File) and step.path.endswith(end))


def accounts(found: list[Step]) -> Command:
    return next(step for step in found if isinstance(step, Command) and step.name == "superset's users and connections")


def test_debian_13_is_refused_by_name(tmp_path: Path) -> None:
    own = {"dashboards": {**APART["dashboards"], "template": "debian-13"}}
    with pytest.raises(InputError) as caught:
        inventory(tmp_path, own)
    assert (
        "dashboards.services.superset: runs on Python up to 3.12, and debian-13 has 3.13: use another template"
        in caught.value.details
    )


@pytest.mark.parametrize("template", ["debian-12", "ubuntu-24.04"])
def test_other_distributions_are_accepted(tmp_path: Path, template: str) -> None:
    own = {"dashboards": {**APART["dashboards"], "template": template}}
    assert inventory(tmp_path, own).container_with("superset").template == template


@pytest.mark.parametrize(
    ("containers", "behind_gateway"), [([APART], False), ([TOGETHER], False), ([APART, GATEWAY], True)]
)
def test_headers_of_a_proxy_count_behind_the_gateway_only(
    tmp_path: Path, containers: list[dict[str, object]], behind_gateway: bool
) -> None:
    found = inventory(tmp_path, *containers)
    settings = text(steps(found, found.container_with("superset").name), "/superset_config.py")
    compile(settings, "superset_config.py", "exec")
    assert f"ENABLE_PROXY_FIX = {behind_gateway}\n" in settings
    assert 'SESSION_COOKIE_NAME = "superset_session"' in settings


@pytest.mark.parametrize(
    ("containers", "name", "path", "groups"),
    [
        (APART, "dashboards", COPY, ""),
        (TOGETHER, "analytics-platform", PUBLISHED, "SupplementaryGroups=readers-weather\n"),
    ],
)
def test_it_reads_published_files_in_place_or_as_copies(
    tmp_path: Path, containers: dict[str, object], name: str, path: str, groups: str
) -> None:
    found = steps(inventory(tmp_path, containers), name)
    (connection,) = json.loads(accounts(found).stdin)["connections"]
    assert connection["uri"] == f"duckdb:///{path}"
    assert connection["uuid"] == connection_uuid("weather")
    arguments = connection["extra"]["engine_params"]["connect_args"]
    assert arguments["read_only"]
    assert arguments["config"]["enable_external_access"] is False
    assert "".join(re.findall(r"SupplementaryGroups=.*\n", text(found, "/superset.service"))) == groups


def test_uuid_of_a_connection_never_changes() -> None:
    assert connection_uuid("weather") == "1d6d1af5-75c7-552a-b6d3-8aba2345382a"


def test_files_are_pushed_to_another_container_only(tmp_path: Path) -> None:
    for containers, pushes in ((APART, True), (TOGETHER, False)):
        found = steps(inventory(tmp_path, containers), "analytics-platform")
        units = [step.unit for step in found if isinstance(step, SystemdUnit)]
        assert ("homelab-publications.service" in units) == pushes
        # In both cases, a member of the group opens the files, and lists no folder.
        assert [step.title for step in found if isinstance(step, Group)] == ["group readers-weather"]
        (data,) = [step for step in found if isinstance(step, Directory) and step.path == PUBLISHED.rpartition("/")[0]]
        assert (data.group, data.mode) == ("readers-weather", 0o710)
    settings = json.loads(text(steps(inventory(tmp_path, APART), "analytics-platform"), "/publications.json"))
    assert settings["targets"] == {"dashboards": "published@192.168.2.72"}
    assert settings["files"] == {"weather": PUBLISHED}


def test_copies_have_metrics_and_those_of_no_reader_have_none(tmp_path: Path) -> None:
    for containers, expected in ((APART, "'dashboards weather'"), (TOGETHER, "")):
        found = inventory(tmp_path, containers, defaults={"monitoring": True})
        script = text(steps(found, "analytics-platform"), "/homelab-metrics")
        assert ("write copies" in script) == bool(expected)
        assert expected.strip("'") in script


def test_container_without_a_known_key_stops_no_deploy_of_the_pipelines(tmp_path: Path) -> None:
    found = steps(inventory(tmp_path, APART), "analytics-platform", known=["analytics-platform"])
    assert [step.title for step in found if "publications" in step.title] == []


def test_without_readers_nothing_changes_for_the_pipelines(tmp_path: Path) -> None:
    found = steps(inventory(tmp_path), "analytics-platform")
    assert [step for step in found if isinstance(step, Group)] == []
    assert [step.title for step in found if "publications" in step.title] == []


def test_key_of_the_pushes_opens_the_gate_only_and_from_the_pipelines_only(tmp_path: Path) -> None:
    found = inventory(tmp_path, APART, defaults={"firewall": True})
    keys = text(steps(found, "dashboards"), "/home/published/.ssh/authorized_keys")
    assert keys.startswith('restrict,from="192.168.2.68",command="/opt/homelab/publications/gate" ssh-')
    rules = [str(rule) for rule in desired_firewall(found, found.container_with("superset")).rules]
    assert "in ACCEPT tcp 22 from 192.168.2.68 (homelab: SSH for analytics-platform)" in rules


def test_another_password_or_pipeline_sets_users_and_connections_again(tmp_path: Path) -> None:
    found = inventory(tmp_path, APART)
    (container,) = [each for each in found.containers if each.name == "dashboards"]
    probes = []
    for store in (FixedSecretStore(), Changed(name="superset-admin"), Changed(name="superset-viewer")):
        context = ServiceContext(inventory=found, container=container, secret_store=store, host_keys={})
        probes.append(accounts(list(steps_of(context))).probes()[0])
    assert len(set(probes)) == 3


@pytest.mark.parametrize(
    ("answer", "count", "summary"),
    [
        ("OK", "0", "0 dashboards"),
        ("OK", "1", "1 dashboard"),
        ("OK", None, "cannot read its metadata: PostgreSQL does not answer"),
        ("", "1", "does not answer"),
        (None, "1", "does not answer"),
    ],
)
def test_health_names_the_problem(answer: str | None, count: str | None, summary: str) -> None:
    answers = [Result("", text is None, (text or "").encode()) for text in (answer, count)]
    health = Superset().health(answers)
    assert (health.healthy, health.summary) == (summary.endswith(("dashboards", "dashboard")), summary)


def test_its_duckdb_reads_the_files_that_the_pipelines_write() -> None:
    folder = bundled_path("pipelines/shared/requirements")
    versions = {
        name: re.findall(r"^duckdb==\S+", (folder / name).read_text(), re.MULTILINE)
        for name in ("superset.txt", "analytics.txt")
    }
    assert versions["superset.txt"] == versions["analytics.txt"] != []
