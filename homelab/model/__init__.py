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
    Port,
    Privilege,
    Repository,
    Secret,
    Weather,
    lab_tags,
)
from homelab.model.options import Duration, KeyNames, Option, SecretName, Size
from homelab.model.pipelines import Pipeline, SchemaVersion
from homelab.model.service import Health, ManagedResource, Pending, SecretStore, Service, ServiceContext, Step

__all__ = [
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
    "Option",
    "PackageSources",
    "Pending",
    "Pipeline",
    "Port",
    "Privilege",
    "Repository",
    "SchemaVersion",
    "Secret",
    "SecretName",
    "SecretStore",
    "Service",
    "ServiceContext",
    "Size",
    "Step",
    "Weather",
    "differences",
    "lab_tags",
]
