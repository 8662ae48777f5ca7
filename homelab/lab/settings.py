"""A lab's settings: name, network, ports and file paths."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

# All labs share this network. Whenever no bridge covers it, an `unreachable` route does, so that no packet for a lab
# leaves this machine.
GUARDED = IPv4Network("10.99.2.0/24")
STATE_ROOT = Path("/var/lib/homelab")
CACHE_ROOT = Path("/var/cache/homelab")
MESSAGES = "/messages"  # the path at which the replay server receives the messages about incidents
BRIDGES = "hl-"  # the names of all bridges of labs begin with this
NODE = "pve"
TOKEN_ID = "homelab@pve!lab"  # noqa: S105 - the token's name; its secret is in a file


@dataclass(frozen=True)
class Lab:
    """A Proxmox-compatible node on this machine, with a bridge and a subnet of its own."""

    name: str = "lab"
    subnet: IPv4Network = field(default=GUARDED)
    bridge: str = f"{BRIDGES}lab"
    api_port: int = 18006
    replay_port: int = 8089

    @property
    def gateway(self) -> IPv4Address:
        """The bridge's address, the subnet's first host."""
        return self.subnet.network_address + 1

    @property
    def interface(self) -> IPv4Interface:
        """The gateway with the subnet's prefix, as an argument of `ip addr`."""
        return IPv4Interface(f"{self.gateway}/{self.subnet.prefixlen}")

    @property
    def dhcp_range(self) -> tuple[IPv4Address, IPv4Address]:
        """The first and last address that the DHCP server gives: .96 to .127 of a /24."""
        part = self.subnet.num_addresses // 8
        first = self.subnet.network_address + 3 * part
        return first, first + part - 1

    @property
    def api_url(self) -> str:
        """The URL of the node's API."""
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def replay_url(self) -> str:
        """The URL of the OpenWeather replay for the containers."""
        return f"http://{self.gateway}:{self.replay_port}"

    @property
    def state_dir(self) -> Path:
        """The folder of this lab's files; `down` removes it."""
        return STATE_ROOT / self.name

    @property
    def cache(self) -> Path:
        """The folder of container templates, which all labs share and `down` keeps."""
        return CACHE_ROOT

    @property
    def overlay(self) -> Path:
        """The inventory overlay that redirects homelab to this lab."""
        return self.state_dir / "overlay.yaml"

    @property
    def groups_overlay(self) -> Path:
        """The inventory overlay with the further services of `homelab demo --with`; missing without such services."""
        return self.state_dir / "groups.yaml"

    @property
    def overlays(self) -> Sequence[Path]:
        """The overlays of this lab, in order."""
        return [self.overlay, *([self.groups_overlay] if self.groups_overlay.exists() else [])]

    @property
    def messages_url(self) -> str:
        """The URL that receives the messages about incidents."""
        return f"{self.replay_url}{MESSAGES}"

    @property
    def messages_file(self) -> Path:
        """The file with the messages about incidents: one JSON object per line."""
        return self.state_dir / "messages.jsonl"

    @property
    def token_file(self) -> Path:
        """The file with the API token's secret, mode 0600."""
        return self.state_dir / "token"

    @property
    def monitoring_token_file(self) -> Path:
        """The file with the secret of the token that only reads, for pve_exporter; mode 0600."""
        return self.state_dir / "monitoring-token"

    @property
    def api_key_file(self) -> Path:
        """The file with the API key of the OpenWeather replay, mode 0600."""
        return self.state_dir / "openweather-key"

    @property
    def replay_state(self) -> Path:
        """The file with the replay server's position in the data set."""
        return self.state_dir / "replay.json"

    @property
    def certificate(self) -> Path:
        """The API's TLS certificate; its key is next to it in `pve.key`."""
        return self.state_dir / "pve.crt"

    @property
    def lxcpath(self) -> Path:
        """LXC's folder of containers: `<vmid>/config`, `<vmid>/rootfs`."""
        return self.state_dir / "containers"

    @property
    def records(self) -> Path:
        """The folder of the node's state: one JSON file per container, and the task journal."""
        return self.state_dir / "node"

    def pid_file(self, process: str) -> Path:
        """Return the pid file of the process `node`, `replay` or `dhcp`; see process.Identity."""
        return self.state_dir / f"{process}.pid"

    def log_file(self, process: str) -> Path:
        """Return the log file of the process `node`, `replay` or `dhcp`."""
        return self.state_dir / f"{process}.log"

    def cgroup(self, vmid: int) -> str:
        """Return the name of a container's cgroup, below each controller's root."""
        return f"homelab-{self.name}-{vmid}"

    def to_json(self) -> str:
        """Serialise the lab as one argument for the daemon."""
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
        """Parse the result of to_json."""
        raw = json.loads(text)
        return cls(**{**raw, "subnet": IPv4Network(raw["subnet"])})


LABS = {
    lab.name: lab
    for lab in (
        Lab(),
        # The tests' own node, which may run next to a demo, in the upper half of the same network.
        Lab("e2e", IPv4Network("10.99.2.128/25"), f"{BRIDGES}e2e", 18016, 8099),
    )
}
