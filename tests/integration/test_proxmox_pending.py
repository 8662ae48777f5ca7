"""Pending and live values of running containers, as Proxmox 9.2 was recorded to answer."""

from __future__ import annotations

import time
from typing import Any

import pytest

from homelab.errors import HomelabError
from homelab.plan import plan_up
from homelab.proxmox import Client, find_guests
from homelab.runtime.plan_lines import plan_lines
from tests.integration.test_proxmox_drift import by_hand, net0
from tests.integration.test_proxmox_up import NAMES, SECRET, TOKEN, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site

UPDATE = "PUT /nodes/pve/lxc/167/config"


def put(site: Site, **parameters: Any) -> None:
    """Change the first container through the API, as the web interface does."""
    Client(site.inventory.endpoint).put("nodes/pve/lxc/167/config", **parameters)


def pending(site: Site) -> dict[str, Any]:
    return dict(site.pve.ct(167).pending)


def effects(site: Site) -> list[tuple[str, str]]:
    """Return the plan's lines and their effects."""
    found = find_guests(Client(site.inventory.endpoint), site.inventory)
    return [(line.change, line.effect) for line in plan_lines(plan_up(site.inventory, found))]


@pytest.mark.parametrize(("option", "value"), [("nameserver", "9.9.9.9"), ("searchdomain", "x.invalid")])
def test_value_that_is_only_pending_is_reverted(site: Site, option: str, value: str) -> None:
    site.up()
    put(site, **{option: value})
    put(site, delete=option)
    assert pending(site) == {option: value}  # `delete` leaves it, as the real node does
    (line,) = site.up().done["postgres-data"]
    assert f"{option}" in line
    assert (pending(site), site.pve.kinds().count("vzshutdown")) == ({}, 0)
    assert not site.up()
    site.pve.ct(167).status = "stopped"
    site.up()
    assert option not in site.pve.ct(167).config


def test_other_pending_value_is_replaced_by_the_wanted_one_with_a_restart(site: Site) -> None:
    site.up()
    put(site, nameserver="9.9.9.9")
    site.overlaid("network: {nameservers: [1.1.1.1]}").up()
    assert (pending(site), site.pve.ct(167).config["nameserver"]) == ({}, "1.1.1.1")


def test_deletion_that_is_pending_is_reverted(site: Site) -> None:
    site.overlaid("network: {nameservers: [1.1.1.1]}").up()
    put(site, delete="nameserver")
    assert pending(site) == {"nameserver": None}
    restarts = site.pve.kinds().count("vzshutdown")
    site.up()
    assert (pending(site), site.pve.ct(167).config["nameserver"]) == ({}, "1.1.1.1")
    assert site.pve.kinds().count("vzshutdown") == restarts


def test_wanted_value_that_is_pending_is_applied_by_a_restart(site: Site) -> None:
    site.up()
    put(site, nameserver="1.1.1.1")
    site.overlaid("network: {nameservers: [1.1.1.1]}")
    assert site.up("postgres-data").done["postgres-data"] == [
        "stop postgres-data, to restart it with the new nameservers",
        "start postgres-data",
    ]
    assert site.pve.ct(167).config["nameserver"] == "1.1.1.1"


@pytest.mark.parametrize("option", [{"timezone": "Europe/Berlin"}, {"cmode": "shell"}, {"tty": 4}])
def test_pending_option_outside_the_inventory_causes_no_restart(site: Site, option: dict[str, Any]) -> None:
    site.up()
    put(site, **option)
    assert list(pending(site)) == list(option)
    assert not site.up()
    assert list(pending(site)) == list(option)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"hostname": "other"}, "hostname: other → postgres-data"), ({"net0": "mtu=1400"}, "mtu: 1400 → none")],
)
def test_setting_that_a_running_container_does_not_take_up_needs_a_restart(
    site: Site, change: dict[str, str], field: str
) -> None:
    site.up()
    by_hand(site, **(change if "hostname" in change else {"net0": net0(site, ("ip=", "mtu=1400,ip="))}))
    assert effects(site)[1] == (f"update postgres-data: {field}", "pending until restart")
    assert [line.split()[0] for line in site.up().done["postgres-data"]] == ["stop", "update", "start"]
    assert not site.up()


@pytest.mark.parametrize("change", [{"hostname": "other"}, {"net0": "mtu=1400"}])
def test_restart_is_made_after_a_kill_right_after_the_update(site: Site, change: dict[str, str]) -> None:
    site.up()
    by_hand(site, **(change if "hostname" in change else {"net0": net0(site, ("ip=", "mtu=1400,ip="))}))
    starts = site.pve.kinds().count("vzstart")
    site.pve.fail("POST", "/nodes/pve/lxc/167/status/start", status=500, message="killed", times=1)
    with pytest.raises(HomelabError):
        site.up()
    # The configuration has the wanted values, and the container cannot run with the old ones.
    assert site.pve.ct(167).status == "stopped"
    assert [line.split()[0] for line in site.up().done["postgres-data"]] == ["start"]
    assert site.pve.kinds().count("vzstart") == starts + 1
    assert not site.up()


def test_refused_hotplug_is_pending_and_the_restart_applies_it(site: Site) -> None:
    site.up()
    by_hand(site, net0=net0(site, ("bridge=vmbr0", "bridge=vmbr1")))
    site.pve.unpluggable = {"net0"}
    with pytest.raises(HomelabError) as caught:
        site.up()
    assert caught.value.brief == "Cannot apply the update of postgres-data while it runs: it is pending"
    assert "unable to hotplug net0" in caught.value.details
    assert pending(site)["net0"].startswith("name=eth0,bridge=vmbr0")
    assert site.up().done["postgres-data"] == [
        "stop postgres-data, to restart it with the new bridge",
        "start postgres-data",
    ]
    assert (pending(site), "bridge=vmbr0" in site.pve.ct(167).config["net0"]) == ({}, True)
    assert not site.up()


def test_refused_hotplug_is_no_error_if_the_plan_restarts_anyway(site: Site) -> None:
    site.up()
    by_hand(site, hostname="other", net0=net0(site, ("bridge=vmbr0", "bridge=vmbr1")))
    site.pve.unpluggable = {"net0"}
    site.up()
    assert pending(site) == {}
    assert "bridge=vmbr0" in site.pve.ct(167).config["net0"]
    assert not site.up()


def test_mount_point_that_is_pending_is_not_grown_before_it_exists(site: Site) -> None:
    site.up()
    site.pve.ct(167).pending["mp0"] = "local-lvm:1,mp=/srv,backup=1"
    site.overlaid("containers: {postgres-data: {mounts: {/srv: 2}}}")
    site.up()
    assert "resize" not in site.pve.kinds()
    assert pending(site) == {}
    site.up()
    assert site.pve.ct(167).config["mp0"].endswith("size=2G")
    assert not site.up()


@pytest.mark.parametrize("text", ["nesting=on", "nesting=1", "nesting=yes", "nesting=true", "fuse=0,nesting=1"])
def test_words_for_true_and_false_are_the_same_features(site: Site, text: str) -> None:
    site.up()
    by_hand(site, features=text)
    assert not site.up()


def test_name_servers_of_both_kinds_keep_their_order(site: Site) -> None:
    site.overlaid('network: {nameservers: ["2001:db8::53", .1]}').up()
    assert site.pve.ct(167).config["nameserver"] == "2001:db8::53 192.168.2.1"
    assert not site.up()
    by_hand(site, nameserver="192.168.2.1 2001:db8::53")
    assert effects(site)[0][0] == (
        "update postgres-data: nameservers: 192.168.2.1,2001:db8::53 → 2001:db8::53,192.168.2.1"
    )


def test_growth_of_the_volume_alone_is_an_error(site: Site) -> None:
    site.up()
    site.pve.logs["resize"] = ["resize2fs 1.47.2 (1-Jan-2025)", "resize2fs: Permission denied to resize filesystem"]
    site.overlaid("containers: {postgres-data: {disk: 20}}")
    with pytest.raises(HomelabError) as caught:
        site.up()
    assert caught.value.brief == "Cannot grow the file system at / of postgres-data: only its volume has 20 GiB"
    assert caught.value.details == "resize2fs: Permission denied to resize filesystem"
    assert "resize2fs $(pvesm path local-lvm:vm-167-disk-0)" in caught.value.resolution


def test_container_made_a_template_by_hand_is_refused_before_any_change(site: Site) -> None:
    site.up()
    site.pve.ct(167).status = "stopped"
    by_hand(site, template=1)
    changes = len(site.pve.calls("PUT")) + len(site.pve.calls("POST"))
    with pytest.raises(HomelabError) as caught:
        site.up()
    assert "postgres-data" in caught.value.brief
    assert "template" in str(caught.value)
    assert len(site.pve.calls("PUT")) + len(site.pve.calls("POST")) == changes


def test_refused_token_names_expiry_and_a_disabled_user(site: Site) -> None:
    site.pve.apitokens = {TOKEN: f"not-{SECRET}"}
    with pytest.raises(HomelabError) as caught:
        site.up()
    assert "expired or missing token or a disabled user" in caught.value.details
    assert "pveum user list" in caught.value.resolution


def test_task_is_followed_through_a_restart_of_the_api(site: Site) -> None:
    site.pve.time_scale, site.pve.ct_secs["create"] = 1.0, 1.0
    site.pve.silent_for = 6.0  # seconds; pveproxy's restart takes about five
    begun = time.monotonic()
    outcome = site.up()
    assert sorted(outcome.done) == sorted(NAMES)
    assert time.monotonic() - begun > 5


def test_task_of_a_node_that_stays_silent_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homelab.proxmox.tasks._AWAY", 1.0)
    site.pve.time_scale, site.pve.ct_secs["create"] = 1.0, 1.0
    site.pve.silent_for = 120.0
    with pytest.raises(HomelabError) as caught:
        site.up("postgres-data")
    assert caught.value.brief == "Cannot follow vzcreate of 167: Proxmox does not answer"
    assert "The task probably continues on node pve: UPID:pve:" in caught.value.details
