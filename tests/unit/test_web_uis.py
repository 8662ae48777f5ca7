"""Web UIs with a gateway: its ports, the firewall, the probes, and the closed ports of the services."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from homelab.commands.open_ import web_address
from homelab.errors import InputError
from homelab.inventory import load
from homelab.model import Inventory, ServiceContext
from homelab.model.firewall import desired_firewall
from homelab.model.web_uis import web_uis
from homelab.paths import bundled_path
from homelab.runtime.convergence import steps_of
from homelab.services.lab_certificates import lab_names
from homelab.services.scrape_targets import probe_targets
from homelab.steps import File, ServerCertificate
from tests.support import FixedSecretStore

SERVICES = "{prometheus: {}, alertmanager: {}, blackbox_exporter: {}}"


def inventory(folder: Path, gateway: str = "{gateway: {}}", services: str = SERVICES) -> Inventory:
    overlay = folder / "overlay.yaml"
    overlay.write_text(f"""
defaults: {{firewall: true}}
containers:
  door: {{vmid: 171, ip: .71, cores: 1, memory: 256, services: {gateway}}}
  observability: {{vmid: 170, ip: .70, cores: 1, memory: 512, services: {services}}}
""")
    return load([bundled_path("inventory.yaml"), overlay])


def rules(found: Inventory, name: str) -> list[str]:
    (container,) = [each for each in found.containers if each.name == name]
    return [str(rule) for rule in desired_firewall(found, container).rules]


def closed(found: Inventory, name: str) -> str:
    """Return the nftables rules of a container, or an empty text."""
    (container,) = [each for each in found.containers if each.name == name]
    keys = {each.name: f"ssh-ed25519 AAAA {each.name}" for each in found.containers}
    context = ServiceContext(inventory=found, container=container, secret_store=FixedSecretStore(), host_keys=keys)
    files = [step for step in steps_of(context) if isinstance(step, File) and step.path.endswith("closed-ports.nft")]
    return "".join(file.content.decode() for file in files)


def test_gateway_serves_each_web_ui_on_a_port_of_its_own(tmp_path: Path) -> None:
    assert {ui.service: ui.url for ui in web_uis(inventory(tmp_path).containers)} == {
        "airflow": "https://192.168.2.71:18080",
        "gateway": "https://192.168.2.71",
        "prometheus": "https://192.168.2.71:19090",
        "alertmanager": "https://192.168.2.71:19093",
    }


def test_without_a_gateway_web_uis_have_their_own_addresses(tmp_path: Path) -> None:
    # Alertmanager has no login: without a gateway, it is not for people on the LAN.
    assert {ui.service: ui.url for ui in web_uis(inventory(tmp_path, "{}").containers)} == {
        "airflow": "http://192.168.2.69:8080",
        "prometheus": "http://192.168.2.70:9090",
    }


def test_firewall_admits_the_lan_to_the_gateway_only(tmp_path: Path) -> None:
    found = inventory(tmp_path)
    lan = "tcp {} from 192.168.2.0/24"
    for port in (80, 443, 18080, 19090, 19093):
        assert [rule for rule in rules(found, "door") if lan.format(port) in rule], port
    assert not [
        rule
        for name in ("airflow-orchestration", "observability")
        for rule in rules(found, name)
        if "192.168.2.0/24" in rule and "tcp 22 " not in rule
    ]
    assert [rule for rule in rules(found, "airflow-orchestration") if "tcp 8080 from 192.168.2.71" in rule]
    plain = inventory(tmp_path, "{}")
    assert [rule for rule in rules(plain, "airflow-orchestration") if lan.format(8080) in rule]


def test_containers_close_the_ports_of_their_web_uis_themselves(tmp_path: Path) -> None:
    found = inventory(tmp_path)
    assert "tcp dport 8080 ip saddr { 192.168.2.71 } accept\n    tcp dport 8080 reject" in closed(
        found, "airflow-orchestration"
    )
    assert "tcp dport 9093 ip saddr { 192.168.2.71 } accept" in closed(found, "observability")
    assert closed(found, "postgres-data") == closed(found, "door") == ""
    assert closed(inventory(tmp_path, "{}"), "airflow-orchestration") == ""


def test_programs_know_the_address_at_which_people_open_them(tmp_path: Path) -> None:
    def arguments(found: Inventory, name: str) -> str:
        container = found.container_with(name)
        context = ServiceContext(inventory=found, container=container, secret_store=FixedSecretStore(), host_keys={})
        steps = [step for step in steps_of(context) if isinstance(step, File)]
        return next(s.content.decode() for s in steps if f"{name}.service.d/" in s.path)

    for name, port in (("prometheus", 19090), ("alertmanager", 19093)):
        text = arguments(inventory(tmp_path), name)
        assert f'"--web.external-url=https://192.168.2.71:{port}/"' in text
        assert '"--web.route-prefix=/"' in text
        assert "external-url" not in arguments(inventory(tmp_path, "{}"), name)


@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")
def test_nft_accepts_the_rules(tmp_path: Path) -> None:
    rules = closed(inventory(tmp_path), "observability")
    done = subprocess.run(["nft", "--check", "-f", "-"], input=rules.encode(), capture_output=True, check=False)
    assert b"syntax error" not in done.stderr


def test_web_uis_are_probed_over_the_gateway(tmp_path: Path) -> None:
    found = {each["labels"]["service"]: each["targets"][0] for each in probe_targets(inventory(tmp_path))}
    assert found == {
        "airflow": "https://192.168.2.71:18080/api/v2/monitor/health",
        "prometheus": "https://192.168.2.71/health/observability/9090",
        "alertmanager": "https://192.168.2.71/health/observability/9093",
        "gateway": "192.168.2.71:80",
    }


def test_web_ui_without_a_port_of_the_gateway_is_refused(tmp_path: Path) -> None:
    first = inventory(tmp_path)
    for port, problem in (
        (9090, "has a web UI on port 9090, which is port 19090 of the gateway: it is that of airflow of airflow-orch"),
        (60000, "has a web UI on port 60000: the gateway serves ports up to 55535"),
    ):
        text = f"containers: {{airflow-orchestration: {{services: {{airflow: {{port: {port}}}}}}}}}"
        (tmp_path / "same.yaml").write_text(text)
        with pytest.raises(InputError, match=problem):
            load([first.path, tmp_path / "overlay.yaml", tmp_path / "same.yaml"])


def test_web_ui_whose_port_of_the_gateway_a_service_next_to_it_provides_is_refused(tmp_path: Path) -> None:
    (tmp_path / "same.yaml").write_text("containers: {airflow-orchestration: {services: {airflow: {port: 19090}}}}")
    services = "{services: {gateway: {}, prometheus: {}, alertmanager: {}, blackbox_exporter: {}}}"
    (tmp_path / "moved.yaml").write_text(f"containers: {{airflow-orchestration: {services}}}")
    inventory(tmp_path, "{}", "{}")
    problem = "has a web UI on port 9090, which is port 19090 of the gateway: airflow of airflow-orchestration provides"
    files = [tmp_path / f"{name}.yaml" for name in ("overlay", "same", "moved")]
    with pytest.raises(InputError, match=problem):
        load([bundled_path("inventory.yaml"), *files])


@pytest.mark.parametrize(
    ("gateway", "service", "url"),
    [
        ("{gateway: {}}", None, "https://192.168.2.71"),
        ("{gateway: {}}", "airflow", "https://192.168.2.71:18080"),
        ("{}", "airflow", "http://192.168.2.69:8080"),
    ],
)
def test_open_names_the_address_of_a_web_ui(tmp_path: Path, gateway: str, service: str | None, url: str) -> None:
    assert web_address(inventory(tmp_path, gateway), service) == url


@pytest.mark.parametrize(("service", "cause"), [("postgres", "`postgres` has no web UI"), (None, "has no start page")])
def test_open_lists_the_web_uis_if_there_is_no_such_one(tmp_path: Path, service: str | None, cause: str) -> None:
    with pytest.raises(InputError, match=cause) as caught:
        web_address(inventory(tmp_path, "{}"), service)
    assert "airflow, prometheus" in caught.value.details


DOMAIN = "{gateway: {domain: home.example}}"


def test_with_a_domain_each_web_ui_has_a_name(tmp_path: Path) -> None:
    found = inventory(tmp_path, DOMAIN)
    assert {ui.service: ui.url for ui in web_uis(found.containers)} == {
        "airflow": "https://airflow.home.example",
        "gateway": "https://home.example",
        "prometheus": "https://prometheus.home.example",
        "alertmanager": "https://alertmanager.home.example",
    }
    assert web_address(found, "airflow") == "https://airflow.home.example"
    lan = [rule for rule in rules(found, "door") if "192.168.2.0/24" in rule and "tcp 22 " not in rule]
    assert sorted(rule.split()[3] for rule in lan) == ["443", "80"]
    # No container can resolve the names.
    probed = {each["labels"]["service"]: each["targets"][0] for each in probe_targets(found)}
    assert probed["airflow"] == "https://192.168.2.71/health/airflow-orchestration/8080"


def test_with_a_domain_two_web_uis_may_have_the_same_port(tmp_path: Path) -> None:
    first = inventory(tmp_path, DOMAIN)
    (tmp_path / "same.yaml").write_text("containers: {airflow-orchestration: {services: {airflow: {port: 9090}}}}")
    found = load([first.path, tmp_path / "overlay.yaml", tmp_path / "same.yaml"])
    assert {ui.endpoint.port for ui in web_uis(found.containers) if ui.service in ("airflow", "prometheus")} == {9090}


@pytest.mark.parametrize(
    ("searchdomain", "container", "name"),
    [("home.example", "prometheus", "prometheus.home.example"), ("example", "home", "home.example")],
)
def test_name_of_a_web_ui_that_is_the_name_of_a_container_is_refused(
    tmp_path: Path, searchdomain: str, container: str, name: str
) -> None:
    first = inventory(tmp_path, DOMAIN)
    (tmp_path / "same.yaml").write_text(
        f"network: {{searchdomain: {searchdomain}}}\n"
        f"containers: {{{container}: {{vmid: 180, ip: .80, cores: 1, memory: 256}}}}"
    )
    problem = f"has a web UI with the name {name}, which the container {container} already has"
    with pytest.raises(InputError, match=problem):
        load([first.path, tmp_path / "overlay.yaml", tmp_path / "same.yaml"])


@pytest.mark.parametrize(
    "domain", ["home", "Home.example", "home.example.", "*.example", "https://home.example", "127.0.0.1", ""]
)
def test_invalid_domain_is_refused(tmp_path: Path, domain: str) -> None:
    with pytest.raises(InputError, match=r"must be a domain of your own in lower case, such as home\.example"):
        inventory(tmp_path, f"{{gateway: {{domain: '{domain}'}}}}")


def test_certificate_of_the_gateway_has_the_names_of_the_domain(tmp_path: Path) -> None:
    found = inventory(tmp_path, DOMAIN)
    assert "home.example" in lab_names(found).hosts
    assert "home.example" not in lab_names(inventory(tmp_path)).hosts
    found = inventory(tmp_path, DOMAIN)
    context = ServiceContext(
        inventory=found, container=found.container_with("gateway"), secret_store=FixedSecretStore(), host_keys={}
    )
    (step,) = [each for each in steps_of(context) if isinstance(each, ServerCertificate)]
    names = ("airflow", "alertmanager", "prometheus")
    assert step.names.hosts == tuple(sorted(("door", "home.example", *(f"{name}.home.example" for name in names))))
    assert step.names.addresses == ("192.168.2.71",)
