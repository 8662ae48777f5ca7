"""Endpoints of services: their ports, protocols and clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SSH_PORT = 22  # of a container's own SSH server, which services may share
LAST_PORT = 65535
# Clients of an endpoint: the whole subnet, the containers with database grants, those with a service that requires or
# uses it, or the one that publishes the tables of the pipelines.
Audience = Literal["lan", "grantees", "dependents", "publisher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A TCP port that a service provides, its protocol and its clients.

    Firewall rules, certificates, and the addresses in `homelab status` are derived from it. `name` is unique in the
    service, `port` in the container. The paths and `web_ui` are for HTTP only.
    """

    name: str
    port: int
    description: str
    audience: Audience
    protocol: Literal["tcp", "http"] = "tcp"
    tls: bool = False  # with a certificate of the lab's CA, which every container trusts then
    health_path: str = ""  # answers 200 while the service works
    metrics_path: str = ""  # metrics in Prometheus' format
    web_ui: str = ""  # the title of a web UI
    credentials: tuple[str, ...] = ()  # names of the secrets that a client needs
    clients: tuple[str, ...] = ()  # services whose containers are clients, too
    restricted: bool = False  # its container admits only its clients, also without Proxmox's firewall

    def __post_init__(self) -> None:
        """Check the combination. Raises ValueError."""
        for path in filter(None, (self.health_path, self.metrics_path)):
            if not path.startswith("/"):
                raise ValueError(f"the path {path} of the endpoint {self.name} does not begin with /")
        if self.protocol != "http" and (self.health_path or self.metrics_path or self.web_ui):
            raise ValueError(f"the endpoint {self.name} has a path or a web UI, but its protocol is not http")

    def url(self, host: str) -> str:
        """Return the URL of an HTTP endpoint on a host."""
        scheme, usual = ("https", 443) if self.tls else ("http", 80)
        return f"{scheme}://{host}" + ("" if self.port == usual else f":{self.port}")
