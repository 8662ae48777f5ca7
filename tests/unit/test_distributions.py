"""The table of distributions and its consequences, compared with the published facts of each distribution.

No lab runs Ubuntu, so every fact of its row is repeated here with its source. Sources in git repositories have the form
`owner/repository: file` (GitHub).

- Ubuntu: its package search (packages.ubuntu.com), suite noble: `postgresql` is 16+257build1 and depends on
  `postgresql-16`, `python3-venv` (in universe) on `python3` 3.12.3, `systemd-dev` is 255.4, `openssh-server` 1:9.6p1,
  the source package `postgresql-common` 257build1. The versions in an image (`python3-defaults`, `postgresql-16`,
  `openssh`): docker-library/repo-info: repos/buildpack-deps/local/noble.md. Not actions/runner-images: PostgreSQL 16
  there is PGDG's.
- Debian: `apt-cache policy` on each: `postgresql` 15+248, 17+278; `python3` 3.11.2, 3.13.5; `systemd` 252, 257;
  `openssh-server` 1:9.2p1, 1:10.0p1
- Java: `default-jre-headless` depends on openjdk-17 on Debian 12 (`apt-cache show`) and on openjdk-21 on Debian 13
  (packages.debian.org, trixie). Ubuntu 24.04: worldofsoftware.org, "Ubuntu 26.04 LTS Moving To OpenJDK 25 By Default"
- the archive in its own images: actions/runner-images: images/ubuntu/scripts/build/configure-apt-sources.sh for
  `ubuntu.sources`; debuerreotype/debuerreotype: examples/debian.sh, which builds Debian's images for Docker, for
  `debian.sources` with apt 2.3 and later
- the archive in Proxmox's templates: proxmox/dab: PVE/DAB.pm, `modern_apt_sources`, which trixie has, but bookworm and
  noble do not; the same file has noble's components, including universe
- the templates' names: proxmox/pve-manager: aplinfo/aplinfo.dat, the list that `pveam update` downloads
- ssh: Ubuntu's forum (discourse.ubuntu.com), "SSHd now uses socket-based activation (Ubuntu 22.10 and later)". A
  reload of ssh.service suffices if no address changes: willshersystems/ansible-sshd: issue 307, tried on 24.04.
  `sshd.service` is an alias: `[Install]` of ssh.service in Debian's packages
- sshd's settings: sshd_config(5): the first value counts, and `sshd_config.d/*.conf` is included at the beginning.
  canonical/cloud-init: issue 5934 for `50-cloud-init.conf` with `PasswordAuthentication yes` on Ubuntu 24.04
- sshd's penalties: `sshd -T` on Debian 13 (`authfail:5 noauth:1 min:15`), and an experiment; since OpenSSH
  9.8: simplified.guide, ssh/persource-penalties-configure
- PGDG has `noble`: "Linux downloads (Ubuntu)" on postgresql.org; `bookworm`, `trixie`: docker-library/postgres:
  17/bookworm/Dockerfile, 17/trixie/Dockerfile. Its key: the changelog of postgresql-common, 246 ("Include .asc and .gpg
  keys") and 269 (moved to postgresql-client-common, which postgresql-common depends on, at the same path)
- the cluster's folder: pg_createcluster(1), also in noble's (manpages.ubuntu.com); its unit: README.systemd of
  postgresql-common, and its generator, which is the same in 248 and 278
- the CAs' file: update-ca-certificates(8), also in noble's
- apt: Ubuntu's forum, "needrestart changes in Ubuntu 24.04: service restarts": it asks no questions any more
- Airflow 2.11.2 is tested with Python 3.10 to 3.12, 3.3.0 with 3.10 to 3.14: apache/airflow: README.md
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest

from homelab.distributions import APT_SOURCES, DISTRIBUTIONS, distribution_of
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.model import Step
from homelab.paths import bundled_path
from homelab.sandbox import Sandbox
from homelab.services.airflow import Airflow
from homelab.services.postgres import Postgres
from homelab.steps import Command, File, Packages, PgHba, SystemdUnit, UvInstall, Venv, WaitFor, commands
from tests.support import LocalHost
from tests.unit.test_services import inventory, steps

T = TypeVar("T")
UBUNTU, BOOKWORM, TRIXIE = "ubuntu-24.04", "debian-12", "debian-13"
# alias: (codename, PostgreSQL, Python, source file of its own image, source file of Proxmox's template, systemd)
FACTS = {
    UBUNTU: ("noble", 16, (3, 12), "/etc/apt/sources.list.d/ubuntu.sources", "/etc/apt/sources.list", 255),
    BOOKWORM: ("bookworm", 15, (3, 11), "/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list", 252),
    TRIXIE: ("trixie", 17, (3, 13), *["/etc/apt/sources.list.d/debian.sources"] * 2, 257),
}
JAVA = {UBUNTU: 21, BOOKWORM: 17, TRIXIE: 21}
# systemd's directives of version 200 or later: "Added in version" in systemd.exec(5), systemd.unit(5).
# `Type` itself is older, but its value `exec` is not: see systemd's NEWS.
SINCE = {
    "After": 201,
    "AmbientCapabilities": 229,
    "Description": 201,
    "LockPersonality": 235,
    "MemoryDenyWriteExecute": 231,
    "PrivateDevices": 209,
    "ProtectClock": 245,
    "ProtectControlGroups": 232,
    "ProtectHome": 214,
    "ProtectHostname": 242,
    "ProtectKernelLogs": 244,
    "ProtectKernelModules": 232,
    "ProtectKernelTunables": 232,
    "ProtectSystem": 214,
    "ReadWritePaths": 231,
    "RestrictAddressFamilies": 211,
    "RestrictNamespaces": 233,
    "RestrictRealtime": 231,
    "RestrictSUIDSGID": 242,
    "StartLimitIntervalSec": 229,
    "SystemCallArchitectures": 209,
    "SystemCallErrorNumber": 209,
    "Type": 240,
    "WantedBy": 201,
    "Wants": 201,
}
OLDER = {
    "Before",
    "CapabilityBoundingSet",
    "Conflicts",
    "DefaultDependencies",
    "Environment",
    "EnvironmentFile",
    "ExecStart",
    "ExecStartPost",
    "ExecStartPre",
    "ExecStop",
    "Group",
    "KillMode",
    "LimitNOFILE",
    "Nice",
    "NoNewPrivileges",
    "PartOf",
    "PrivateTmp",
    "RemainAfterExit",
    "Requires",
    "Restart",
    "RestartPreventExitStatus",
    "RestartSec",
    "SuccessExitStatus",
    "SystemCallFilter",
    "TimeoutStartSec",
    "TimeoutStopSec",
    "UMask",
    "User",
    "WorkingDirectory",
}


def one(found: list[Step], kind: type[T]) -> T:
    """Return the only step of this kind."""
    (step,) = [step for step in found if type(step) is kind]
    return step


def test_each_row_has_the_published_facts() -> None:
    assert {d.alias: (d.codename, d.postgres, d.python, d.sources) for d in DISTRIBUTIONS.values()} == {
        alias: row[:4] for alias, row in FACTS.items()
    }
    assert {alias: distribution.java for alias, distribution in DISTRIBUTIONS.items()} == JAVA
    assert set(APT_SOURCES) == {path for row in FACTS.values() for path in row[3:5]}
    assert [d.family for d in DISTRIBUTIONS.values()] == ["ubuntu", "debian", "debian"]


@pytest.mark.parametrize(
    ("template", "alias"),
    [
        ("local:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst", UBUNTU),
        ("local:vztmpl/debian-12-standard_12.12-1_amd64.tar.zst", BOOKWORM),
        ("local:vztmpl/debian-13-standard_13.6-1_amd64.tar.zst", TRIXIE),
        ("local:vztmpl/ubuntu-26.04-standard_26.04-1_amd64.tar.zst", None),
        ("local:vztmpl/alpine-3.24-default_20260714_amd64.tar.xz", None),
    ],
)
def test_templates_are_known_by_their_names(template: str, alias: str | None) -> None:
    found = distribution_of(template)
    assert (found.alias if found else None) == alias
    assert found is None or template.rpartition("/")[2].startswith(found.template_prefix)


@pytest.mark.parametrize("alias", FACTS)
def test_postgres_uses_the_paths_of_the_distribution(tmp_path: Path, alias: str) -> None:
    version = FACTS[alias][1]
    found = steps(inventory(tmp_path, alias), "postgres")
    assert f"postgresql-{version}" in one(found, Packages).names
    assert one(found, PgHba).path == f"/etc/postgresql/{version}/main/pg_hba.conf"
    assert f"postgresql@{version}-main.service" in [step.unit for step in found if isinstance(step, SystemdUnit)]
    assert f"file /etc/postgresql/{version}/main/conf.d/homelab.conf" in [step.title for step in found]


@pytest.mark.parametrize("alias", FACTS)
@pytest.mark.parametrize("version", [15, 16, 17])
def test_another_version_of_postgres_requires_pgdg(alias: str, version: int) -> None:
    distribution, ships = DISTRIBUTIONS[alias], FACTS[alias][1]
    errors = list(Postgres(version=version).unsupported_options(distribution))
    assert [option for option, _ in errors] == ([] if version == ships else ["version"])
    assert all(f"ships PostgreSQL {ships}" in text for _, text in errors)
    assert list(Postgres(version=version, source="pgdg").unsupported_options(distribution)) == []


@pytest.mark.parametrize("alias", FACTS)
def test_pgdg_has_a_suite_of_the_codename(tmp_path: Path, alias: str) -> None:
    """The codename comes from the container's os-release(5), which all distributions have."""
    (repository,) = [step for step in Postgres(version=14, source="pgdg")._packages() if isinstance(step, Command)]
    ((_, path),) = [(resource.kind, resource.name) for resource in repository.makes]
    (tmp_path / "os-release").write_text(f"VERSION_CODENAME={FACTS[alias][0]}\n")

    def here(text: str) -> str:
        return text.replace("/etc/os-release", f"{tmp_path}/os-release").replace(path, f"{tmp_path}/pgdg.list")

    assert not LocalHost().run(here(repository.done)).ok
    subprocess.run(["sh", "-c", here(repository.command)], check=True)
    assert LocalHost().run(here(repository.done)).ok
    assert (tmp_path / "pgdg.list").read_text() == (
        "deb [signed-by=/usr/share/postgresql-common/pgdg/apt.postgresql.org.asc] "
        f"https://apt.postgresql.org/pub/repos/apt {FACTS[alias][0]}-pgdg main\n"
    )


@pytest.mark.parametrize("alias", FACTS)
@pytest.mark.parametrize("service", ["analytics", "airflow"])
def test_environments_use_the_distributions_own_python(tmp_path: Path, alias: str, service: str) -> None:
    found = steps(inventory(tmp_path, alias), service)
    # On Debian and Ubuntu, `venv` is a separate package.
    assert {"python3", "python3-venv"} <= {name for step in found if isinstance(step, Packages) for name in step.names}
    venv = one(found, Venv)
    version = ".".join(map(str, FACTS[alias][2]))
    link = Result("", 0, f"{venv.path}-{version}.3-{venv.digest}".encode())
    own, other = (Result("", 0, f"Python {number}".encode()) for number in (f"{version}.3", "3.9.2"))
    assert venv.check([link, own, Result("", 0)]) is None
    assert str(venv.check([link, other, Result("", 0)])).count("the interpreter has changed") == 1
    assert "/usr/bin/python3 --version" in venv.probes()
    assert one(found, UvInstall)


@pytest.mark.parametrize("alias", FACTS)
def test_airflow_refuses_an_unsupported_python(tmp_path: Path, alias: str) -> None:
    distribution = DISTRIBUTIONS[alias]
    assert list(Airflow(version="3.3").unsupported_options(distribution)) == []
    errors = [text for _, text in Airflow(version="2.11").unsupported_options(distribution)]
    assert bool(errors) == (FACTS[alias][2] > (3, 12)) == (alias == TRIXIE)
    if errors:
        with pytest.raises(InputError, match=r"debian-13 has 3\.13"):
            inventory(tmp_path, alias, "2.11")


@pytest.mark.parametrize("alias", FACTS)
def test_sshd_is_reloaded_by_the_unit_name_of_all_distributions(tmp_path: Path, alias: str) -> None:
    """`sshd.service` is an alias that exists only if ssh.service is enabled; on Ubuntu its socket is enabled instead.

    With a socket, the service may not be running.
    """
    (reload,) = [
        step
        for step in steps(inventory(tmp_path, alias), "postgres")
        if isinstance(step, Command) and "sshd" in step.title
    ]
    assert reload.command == "systemctl try-reload-or-restart ssh.service"


@pytest.mark.parametrize("alias", FACTS)
def test_settings_of_sshd_come_before_those_of_cloud_init(tmp_path: Path, alias: str) -> None:
    (path,) = [
        step.path
        for step in steps(inventory(tmp_path, alias), "postgres")
        if isinstance(step, File) and step.path.startswith("/etc/ssh/sshd_config.d/")
    ]
    assert path.endswith(".conf")
    assert path < "/etc/ssh/sshd_config.d/50-cloud-init.conf"


class RefusingHost(LocalHost):
    """A host that refuses every login immediately, and records the times."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock, self.tries = clock, [0.0]  # the first one: the inspection before

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        """See Host.run."""
        self.tries.append(self.clock[0])
        return Result(command, 255)


def test_wait_for_a_login_stays_below_the_penalties_of_sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian 13's sshd adds 5 s for each refused login, subtracts elapsed time, and refuses the address at 15 s."""
    (wait,) = [
        step
        for step in steps(inventory(tmp_path, TRIXIE), "airflow")
        if isinstance(step, WaitFor) and "accepts Airflow's key" in step.title
    ]
    clock = [0.0]
    host = RefusingHost(clock)
    monkeypatch.setattr(commands.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(commands.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    with pytest.raises(HomelabError, match="not within"):
        replace(wait, deadline=600).apply(host)
    penalty = 5.0
    for before, now in pairwise(host.tries):
        penalty = max(0.0, penalty - (now - before)) + 5
        assert penalty < 15
    assert len(host.tries) > 60, "the interval is not too long"


def test_apt_asks_no_questions_and_keeps_changed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ubuntu's servers run needrestart after apt, which has asked questions; debconf asks on all distributions."""
    for name in ("apt-get", "dpkg"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$DEBIAN_FRONTEND $*" >>{tmp_path}/calls\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    Packages(["x"]).apply(LocalHost())
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [line.split()[0] for line in calls] == ["noninteractive"] * 3
    assert ["--force-confold" in line for line in calls] == [True] * 3
    assert " -y " in calls[-1]


def test_units_use_only_directives_of_the_oldest_systemd() -> None:
    oldest = min(row[5] for row in FACTS.values())
    used = {
        name
        for path in bundled_path("templates").rglob("*.service*.j2")
        for name in re.findall(r"(?m)^([A-Z]\w+)=", path.read_text())
    } | {line.partition("=")[0] for line in Sandbox("u", ["/d"], "/e").lines}
    assert "ProtectClock" in used
    assert used - OLDER - set(SINCE) == set(), "add the systemd version of the directive"
    assert {name: SINCE[name] for name in used & set(SINCE) if SINCE[name] > oldest} == {}
