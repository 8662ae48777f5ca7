"""What a lab is: its name, its network, its ports, and where its files are."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

# The labs share one parent network. An `unreachable` route for it stands whenever no bridge covers it, so that
# no packet meant for a lab ever leaves this machine.
GUARDED = IPv4Network("10.99.2.0/24")
STATE_ROOT = Path("/var/lib/homelab")
CACHE_ROOT = Path("/var/cache/homelab")
NODE = "pve"
TOKEN_ID = "homelab@pve!lab"  # noqa: S105 - the token's name; its secret is in a file


@dataclass(frozen=True)
class Lab:
    """A Proxmox-compatible node on this machine, with a bridge and a subnet of its own."""

    name: str = "lab"
    subnet: IPv4Network = field(default=GUARDED)
    bridge: str = "hl-lab"
    api_port: int = 18006
    replay_port: int = 8089

    @property
    def gateway(self) -> IPv4Address:
        """The bridge's own address: the subnet's first host."""
        return self.subnet.network_address + 1

    @property
    def interface(self) -> IPv4Interface:
        """The gateway with the subnet's prefix, as `ip addr` takes it."""
        return IPv4Interface(f"{self.gateway}/{self.subnet.prefixlen}")

    @property
    def api_url(self) -> str:
        """Where the node's API answers."""
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def replay_url(self) -> str:
        """Where the OpenWeather replay answers, as seen from the containers."""
        return f"http://{self.gateway}:{self.replay_port}"

    @property
    def state_dir(self) -> Path:
        """Everything that this lab keeps; `down` removes it."""
        return STATE_ROOT / self.name

    @property
    def cache(self) -> Path:
        """What all labs share and `down` keeps: the container template."""
        return CACHE_ROOT

    @property
    def overlay(self) -> Path:
        """The inventory overlay that points homelab at this lab."""
        return self.state_dir / "overlay.yaml"

    @property
    def token_file(self) -> Path:
        """The API token's secret, 0600."""
        return self.state_dir / "token"

    @property
    def api_key_file(self) -> Path:
        """The key that the OpenWeather replay accepts, 0600."""
        return self.state_dir / "openweather-key"

    @property
    def replay_state(self) -> Path:
        """Where the replay server keeps its place."""
        return self.state_dir / "replay.json"

    @property
    def certificate(self) -> Path:
        """The API's TLS certificate; its key lies beside it as `pve.key`."""
        return self.state_dir / "pve.crt"

    @property
    def lxcpath(self) -> Path:
        """LXC's folder of containers: `<vmid>/config`, `<vmid>/rootfs`."""
        return self.state_dir / "containers"

    @property
    def records(self) -> Path:
        """The node's memory: one JSON file per container, and the task journal."""
        return self.state_dir / "node"

    def pid_file(self, process: str) -> Path:
        """Who runs as `node` or `replay`: see process.Identity."""
        return self.state_dir / f"{process}.pid"

    def log_file(self, process: str) -> Path:
        """What `node` or `replay` print."""
        return self.state_dir / f"{process}.log"

    def cgroup(self, vmid: int) -> str:
        """The name of a container's cgroup, below each controller's root."""
        return f"homelab-{self.name}-{vmid}"

    def to_json(self) -> str:
        """The lab as one argument for the daemon."""
        return json.dumps(
            {
                "name": self.name,
                "subnet": str(self.subnet),
                "bridge": self.bridge,
                "api_port": self.api_port,
                "replay_port": self.replay_port,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Lab:
        """The inverse of to_json."""
        raw = json.loads(text)
        return cls(**{**raw, "subnet": IPv4Network(raw["subnet"])})


LABS = {
    lab.name: lab
    for lab in (
        Lab(),
        # A node of the tests' own, which may run beside a demo: the upper half of the same network.
        Lab("e2e", IPv4Network("10.99.2.128/25"), "hl-e2e", 18016, 8099),
    )
}
