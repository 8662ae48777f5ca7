"""Drift: changes by hand are detected, named and reverted; impossible ones are refused or left unchanged."""

from __future__ import annotations

import re
from typing import Any

import pytest

from homelab.errors import HomelabError
from tests.integration.test_proxmox_up import NAMES, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site

VOLUME = "local-lvm:vm-167-disk-7"


def by_hand(site: Site, **changed: Any) -> None:
    """Change options of the first container as the web interface does; None deletes."""
    config = site.pve.ct(167).config
    for option, value in changed.items():
        config.pop(option, None)
        if value is not None:
            config[option] = value


def net0(site: Site, *replaced: tuple[str, str]) -> str:
    text = str(site.pve.ct(167).config["net0"])
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    return text


def converged(site: Site) -> dict[str, Any]:
    """Check that `up` has nothing to do, and return the configuration."""
    assert not site.up()
    return dict(site.pve.ct(167).config)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"cores": 3}, "cores: 3 → 1"),
        ({"memory": 512}, "memory: 512 → 2048"),
        ({"swap": 0}, "swap: 0 → 512"),
        ({"hostname": "other"}, "hostname: other → postgres-data"),
        ({"nameserver": "9.9.9.9"}, "nameservers: 9.9.9.9 → none"),
        ({"searchdomain": "x.invalid"}, "searchdomain: x.invalid → none"),
        ({"onboot": 0}, "onboot: False → True"),
        ({"startup": "order=9"}, "startup_order: 9 → 1"),
        ({"startup": "order=1,up=60,down=5"}, "start_delay: 60 → none; stop_timeout: 5 → none"),
        ({"features": None}, "features: none → nesting"),
        ({"tags": "homelab;homelab-home;mine"}, "tags: homelab,homelab-home,mine → homelab,homelab-home"),
        ({"protection": 1}, "protection: True → False"),
    ],
)
def test_change_by_hand_is_reverted(site: Site, changed: dict[str, Any], line: str) -> None:
    site.up()
    before = dict(site.pve.ct(167).config)
    by_hand(site, **changed)
    done = site.up().done
    assert list(done) == ["postgres-data"]
    assert any(line in each for each in done["postgres-data"])
    assert converged(site) == before


def test_description_changed_by_hand_is_reverted(site: Site) -> None:
    site.up()
    before = dict(site.pve.ct(167).config)
    by_hand(site, description=before["description"].replace("Make changes there", "Mine now"))
    assert "Mine now and run `ho" in site.up().done["postgres-data"][0]
    assert converged(site) == before


@pytest.mark.parametrize(
    ("replaced", "line"),
    [
        (("bridge=vmbr0", "bridge=vmbr1"), "bridge: vmbr1 → vmbr0"),
        (("ip=192.168.2.67/24", "ip=192.168.2.99/24"), "address: 192.168.2.99/24 → 192.168.2.67/24"),
        (("gw=192.168.2.1", "gw=192.168.2.2"), "gateway: 192.168.2.2 → 192.168.2.1"),
        (("ip=", "tag=7,ip="), "vlan: 7 → none"),
        (("ip=", "mtu=1400,ip="), "mtu: 1400 → none"),
        (("ip=", "firewall=1,ip="), "firewall: True → False"),
        (("ip=", "rate=10,link_down=1,ip="), "by_hand: net0 link_down=1,net0 rate=10 → none"),
    ],
)
def test_network_card_changed_by_hand_is_reverted(site: Site, replaced: tuple[str, str], line: str) -> None:
    site.up()
    before = dict(site.pve.ct(167).config)
    by_hand(site, net0=net0(site, replaced))
    assert any(line in each for each in site.up().done["postgres-data"])
    after = converged(site)
    assert set(after["net0"].split(",")) == set(before["net0"].split(","))
    assert "hwaddr=" in after["net0"]


def test_memory_and_cores_change_without_a_restart(site: Site) -> None:
    site.up()
    site.overlaid("containers: {postgres-data: {memory: 1024, cores: 4, swap: 0, tags: [prod]}}").up()
    assert site.pve.kinds().count("vzstart") == len(NAMES)
    assert "vzshutdown" not in site.pve.kinds()
    assert (site.pve.ct(167).config["memory"], site.pve.ct(167).config["cores"]) == (1024, 4)
    assert site.pve.ct(167).config["tags"] == "homelab;homelab-home;prod"


def test_container_without_a_new_user_tag_is_still_ours(site: Site) -> None:
    site.up()
    site.overlaid("defaults: {tags: [prod]}")
    assert [len(lines) for lines in site.up().done.values()] == [1, 1, 1]
    assert site.pve.kinds().count("vzcreate") == len(NAMES)


def test_mount_points_are_created_grown_and_never_removed(site: Site) -> None:
    site.overlaid("containers: {postgres-data: {mounts: {/var/lib/postgresql: 32}}}").up()
    site.overlaid("containers: {postgres-data: {mounts: {/var/lib/postgresql: 32, /opt/x: 1}}}").up()
    assert "vzshutdown" not in site.pve.kinds()  # a new mount point applies immediately
    assert re.fullmatch(
        r"local-lvm:vm-167-disk-\d,backup=1,mp=/var/lib/postgresql,size=32G", site.pve.ct(167).config["mp0"]
    )
    site.overlaid(
        "containers: {postgres-data: {mounts: {/var/lib/postgresql: {size: 40, backup: false}, /opt/x: 1, /srv: 5}}}"
    )
    assert site.up().done["postgres-data"] == [
        "resize postgres-data: /var/lib/postgresql 32 → 40 GiB",
        "update postgres-data: mounts: none → /srv 5 GiB; backup: /var/lib/postgresql 32 GiB → "
        "/var/lib/postgresql 40 GiB without backup",
        "stop postgres-data, to restart it with the new backup",
        "start postgres-data",
    ]
    config = converged(site)
    assert config["mp0"].endswith(",backup=0,mp=/var/lib/postgresql,size=40G")
    assert config["mp2"].endswith(",backup=1,mp=/srv,size=5G")
    site.overlaid("containers: {postgres-data: {mounts: {/var/lib/postgresql: 8}}}")
    with pytest.raises(HomelabError) as caught:
        site.up()
    assert "Cannot shrink the disk at /var/lib/postgresql of postgres-data" in caught.value.brief
    assert "`size: 40`" in caught.value.resolution
    site.overlaid("")
    assert converged(site) == config
    assert "also has the mount point /opt/x, the mount point /srv, the mount point /var/lib/postgresql" in str(
        site.noted()
    )


def test_options_outside_the_inventory_are_noted_and_kept(site: Site) -> None:
    site.up()
    by_hand(
        site,
        net1="name=eth1,bridge=vmbr1",
        mp3=f"{VOLUME},mp=/films,size=9G",
        hookscript="local:snippets/x.sh",
        rootfs=f"{site.pve.ct(167).config['rootfs']},acl=1",
        cpulimit=1,
    )
    before = dict(site.pve.ct(167).config)
    assert converged(site) == before
    assert str(site.noted()) == (
        "postgres-data: it also has the mount point /films, cpulimit, hookscript, net1, rootfs acl=1, missing in the "
        "inventory: left unchanged"
    )


@pytest.mark.parametrize(
    ("wanted", "found", "brief", "resolution"),
    [
        ("{disk: 8}", {}, "Cannot shrink the disk of postgres-data", "`disk: 16`"),
        (
            "{features: [nesting, keyctl]}",
            {},
            "Cannot change the features of postgres-data: only root@pam may",
            "`pct set 167 --features keyctl=1,nesting=1`",
        ),
        (
            "{}",
            {"features": "nesting=1,fuse=1"},
            "Cannot change the features of postgres-data: only root@pam may",
            "features: [fuse, nesting]",
        ),
        ("{}", {"unprivileged": None}, "Cannot change unprivileged of postgres-data", "homelab destroy"),
        (
            "{protection: true, mounts: {/srv: 5}}",
            {"protection": 1},
            "Cannot add a mount point to postgres-data: it is protected",
            "`protection: false`",
        ),
    ],
)
def test_impossible_change_is_refused_before_any_change(
    site: Site, wanted: str, found: dict[str, Any], brief: str, resolution: str
) -> None:
    site.up()
    by_hand(site, **found)
    site.overlaid(f"containers: {{postgres-data: {wanted}, analytics-platform: {{memory: 512}}}}")
    before = len(site.pve.calls("PUT")), len(site.pve.kinds())
    with pytest.raises(HomelabError) as caught:
        site.up()
    assert brief in caught.value.brief
    assert resolution in caught.value.resolution
    assert (len(site.pve.calls("PUT")), len(site.pve.kinds())) == before


def test_features_reserved_for_root_are_not_set(site: Site) -> None:
    site.overlaid("containers: {postgres-data: {features: [nesting, keyctl]}}").up()
    assert site.pve.ct(167).config["features"] == "nesting=1"
    site.pve.ct(167).config["features"] = "keyctl=1,nesting=1"
    assert not site.up()
    assert site.noted() is None


def test_protected_container_is_destroyed_only_after_unprotecting(site: Site) -> None:
    site.overlaid("containers: {postgres-data: {protection: true}}").up()
    with pytest.raises(HomelabError) as caught:
        site.destroy()
    assert caught.value.brief == "Cannot destroy postgres-data: it is protected"
    assert "vzdestroy" not in site.pve.kinds()
    site.overlaid("").up()
    site.destroy()
    assert site.pve.cts == []


def test_container_moves_between_pools(site: Site) -> None:
    site.pve.pools = {"a": set(), "b": set()}
    site.overlaid("defaults: {pool: a}").up()
    assert site.pve.pools["a"] == {167, 168, 169}
    site.overlaid("containers: {postgres-data: {pool: b}}")
    assert site.up().done == {"postgres-data": ["move postgres-data: pool a → b"]}
    assert site.pve.pools == {"a": {168, 169}, "b": {167}}
    assert not site.overlaid("").up()


def test_lost_answer_of_a_pool_move(site: Site) -> None:
    site.up()
    site.pve.pools = {"a": set()}
    site.overlaid("containers: {postgres-data: {pool: a}}")
    site.pve.losing["PUT", "/pools"] = 1
    assert site.up().done
    assert site.pve.pools["a"] == {167}


@pytest.mark.parametrize("by_the_user", [("ip=", "ip6=auto,ip="), ("ip=", "ip6=2001:db8::9/64,gw6=2001:db8::1,ip=")])
def test_ipv6_that_was_set_by_hand_is_named_and_left_alone(site: Site, by_the_user: tuple[str, str]) -> None:
    site.up()
    by_hand(site, net0=net0(site, by_the_user))
    own = by_the_user[1].partition(",ip=")[0]
    assert not site.up()
    assert all(f"net0 {each}" in str(site.noted()) for each in own.split(","))
    site.overlaid("network: {mtu: 1400}").up("postgres-data")
    assert set(own.split(",")) < set(site.pve.ct(167).config["net0"].split(","))


@pytest.mark.parametrize(
    ("overlay", "own", "line"),
    [
        ("{ip6: auto}", "ip6=auto", "ip6: none → auto"),
        ("{ip6: dhcp}", "ip6=dhcp", "ip6: none → dhcp"),
        (
            "{ip6: '2001:DB8:0::67/64', gw6: '2001:db8:0::1'}",
            "ip6=2001:db8::67/64,gw6=2001:db8::1",
            "ip6: none → 2001:db8::67/64; gw6: none → 2001:db8::1",
        ),
    ],
)
def test_ipv6_of_the_inventory(site: Site, overlay: str, own: str, line: str) -> None:
    site.up()
    site.overlaid(f"containers: {{postgres-data: {overlay}}}")
    update = f"update postgres-data: {line}"
    stop, start = "stop postgres-data, to restart it with the new ip6", "start postgres-data"
    # A DHCP client starts with the container.
    assert site.up().done["postgres-data"] == ([stop, update, start] if "dhcp" in own else [update])
    assert set(own.split(",")) < set(site.pve.ct(167).config["net0"].split(","))
    assert not site.up()
    by_hand(site, net0=net0(site, (own.split(",")[0], "ip6=2001:db8::bad/64")))
    assert "ip6: 2001:db8::bad/64 → " in str(site.up().done["postgres-data"])
    site.destroy("postgres-data")
    site.up("postgres-data")
    assert set(own.split(",")) < set(site.pve.ct(167).config["net0"].split(","))


def cards(site: Site) -> dict[str, set[str]]:
    """Return the further network cards as Proxmox has them, without their MAC addresses."""
    config = site.pve.ct(167).config
    texts = {option: str(config[option]) for option in config if re.fullmatch(r"net[1-9]\d*", option)}
    return {
        option: {part for part in text.split(",") if not part.startswith(("hwaddr=", "type="))}
        for option, text in texts.items()
    }


def with_cards(site: Site, text: str) -> Site:
    return site.overlaid(f"containers: {{postgres-data: {{networks: {text}}}}}")


def test_network_cards_of_the_inventory_are_created_with_the_container(site: Site) -> None:
    with_cards(site, "{net1: {bridge: vmbr1, ip: 10.0.0.5/8, vlan: 7, mtu: 9000}, net3: {bridge: vmbr0}}").up()
    assert cards(site) == {
        "net1": {"name=eth1", "bridge=vmbr1", "ip=10.0.0.5/8", "tag=7", "mtu=9000"},
        "net3": {"name=eth3", "bridge=vmbr0", "ip=manual"},
    }
    assert "hwaddr=" in converged(site)["net1"]


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ("{}", "{net1: {bridge: vmbr1, ip: 10.0.0.5/8}}", ["update postgres-data: net1: none → vmbr1 10.0.0.5/8"]),
        (
            "{net1: {bridge: vmbr1, ip: 10.0.0.5/8}}",
            "{net1: {bridge: vmbr0, ip: 10.0.0.6/8, vlan: 5, ip6: auto}}",
            ["update postgres-data: net1: vmbr1 10.0.0.5/8 → vmbr0 10.0.0.6/8 auto vlan 5"],
        ),
        (
            "{net1: {bridge: vmbr1}}",
            "{net1: {bridge: vmbr1, mtu: 1400}}",
            [
                "stop postgres-data, to restart it with the new net1",
                "update postgres-data: net1: vmbr1 → vmbr1 mtu 1400",
                "start postgres-data",
            ],
        ),
        (
            "{}",
            "{net1: {bridge: vmbr1, ip: dhcp}}",
            [
                "stop postgres-data, to restart it with the new net1",
                "update postgres-data: net1: none → vmbr1 dhcp",
                "start postgres-data",
            ],
        ),
        ("{net1: {bridge: vmbr1}}", "{}", None),
    ],
)
def test_network_cards_change_live_where_proxmox_can(
    site: Site, before: str, after: str, lines: list[str] | None
) -> None:
    with_cards(site, before).up()
    assert with_cards(site, after).up().done.get("postgres-data") == lines
    assert "hwaddr=" in converged(site)["net1"]


@pytest.mark.parametrize(
    ("by_the_user", "line"),
    [
        ("name=eth1,bridge=vmbr1,ip=10.9.9.9/8", "net1: vmbr1 10.9.9.9/8 → vmbr1 10.0.0.5/8"),
        ("name=eth1,bridge=vmbr1,ip=10.0.0.5/8,rate=10", "net1: vmbr1 10.0.0.5/8 rate=10 → vmbr1 10.0.0.5/8"),
        (None, "net1: none → vmbr1 10.0.0.5/8"),
    ],
)
def test_network_card_of_the_inventory_that_was_changed_by_hand_is_restored(
    site: Site, by_the_user: str | None, line: str
) -> None:
    with_cards(site, "{net1: {bridge: vmbr1, ip: 10.0.0.5/8}}").up()
    before = cards(site)
    by_hand(site, net1=by_the_user)
    assert line in str(site.up().done["postgres-data"])
    assert cards(site) == before
    converged(site)


def test_other_network_cards_are_named_and_left_alone(site: Site) -> None:
    with_cards(site, "{net1: {bridge: vmbr1}}").up()
    by_hand(site, net2="name=eth2,bridge=vmbr1,ip=dhcp")
    assert not site.up()
    assert "also has net2, missing in the inventory" in str(site.noted())
    site.overlaid("")
    assert not site.up()
    assert "also has net1, net2, missing in the inventory" in str(site.noted())


def test_pending_change_of_a_network_card_is_withdrawn_without_a_restart(site: Site) -> None:
    with_cards(site, "{net1: {bridge: vmbr1}}").up()
    ct = site.pve.ct(167)
    ct.pending["net1"] = ct.config["net1"].replace("vmbr1", "vmbr0")
    assert site.up().done["postgres-data"] == ["update postgres-data: net1: vmbr0 → vmbr1"]
    assert "net1" not in ct.pending
    converged(site)
