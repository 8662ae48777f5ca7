"""`doctor` reports each failure alone with its resolution, and no failure on a healthy site."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from types import MappingProxyType

import pytest
from typer.testing import CliRunner

from homelab.cli import app
from homelab.cli.global_options import settings
from homelab.commands import doctor as module
from homelab.commands.doctor import Diagnosis, ask_openweather, doctor
from homelab.errors import HomelabError
from homelab.model import Secret, Weather
from homelab.proxmox.checks import Check
from tests.integration.fakenode import TOKEN
from tests.integration.test_proxmox_up import SECRET, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.stub import Response, serve

NODE_TIME = 1297163644  # the constant time of the node's clock
KEY = "0123456789abcdef"
KINDS = ("Containers", "Node", "Storage", "Templates", "Bridge")


@pytest.fixture
def healthy_site(site: Site) -> Site:
    """A healthy node, a token with the least privileges, and a key for OpenWeather."""
    site.pve.grant_least(site.inventory)
    key = site.inventory.weather.api_key_file
    key.write_text(KEY)
    key.chmod(0o600)
    return site


def look(
    site: Site,
    status: int = 200,
    now: float = NODE_TIME,
    there: Mapping[str, str] = MappingProxyType({}),
    asked: list[str] | None = None,
) -> Diagnosis:
    """Run doctor; `there` maps addresses in use to responses, `asked` receives the probed addresses."""

    def answering(addresses: Iterable[IPv4Address]) -> dict[IPv4Address, str]:
        if asked is not None:
            asked.extend(map(str, addresses))
        return {address: there[str(address)] for address in addresses if str(address) in there}

    return doctor(site.inventory, ask=lambda pipeline, key: status, now=lambda: now, addresses_in_use=answering)


def failures(
    site: Site, status: int = 200, now: float = NODE_TIME, there: Mapping[str, str] = MappingProxyType({})
) -> list[Check]:
    diagnosis = look(site, status, now, there)
    wrong = [check for check in diagnosis.checks if not check.ok]
    assert diagnosis.healthy is (not wrong)
    assert all(check.said and check.todo and all(check.todo) for check in wrong)
    assert SECRET not in str(diagnosis)
    assert KEY not in str(diagnosis)
    return wrong


def test_all_checks_pass_before_and_after_up(healthy_site: Site) -> None:
    assert failures(healthy_site) == []
    names = [check.name for check in look(healthy_site).checks]
    assert names == [
        "connection",
        "token",
        *(f"role Homelab{kind}" for kind in KINDS),
        "clock of pve",
        "storage local-lvm on pve",
        "storage local on pve",
        "bridge vmbr0 on pve",
        "template ubuntu-24.04 on pve",
        "containers",
        "addresses",
        "OpenWeather key",
    ]
    assert {call.split()[0] for call in healthy_site.pve.calls()} == {"GET"}
    healthy_site.up()
    assert failures(healthy_site) == []


CONTAINERS = (
    "VM.Allocate",
    "VM.Audit",
    "VM.Config.CPU",
    "VM.Config.Disk",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.PowerMgmt",
)


@pytest.mark.parametrize(
    ("path", "privilege", "role"),
    [
        *(("/vms", privilege, "HomelabContainers") for privilege in CONTAINERS),
        ("/nodes", "Sys.Audit", "HomelabNode"),
        ("/storage/local-lvm", "Datastore.AllocateSpace", "HomelabStorage"),
        ("/storage/local", "Datastore.Audit", "HomelabTemplates"),
        ("/sdn/zones/localnetwork/vmbr0", "SDN.Use", "HomelabBridge"),
    ],
)
@pytest.mark.parametrize("owner", [TOKEN, "homelab@pve"])
def test_missing_privilege_is_named_with_the_grant_commands(
    healthy_site: Site, path: str, privilege: str, role: str, owner: str
) -> None:
    assert healthy_site.pve.acl is not None
    healthy_site.pve.acl[owner] = [
        (place, set(granted) - {privilege} if place == path else granted)
        for place, granted in healthy_site.pve.acl[owner]
    ]
    check = next(check for check in failures(healthy_site) if check.name == f"role {role}")
    exact = "/nodes/pve" if path == "/nodes" else path
    assert check.said == f"missing, for the token or its user: {privilege} on {exact}"
    assert f"pveum role add {role} 2>/dev/null; pveum role modify {role} --append 1 --privs " in check.todo[0]
    assert privilege in check.todo[0]
    assert check.todo[1:] == (
        f"pveum acl modify {exact} --roles {role} --users homelab@pve --tokens 'homelab@pve!cli'",
    )


def test_token_without_privileges_gets_all_grant_commands(healthy_site: Site) -> None:
    healthy_site.pve.acl = {TOKEN: [], "homelab@pve": []}
    checks = [check for check in failures(healthy_site) if check.name.startswith("role ")]
    assert [check.name for check in checks] == [f"role Homelab{kind}" for kind in KINDS]
    assert checks[0].todo[1:] == (
        "pveum acl modify /vms --roles HomelabContainers --users homelab@pve --tokens 'homelab@pve!cli'",
    )


def test_missing_pool(healthy_site: Site) -> None:
    healthy_site.overlaid("defaults: {pool: lab}")
    healthy_site.pve.acl = None
    (check,) = failures(healthy_site)
    assert (check.name, check.todo) == ("pool lab", ("pveum pool add lab",))


@pytest.mark.parametrize(
    ("break_it", "name", "text", "todo"),
    [
        (
            lambda site: site.pve.apitokens.update({TOKEN: "other"}),
            "connection",
            "refused the token",
            "pveum user token",
        ),
        (lambda site: site.inventory.endpoint.token_file.unlink(), "token", "No such file", "homelab init"),
        (lambda site: site.inventory.endpoint.token_file.chmod(0o644), "token", "other users can read it", "chmod 600"),
        (
            lambda site: site.pve.storages.pop("local-lvm"),
            "storage local-lvm on pve",
            "missing, or this token cannot see it",
            "pvesm status",
        ),
        (
            lambda site: site.pve.storages["local-lvm"].update(active=0),
            "storage local-lvm on pve",
            "not active",
            "pvesm",
        ),
        (
            lambda site: site.pve.storages["local-lvm"].update(content="images"),
            "storage local-lvm on pve",
            "accepts images, but not rootdir",
            "pvesm set local-lvm --content images,rootdir",
        ),
        (
            lambda site: site.pve.storages["local-lvm"].update(total=40 << 30),
            "storage local-lvm on pve",
            "40 GiB free, new disks need 48 GiB",
            "Free space",
        ),
        (
            lambda site: (site.pve.storages["local"].update(volumes={}), site.pve.appliances.clear()),
            "template ubuntu-24.04 on pve",
            "has no template for",
            "pveam update",
        ),
        (
            lambda site: site.pve.add_vm(168, "windows", node="pve"),
            "containers",
            "Cannot use vmid 168 for analytics-platform",
            "another vmid",
        ),
        (
            lambda site: site.inventory.weather.api_key_file.unlink(),
            "OpenWeather key",
            "No such file",
            "openweathermap",
        ),
        (lambda site: site.inventory.weather.api_key_file.chmod(0o640), "OpenWeather key", "other users", "chmod 600"),
        (
            lambda site: site.inventory.weather.api_key_file.write_text("\n"),
            "OpenWeather key",
            "is empty",
            "write it to",
        ),
    ],
)
def test_each_failure_is_found_alone(
    healthy_site: Site, break_it: Callable[[Site], object], name: str, text: str, todo: str
) -> None:
    healthy_site.pve.acl = None  # the token can see foreign guests
    break_it(healthy_site)
    (check,) = failures(healthy_site)
    assert check.name == name
    assert text in check.said
    assert todo in "\n".join(check.todo)


def test_missing_bridge_and_ambiguous_or_offline_node(healthy_site: Site) -> None:
    healthy_site.pve.acl = None
    healthy_site.overlaid("network: {bridge: vmbr7}")
    (check,) = failures(healthy_site)
    assert (check.name, "vmbr0" in check.said) == ("bridge vmbr7 on pve", True)
    healthy_site.pve.add_node("pve2")
    healthy_site.overlaid("")
    (check,) = failures(healthy_site)
    assert "Cannot choose a node" in check.said
    assert check.todo == ("Write `node:` under `proxmox:` in the inventory.",)
    assert failures(healthy_site.overlaid("proxmox: {node: pve2}")) == []
    healthy_site.pve.set_node_offline("pve2")
    assert [check.name for check in failures(healthy_site)] == [
        f"{what} on pve2" for what in ("clock", "storage", "bridge", "template ubuntu-24.04")
    ]


def test_existing_disks_do_not_count_as_needed_space(healthy_site: Site) -> None:
    healthy_site.up("postgres-data", "analytics-platform")
    storage = next(check for check in look(healthy_site).checks if check.name == "storage local-lvm on pve")
    assert storage.said.endswith("new disks need 16 GiB")


def test_address_in_use_by_another_machine(healthy_site: Site) -> None:
    asked: list[str] = []
    look(healthy_site, asked=asked)
    assert asked == ["192.168.2.67", "192.168.2.68", "192.168.2.69"]
    (check,) = failures(healthy_site, there={"192.168.2.68": "a machine answers on port 22"})
    assert (check.name, check.said) == (
        "address 192.168.2.68",
        "a machine answers on port 22, although analytics-platform does not run",
    )
    assert "write another `ip` for analytics-platform" in check.todo[0]


def test_addresses_of_running_containers_are_not_probed(healthy_site: Site) -> None:
    healthy_site.up("postgres-data", "analytics-platform")
    healthy_site.pve.ct(168).status = "stopped"
    asked: list[str] = []
    look(healthy_site, asked=asked)
    assert asked == ["192.168.2.68", "192.168.2.69"]
    healthy_site.up("analytics-platform", "airflow-orchestration")
    asked.clear()
    assert "addresses" not in [check.name for check in look(healthy_site, asked=asked).checks]
    assert asked == []


def test_address_configured_in_another_container(healthy_site: Site) -> None:
    healthy_site.up("postgres-data")
    net0 = healthy_site.pve.ct(167).config["net0"]
    healthy_site.pve.ct(167).config["net0"] = net0.replace("192.168.2.67", "192.168.2.69")
    (check,) = failures(healthy_site)
    assert check.said == "postgres-data (167) is configured with it, although airflow-orchestration does not run"


@pytest.mark.parametrize(("away", "ok"), [(0, True), (-29, True), (31, False), (-3600, False)])
def test_clock_difference(healthy_site: Site, away: float, ok: bool) -> None:
    assert [check.name for check in failures(healthy_site, now=NODE_TIME + away)] == ([] if ok else ["clock of pve"])


@pytest.mark.parametrize(
    ("status", "text", "todo"),
    [(401, "does not accept it", "two hours"), (429, "too many requests", "60 req"), (503, "answers 503", "later")],
)
def test_refused_openweather_key(healthy_site: Site, status: int, text: str, todo: str) -> None:
    (check,) = failures(healthy_site, status)
    assert (check.name, text in check.said, todo in check.todo[0]) == ("OpenWeather key", True, True)


def test_openweather_is_called_with_the_key_and_errors_do_not_contain_it(healthy_site: Site) -> None:
    with serve([Response(401)]) as stub:
        pipeline = replace(healthy_site.inventory.weather, api_url=stub.url)
        assert ask_openweather(pipeline, Secret(KEY)) == 401
        assert stub.requests[0]["appid"] == KEY
    with pytest.raises(HomelabError, match="does not answer") as caught:
        ask_openweather(pipeline, Secret(KEY))
    assert KEY not in str(caught.value)


def test_exit_code_and_json(healthy_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.__class__, "load", lambda _: healthy_site.inventory)
    given: list[int] = [200]

    def stand_in(inventory: object, session: object = None) -> Diagnosis:
        def ask(pipeline: Weather, key: Secret) -> int:
            return given[0]

        return doctor(healthy_site.inventory, ask=ask, now=lambda: NODE_TIME, addresses_in_use=lambda _: {})

    monkeypatch.setattr(module, "doctor", stand_in)
    run = CliRunner().invoke
    good = run(app, ["doctor"])
    assert (good.exit_code, good.stdout.splitlines()[-1]) == (0, "all healthy")
    given[0] = 401
    bad = run(app, ["doctor", "--json"])
    data = json.loads(bad.stdout)
    assert (bad.exit_code, data["healthy"], data["checks"][-1]["ok"]) == (1, False, False)
    assert "✗ OpenWeather key: OpenWeather does not accept it (401)" in run(app, ["doctor"]).stdout
