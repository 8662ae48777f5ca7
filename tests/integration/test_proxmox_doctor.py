"""`doctor`: each thing that may be wrong is found, alone, with what to do about it; and all is well where it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from types import MappingProxyType

import pytest
from typer.testing import CliRunner

from homelab.cli import app
from homelab.cli.common import settings
from homelab.commands import doctor as module
from homelab.commands.doctor import Diagnosis, ask_openweather, doctor
from homelab.errors import HomelabError
from homelab.model import Pipeline, Secret
from homelab.proxmox.checks import Check
from tests.integration.fakenode import TOKEN
from tests.integration.test_proxmox_up import SECRET, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.stub import Answer, serving

NODE_TIME = 1297163644  # what the node's clock always shows
KEY = "0123456789abcdef"
KINDS = ("Containers", "Node", "Storage", "Templates", "Bridge")


@pytest.fixture
def well(site: Site) -> Site:
    """A node on which nothing is wrong, with a token that may do the least, and a key for OpenWeather."""
    site.pve.grant_least(site.inventory)
    key = site.inventory.pipeline.api_key_file
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
    """`there`: who answers at which address; `asked` is given the addresses that were looked at."""

    def answering(addresses: Iterable[IPv4Address]) -> dict[IPv4Address, str]:
        if asked is not None:
            asked.extend(map(str, addresses))
        return {address: there[str(address)] for address in addresses if str(address) in there}

    return doctor(site.inventory, ask=lambda pipeline, key: status, now=lambda: now, answering=answering)


def faults(
    site: Site, status: int = 200, now: float = NODE_TIME, there: Mapping[str, str] = MappingProxyType({})
) -> list[Check]:
    diagnosis = look(site, status, now, there)
    wrong = [check for check in diagnosis.checks if not check.ok]
    assert diagnosis.healthy is (not wrong)
    assert all(check.said and check.todo and all(check.todo) for check in wrong)
    assert SECRET not in str(diagnosis)
    assert KEY not in str(diagnosis)
    return wrong


def test_all_is_well_before_and_after_up(well: Site) -> None:
    assert faults(well) == []
    names = [check.name for check in look(well).checks]
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
    assert {call.split()[0] for call in well.pve.calls()} == {"GET"}
    well.up()
    assert faults(well) == []


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
@pytest.mark.parametrize("whose", [TOKEN, "homelab@pve"])
def test_each_missing_privilege_is_named_with_the_lines_that_grant_it(
    well: Site, path: str, privilege: str, role: str, whose: str
) -> None:
    assert well.pve.acl is not None
    well.pve.acl[whose] = [
        (place, set(granted) - {privilege} if place == path else granted) for place, granted in well.pve.acl[whose]
    ]
    check = next(check for check in faults(well) if check.name == f"role {role}")
    exact = "/nodes/pve" if path == "/nodes" else path
    assert check.said == f"missing, for the token or its user: {privilege} on {exact}"
    assert f"pveum role add {role} 2>/dev/null; pveum role modify {role} --append 1 --privs " in check.todo[0]
    assert privilege in check.todo[0]
    assert check.todo[1:] == (
        f"pveum acl modify {exact} --roles {role} --users homelab@pve --tokens 'homelab@pve!cli'",
    )


def test_a_token_without_anything_is_told_every_line(well: Site) -> None:
    well.pve.acl = {TOKEN: [], "homelab@pve": []}
    checks = [check for check in faults(well) if check.name.startswith("role ")]
    assert [check.name for check in checks] == [f"role Homelab{kind}" for kind in KINDS]
    assert checks[0].todo[1:] == (
        "pveum acl modify /vms --roles HomelabContainers --users homelab@pve --tokens 'homelab@pve!cli'",
    )


def test_a_pool_that_is_not_there(well: Site) -> None:
    well.overlaid("defaults: {pool: lab}")
    well.pve.acl = None
    (check,) = faults(well)
    assert (check.name, check.todo) == ("pool lab", ("pveum pool add lab",))


@pytest.mark.parametrize(
    ("break_it", "name", "said", "todo"),
    [
        (
            lambda site: site.pve.apitokens.update({TOKEN: "other"}),
            "connection",
            "refused the token",
            "pveum user token",
        ),
        (lambda site: site.inventory.endpoint.token_file.unlink(), "token", "No such file", "homelab init"),
        (lambda site: site.inventory.endpoint.token_file.chmod(0o644), "token", "other users can read it", "chmod 600"),
        (lambda site: site.pve.storages.pop("local-lvm"), "storage local-lvm on pve", "not there", "pvesm status"),
        (
            lambda site: site.pve.storages["local-lvm"].update(active=0),
            "storage local-lvm on pve",
            "not active",
            "pvesm",
        ),
        (
            lambda site: site.pve.storages["local-lvm"].update(content="images"),
            "storage local-lvm on pve",
            "holds images, but not rootdir",
            "pvesm set local-lvm --content images,rootdir",
        ),
        (
            lambda site: site.pve.storages["local-lvm"].update(total=40 << 30),
            "storage local-lvm on pve",
            "40 GiB free, the disks that are still to be made take 48 GiB",
            "Make room",
        ),
        (
            lambda site: (site.pve.storages["local"].update(volumes={}), site.pve.appliances.clear()),
            "template ubuntu-24.04 on pve",
            "no template for",
            "pveam update",
        ),
        (lambda site: site.pve.add_vm(168, "windows", node="pve"), "containers", "vmid 168 is taken", "another vmid"),
        (
            lambda site: site.inventory.pipeline.api_key_file.unlink(),
            "OpenWeather key",
            "No such file",
            "openweathermap",
        ),
        (lambda site: site.inventory.pipeline.api_key_file.chmod(0o640), "OpenWeather key", "other users", "chmod 600"),
        (
            lambda site: site.inventory.pipeline.api_key_file.write_text("\n"),
            "OpenWeather key",
            "is empty",
            "write it to",
        ),
    ],
)
def test_what_is_wrong_is_found(
    well: Site, break_it: Callable[[Site], object], name: str, said: str, todo: str
) -> None:
    well.pve.acl = None  # a foreign guest is not hidden from this token
    break_it(well)
    (check,) = faults(well)
    assert check.name == name
    assert said in check.said
    assert todo in "\n".join(check.todo)


def test_what_the_inventory_asks_for_and_the_node_lacks(well: Site) -> None:
    well.pve.acl = None
    well.overlaid("network: {bridge: vmbr7}")
    (check,) = faults(well)
    assert (check.name, "vmbr0" in check.said) == ("bridge vmbr7 on pve", True)
    well.pve.add_node("pve2")
    well.overlaid("")
    (check,) = faults(well)
    assert ("Which node" in check.said, check.todo) == (True, ("Write `node:` under `proxmox:` in the inventory.",))
    assert faults(well.overlaid("proxmox: {node: pve2}")) == []
    well.pve.set_node_offline("pve2")
    assert [check.name for check in faults(well)] == [
        f"{what} on pve2" for what in ("clock", "storage", "bridge", "template ubuntu-24.04")
    ]


def test_the_space_that_containers_have_already_is_not_asked_for_again(well: Site) -> None:
    well.up("postgres-data", "analytics-platform")
    storage = next(check for check in look(well).checks if check.name == "storage local-lvm on pve")
    assert storage.said.endswith("16 GiB still to be used")


def test_an_address_at_which_somebody_is_already(well: Site) -> None:
    asked: list[str] = []
    look(well, asked=asked)
    assert asked == ["192.168.2.67", "192.168.2.68", "192.168.2.69"]
    (check,) = faults(well, there={"192.168.2.68": "a machine answers on port 22"})
    assert (check.name, check.said) == (
        "address 192.168.2.68",
        "a machine answers on port 22, though analytics-platform does not run",
    )
    assert "write another `ip` for analytics-platform" in check.todo[0]


def test_the_address_of_what_runs_is_not_looked_at(well: Site) -> None:
    well.up("postgres-data", "analytics-platform")
    well.pve.ct(168).status = "stopped"
    asked: list[str] = []
    look(well, asked=asked)
    assert asked == ["192.168.2.68", "192.168.2.69"]
    well.up("analytics-platform", "airflow-orchestration")
    asked.clear()
    assert "addresses" not in [check.name for check in look(well, asked=asked).checks]
    assert asked == []


def test_an_address_that_another_container_of_ours_is_configured_with(well: Site) -> None:
    well.up("postgres-data")
    net0 = well.pve.ct(167).config["net0"]
    well.pve.ct(167).config["net0"] = net0.replace("192.168.2.67", "192.168.2.69")
    (check,) = faults(well)
    assert check.said == "postgres-data (167) is configured with it, though airflow-orchestration does not run"


@pytest.mark.parametrize(("away", "ok"), [(0, True), (-29, True), (31, False), (-3600, False)])
def test_the_clock(well: Site, away: float, ok: bool) -> None:
    assert [check.name for check in faults(well, now=NODE_TIME + away)] == ([] if ok else ["clock of pve"])


@pytest.mark.parametrize(
    ("status", "said", "todo"),
    [(401, "does not accept it", "two hours"), (429, "too many requests", "60 req"), (503, "answers 503", "later")],
)
def test_a_key_that_openweather_refuses(well: Site, status: int, said: str, todo: str) -> None:
    (check,) = faults(well, status)
    assert (check.name, said in check.said, todo in check.todo[0]) == ("OpenWeather key", True, True)


def test_openweather_is_asked_with_the_key_and_its_silence_does_not_show_it(well: Site) -> None:
    with serving([Answer(401)]) as stub:
        pipeline = replace(well.inventory.pipeline, api_url=stub.url)
        assert ask_openweather(pipeline, Secret(KEY)) == 401
        assert stub.asked[0]["appid"] == KEY
    with pytest.raises(HomelabError, match="does not answer") as caught:
        ask_openweather(pipeline, Secret(KEY))
    assert KEY not in str(caught.value)


def test_exit_code_and_json(well: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.__class__, "load", lambda _: well.inventory)
    given: list[int] = [200]

    def stand_in(inventory: object) -> Diagnosis:
        def ask(pipeline: Pipeline, key: Secret) -> int:
            return given[0]

        return doctor(well.inventory, ask=ask, now=lambda: NODE_TIME, answering=lambda _: {})

    monkeypatch.setattr(module, "doctor", stand_in)
    run = CliRunner().invoke
    good = run(app, ["doctor"])
    assert (good.exit_code, good.stdout.splitlines()[-1]) == (0, "all is well")
    given[0] = 401
    bad = run(app, ["doctor", "--json"])
    data = json.loads(bad.stdout)
    assert (bad.exit_code, data["healthy"], data["checks"][-1]["ok"]) == (1, False, False)
    assert "✗ OpenWeather key: OpenWeather does not accept it (401)" in run(app, ["doctor"]).stdout
