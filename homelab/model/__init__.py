"""The frozen types of all layers: the inventory, container configurations, services and steps."""

from homelab.model.container import Container
from homelab.model.container_config import DHCP, ContainerConfig, Difference, Mount, NetworkCard, differences
from homelab.model.inventory import (
    City,
    DatabaseGrant,
    Endpoint,
    Inventory,
    Network,
    PackageSources,
    Pipeline,
    Port,
    Privilege,
    Repository,
    Secret,
    lab_tags,
)
from homelab.model.options import Duration, KeyNames, Option, SecretName, Size
from homelab.model.service import Health, ManagedResource, Pending, SecretStore, Service, ServiceContext, Step

__all__ = [
    "DHCP",
    "City",
    "Container",
    "ContainerConfig",
    "DatabaseGrant",
    "Difference",
    "Duration",
    "Endpoint",
    "Health",
    "Inventory",
    "KeyNames",
    "ManagedResource",
    "Mount",
    "Network",
    "NetworkCard",
    "Option",
    "PackageSources",
    "Pending",
    "Pipeline",
    "Port",
    "Privilege",
    "Repository",
    "Secret",
    "SecretName",
    "SecretStore",
    "Service",
    "ServiceContext",
    "Size",
    "Step",
    "differences",
    "lab_tags",
]
