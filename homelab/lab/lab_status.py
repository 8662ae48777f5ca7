"""The status of a lab, read from this machine itself, so that it works while the node is down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homelab.lab import guest, machine, network, process, template_build
from homelab.lab.lifecycle import API, REPLAY, api_answers
from homelab.lab.lxc import Runtime
from homelab.lab.records import Records
from homelab.lab.settings import Lab


@dataclass(frozen=True, slots=True)
class LabContainer:
    """One container of a lab; `state` is `running`, `stopped`, `golden` or its lock, such as `create`."""

    vmid: int
    name: str
    state: str
    ip: str | None


@dataclass(frozen=True, slots=True)
class LabStatus:
    """The status of a lab; `running` means that its node answers."""

    name: str
    running: bool
    api_url: str
    replay_url: str
    node_pid: int | None
    replay_pid: int | None
    bridge: str
    bridge_up: bool
    subnet: str
    template: str | None
    overlay: str | None
    containers: tuple[LabContainer, ...]


def status(lab: Lab) -> LabStatus:
    """Read the lab's status. Raises HomelabError."""
    machine.require_root()
    made = template_build.newest(lab.cache)
    runtime = Runtime(lab)
    return LabStatus(
        name=lab.name,
        running=api_answers(lab),
        api_url=lab.api_url,
        replay_url=lab.replay_url,
        node_pid=process.running(lab.pid_file(API)),
        replay_pid=process.running(lab.pid_file(REPLAY)),
        bridge=lab.bridge,
        bridge_up=network.bridge_exists(lab.bridge),
        subnet=str(lab.subnet),
        template=made.name if made else None,
        overlay=str(lab.overlay) if lab.overlay.exists() else None,
        containers=tuple(
            _container(runtime, vmid, record["config"]) for vmid, record in Records(lab.records).containers()
        ),
    )


def _container(runtime: Runtime, vmid: int, config: Mapping[str, Any]) -> LabContainer:
    addresses = [device["ip"].split("/")[0] for device in guest.network_devices(config).values() if "ip" in device]
    state = config.get("lock") or (
        "golden" if config.get("template") else "running" if runtime.pid(vmid) else "stopped"
    )
    return LabContainer(vmid, str(config.get("hostname", f"CT{vmid}")), state, addresses[0] if addresses else None)
