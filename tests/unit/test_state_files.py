"""Damaged files of the state folder: one error with the file and the way out, which quotes nothing of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from homelab.certificates import Authority, Names
from homelab.code_approvals import CodeApprovals
from homelab.errors import BAD_INPUT, InputError
from homelab.inventory import load
from homelab.known_hosts import KnownHosts
from homelab.paths import bundled_path
from homelab.private_files import write_private
from homelab.proxmox import vmids
from homelab.runtime import rollback
from homelab.runtime.lab_lock import lab_lock
from homelab.secrets import FileSecretStore

NAMES = Names.of({"postgres-data"}, {IPv4Address("192.168.2.67")})
SECRET = "hunter2"
READERS: dict[str, Callable[[Path], object]] = {
    "secrets.json": lambda folder: FileSecretStore(folder).secret("airflow-admin"),
    "operator_ed25519": lambda folder: FileSecretStore(folder).key_pair("operator"),
    "ca.pem": lambda folder: FileSecretStore(folder).authority("home", NAMES),
    "known_hosts.json": lambda folder: KnownHosts.of(folder).pins(),
    "vmids.json": lambda folder: vmids._promised(replace(load([bundled_path("inventory.yaml")]), state_dir=folder)),
    "deploy-snapshots": lambda folder: rollback._read(folder / "deploy-snapshots"),
    "approved-code.json": lambda folder: CodeApprovals(folder / "approved-code.json").read(),
}
OF_ANOTHER_TYPE = {
    "secrets.json": json.dumps({"airflow-admin": [SECRET]}),
    "operator_ed25519": SECRET,
    "ca.pem": SECRET,
    "known_hosts.json": json.dumps({"postgres-data": {"fingerprint": 1}}),
    "vmids.json": json.dumps({"postgres-data": "101"}),
}


def no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe" + SECRET.encode())


def folder(path: Path) -> None:
    path.mkdir()


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def list_of_values(path: Path) -> None:
    path.write_text(json.dumps([SECRET]))


def deep_nesting(path: Path) -> None:
    path.write_text("[" * 100_000)


def half(path: Path) -> None:
    path.write_text(f'{{"airflow-admin": "{SECRET}')


DAMAGE = (no_text, folder, nothing, list_of_values, deep_nesting, half)


CASES = [(name, damage) for name in READERS for damage in DAMAGE]
# Every text is a list of containers.
CASES = [(name, damage) for name, damage in CASES if name != "deploy-snapshots" or damage in (no_text, folder)]


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_damaged_file_is_one_input_error_that_names_it_and_the_way_out(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(tmp_path / name)
    with pytest.raises(InputError, match=f"^Cannot read {tmp_path / name}: ") as error:
        READERS[name](tmp_path)
    assert error.value.resolution
    assert SECRET not in f"{error.value}"


@pytest.mark.parametrize("name", OF_ANOTHER_TYPE)
def test_file_of_another_type_is_an_input_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(OF_ANOTHER_TYPE[name])
    with pytest.raises(InputError, match=f"^Cannot read {tmp_path / name}: it is damaged") as error:
        READERS[name](tmp_path)
    assert SECRET not in f"{error.value}"


def damaged_keys() -> dict[str, str]:
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    good, other = (Authority.create("home", NAMES).file() for _ in range(2))
    certificate, key = good.split("-----BEGIN PRIVATE KEY-----")
    private = ed25519.Ed25519PrivateKey.generate()
    encryptions = {"plain": NoEncryption(), "encrypted": BestAvailableEncryption(b"x")}
    pems = {
        name: private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()
        for name, encryption in encryptions.items()
    }
    return {
        "none": certificate,
        "cut off": f"{certificate}-----BEGIN PRIVATE KEY-----{key[:60]}",
        "not base64": f"{certificate}-----BEGIN PRIVATE KEY-----\n!!{key[3:]}",
        "one letter": f"{certificate}-----BEGIN PRIVATE KEY-----{key[:40]}{'A' if key[40] != 'A' else 'B'}{key[41:]}",
        "of another CA": f"{certificate}-----BEGIN PRIVATE KEY-----{other.split('-----BEGIN PRIVATE KEY-----')[1]}",
        "of another algorithm": certificate + pems["plain"],
        "encrypted": certificate + pems["encrypted"],
        "certificate cut off": good.replace(certificate[-200:-100], ""),
    }


@pytest.mark.parametrize("kind", damaged_keys())
def test_damage_of_the_ca_is_found_before_it_signs(tmp_path: Path, kind: str) -> None:
    (tmp_path / "ca.pem").write_text(damaged_keys()[kind])
    for read in (READERS["ca.pem"], lambda folder: FileSecretStore(folder).known_authority()):
        with pytest.raises(InputError, match=r"ca\.pem: it is damaged") as error:
            read(tmp_path)
        assert "move it away" in error.value.resolution


def test_deploy_with_a_damaged_file_ends_with_one_error_before_it_connects(tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text(bundled_path("inventory.yaml").read_text())
    state = tmp_path / ".homelab" / "home"
    FileSecretStore(state).authority("home", NAMES)
    (state / "ca.pem").write_text((state / "ca.pem").read_text()[:-60])
    ended = subprocess.run(
        [sys.executable, "-m", "homelab", "deploy"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == BAD_INPUT, ended.stderr
    assert ended.stderr.count("ca.pem: it is damaged") == 1
    assert "Cannot connect" not in ended.stderr


def test_file_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "known_hosts.json").mkdir()
    with pytest.raises(InputError, match=f"^Cannot write {tmp_path / 'known_hosts.json'}: Is a directory"):
        write_private(tmp_path / "known_hosts.json", b"{}")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"^Cannot write {tmp_path / 'file'}: File exists"):
        write_private(tmp_path / "file" / "known_hosts.json", b"{}")


def test_lock_that_is_a_folder_or_not_text_is_an_input_error_at_most(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"\xff")
    with lab_lock(tmp_path, "up"):
        pass
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").mkdir()
    with pytest.raises(InputError, match="Cannot lock the lab"), lab_lock(tmp_path, "up"):
        pass
