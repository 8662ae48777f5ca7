"""The frozen types of all layers: the inventory, container configurations, services and steps."""

from homelab.model.container_config import ContainerConfig, Difference, Mount, differences
from homelab.model.inventory import (
    City,
    Container,
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
from homelab.model.service import Health, ManagedResource, Pending, SecretStore, Service, ServiceContext, Step

__all__ = [
    "City",
    "Container",
    "ContainerConfig",
    "DatabaseGrant",
    "Difference",
    "Endpoint",
    "Health",
    "Inventory",
    "ManagedResource",
    "Mount",
    "Network",
    "PackageSources",
    "Pending",
    "Pipeline",
    "Port",
    "Privilege",
    "Repository",
    "Secret",
    "SecretStore",
    "Service",
    "ServiceContext",
    "Step",
    "differences",
    "lab_tags",
]
