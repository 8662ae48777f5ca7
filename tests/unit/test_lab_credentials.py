"""Certificate, token and overlay: created once, kept while they are valid, readable only by their owner."""

from __future__ import annotations

import ssl
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from homelab.cli.global_options import Settings
from homelab.inventory import load
from homelab.inventory.errors import Problems
from homelab.inventory.yaml_source import parse
from homelab.lab import Lab, credentials, settings
from homelab.paths import bundled_path


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(settings, "STATE_ROOT", tmp_path)
    lab = Lab("x")
    lab.state_dir.mkdir()
    return lab


def contents(lab: Lab) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in lab.state_dir.iterdir()}


def test_credentials_are_created_once_and_private(lab: Lab) -> None:
    credentials.ensure(lab)
    first = contents(lab)
    assert set(first) == {"pve.crt", "pve.key", "token", "monitoring-token", "openweather-key"}
    credentials.ensure(lab)
    assert contents(lab) == first
    for secret in ("pve.key", "token", "monitoring-token", "openweather-key"):
        assert (lab.state_dir / secret).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["certificate", "key", "nothing"])
def test_damaged_certificate_is_recreated(lab: Lab, damage: str) -> None:
    credentials.ensure(lab)
    before = lab.certificate.read_bytes()
    key = lab.certificate.with_suffix(".key")
    if damage == "certificate":
        lab.certificate.write_bytes(before[:100])
    elif damage == "key":
        key.unlink()
    credentials.ensure(lab)
    assert (lab.certificate.read_bytes() == before) is (damage == "nothing")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(lab.certificate, key)


def test_expiring_certificate_is_renewed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials.ensure(lab)
    before = lab.certificate.read_bytes()
    monkeypatch.setattr(credentials, "_RENEW_BEFORE", 11 * credentials._RENEW_BEFORE)
    credentials.ensure(lab)
    assert lab.certificate.read_bytes() != before


def test_overlay_redirects_the_inventory_to_the_lab(lab: Lab) -> None:
    credentials.ensure(lab)
    credentials.write_overlay(lab, [IPv4Address("10.0.0.53")])
    overlay = parse(lab.overlay, lab.overlay.read_text(), Problems()).data
    assert overlay["lab"] == "x"
    assert overlay["network"] == {
        "subnet": "10.99.2.0/24",
        "gateway": "10.99.2.1",
        "bridge": "hl-lab",
        "nameservers": ["10.0.0.53"],
        "ssh_allowed_from": ["10.99.2.1"],
    }
    assert overlay["proxmox"]["port"] == 18006
    assert Path(overlay["proxmox"]["token_file"]) == lab.token_file
    assert overlay["proxmox"]["fingerprint"].count(":") == 31
    assert overlay["pipelines"]["weather"] == {
        "api_url": "http://10.99.2.1:8089",
        "api_key_file": str(lab.api_key_file),
    }
    assert lab.token_file.read_text().strip() not in lab.overlay.read_text()


def test_overlay_adds_neither_a_container_nor_a_pipeline(lab: Lab, tmp_path: Path) -> None:
    credentials.ensure(lab)
    credentials.write_overlay(lab, [IPv4Address("10.0.0.53")])
    (tmp_path / "inventory.yaml").write_text(
        "lab: home\nproxmox: {host: pve, token_id: a@pve!b}\n"
        "network: {subnet: 192.168.2.0/24, gateway: .1, bridge: vmbr0}\n"
        "containers: {db: {vmid: 167, ip: .67, cores: 1, memory: 512, disk: 8, services: {postgres: {version: 15}}}}\n"
    )
    inventory = load([tmp_path / "inventory.yaml", lab.overlay])
    assert [container.name for container in inventory.containers] == ["db"]
    assert (inventory.weather, inventory.pipelines) == (None, ())


def test_city_of_the_inventory_reaches_the_lab_and_a_further_overlay_wins(lab: Lab, tmp_path: Path) -> None:
    credentials.ensure(lab)
    credentials.write_overlay(lab, [IPv4Address("10.0.0.53")])
    example = bundled_path("inventory.yaml").read_text()
    (tmp_path / "inventory.yaml").write_text(
        example.replace("      - Newark,US\n", '      - Newark,US\n      - "Berlin,DE"\n')
    )
    (tmp_path / "mine.yaml").write_text(
        "defaults: {template: debian-13}\ncontainers: {postgres-data: {services: {postgres: {version: 17}}}}\n"
    )
    inventory = load([tmp_path / "inventory.yaml", lab.overlay])
    assert "Berlin,DE" in [city.name for city in inventory.weather.cities]
    mine = load([tmp_path / "inventory.yaml", lab.overlay, tmp_path / "mine.yaml"])
    assert {container.template for container in mine.containers} == {"debian-13"}


def test_options_over_the_lab_are_read_last(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homelab.lab.Lab", lambda: lab)
    lab.overlay.write_text("")
    chosen = Settings(inventory=tmp_path / "inventory.yaml", overlays=[tmp_path / "mine.yaml"], lab=True)
    assert chosen.paths == [tmp_path / "inventory.yaml", lab.overlay, tmp_path / "mine.yaml"]
