"""`packages:` of the inventory: its values, and the steps of every container that follow from it."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from homelab.errors import InputError
from homelab.inventory import load
from homelab.inventory.openpgp import dearmored
from homelab.model import Inventory, PackageSources, Repository, ServiceContext
from homelab.paths import bundled_path
from homelab.services.base_system import base_system, packages_from
from homelab.steps import AptMirror, Archives, Command, File
from homelab.steps.manifest import orphaned
from tests.support import FixedSecretStore
from tests.unit.test_inventory import BASE, problems, read
from tests.unit.test_openpgp import BOOKWORM, FINGERPRINT

ONE = "-----BEGIN CERTIFICATE-----\nMIIBdummy\n-----END CERTIFICATE-----"
TWO = "-----BEGIN CERTIFICATE-----\nMIICdummy\n-----END CERTIFICATE-----"


def with_packages(folder: Path, text: str) -> Inventory:
    return read(folder, BASE + text)


def test_values_of_the_section(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(f"# mine\n{ONE}\n{TWO}\n{ONE}\n")
    inventory = with_packages(
        tmp_path,
        """packages:
  apt_proxy: http://192.168.2.5:3142
  pypi_index: https://devpi.home.arpa/root/pypi/+simple/
  ca_certificates: [ca.pem]
  pins: {postgresql-16: "16.4-*", libc6: 2.36-9+deb12u9}
""",
    )
    assert inventory.sources == PackageSources(
        apt_proxy="http://192.168.2.5:3142",
        pypi_index="https://devpi.home.arpa/root/pypi/+simple/",
        certificates=(ONE, TWO),
        pins={"postgresql-16": "16.4-*", "libc6": "2.36-9+deb12u9"},
    )
    assert read(tmp_path, BASE).sources == PackageSources()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{apt_proxy: 192.168.2.5:3142}", "must be a URL"),
        ("{pypi_index: 'https://me:secret@devpi/x'}", "no password|without a password"),
        ("{ca_certificates: [none.pem]}", "cannot read"),
        ("{ca_certificates: [empty.pem]}", "has no certificate in PEM"),
        ("{ca_certificates: [1]}", "must be a file in PEM"),
        ("{pins: {postgresql-16: 16.4; reboot}}", "must be a version"),
        ("{pins: {Postgres: '1'}}", "is not a name of a Debian package"),
        ("{proxy: x}", "unknown key"),
        ("{apt_mirror: mirror.home.arpa}", "must be a URL"),
        ("{apt_mirror: 'http://[::1'}", "must be a URL"),
        ("{apt_proxy: 'http://x:99999'}", "must be a URL"),
        ("{apt_proxy: 'http://x:abc'}", "must be a URL"),
        ("{apt_security_mirror: 'http://m/s'}", "needs `apt_mirror`"),
        ("{repositories: [x]}", "must be repositories by name"),
    ],
)
def test_each_problem_of_the_section(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    (found,) = problems(tmp_path, f"{BASE}packages: {text}\n")
    assert any(part in found for part in expected.split("|"))


REPOSITORY = f"""packages:
  repositories:
    grafana:
      uri: https://apt.home.arpa
      suite: stable
      components: [main, extra]
      key: home.asc
      fingerprint: "{" ".join(re.findall(".{4}", FINGERPRINT.lower()))}"
"""


def test_repository_is_read_and_its_key_checked(tmp_path: Path) -> None:
    (tmp_path / "home.asc").write_text(BOOKWORM)
    key = dearmored(BOOKWORM.encode())
    sources = with_packages(tmp_path, REPOSITORY).sources
    assert sources.repositories == (
        Repository(name="grafana", uri="https://apt.home.arpa", suite="stable", components=("main", "extra"), key=key),
    )
    found = {step.path: step.content for step in packages_from(sources) if isinstance(step, File)}
    assert found == {
        "/usr/share/keyrings/homelab-grafana.gpg": key,
        "/etc/apt/sources.list.d/homelab-grafana.sources": b"""Types: deb
URIs: https://apt.home.arpa
Suites: stable
Components: main extra
Signed-By: /usr/share/keyrings/homelab-grafana.gpg
""",
    }
    assert "packages ca-certificates" in [step.title for step in packages_from(sources)], "it is reached over https"
    flat = REPOSITORY.replace("stable", "./").replace("      components: [main, extra]\n", "").replace("https", "http")
    sources = with_packages(tmp_path, flat).sources
    assert b"Components" not in [step.content for step in packages_from(sources) if isinstance(step, File)][1]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("home.asc", "none.asc", "cannot read"),
        ("home.asc", "text.asc", "it is not an OpenPGP key"),
        ("home.asc", "two.asc", "must hold one key, and holds 2"),
        ("4d64", "4d65", f"which is {FINGERPRINT}"),
        ("4d64 ", "", "must be the key's fingerprint"),
        ("fingerprint:", "fingerprnt:", "is missing"),
        ("grafana:", "Grafana!:", "must be a name"),
        ("stable", "sta ble", "must be a suite"),
        ("stable", "./", "a flat repository has none"),
        ("[main, extra]", "[]", "is missing: a list"),
        ("[main, extra]", "[main, 1]", "must be a component"),
        ("https://", "ftp://", "must be a URL"),
    ],
)
def test_each_problem_of_a_repository(tmp_path: Path, old: str, new: str, expected: str) -> None:
    for name, content in (("home.asc", BOOKWORM), ("two.asc", BOOKWORM * 2), ("text.asc", "hello")):
        (tmp_path / name).write_text(content)
    found = problems(tmp_path, BASE + REPOSITORY.replace(old, new))
    assert any(expected in each and re.match(r"inventory.yaml:\d+: packages.repositories", each) for each in found), (
        found
    )


def test_mirror_is_one_step(tmp_path: Path) -> None:
    sources = with_packages(
        tmp_path,
        """packages:
  apt_mirror: http://mirror.home.arpa/debian
  apt_security_mirror: https://mirror.home.arpa/debian-security
""",
    ).sources
    steps = list(packages_from(sources))
    assert [step.title for step in steps] == ["packages ca-certificates", "mirror of the distribution's archive"]
    assert {step.archives for step in steps if isinstance(step, AptMirror)} == {
        Archives("http://mirror.home.arpa/debian", "https://mirror.home.arpa/debian-security")
    }


def test_one_archive_is_not_for_two_distributions(tmp_path: Path) -> None:
    mixed = bundled_path("inventory.yaml").read_text() + "packages: {apt_mirror: 'http://m/ubuntu'}\n"
    (tmp_path / "inventory.yaml").write_text(mixed)
    (tmp_path / "over.yaml").write_text("containers: {analytics-platform: {template: debian-12}}\n")
    assert load([tmp_path / "inventory.yaml"]).sources.apt_mirror == "http://m/ubuntu"
    with pytest.raises(InputError, match="apt_mirror: would be for containers of debian and of ubuntu"):
        load([tmp_path / "inventory.yaml", tmp_path / "over.yaml"])


def files(sources: PackageSources) -> dict[str, str]:
    return {step.path: step.content.decode() for step in packages_from(sources) if isinstance(step, File)}


def test_configuration_of_apt_pip_and_uv() -> None:
    found = files(
        PackageSources(
            apt_proxy="http://a:3142",
            pypi_index="http://b:3141/+simple/",
            certificates=(ONE,),
            pins={"p": "1.*", "a": "2"},
        )
    )
    assert found["/etc/apt/apt.conf.d/90homelab"] == 'Acquire::http::Proxy "http://a:3142";\n'
    pip = configparser.ConfigParser()
    pip.read_string(found["/etc/pip.conf"])
    assert dict(pip["global"]) == {"index-url": "http://b:3141/+simple/", "trusted-host": "b"}
    assert tomllib.loads(found["/etc/uv/uv.toml"]) == {"index": [{"url": "http://b:3141/+simple/", "default": True}]}
    assert found["/etc/apt/preferences.d/homelab"] == (
        "Package: a\nPin: version 2\nPin-Priority: 1001\n\nPackage: p\nPin: version 1.*\nPin-Priority: 1001\n"
    )
    (certificate,) = (path for path in found if path.endswith(".crt"))
    assert found[certificate] == ONE + "\n"
    assert "trusted-host" not in files(PackageSources(pypi_index="https://b/+simple/"))["/etc/pip.conf"]


@pytest.mark.skipif(not shutil.which("apt-config"), reason="apt is not installed")
@pytest.mark.parametrize("overridden", [False, True])
def test_file_that_overrides_the_proxy_is_named(tmp_path: Path, overridden: bool) -> None:
    file, proxy = packages_from(PackageSources(apt_proxy="http://192.0.2.1:3142"))
    assert isinstance(file, File)
    assert isinstance(proxy, Command)
    folder = tmp_path / "apt.conf.d"
    folder.mkdir()
    (folder / "90homelab").write_bytes(file.content)
    if overridden:
        (folder / "99other").write_text('Acquire::http::Proxy "http://192.0.2.9:1";\n')
    (tmp_path / "apt.conf").write_text(f'Dir::Etc::main "/nowhere"; Dir::Etc::parts "{folder}";\n')

    def run(command: str) -> subprocess.CompletedProcess[str]:
        text = command.replace("/etc/apt/apt.conf", f"{tmp_path}/apt.conf")
        environment = {**os.environ, "APT_CONFIG": str(tmp_path / "apt.conf")}
        return subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=False, env=environment)

    assert all(run(probe).returncode == 0 for probe in proxy.probes()) is not overridden
    assert ("99other" in run(proxy.command).stderr) is overridden


def test_without_the_section_its_files_are_orphaned() -> None:
    given = PackageSources(apt_proxy="http://a", certificates=(ONE,))
    before = [owned for step in packages_from(given) for owned in step.managed_resources()]
    assert list(packages_from(PackageSources())) == []
    assert [each.kind for each in orphaned(before, [])] == ["file", "certificate"]


def test_every_container_has_the_steps_first(tmp_path: Path) -> None:
    inventory = with_packages(tmp_path, "packages: {apt_proxy: 'http://a:1'}\n")
    for container in inventory.containers:
        context = ServiceContext(
            inventory=inventory, container=container, secret_store=FixedSecretStore(), host_keys={}
        )
        assert "file /etc/apt/apt.conf.d/90homelab" in [step.title for step in base_system(context)]


def test_shipped_example_is_valid(tmp_path: Path) -> None:
    text, _, _ = bundled_path("inventory.yaml").read_text().partition("\n# Receivers of the messages")
    (tmp_path / "home-ca.pem").write_text(ONE)
    start = text.index("\n# packages:") + 1
    opened = text[:start] + text[start + 2 :].replace("\n# ", "\n")
    (tmp_path / "inventory.yaml").write_text(opened)
    assert set(yaml.safe_load(opened)["packages"]) == {
        "apt_proxy",
        "apt_mirror",
        "apt_security_mirror",
        "repositories",
        "pypi_index",
        "ca_certificates",
        "pins",
        "security_updates",
        "maintenance_window",
    }
    assert load([tmp_path / "inventory.yaml"]).sources.certificates == (ONE,)
