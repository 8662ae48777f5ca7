"""Addresses that containers report: root of one decides on the text, and must not claim those of others."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path

import pytest

from homelab.inventory import load
from homelab.model import Inventory
from homelab.model.firewall import Firewall
from homelab.paths import bundled_path
from homelab.plan import ObservedGuest, refused_lease, with_leases

ONE, TWO = "postgres-data", "analytics-platform"
THEIRS, OWN = "fd00::67", "fd00::68"


def inventory(folder: Path, keys: str) -> Inventory:
    (folder / "own.yaml").write_text(f"containers: {{{ONE}: {{{keys}}}, {TWO}: {{{keys}}}}}")
    return load([bundled_path("inventory.yaml"), folder / "own.yaml"])


def guests(wanted: Inventory, *reported: tuple[str, ...], known: bool = False) -> dict[int, ObservedGuest]:
    """Return the first containers, each with addresses that it reports, and the first of them in its IP set."""
    return {
        container.vmid: ObservedGuest(
            vmid=container.vmid,
            name=container.name,
            node="pve",
            status="running",
            tags=container.lab_tags,
            live=container.shape,
            shape=container.shape,
            addresses={"net0": [ip_interface(text) for text in texts]},
            firewall=Firewall(on=True, addresses=frozenset({("net0", texts[0])} if known else ())),
        )
        for container, texts in zip(wanted.containers, reported, strict=False)
    }


@pytest.mark.parametrize(("known", "kept"), [(True, {("net0", THEIRS)}), (False, set())])
def test_address_by_slaac_of_a_neighbour_is_not_admitted(
    tmp_path: Path, known: bool, kept: set[tuple[str, str]]
) -> None:
    wanted = inventory(tmp_path, "firewall: true, ip6: auto")
    first, second, *_ = with_leases(wanted, guests(wanted, (THEIRS,), (OWN, THEIRS), known=known)).containers
    assert second.reported == {("net0", OWN)}
    assert first.reported == kept  # no one has it, if both claim a new one


def test_address_by_slaac_of_a_stopped_neighbour_is_free(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, "firewall: true, ip6: auto")
    found = guests(wanted, (THEIRS,), (THEIRS,), known=True)
    one = wanted.containers[0].vmid
    found[one] = replace(found[one], status="stopped")
    assert with_leases(wanted, found).containers[1].reported == {("net0", THEIRS)}


def test_container_cannot_claim_the_address_of_proxmox(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, "ip: dhcp")
    wanted = replace(wanted, endpoint=replace(wanted.endpoint, host="192.168.2.10"))
    refusal = refused_lease(wanted, wanted.containers[1], guests(wanted, (), ("192.168.2.10/24",)))
    assert refusal
    assert refusal.brief == f"Cannot use the address of {TWO}: Proxmox has it"
