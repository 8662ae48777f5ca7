"""`import`: a container made by hand gets an entry and our tags, and nothing else changes."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from homelab.cli import app
from homelab.cli.global_options import settings
from homelab.commands.import_ import Imported, Proposal, import_containers
from homelab.errors import HomelabError
from homelab.inventory import load
from homelab.known_hosts import Pin
from tests.integration.test_proxmox_up import SECRET, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.support import FixedSecretStore

_, PUBLIC_KEY = FixedSecretStore().key_pair("operator")

_, PUBLIC_KEY = FixedSecretStore().key_pair("operator")

# A container of Proxmox's web interface, without the firewall.
PLAIN: dict[str, Any] = {
    "hostname": "web",
    "ostype": "ubuntu",
    "arch": "amd64",
    "cores": 2,
    "memory": 1024,
    "swap": 512,
    "unprivileged": 1,
    "rootfs": "local-lvm:vm-105-disk-0,size=8G",
    "features": "nesting=1",
    "onboot": 1,
    "net0": "name=eth0,bridge=vmbr0,gw=192.168.2.1,hwaddr=BC:24:11:00:00:05,ip=192.168.2.70/24,type=veth",
}
ENTRY = "\n  web:\n    vmid: 105\n    ip: .70\n    cores: 2\n    memory: 1024\n"


@dataclass
class Desk:
    """A node with containers made by hand, and an inventory without them."""

    site: Site
    paths: list[Path]
    asked: list[Proposal] = field(default_factory=list)
    answer: bool = True

    @property
    def text(self) -> str:
        return self.paths[0].read_text()

    def add(self, vmid: int = 105, **config: Any) -> Any:
        whole = {key: value for key, value in (PLAIN | config).items() if value is not None}
        return self.site.pve.add_ct(vmid, str(whole.get("hostname")), node="pve", config=whole, defaults=False)

    def run(self, *vmids: int) -> Imported | None:
        return import_containers(self.paths, vmids or (105,), public_key=lambda: PUBLIC_KEY, confirm=self._confirm)

    def _confirm(self, proposal: Proposal) -> bool:
        self.asked.append(proposal)
        return self.answer

    def changes(self) -> list[str]:
        return [call for call in self.site.pve.calls() if not call.startswith("GET")]


@pytest.fixture
def desk(site: Site) -> Desk:
    over = site.folder / "where.yaml"
    over.write_text(f'proxmox: {{host: 127.0.0.1, port: {site.pve.port}, fingerprint: "{site.fingerprint}"}}\n')
    return Desk(site, [site.inventory.path, over])


def test_import_adds_the_shortest_entry_and_the_tags(desk: Desk, tmp_path: Path) -> None:
    ct, before = desk.add(), desk.text
    config = dict(ct.config)
    imported = desk.run()
    assert imported is not None
    assert desk.text.replace(ENTRY, "", 1) == before
    assert ct.config == config | {"tags": "homelab;homelab-home"}
    assert desk.changes() == ["PUT /nodes/pve/lxc/105/config"]
    (proposal,) = desk.asked
    assert proposal.tagged == {"web": ["homelab", "homelab-home"]}
    assert proposal.entries["web"] == ENTRY.strip("\n")
    # `up` only adds the description.
    assert [str(action).split(":")[:2] for action in imported.plan.actions] == [
        ["update web", " description"],
        ["start web"],
    ]
    assert imported.let_in == {"web": ["pct start 105", imported.let_in["web"][1]]}
    *words, script = shlex.split(imported.let_in["web"][1])
    assert words == ["pct", "exec", "105", "--", "sh", "-c"]
    keys = tmp_path / "authorized_keys"
    keys.write_text("ssh-ed25519 AAAA mine")  # without a final line feed, as the web interface writes it
    subprocess.run(["sh", "-c", script.replace("/root/.ssh", str(tmp_path))], check=True)
    first, *_, last = keys.read_text().splitlines()
    assert first == "ssh-ed25519 AAAA mine"
    assert last.endswith("homelab-test")


def test_second_import_does_nothing(desk: Desk) -> None:
    desk.add()
    desk.run()
    before = desk.text
    imported = desk.run()
    assert (imported is not None and imported.nothing, desk.text, len(desk.asked)) == (True, before, 1)


def test_container_with_a_vmid_from_the_range_needs_no_entry(desk: Desk) -> None:
    overlay = "containers: {postgres-data: {vmid: null}}\ndefaults: {vmid_range: 180-189}\n"
    desk.paths[1].write_text(desk.paths[1].read_text() + overlay)
    desk.site.inventory, before = load(desk.paths), desk.text
    desk.site.up("postgres-data")
    imported = desk.run(180)
    assert (imported is not None and imported.nothing, desk.text, desk.asked) == (True, before, [])


def test_overlay_with_containers_is_accepted(desk: Desk) -> None:
    overlay = "containers: {extra: {vmid: 190, ip: .90, cores: 1, memory: 512}}\n"
    desk.paths[1].write_text(desk.paths[1].read_text() + overlay)
    desk.add()
    assert desk.run() is not None
    assert [container.name for container in load(desk.paths).containers][-2:] == ["web", "extra"]


def test_nothing_is_changed_without_confirmation(desk: Desk) -> None:
    ct, before = desk.add(), desk.text
    desk.answer = False
    assert desk.run() is None
    assert (desk.text, "tags" in ct.config, desk.changes()) == (before, False, [])


def test_next_import_continues_between_entry_and_tags(desk: Desk) -> None:
    ct = desk.add()
    desk.site.pve.fail("PUT", "/nodes/pve/lxc/105/config", 500, "killed", times=1)
    with pytest.raises(HomelabError):
        desk.run()
    assert ENTRY in desk.text
    assert "tags" not in ct.config
    desk.run()
    assert ct.config["tags"] == "homelab;homelab-home"
    assert desk.text.count("web:") == 1
    assert desk.asked[-1].entries == {}


def test_lost_answer_is_checked(desk: Desk) -> None:
    ct = desk.add(tags="mine")
    desk.site.pve.losing["PUT", "/lxc/105/config"] = 1
    desk.run()
    assert ct.config["tags"] == "homelab;homelab-home;mine"
    assert desk.changes() == ["PUT /nodes/pve/lxc/105/config"]


def test_change_during_confirmation_is_detected(desk: Desk) -> None:
    ct = desk.add()

    def confirm(proposal: Proposal) -> bool:
        ct.config["memory"] = 2048
        return True

    with pytest.raises(HomelabError, match="Cannot tag web: it was changed after it was read"):
        import_containers(desk.paths, [105], public_key=lambda: PUBLIC_KEY, confirm=confirm)
    assert "tags" not in ct.config


@pytest.mark.parametrize(
    ("config", "lines"),
    [
        ({"swap": 0, "onboot": None}, ["swap: 0", "onboot: false"]),
        ({"rootfs": "fast:vm-105-disk-0,size=32G"}, ["storage: fast", "disk: 32"]),
        (
            {"mp0": "local-lvm:vm-105-disk-1,mp=/srv,size=4G,backup=1", "mp1": "slow:vm-105-disk-2,mp=/data,size=9G"},
            ["mounts:", "  /data: {size: 9, storage: slow, backup: false}", "  /srv: 4"],
        ),
        (
            {"net0": PLAIN["net0"].replace("vmbr0", "vmbr1") + ",tag=20,mtu=1400"},
            ["bridge: vmbr1", "vlan: 20", "mtu: 1400"],
        ),
        ({"startup": "up=30,down=90", "protection": 1}, ["start_delay: 30", "stop_timeout: 90", "protection: true"]),
        ({"features": "keyctl=1,mount=nfs;cifs"}, ['features: [keyctl, "mount=nfs;cifs"]']),
        ({"features": None}, ["features: []"]),
        ({"tags": "dev;web"}, ["tags: [dev, web]"]),
        ({"pool": "lab"}, ["pool: lab"]),
        ({"node": "pve2"}, ["node: pve2"]),
        ({"ostype": "debian"}, ["template: debian-13"]),
        (
            {
                "ostype": "debian",
                "description": "x\n\nCreated from local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst on "
                "2026-01-02.\n",
            },
            ["template: debian-12"],
        ),
    ],
)
def test_entry_has_only_differences_from_the_defaults(desk: Desk, config: dict[str, Any], lines: list[str]) -> None:
    elsewhere = {"pool": None, "node": "pve"} | {key: config[key] for key in ("pool", "node") if key in config}
    ct = desk.add(**{key: value for key, value in config.items() if key not in elsewhere})
    desk.site.pve.nodes.setdefault(elsewhere["node"], {"online": True})
    ct.pool, ct.node = elsewhere["pool"], elsewhere["node"]
    imported = desk.run()
    (proposal,) = desk.asked
    assert sorted(proposal.entries["web"].splitlines()[5:]) == sorted(f"    {line}" for line in lines)
    assert imported is not None
    texts = [change.field for action in imported.plan.actions for change in getattr(action, "changes", ())]
    assert set(texts) <= {"description"}


def test_firewall_is_written_only_as_off(desk: Desk) -> None:
    desk.paths[1].write_text(desk.paths[1].read_text() + "defaults: {firewall: true}\n")
    desk.add()
    desk.add(106, hostname="mail", net0=PLAIN["net0"].replace(".70", ".71") + ",firewall=1")
    desk.run(105, 106)
    entries = desk.asked[0].entries
    assert "    firewall: false" in entries["web"]
    assert "firewall" not in entries["mail"]


def test_container_with_dhcp_is_imported_with_dhcp(desk: Desk) -> None:
    desk.add(net0="name=eth0,bridge=vmbr0,ip=dhcp")
    desk.run()
    assert "    ip: dhcp" in desk.asked[0].entries["web"].splitlines()
    assert "address" not in str(desk.asked[0].plan)
    imported = desk.run()
    assert imported is not None
    assert imported.nothing


def test_settings_outside_the_inventory_are_listed(desk: Desk) -> None:
    desk.add(
        net1="name=eth1,bridge=vmbr9,ip=dhcp",
        net0=PLAIN["net0"] + ",rate=10,firewall=1",
        cores=None,
        ostype="alpine",
        description="mine\n",
        nameserver="9.9.9.9",
        hookscript="local:snippets/x.sh",
    )
    imported = desk.run()
    (proposal,) = desk.asked
    texts = "\n".join([*proposal.remarks, *map(str, proposal.plan.notes), str(proposal.plan)])
    for part in (
        "net1",
        "hookscript",
        "net0 rate=10",
        "may use all cores",
        "the system of web is alpine",
        "Proxmox's firewall filters",
        "has a description",
        "nameservers: 9.9.9.9 → none",
    ):
        assert part in texts, part
    assert imported is not None


@pytest.mark.parametrize(
    ("config", "brief", "resolution"),
    [
        ({"unprivileged": None}, "105: it is a privileged container", "pct restore 105"),
        (
            {"net0": "name=eth0,bridge=vmbr0,ip=manual"},
            "105: it has neither a fixed address in 192.168.2.0/24 nor DHCP",
            "pct set 105 --net0 name=eth0,bridge=vmbr0,ip=ADDRESS/24,gw=192.168.2.1",
        ),
        (
            {"net0": None},
            "105: it has neither a fixed address",
            "pct set 105 --net0 name=eth0,bridge=vmbr0,ip=ADDRESS/24",
        ),
        ({"net0": "name=eth0,bridge=vmbr0,ip=10.0.0.5/8"}, "105: it has neither a fixed address", "pct set 105"),
        ({"lock": "backup"}, "105: it is locked (backup)", "pct unlock 105"),
        ({"tags": "homelab;homelab-other"}, "105: it belongs to another lab", "Keep it"),
        ({"hostname": "Web.lan"}, "105: its name is not valid in an inventory", "pct set 105 --hostname"),
        ({"hostname": "postgres-data"}, "the inventory already has its name postgres-data", "Change one"),
        (
            {"net0": PLAIN["net0"].replace(".70", ".68")},
            "the inventory already has its address 192.168.2.68/24",
            "Change one",
        ),
        ({"rootfs": "local-lvm:vm-105-disk-0,size=512M"}, "105: its root disk", "pct resize 105 rootfs 1G"),
        ({"memory": 64}, "105: it has too little memory", "pct set 105 --memory 128"),
        ({"template": 1}, "105: it is a template", "pct clone 105"),
    ],
)
def test_impossible_import_is_refused_in_three_lines(
    desk: Desk, config: dict[str, Any], brief: str, resolution: str
) -> None:
    desk.add(**config)
    before = desk.text
    with pytest.raises(HomelabError) as caught:
        desk.run()
    error = caught.value
    assert brief in error.brief
    assert resolution in error.resolution
    assert [part for part in (error.brief, error.details, error.resolution) if not part or "\n" in part] == []
    assert (desk.text, desk.changes(), desk.asked) == (before, [], [])


def test_other_guests_are_refused_in_one_error(desk: Desk) -> None:
    desk.site.pve.add_vm(200, "windows", node="pve")
    desk.add(167, hostname="theirs")
    desk.add()
    with pytest.raises(HomelabError, match="Cannot apply the plan: 3 changes are unsafe") as caught:
        desk.run(200, 105, 999, 167)
    for part in ("200: it is a virtual machine", "Cannot import 999", "the inventory already has its vmid 167"):
        assert part in caught.value.details
    assert desk.changes() == []


def test_import_of_two_containers(desk: Desk) -> None:
    desk.add()
    desk.add(106, hostname="mail", net0=PLAIN["net0"].replace(".70", ".71"))
    imported = desk.run(105, 106, 105)
    assert imported is not None
    assert list(imported.names) == ["web", "mail"]
    assert [container.name for container in load(desk.paths).containers[-2:]] == ["web", "mail"]
    assert len(desk.asked) == 1


@pytest.mark.parametrize(
    ("overlay", "line"),
    [
        ("", "pveum acl modify /vms --roles HomelabContainers --users homelab@pve --tokens 'homelab@pve!cli'"),
        ("defaults: {pool: lab}", "pveum pool modify lab --vms 105 --allow-move 1"),
    ],
)
def test_missing_privilege_is_named_with_the_grant_command(desk: Desk, overlay: str, line: str) -> None:
    desk.add()
    desk.paths[1].write_text(desk.paths[1].read_text() + overlay)
    pve, inventory = desk.site.pve, load(desk.paths)
    pve.pools = {"lab": set()}
    pve.grant_least(inventory, without="VM.Audit", path="/vms")
    with pytest.raises(HomelabError, match="105: it does not exist") as caught:
        desk.run()
    assert line in caught.value.resolution
    pve.grant_least(inventory, without="VM.Config.Memory")
    with pytest.raises(HomelabError, match="105: the token lacks privileges") as caught:
        desk.run()
    assert line in caught.value.resolution
    pve.grant_least(inventory)
    pve.pools["lab"].add(105)
    pve.ct(105).pool = "lab" if overlay else None
    imported = desk.run()
    assert imported is not None
    assert "pool" not in str(imported.plan)


def test_imported_container_is_managed_by_up_and_destroy(desk: Desk) -> None:
    ct = desk.add()
    desk.run()
    desk.site.inventory = load(desk.paths)
    desk.site.known_hosts.pin("web", Pin("SHA256:" + "A" * 43))
    desk.site.up("web")
    assert ct.status == "running"
    assert "web of the homelab `home`" in ct.config["description"]
    assert desk.site.destroy("web").done
    assert desk.site.pve.ct(105) is None


def test_command_line(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.add()
    monkeypatch.setattr(settings.__class__, "load", lambda self: load(desk.paths))
    arguments = ["-i", str(desk.paths[0]), "--overlay", str(desk.paths[1]), "import", "105"]
    refused = CliRunner().invoke(app, arguments)
    assert "Cannot ask for confirmation: standard input is not a terminal" in str(refused.exception)
    assert ENTRY not in desk.text
    assert not list(load(desk.paths).state_dir.rglob("operator*"))
    done = CliRunner().invoke(app, [*arguments, "--yes"])
    assert done.exit_code == 0, done.output
    assert "web: imported.\n" in done.stdout
    assert list(load(desk.paths).state_dir.rglob("operator*"))
    assert re.search(r"^  homelab (-i .* )?trust host web$", done.stdout, re.MULTILINE)
    assert "    vmid: 105" in done.stderr
    assert SECRET not in done.output
