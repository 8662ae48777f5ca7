"""The steps of the services on each distribution; no test needs a host."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from homelab.certificates import Authority
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.inventory.errors import Problems
from homelab.inventory.yaml_source import parse
from homelab.model import DatabaseGrant, Inventory, Service, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.runtime.convergence import steps_of
from homelab.services.airflow import Airflow
from homelab.services.analytics import Analytics
from homelab.services.lab_certificates import CA_FILE, container_names, lab_names
from homelab.services.postgres import Postgres
from homelab.services.registry import Registry
from homelab.steps import Command, Directory, File, Packages, Refuse, ServerCertificate, Sql, SystemdUnit
from tests.scripts import IN_CONTAINER, SCRIPTS, SHARED_SCRIPTS
from tests.support import FixedSecretStore, LocalHost, with_service

KEYS = {"analytics-platform": "ssh-ed25519 AAAAHost"}
REGISTRY = Registry()
SERVICES = ["postgres", "analytics", "airflow"]  # of the shipped inventory
POSTGRES = {"ubuntu-24.04": 16, "debian-12": 15, "debian-13": 17}


def inventory(tmp_path: Path, template: str = "ubuntu-24.04", airflow: str = "3.3") -> Inventory:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        json.dumps(
            {
                "defaults": {"template": template},
                "containers": {
                    "postgres-data": {"services": {"postgres": {"version": POSTGRES[template]}}},
                    "airflow-orchestration": {"services": {"airflow": {"version": airflow}}},
                },
                "pipelines": {"weather": {"api_key_file": str(tmp_path / "key")}},
            }
        )
    )
    (tmp_path / "key").write_text("openweather-key")
    (tmp_path / "key").chmod(0o600)
    return load([bundled_path("inventory.yaml"), overlay])


def steps(wanted: Inventory, service: str, keys: dict[str, str] = KEYS) -> list[Step]:
    context = ServiceContext(
        inventory=wanted, container=wanted.container_with(service), secret_store=FixedSecretStore(), host_keys=keys
    )
    return list(steps_of(context))


def services(found: list[Step]) -> list[str]:
    return [step.unit for step in found if isinstance(step, SystemdUnit) and step.unit.endswith(".service")]


def file(found: list[Step], path: str) -> str:
    (step,) = [step for step in found if isinstance(step, File) and step.path == path]
    return step.content.decode()


@pytest.mark.parametrize("template", POSTGRES)
def test_postgres_has_the_version_of_the_distribution(tmp_path: Path, template: str) -> None:
    version = POSTGRES[template]
    found = steps(inventory(tmp_path, template), "postgres")
    assert [s.names for s in found if isinstance(s, Packages)] == [
        [f"postgresql-{version}", "dbus", "unattended-upgrades"]
    ]
    assert services(found) == [f"postgresql@{version}-main.service"]
    rules = file(found, f"/etc/postgresql/{version}/main/pg_hba.conf")
    assert "hostssl project_data      analytics       192.168.2.68/32      scram-sha-256" in rules
    assert "hostssl airflow_metadata  airflow_admin   192.168.2.69/32      scram-sha-256" in rules
    assert "shared_buffers = '512MB'" in file(found, f"/etc/postgresql/{version}/main/conf.d/homelab.conf")


def test_pgdg_comes_with_its_key_from_a_signed_package(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    context = ServiceContext(
        inventory=wanted, container=wanted.container_with("postgres"), secret_store=FixedSecretStore(), host_keys=KEYS
    )
    titles = [step.title for step in Postgres(version=16, source="pgdg").steps(context)][3:6]
    assert titles == [
        "packages postgresql-common ca-certificates",
        "apt repository PGDG",
        "packages postgresql-16 dbus",
    ]


@pytest.mark.parametrize(
    ("data", "create", "left"),
    [
        ({}, "mkdir -p {data} {conf}; echo new >{data}/base; touch {conf}/postgresql.conf", {"base": "new\n"}),
        ({"base": "rows\n"}, "touch {conf}/postgresql.conf", {"base": "rows\n"}),
        ({"base": "rows\n"}, "exit 1", {"base": "rows\n"}),
    ],
)
def test_existing_cluster_is_never_removed_and_an_incomplete_one_is(
    tmp_path: Path, data: dict[str, str], create: str, left: dict[str, str]
) -> None:
    (step,) = [s for s in steps(inventory(tmp_path), "postgres") if s.title == "cluster 16/main"]
    assert isinstance(step, Command)
    root, programs = tmp_path / "root", tmp_path / "bin"
    paths = {"conf": root / "etc/postgresql/16/main", "data": root / "var/lib/postgresql/16/main"}
    for folder in (*paths.values(), programs):
        folder.mkdir(parents=True)
    for name, text in data.items():
        (paths["data"] / name).write_text(text)

    def run(text: str, create: str) -> int:
        for name, script in (("systemctl", ":"), ("pg_createcluster", create.format(**paths))):
            (programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (programs / name).chmod(0o755)
        inside = text.replace("/etc/", f"{root}/etc/").replace("/var/lib/", f"{root}/var/lib/")
        return subprocess.run(["sh", "-c", inside], env={"PATH": f"{programs}:/usr/bin:/bin"}, check=False).returncode

    if not data:  # killed after initdb has written a file
        assert run(step.command, "echo half >{data}/junk; kill -9 $PPID") != 0
        assert run(step.done, "") != 0
    for _ in range(2):
        run(step.command, create)
        assert {path.name: path.read_text() for path in paths["data"].iterdir()} == left
    assert run(step.done, "") == (1 if create == "exit 1" else 0)


@pytest.mark.parametrize("part", ["etc/postgresql", "var/lib/postgresql"])
def test_cluster_is_not_created_through_a_link(tmp_path: Path, part: str) -> None:
    (step,) = [s for s in steps(inventory(tmp_path), "postgres") if s.title == "cluster 16/main"]
    assert isinstance(step, Command)
    assert step.writes == ["/etc/postgresql/16/main", "/var/lib/postgresql/16/main"]
    (tmp_path / "pg_createcluster").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    (tmp_path / "pg_createcluster").chmod(0o755)
    root = tmp_path / "root"
    (root / part / "16").mkdir(parents=True)
    (root / part / "16" / "main").symlink_to("/etc")
    text = step.command.replace("/etc/", f"{root}/etc/").replace("/var/lib/", f"{root}/var/lib/")
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(["sh", "-c", text], env={"PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"homelab: refused to write: {root}/{part}/16/main is a link\n"
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("template", POSTGRES)
@pytest.mark.parametrize("service", ["postgres", "analytics", "airflow"])
def test_titles_are_unique_and_triggers_come_first(tmp_path: Path, template: str, service: str) -> None:
    found = steps(inventory(tmp_path, template), service)
    assert len({step.title for step in found}) == len(found)
    for position, step in enumerate(found):
        assert all(found.index(trigger) < position for trigger in step.triggered_by), step.title


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_with_a_tls_port_has_a_certificate_of_its_container(tmp_path: Path, name: str) -> None:
    wanted = inventory(tmp_path)
    found = steps(wanted, name)
    tls = any(endpoint.tls for endpoint in wanted.container_with(name).services[name].endpoints())
    certificates = [step for step in found if isinstance(step, ServerCertificate)]
    assert [step.path for step in certificates] == ([f"/etc/ssl/homelab/{name}.pem"] if tls else [])
    assert all(step.names == container_names(wanted.container_with(name)) for step in certificates)
    # Every container trusts the CA before its first service connects to another one.
    titles = [step.title for step in found]
    assert titles.index(f"file {CA_FILE}") < titles.index(next(each for each in titles if each.startswith("packages")))


def test_ca_permits_the_names_and_addresses_of_all_containers(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    container = wanted.container_with("postgres")
    with_domain = replace(container, shape=replace(container.shape, searchdomain="home.arpa"))
    names = lab_names(replace(wanted, containers=(with_domain, *wanted.containers[1:])))
    assert names.hosts == ("airflow-orchestration", "analytics-platform", "postgres-data", "postgres-data.home.arpa")
    assert names.addresses == ("192.168.2.67", "192.168.2.68", "192.168.2.69")


def test_ca_permits_the_whole_subnet_with_dhcp(tmp_path: Path) -> None:
    """So another lease needs no other certificate of the CA."""
    wanted = inventory(tmp_path)
    first, *others = wanted.containers
    leased = replace(first, shape=replace(first.shape, address="dhcp"), lease=IPv4Address("192.168.2.99"))
    names = lab_names(replace(wanted, containers=(leased, *others)))
    assert (names.addresses, "postgres-data" in names.hosts) == (("192.168.2.0/24",), True)
    authority = Authority.create("home", names)
    assert authority.is_valid_for(names, datetime.now(UTC))
    assert "192.168.2.99" in authority.issue(container_names(leased))


@pytest.mark.parametrize(
    ("version", "processes"),
    [("3.3", ["api-server", "dag-processor", "scheduler"]), ("2.11", ["webserver", "scheduler"])],
)
def test_airflow_runs_the_processes_of_its_series(tmp_path: Path, version: str, processes: list[str]) -> None:
    found = steps(inventory(tmp_path, airflow=version), "airflow")
    assert services(found) == [f"airflow-{p}.service" for p in processes]
    for process in processes:
        unit = file(found, f"/etc/systemd/system/airflow-{process}.service")
        assert f"ExecStart=/opt/airflow/venv/bin/airflow {process}" in unit
        assert "User=airflow" in unit
        assert "secret-of" not in unit
        # A task that starts before the API answers fails, and is retried only minutes later.
        assert ("ExecStartPre=/usr/local/sbin/homelab-airflow-ready\n" in unit) is (
            (version, process) == ("3.3", "scheduler")
        )


@pytest.mark.parametrize(
    ("version", "then"), [("3.3", "connections, variables and pools"), ("2.11", "airflow is healthy")]
)
def test_admin_is_created_while_the_web_server_starts_if_they_do_not_conflict(
    tmp_path: Path, version: str, then: str
) -> None:
    found = steps(inventory(tmp_path, airflow=version), "airflow")
    titles = [step.title for step in found]
    at = titles.index("airflow's admin user")
    assert titles[at + 1] == then
    assert isinstance(found[at], Command)
    assert ("export AIRFLOW__FAB__UPDATE_FAB_PERMS=False; " in found[at].command) is (version == "3.3")


def test_no_container_gets_a_hash_of_the_admins_password_that_can_be_guessed(tmp_path: Path) -> None:
    password = FixedSecretStore().secret("airflow-admin").reveal().encode()
    commands = [step for step in steps(inventory(tmp_path), "airflow") if isinstance(step, Command)]
    texts = "".join(text for step in commands for text in (step.command, *step.probes()))
    hashes = [name for name in hashlib.algorithms_guaranteed if not name.startswith("shake")]
    assert [name for name in hashes if hashlib.new(name, password).hexdigest() in texts] == []
    assert "stamps" not in texts  # the key


@pytest.mark.parametrize("version", ["3.3", "2.11"])
def test_airflows_environment_is_readable_by_a_shell_and_private(tmp_path: Path, version: str) -> None:
    found = steps(inventory(tmp_path, airflow=version), "airflow")
    values: dict[str, str] = {}
    for name, secret in (("airflow.env", False), ("airflow-secrets.env", True)):
        (step,) = [s for s in found if isinstance(s, File) and s.path == f"/etc/homelab/{name}"]
        assert (step.mode, step.owner, step.secret) == (0o600, "root", secret)
        values |= variables(step.content.decode())
    connection = json.loads(values["AIRFLOW_CONN_ANALYTICS"])
    assert connection["host"] == "192.168.2.68"
    assert connection["extra"]["host_key"] == "ssh-ed25519 AAAAHost"
    assert values["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert values["AIRFLOW_HOME"] == "/var/lib/airflow"
    assert ("AIRFLOW__API_AUTH__JWT_SECRET" in values) == (version == "3.3")


def test_airflow_is_not_configured_without_the_host_key_of_analytics(tmp_path: Path) -> None:
    with pytest.raises(HomelabError, match="host key of analytics-platform is not known yet"):
        steps(inventory(tmp_path), "airflow", keys={})


def test_analytics_requires_a_key_of_openweather(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    (tmp_path / "key").unlink()
    with pytest.raises(InputError, match="Cannot read the OpenWeather API key"):
        steps(wanted, "analytics")


def test_airflows_key_is_restricted_to_the_gate_and_the_address(tmp_path: Path) -> None:
    line = file(steps(inventory(tmp_path), "analytics"), "/home/analytics/.ssh/authorized_keys")
    assert line.startswith('restrict,from="192.168.2.69",command="/opt/analytics-platform/bin/gate" ssh-ed25519 ')
    assert line.count("\n") == 1


def test_all_folders_of_the_gate_belong_to_root(tmp_path: Path) -> None:
    owners = {
        step.path: step.owner for step in steps(inventory(tmp_path), "analytics") if isinstance(step, Directory | File)
    }
    assert {
        owners[path]
        for path in (
            "/home/analytics",
            "/home/analytics/.ssh",
            "/home/analytics/.ssh/authorized_keys",
            "/opt/analytics-platform",
            "/opt/analytics-platform/bin",
            "/opt/analytics-platform/bin/gate",
        )
    } == {"root"}


def test_pipelines_environment_has_the_cities_as_json(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    text = file(steps(wanted, "analytics"), f"{IN_CONTAINER}/pipeline.env")
    values = variables(text)
    assert [city["name"] for city in json.loads(values["WEATHER_CITIES"])] == [c.name for c in wanted.weather.cities]
    assert values["PGHOST"] == "192.168.2.67"


@pytest.mark.parametrize("service", ["postgres", "analytics", "airflow"])
def test_only_files_of_secrets_hide_their_diff_and_no_other_file_contains_one(tmp_path: Path, service: str) -> None:
    found = [step for step in steps(inventory(tmp_path), service) if isinstance(step, File)]
    values = ["openweather-key", "secret-of-", "PRIVATE KEY"]
    for step in found:
        contains = any(value in step.content.decode() for value in values)
        assert step.secret == contains, step.path


def test_secrets_of_the_pipeline_are_read_with_its_settings(tmp_path: Path) -> None:
    found = steps(inventory(tmp_path), "analytics")
    for name in ("pipeline.env", "secrets.env"):
        text = file(found, f"{IN_CONTAINER}/{name}").replace(IN_CONTAINER, str(tmp_path))
        (tmp_path / name).write_text(text)
    shown = subprocess.run(
        ["sh", "-euc", f'. {tmp_path}/pipeline.env; echo "$OPENWEATHER_API_KEY $PGUSER $PGPASSWORD $DBT_PGPASSWORD"'],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert shown.stdout.decode().split() == [
        "openweather-key",
        "analytics",
        "secret-of-postgres-analytics",
        "secret-of-postgres-dbt",
    ]


def test_other_version_of_postgresql_is_refused_next_to_data(tmp_path: Path) -> None:
    (step,) = [s for s in steps(inventory(tmp_path), "postgres") if isinstance(s, Refuse) and "data" in s.title]
    (probe,) = (text.replace("/var/lib/postgresql", str(tmp_path)) for text in step.probes())
    for version, refused in ((None, False), (16, False), (15, True)):
        if version:
            (tmp_path / str(version) / "main").mkdir(parents=True)
            (tmp_path / str(version) / "main" / "PG_VERSION").write_text(f"{version}\n")
        assert bool(step.check([LocalHost().run(probe)])) is refused
    assert "Cannot change PostgreSQL to version 16" in str(step.check([LocalHost().run(probe)]))


def test_downgrade_of_airflow_is_refused_by_name(tmp_path: Path) -> None:
    def refusals(version: str) -> list[Refuse]:
        found = steps(inventory(tmp_path, airflow=version), "airflow")
        return [step for step in found if isinstance(step, Refuse) and "Airflow" in step.title]

    first, second = refusals("2.11")
    assert not refusals("3.3")
    newer, older, silent = Result("", 0, b"t\n"), Result("", 0, b"f\n"), Result("", 2)
    assert str(first.check([newer])).count("Cannot downgrade Airflow to 2.11: its metadata are those of 3.x") == 1
    assert (first.check([older]), first.check([silent]), second.check([older])) == (None, None, None)
    assert second.check([silent])
    for answer in ("t", "f"):
        step = replace(second, probe=f"echo {answer}")
        with pytest.raises(HomelabError, match="Cannot downgrade Airflow") if answer == "t" else nullcontext():
            step.apply(LocalHost())
    titles = [step.title for step in steps(inventory(tmp_path, airflow="2.11"), "airflow")]
    assert titles.index(first.title) < titles.index("venv /opt/airflow/venv") < titles.index(second.title)
    assert titles.index(second.title) + 1 == titles.index("upgrade of airflow")


def variables(text: str) -> dict[str, str]:
    """Return the variables of a file for the shell."""
    lines = [line for line in text.splitlines() if not line.startswith(("#", ". "))]
    return dict(word.split("=", 1) for line in lines for word in shlex.split(line))


def with_file(tmp_path: Path, name: str, text: str) -> Inventory:
    file = tmp_path / name
    file.write_text(text)
    wanted = inventory(tmp_path)
    return replace(wanted, weather=replace(wanted.weather, cities=(), cities_file=file, rate_limit=600))


def test_file_of_cities_is_installed_after_the_script_that_validates_it(tmp_path: Path) -> None:
    found = steps(with_file(tmp_path, "mine.csv", "name\nBerlin\n"), "analytics")
    (cities,) = [s for s in found if isinstance(s, File) and s.path == f"{IN_CONTAINER}/cities.csv"]
    assert (cities.content, cities.secret, cities.mode) == (b"name\nBerlin\n", False, 0o644)
    assert "ingest_weather.py --check" in cities.validate
    titles = [step.title for step in found]
    assert titles.index(f"tree {IN_CONTAINER}/scripts") < titles.index(cities.title)
    lines = file(found, f"{IN_CONTAINER}/pipeline.env").splitlines()
    assert f"WEATHER_CITIES_FILE={IN_CONTAINER}/cities.csv" in lines
    assert "OPENWEATHER_RATE_LIMIT=600" in lines
    assert not [line for line in lines if line.startswith("WEATHER_CITIES=")]


@pytest.mark.parametrize(("text", "accepted"), [("name\nBerlin\n", True), ("town\nBerlin\n", False)])
def test_file_of_cities_is_validated_before_it_is_installed(tmp_path: Path, text: str, accepted: bool) -> None:
    found = steps(with_file(tmp_path, "mine.csv", text), "analytics")
    (cities,) = [s for s in found if isinstance(s, File) and s.path == f"{IN_CONTAINER}/cities.csv"]
    new = tmp_path / ".cities.csv.x1"
    new.write_bytes(cities.content)
    here = cities.validate.replace("/opt/analytics-platform/venv/bin/python", sys.executable).replace(
        f"{IN_CONTAINER}/scripts", str(SCRIPTS)
    )
    here = here.replace("/usr/local/sbin/homelab-as-pipeline-weather ", "")
    here = here.replace("/opt/analytics-platform/scripts", str(SHARED_SCRIPTS))
    done = subprocess.run(["sh", "-ec", f"new={new}\n{here}"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode == 0) == accepted
    assert accepted or "the first line must name the columns" in done.stderr
    assert [path.name for path in tmp_path.glob(".cities*")] == [".cities.csv.x1"]


def test_missing_file_of_cities_is_an_error(tmp_path: Path) -> None:
    wanted = with_file(tmp_path, "mine.csv", "")
    (tmp_path / "mine.csv").unlink()
    with pytest.raises(InputError, match="Cannot read the file of cities"):
        steps(wanted, "analytics")


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (4, 0), (1, 1), (2, 2)])
def test_fetch_with_failed_cities_does_not_stop_the_pipeline(tmp_path: Path, status: int, expected: int) -> None:
    script = file(steps(inventory(tmp_path), "analytics"), f"{IN_CONTAINER}/bin/fetch")
    root = tmp_path / "root"
    (root / "venv" / "bin").mkdir(parents=True)
    weather = root / "pipelines" / "weather"
    (weather / "data").mkdir(parents=True)
    (weather / "pipeline.env").touch()
    python = root / "venv" / "bin" / "python"
    python.write_text(f"#!/bin/sh\nexit {status}\n")
    python.chmod(0o755)
    done = subprocess.run(["sh", "-c", script.replace("/opt/analytics-platform", str(root))], check=False, timeout=60)
    assert done.returncode == expected


def test_two_services_can_share_a_container(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    first, second, third = wanted.containers
    together = replace(wanted, containers=(replace(first, services={**first.services, **second.services}), third))
    titles = [step.title for step in steps(together, "postgres", keys={"postgres-data": "ssh-ed25519 AAAA"})]
    assert "packages postgresql-16 dbus" in titles
    assert "venv /opt/analytics-platform/venv" in titles
    rules = file(steps(together, "postgres"), "/etc/postgresql/16/main/pg_hba.conf")
    assert "project_data      analytics       192.168.2.67/32" in rules


def test_steps_that_two_services_share_come_once_and_early_enough(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    first, second, third = wanted.containers
    together = replace(wanted, containers=(first, replace(second, services={**second.services, **third.services})))
    titles = [step.title for step in steps(together, "analytics")]
    assert len(set(titles)) == len(titles)
    uv, *venvs = map(titles.index, ("uv", "venv /opt/analytics-platform/venv", "venv /opt/airflow/venv"))
    assert uv < min(venvs)


HEARTBEAT = '{"scheduler": {"status": "healthy", "latest_scheduler_heartbeat": "2027-01-01T00:00:03.5+00:00"}}'
STARTED = (
    "Id=airflow-api-server.service\nActiveEnterTimestamp=\n\nId=airflow-scheduler.service\nActiveEnterTimestamp=@{}"
)
FACTS = '{"sizes": {"project_data": 7340032}, "connections": 3}'
HEALTH = [
    (
        Postgres(),
        [FACTS, "", "f", '{"raw_rows": 0, "newest_raw_row": null}'],
        True,
        "project_data 7 MiB; 3 connections; 0 raw rows, newest none yet",
    ),
    (Postgres(), [FACTS, "", "", None], True, "project_data 7 MiB; 3 connections"),  # without the weather
    (Postgres(), [None, None, None, None], False, "does not answer: "),
    (
        Postgres(),
        ["{}", "", "t", None],
        False,
        "raw tables were changed by hand: `homelab deploy` repairs them or names the change",
    ),
    (
        Postgres(),
        [None, "raw.weather_observations, raw.exclusions", None, None],
        False,
        "missing: raw.weather_observations, raw.exclusions; `homelab deploy` creates them, without their rows",
    ),
    (Analytics(), ["", ""], True, "dbt and DuckDB are installed"),
    (Analytics(), ["", None], False, "DuckDB's extensions missing: `homelab deploy` installs it"),
    (Analytics(), [None, None], False, "dbt and DuckDB's extensions missing: `homelab deploy` installs it"),
    (
        Airflow(),
        ['{"scheduler": {"status": "healthy"}, "triggerer": {"status": null}}', "[]", ""],
        True,
        "scheduler healthy",
    ),
    (Airflow(), ['{"scheduler": {"status": "unhealthy"}}', "[]", ""], False, "scheduler unhealthy"),
    (
        Airflow(),
        ['{"scheduler": {"status": "healthy"}}', '["Airflow cannot import x.py: bad"]', ""],
        False,
        "scheduler healthy; Airflow cannot import x.py: bad",
    ),
    (Airflow(), [None, "[]", ""], False, "does not answer"),
    (Airflow(), [HEARTBEAT, "[]", STARTED.format(1798761600)], True, "scheduler healthy"),
    (Airflow(), [HEARTBEAT, "[]", STARTED.format(1798761605)], False, "scheduler starting"),
    (
        Airflow(),
        ['{"scheduler": {"status": "healthy"}}', None, None],
        False,
        "cannot read its metadata: PostgreSQL does not answer",
    ),
]


@pytest.mark.parametrize(("service", "outputs", "healthy", "summary"), HEALTH)
def test_health_of_a_service(
    service: Postgres | Analytics | Airflow, outputs: list[str | None], healthy: bool, summary: str
) -> None:
    answers = [Result("probe", 1) if text is None else Result("probe", 0, text.encode()) for text in outputs]
    health = service.health(answers)
    assert (health.healthy, health.summary) == (healthy, summary)


def test_root_accepts_the_keys_of_homelab_and_the_inventory_only(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    database = replace(
        wanted.container_with("postgres"), ssh_keys=("ssh-rsa AAAA me", FixedSecretStore.public, "ssh-rsa BBBB")
    )
    context = ServiceContext(inventory=wanted, container=database, secret_store=FixedSecretStore(), host_keys=KEYS)
    (step,) = [each for each in steps_of(context) if each.title == "file /root/.ssh/authorized_keys"]
    assert isinstance(step, File)
    comment, *keys = step.content.decode().splitlines()
    assert comment.startswith("# ")
    assert keys == [FixedSecretStore.public, "ssh-rsa AAAA me", "ssh-rsa BBBB"]
    assert step.mode == 0o600
    by_hand = step.check([Result("", 0, b"root:root 600\n", b""), Result("", 0, step.content + b"ssh-rsa CC\n", b"")])
    assert by_hand is not None
    assert "-ssh-rsa CC" in by_hand.diff


HOSTS = ("postgres-data", "analytics-platform", "airflow-orchestration")
PLACED = [*reversed(SERVICES), "ingestion"]  # on one container, those that need others come first
PLACEMENTS = list(product([None, *HOSTS], repeat=len(PLACED)))


@pytest.mark.parametrize("hosts", PLACEMENTS, ids=lambda hosts: "-".join(host[:3] if host else "no" for host in hosts))
def test_every_placement_of_services_is_deployable_or_refused_with_the_missing_service(
    tmp_path: Path, hosts: tuple[str | None, ...]
) -> None:
    path = bundled_path("inventory.yaml")
    found: Any = parse(path, path.read_text(), Problems()).data
    containers = found["containers"]
    services = {name: options for each in containers.values() for name, options in each.pop("services").items()}
    placed = {name: host for name, host in zip(PLACED, hosts, strict=True) if host}
    for name, host in placed.items():
        containers[host].setdefault("services", {})[name] = services.get(name, {})
    if "analytics" not in placed:
        del found["pipelines"]
    (tmp_path / ".homelab").mkdir()
    key = tmp_path / ".homelab" / "openweather-api-key"
    key.write_text("k")
    key.chmod(0o600)
    (tmp_path / "inventory.yaml").write_text(json.dumps(found))
    missing = {need for name in placed for need in REGISTRY.get(name).requires} - set(placed)
    if missing:
        with pytest.raises(InputError) as caught:
            load([tmp_path / "inventory.yaml"])
        assert all(f"needs the service `{name}`" in caught.value.details for name in missing)
        return
    wanted = load([tmp_path / "inventory.yaml"])
    host_keys = {each.name: "ssh-ed25519 AAAAHost" for each in wanted.containers}
    admitted: dict[str, str] = {}
    for container in wanted.containers:
        context = ServiceContext(
            inventory=wanted, container=container, secret_store=FixedSecretStore(), host_keys=host_keys
        )
        steps = steps_of(context)
        titles = {step.title for step in steps}
        for number, step in enumerate(steps):
            assert {trigger.title for trigger in step.triggered_by} <= {each.title for each in steps[:number]}
        # A database that a step uses is created before that step.
        databases = {step.database for step in steps if isinstance(step, Sql)} - {"postgres", "template1"}
        assert {f"database {database}" for database in databases} <= titles
        runs = {"analytics", "ingestion"} & set(container.services)
        gate, wait = "file /home/analytics/.ssh/authorized_keys", f"{container.name} accepts Airflow's key"
        assert (gate in titles) == bool(runs and "airflow" in placed)
        if {gate, wait} <= titles:
            order = [step.title for step in steps]
            assert order.index(gate) < order.index(wait), "Airflow would wait forever"
        if runs:
            admitted |= dict.fromkeys(gate_commands(steps), container.name)
        fetches = placed.get("ingestion", placed.get("analytics")) == container.name
        contents = b"".join(step.content for step in steps if isinstance(step, File))
        assert (b"OPENWEATHER_API_KEY=" in contents) == fetches
        if "airflow" in container.services:
            runners = {placed.get("ingestion", placed["analytics"]), placed["analytics"]}
            assert {f"{name} accepts Airflow's key" for name in runners} <= titles
    if "analytics" in placed:
        assert admitted == {
            "weather.fetch": placed.get("ingestion", placed["analytics"]),
            "weather.check": placed.get("ingestion", placed["analytics"]),
            "weather.build": placed["analytics"],
        }


def gate_commands(found: Sequence[Step]) -> list[str]:
    """Return the commands that the gate of a container admits."""
    return re.findall(r"^1:([\w.]+)\)$", file(list(found), "/usr/local/sbin/homelab-pipeline"), re.MULTILINE)


def test_service_that_no_container_has_is_named(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    with pytest.raises(InputError, match="Cannot use the service `airflow`: no container has it"):
        replace(wanted, containers=wanted.containers[:2]).container_with("airflow")


def test_running_host_name_and_mtu_are_those_of_the_inventory(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    found = {step.title: step for step in steps(wanted, "postgres")}
    assert not [title for title in found if title.startswith("MTU")]
    name = found["host name postgres-data"]
    assert isinstance(name, Command)
    for running, done in (("postgres-data", True), ("old", False)):
        text = f"hostname() {{ echo {running}; }}; {name.done}"
        assert (subprocess.run(["sh", "-c", text], check=False).returncode == 0) == done
    first = wanted.containers[0]
    jumbo = replace(wanted, containers=(replace(first, shape=replace(first.shape, mtu=9000)), *wanted.containers[1:]))
    (mtu,) = [step for step in steps(jumbo, "postgres") if step.title == "MTU 9000 of eth0"]
    assert isinstance(mtu, Command)
    assert mtu.command == "ip link set dev eth0 mtu 9000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner(Service):
    """A service with a schema of its own, whose role also reads the observations."""

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """See Service."""
        return (
            DatabaseGrant("project_data", "owner", "own", "owned"),
            DatabaseGrant("project_data", "owner", "read", "raw"),
        )

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """See Service."""
        return ()


def test_role_with_several_grants_keeps_temporary_tables(tmp_path: Path) -> None:
    wanted = with_service(tmp_path, "owner", Owner, "containers: {analytics-platform: {services: {owner: {}}}}")
    found = {step.title: step for step in steps(wanted, "postgres") if isinstance(step, Sql)}
    own, read = found["schema owned of project_data"], found["grants: owner may read project_data.raw"]
    for step in (own, read):
        assert "temporary" in step.done
        assert "not has_database_privilege" not in step.done
        assert "temporary on database project_data from" not in step.sql
    only_read = found["grants: dbt may read project_data.raw"]
    assert "not has_database_privilege('dbt', current_database(), 'temporary')" in only_read.done
    assert "revoke temporary on database project_data from dbt;" in only_read.sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarting(Service):
    """A service that restarts when its packages change."""

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """See Service."""
        packages = Packages(["python3"])
        return (packages, SystemdUnit("restarting.service", triggered_by=[packages]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer(Owner):
    """A service with a file that others may have, too."""

    text: str = ""

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """See Service."""
        return (File("/etc/shared", self.text.encode()), Directory("/etc/homelab", mode=0o700))


@pytest.mark.parametrize(("texts", "conflict"), [(("a", "a"), False), (("a", "b"), True)])
def test_services_that_declare_a_file_differently_are_refused(
    tmp_path: Path, texts: tuple[str, str], conflict: bool
) -> None:
    overlay = "containers: {own: {vmid: 199, ip: .199, cores: 1, memory: 512, services: {one: {}}}}"
    wanted = with_service(tmp_path, "one", Owner, overlay)
    container = replace(
        wanted.container_with("one"), services={"one": Writer(text=texts[0]), "two": Writer(text=texts[1])}
    )
    context = ServiceContext(inventory=wanted, container=container, secret_store=FixedSecretStore(), host_keys=KEYS)
    if not conflict:
        assert [step.title for step in steps_of(context)].count("file /etc/shared") == 1
        return
    with pytest.raises(InputError, match="Cannot deploy own: one and two declare file /etc/shared differently"):
        steps_of(context)


def test_packages_that_trigger_a_restart_stay_the_trigger(tmp_path: Path) -> None:
    overlay = "containers: {own: {vmid: 199, ip: .199, cores: 1, memory: 512, services: {restarting: {}}}}"
    wanted = with_service(tmp_path, "restarting", Restarting, overlay)
    found = steps(wanted, "restarting")
    (unit,) = [step for step in found if isinstance(step, SystemdUnit) and step.unit == "restarting.service"]
    assert set(unit.triggered_by) <= set(found)
    assert ["unattended-upgrades"] in [step.names for step in found if isinstance(step, Packages)]


def test_exporters_share_each_container_of_the_stack_with_its_services(tmp_path: Path) -> None:
    overlay = tmp_path / "monitoring.yaml"
    overlay.write_text("defaults: {monitoring: true}")
    wanted = load([inventory(tmp_path).path, tmp_path / "overlay.yaml", overlay])
    for service in SERVICES:
        assert "prometheus-node-exporter.service" in services(steps(wanted, service))
