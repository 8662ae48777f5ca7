"""The table of distributions, and what follows from a row of it, against what is published of each distribution.

No lab can run Ubuntu here, so every fact of its row stands here a second time, with where it is from:

- codename, Python: https://packages.ubuntu.com/source/noble/python3-defaults is 3.12.3
- PostgreSQL: https://packages.ubuntu.com/noble/postgresql is 16+257, and depends on postgresql-16
- systemd: https://packages.ubuntu.com/noble/systemd-dev is 255.4
- ssh: https://discourse.ubuntu.com/t/sshd-now-uses-socket-based-activation-ubuntu-22-10-and-later/30189
- apt's sources: https://linuxconfig.org, "Ubuntu's Repository Configuration: Ubuntu Sources Have Moved to
  /etc/apt/sources.list.d/ubuntu.sources"; https://wiki.debian.org/SourcesList for `debian.sources`
- PGDG has `noble`: https://www.postgresql.org/download/linux/ubuntu/; its key is in postgresql-common since before 248
- Debian: https://packages.debian.org/bookworm/postgresql (15), …/trixie/postgresql (17), …/bookworm/python3 (3.11),
  …/trixie/python3 (3.13), …/bookworm/systemd (252), …/trixie/systemd (257)
- the cluster's folder and unit: pg_createcluster(1) of postgresql-common, which all three have
- Airflow 2.11 runs on Python 3.10 to 3.12: the page of apache-airflow 2.11.2 on the Python Package Index
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TypeVar

import pytest

from homelab.distributions import APT_SOURCES, DISTRIBUTIONS, distribution_of
from homelab.errors import InputError
from homelab.host import Result
from homelab.model import Step
from homelab.paths import shipped
from homelab.services.airflow import Airflow
from homelab.services.postgres import Postgres
from homelab.steps import Command, Hba, Packages, Running, Uv, Venv
from tests.support import LocalHost
from tests.unit.test_services import inventory, steps

T = TypeVar("T")
UBUNTU, BOOKWORM, TRIXIE = "ubuntu-24.04", "debian-12", "debian-13"
# alias: (codename, PostgreSQL, Python, where its image names its archive, systemd)
FACTS = {
    UBUNTU: ("noble", 16, (3, 12), "/etc/apt/sources.list.d/ubuntu.sources", 255),
    BOOKWORM: ("bookworm", 15, (3, 11), "/etc/apt/sources.list.d/debian.sources", 252),
    TRIXIE: ("trixie", 17, (3, 13), "/etc/apt/sources.list.d/debian.sources", 257),
}
# systemd's directives that came with version 200 or later, from "Added in version" in systemd.exec(5), systemd.unit(5).
SINCE = {
    "AmbientCapabilities": 229, "LockPersonality": 235, "PrivateDevices": 209, "ProtectClock": 245,
    "ProtectControlGroups": 232, "ProtectHostname": 242, "ProtectKernelLogs": 244, "ProtectKernelModules": 232,
    "ProtectKernelTunables": 232, "ProtectSystem": 214, "ReadWritePaths": 231, "RemoveIPC": 232,
    "RestrictAddressFamilies": 211, "RestrictNamespaces": 233, "RestrictRealtime": 231, "RestrictSUIDSGID": 242,
    "StartLimitIntervalSec": 230, "SystemCallArchitectures": 209,
}
OLDER = {"After", "CapabilityBoundingSet", "Description", "EnvironmentFile", "ExecStart", "ExecStartPre", "Group",
         "KillMode", "NoNewPrivileges", "PrivateTmp", "Restart", "RestartSec", "SystemCallErrorNumber",
         "SystemCallFilter", "TimeoutStartSec", "TimeoutStopSec", "UMask", "User", "WantedBy", "Wants"}


def one(found: list[Step], kind: type[T]) -> T:
    """The only step of this kind."""
    (step,) = [step for step in found if type(step) is kind]
    return step


def test_each_row_is_what_is_published() -> None:
    assert {d.alias: (d.codename, d.postgres, d.python, d.sources) for d in DISTRIBUTIONS.values()} == {
        alias: row[:4] for alias, row in FACTS.items()}
    assert set(APT_SOURCES) == {"/etc/apt/sources.list", *(row[3] for row in FACTS.values())}
    assert [d.family for d in DISTRIBUTIONS.values()] == ["ubuntu", "debian", "debian"]


# As Proxmox names them: https://download.proxmox.com/images/system/
@pytest.mark.parametrize(("template", "alias"), [
    ("local:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst", UBUNTU),
    ("local:vztmpl/debian-12-standard_12.12-1_amd64.tar.zst", BOOKWORM),
    ("local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst", TRIXIE),
    ("local:vztmpl/ubuntu-24.10-standard_24.10-1_amd64.tar.zst", None), ("local:vztmpl/alpine-3.22.tar.xz", None),
])
def test_templates_are_known_by_their_names(template: str, alias: str | None) -> None:
    found = distribution_of(template)
    assert (found.alias if found else None) == alias
    assert found is None or template.rpartition("/")[2].startswith(found.template_prefix)


@pytest.mark.parametrize("alias", FACTS)
def test_postgres_is_where_the_distribution_puts_it(tmp_path: Path, alias: str) -> None:
    version = FACTS[alias][1]
    found = steps(inventory(tmp_path, alias), "postgres")
    assert [f"postgresql-{version}"] in [step.names for step in found if isinstance(step, Packages)]
    assert one(found, Hba).path == f"/etc/postgresql/{version}/main/pg_hba.conf"
    assert [step.unit for step in found if isinstance(step, Running)] == [f"postgresql@{version}-main.service"]
    assert f"file /etc/postgresql/{version}/main/conf.d/homelab.conf" in [step.title for step in found]


@pytest.mark.parametrize("alias", FACTS)
@pytest.mark.parametrize("version", [15, 16, 17])
def test_another_postgres_needs_another_source(alias: str, version: int) -> None:
    distribution, ships = DISTRIBUTIONS[alias], FACTS[alias][1]
    said = list(Postgres(version=version).objections(distribution))
    assert [option for option, _ in said] == ([] if version == ships else ["version"])
    assert all(f"ships PostgreSQL {ships}" in text for _, text in said)
    assert list(Postgres(version=version, source="pgdg").objections(distribution)) == []


@pytest.mark.parametrize("alias", FACTS)
def test_pgdg_has_a_suite_of_the_codename(tmp_path: Path, alias: str) -> None:
    """The container says which one it is: its os-release(5) names the codename, on all of them."""
    (repository,) = [step for step in Postgres(version=14, source="pgdg")._packages() if isinstance(step, Command)]
    ((_, path),) = [(owned.kind, owned.name) for owned in repository.makes]
    (tmp_path / "os-release").write_text(f"VERSION_CODENAME={FACTS[alias][0]}\n")

    def here(text: str) -> str:
        return text.replace("/etc/os-release", f"{tmp_path}/os-release").replace(path, f"{tmp_path}/pgdg.list")
    assert not LocalHost().run(here(repository.done)).ok
    subprocess.run(["sh", "-c", here(repository.command)], check=True)
    assert LocalHost().run(here(repository.done)).ok
    assert (tmp_path / "pgdg.list").read_text() == (
        "deb [signed-by=/usr/share/postgresql-common/pgdg/apt.postgresql.org.asc] "
        f"https://apt.postgresql.org/pub/repos/apt {FACTS[alias][0]}-pgdg main\n")


@pytest.mark.parametrize("alias", FACTS)
@pytest.mark.parametrize("service", ["analytics", "airflow"])
def test_environments_are_made_from_the_distributions_own_python(tmp_path: Path, alias: str, service: str) -> None:
    found = steps(inventory(tmp_path, alias), service)
    # Debian and Ubuntu have `venv` in a package of its own.
    assert {"python3", "python3-venv"} <= {name for step in found if isinstance(step, Packages) for name in step.names}
    venv = one(found, Venv)
    version = ".".join(map(str, FACTS[alias][2]))
    link = Result("", 0, f"{venv.path}-{version}.3-{venv.digest}".encode())
    own, other = (Result("", 0, f"Python {number}".encode()) for number in (f"{version}.3", "3.9.2"))
    assert venv.pending([link, own, Result("", 0)]) is None
    assert str(venv.pending([link, other, Result("", 0)])).count("the interpreter has changed") == 1
    assert "/usr/bin/python3 --version" in venv.probes()
    assert one(found, Uv)


@pytest.mark.parametrize("alias", FACTS)
def test_airflow_objects_to_a_python_that_it_cannot_run_on(tmp_path: Path, alias: str) -> None:
    distribution = DISTRIBUTIONS[alias]
    assert list(Airflow(version="3.3").objections(distribution)) == []
    said = [text for _, text in Airflow(version="2.11").objections(distribution)]
    assert bool(said) == (FACTS[alias][2] > (3, 12)) == (alias == TRIXIE)
    if said:
        with pytest.raises(InputError, match=r"debian-13 has 3\.13"):
            inventory(tmp_path, alias, "2.11")


@pytest.mark.parametrize("alias", FACTS)
def test_sshd_is_told_under_the_name_that_all_of_them_have(tmp_path: Path, alias: str) -> None:
    """`sshd.service` is only an alias, on Ubuntu not even that; and with a socket the service may not run just now."""
    (told,) = [step for step in steps(inventory(tmp_path, alias), "postgres")
               if isinstance(step, Command) and "sshd" in step.title]
    assert told.command == "systemctl try-reload-or-restart ssh.service"


def test_units_use_only_what_the_oldest_systemd_has() -> None:
    oldest = min(row[4] for row in FACTS.values())
    used = {name for path in shipped("templates").rglob("*.service.j2")
            for name in re.findall(r"(?m)^([A-Z]\w+)=", path.read_text())}
    assert "ProtectClock" in used
    assert used - OLDER - set(SINCE) == set(), "say since when systemd has it"
    assert {name: SINCE[name] for name in used & set(SINCE) if SINCE[name] > oldest} == {}
