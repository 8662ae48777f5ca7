"""The gateway in a lab: https for each web UI, closed plain ports, and all of it removed with its line."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import requests

from homelab.commands.deploy import deploy
from homelab.commands.open_ import web_address
from homelab.inventory import load
from homelab.lab import Lab
from homelab.model.web_uis import OFFSET
from homelab.runtime.lab_report import report_lab
from homelab.services.gateway import LOGIN, USER
from homelab.services.lab_certificates import container_names
from homelab.steps import File
from tests.integration.lab_fixture import LabFixture, changes, in_a_lab, lab_with
from tests.integration.waiting import until

LAB = Lab("gateway", IPv4Network("10.99.2.48/28"), "hl-gate", 18188, 8271)
INVENTORY = """
lab: x
proxmox: {host: x, token_id: homelab@pve!x}
network: {subnet: 10.99.2.48/28, gateway: .49, bridge: x}
containers:
  door: {vmid: 173, ip: .51, cores: 1, memory: 256, disk: 4, services: GATEWAY}
  observability:
    {vmid: 172, ip: .50, cores: 1, memory: 512, disk: 4, services: {prometheus: {}, alertmanager: {}}}
"""
DOOR, OBSERVABILITY = "10.99.2.51", "10.99.2.50"
PORTS = (9090, 9093)
DOMAIN = "lab.home.arpa"

pytestmark = in_a_lab()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFixture]:
    with lab_with(LAB, tmp_path_factory.mktemp("gateway"), INVENTORY.replace("GATEWAY", "{gateway: {}}")) as stack:
        stack.up()
        changes(stack)
        yield stack


@pytest.fixture
def browser(stack: LabFixture, tmp_path: Path) -> requests.Session:
    """A client that trusts the lab's CA only."""
    authority = stack.session.secrets.known_authority()
    assert authority
    (tmp_path / "ca.crt").write_text(authority.certificate)
    session = requests.Session()
    session.trust_env, session.verify = False, str(tmp_path / "ca.crt")
    return session


def is_open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 3).close()
    except OSError:
        return False
    return True


def test_web_uis_are_served_over_https_with_a_login(stack: LabFixture, browser: requests.Session) -> None:
    start = browser.get(f"http://{DOOR}/", timeout=10)
    assert start.url == f"{web_address(stack.inventory, None)}/" == f"https://{DOOR}/"
    links = re.findall(r'class="card" href="([^"]+)"', start.text)
    assert links == [f"https://{DOOR}:19090/", f"https://{DOOR}:19093/"]
    password = stack.session.secrets.secret(LOGIN).reveal()
    for link, title in zip(links, ("Prometheus", "Alertmanager"), strict=True):
        assert browser.get(link, timeout=10).status_code == 401
        assert title in browser.get(link, timeout=10, auth=(USER, password)).text
        health = re.search(rf'data-health="(/health/observability/{int(link[-6:-1]) - OFFSET})"', start.text)
        assert health
        assert browser.get(f"https://{DOOR}{health[1]}", timeout=10).status_code == 200
    assert browser.get(f"{links[0]}-/ready", timeout=10).status_code == 401
    assert changes(stack) == []
    reports = [service for each in report_lab(stack.session).containers for service in each.services]
    assert [service.health.summary for service in reports if not service.healthy] == []
    assert {url for service in reports for url in service.web_uis.values()} == {
        f"https://{DOOR}",
        *(link.rstrip("/") for link in links),
    }


def test_plain_ports_are_closed_to_all_others(stack: LabFixture) -> None:
    for port in PORTS:
        knock = f"timeout 3 bash -c '</dev/tcp/{OBSERVABILITY}/{port}' 2>/dev/null && echo open || echo closed"
        assert not is_open(OBSERVABILITY, port)
        assert stack.run(knock, "door") == "open"
        assert stack.run(knock, "observability") == "open"
    stack.run("systemctl stop homelab-closed-ports", "observability")
    assert is_open(OBSERVABILITY, PORTS[0])
    assert changes(stack) == ["unit homelab-closed-ports.service: is inactive"]
    assert not is_open(OBSERVABILITY, PORTS[0])


def test_gateway_listens_on_its_address_and_is_hardened(stack: LabFixture) -> None:
    listening = stack.run("ss -Hltn | awk '{print $4}'", "door").split()
    own = sorted(each for each in listening if not each.endswith(":22"))
    assert own == sorted(f"{DOOR}:{port}" for port in (80, 443, 19090, 19093))
    stack.run("systemd-analyze security --no-pager --threshold=30 caddy.service", "door")
    stack.run("systemd-analyze security --no-pager --threshold=60 homelab-closed-ports.service", "observability")
    password = stack.session.secrets.secret(LOGIN).reveal()
    with stack.connect("door") as host:
        found = host.run("grep -rlsFf - /etc /var/lib /proc/[0-9]*/cmdline; true", stdin=password.encode())
    assert found.text == ""


def test_expired_certificate_is_reported_and_renewed(stack: LabFixture, browser: requests.Session) -> None:
    authority = stack.session.secrets.known_authority()
    assert authority
    door = stack.inventory.container_with("gateway")
    expired = authority.issue(container_names(door), datetime.now(UTC) - timedelta(days=900))
    with stack.connect("door") as host:
        File("/etc/ssl/homelab/gateway.pem", expired.encode(), "root", "homelab-caddy", 0o640, secret=True).apply(host)
    stack.run("systemctl restart caddy", "door")
    until(lambda: is_open(DOOR, 443))
    with pytest.raises(requests.exceptions.SSLError, match="expired"):
        browser.get(f"https://{DOOR}/", timeout=10)
    reports = [service for each in report_lab(stack.session).containers for service in each.services]
    (found,) = [service for service in reports if not service.healthy]
    assert found.name == "gateway"
    assert re.search(r"its certificate expired on [0-9-]+: run `homelab deploy`", found.health.summary)
    assert [change.partition(":")[0] for change in changes(stack)] == [
        "certificate /etc/ssl/homelab/gateway.pem",
        "unit caddy.service",
    ]
    assert browser.get(f"https://{DOOR}/", timeout=10).status_code == 200


def test_port_that_another_process_has_is_named_and_other_containers_are_deployed(stack: LabFixture) -> None:
    stack.run(
        "systemctl stop caddy; systemd-run --unit=other --collect python3 -m http.server 19090; "
        "until ss -Hltn 'sport = :19090' | grep -q .; do sleep 0.2; done",
        "door",
    )
    stack.run("rm /etc/homelab/alertmanager.yml", "observability")
    reports = {report.container: report for report in deploy(stack.session)}
    failure = reports["door"].failure
    assert failure
    assert failure.brief == "Cannot start caddy.service on door: the unit is not active"
    assert "Another process in door already listens on that port." in failure.details
    assert "homelab ssh door -- ss -ltnp" in failure.resolution
    assert reports["observability"].failure is None
    assert [change.step.title for change in reports["observability"].changes][:1] == [
        "file /etc/homelab/alertmanager.yml"
    ]
    stack.run("systemctl stop other", "door")
    changes(stack)  # unless systemd has started caddy meanwhile
    assert changes(stack) == []
    stack.run("systemctl is-active caddy", "door")


def test_ports_that_cannot_be_closed_are_an_error_and_the_rest_is_deployed(stack: LabFixture) -> None:
    refuse = "echo 'Error: Could not process rule: Operation not permitted' >&2; exit 1"
    stack.run(
        f"systemctl stop homelab-closed-ports; mv /usr/sbin/nft /usr/sbin/nft.real; rm /etc/homelab/alertmanager.yml; "
        f'printf "#!/bin/sh\n%s\n" "{refuse}" >/usr/sbin/nft; chmod 755 /usr/sbin/nft',
        "observability",
    )
    (report,) = [each for each in deploy(stack.session) if each.container == "observability"]
    assert report.failure
    assert report.failure.brief == "Cannot start homelab-closed-ports.service on observability: the unit is not active"
    assert "so the ports that it closes with nftables are open to the LAN" in report.failure.details
    assert "Everything else on observability is deployed." in report.failure.details
    assert "firewall: true" in report.failure.resolution
    assert "file /etc/homelab/alertmanager.yml" in [change.step.title for change in report.changes]
    assert is_open(OBSERVABILITY, PORTS[1])
    stack.run("mv /usr/sbin/nft.real /usr/sbin/nft", "observability")
    assert changes(stack) == ["unit homelab-closed-ports.service: is failed"]
    assert not is_open(OBSERVABILITY, PORTS[0])


def test_names_of_a_domain_replace_the_ports(
    stack: LabFixture, browser: requests.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stack.inventory.path
    path.write_text(INVENTORY.replace("GATEWAY", f"{{gateway: {{domain: {DOMAIN}}}}}"))
    named = LabFixture(replace(load([path, LAB.overlay]), state_dir=stack.inventory.state_dir))
    changes(named)
    assert changes(named) == []
    _resolve_to_the_gateway(monkeypatch)
    # The earlier certificate of the CA does not permit these names: devices install the new one, which permits them.
    with pytest.raises(requests.exceptions.SSLError, match="permitted subtree violation"):
        browser.get(f"https://{DOMAIN}/", timeout=10)
    authority = named.session.secrets.known_authority()
    assert authority
    (tmp_path / "new.crt").write_text(authority.certificate)
    browser.verify = str(tmp_path / "new.crt")
    start = browser.get(f"http://{DOMAIN}/", timeout=10)
    assert start.url == f"https://{DOMAIN}/"
    links = re.findall(r'class="card" href="([^"]+)"', start.text)
    assert links == [f"https://prometheus.{DOMAIN}/", f"https://alertmanager.{DOMAIN}/"]
    password = named.session.secrets.secret(LOGIN).reveal()
    for link, title in zip(links, ("Prometheus", "Alertmanager"), strict=True):
        assert browser.get(link, timeout=10).status_code == 401
        assert title in browser.get(link, timeout=10, auth=(USER, password)).text
    assert browser.get(f"https://{DOOR}/", timeout=10).status_code == 200
    assert [port for port in (443, 19090, 19093) if is_open(DOOR, port)] == [443]
    assert [port for port in PORTS if is_open(OBSERVABILITY, port)] == []
    reports = [service for each in report_lab(named.session).containers for service in each.services]
    assert [service.health.summary for service in reports if not service.healthy] == []


def _resolve_to_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolve the domain and every name below it to the gateway, as a home's name server does."""
    resolve = socket.getaddrinfo

    def resolved(host: str, *arguments: object, **options: object) -> object:
        own = isinstance(host, str) and (host == DOMAIN or host.endswith(f".{DOMAIN}"))
        return resolve(DOOR if own else host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)


def test_without_the_gateway_the_plain_ports_are_open_again(stack: LabFixture) -> None:
    path = stack.inventory.path
    path.write_text(INVENTORY.replace("GATEWAY", "{}"))
    plain = LabFixture(replace(load([path, LAB.overlay]), state_dir=stack.inventory.state_dir))
    changes(plain)
    assert is_open(OBSERVABILITY, PORTS[0])
    assert not is_open(DOOR, 443)
    assert plain.run("nft list tables", "observability") == ""
    assert changes(plain) == []
