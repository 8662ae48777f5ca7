"""The frozen types of all layers: the inventory, container configurations, services and steps."""

from homelab.model.airflow_objects import AirflowObjects, Connection, Pool
from homelab.model.alert_receivers import Alerts
from homelab.model.backup_hooks import BackupHooks
from homelab.model.container import Container
from homelab.model.container_config import DHCP, ContainerConfig, Difference, Mount, NetworkCard, differences
from homelab.model.endpoints import Endpoint
from homelab.model.inventory import (
    DatabaseGrant,
    Inventory,
    Network,
    PackageSources,
    Privilege,
    ProxmoxApi,
    Repository,
    Secret,
    lab_tags,
)
from homelab.model.object_storage import ObjectStorage
from homelab.model.options import Duration, KeyNames, Option, SecretName, Size
from homelab.model.pipelines import Pipeline, SchemaVersion
from homelab.model.proxmox_token import ProxmoxToken
from homelab.model.secret_store import SecretStore
from homelab.model.service import Health, ManagedResource, Pending, Service, ServiceContext, Step
from homelab.model.stages import Stage
from homelab.model.weather_settings import City, Weather

__all__ = [
    "DHCP",
    "AirflowObjects",
    "Alerts",
    "BackupHooks",
    "City",
    "Connection",
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
    "ObjectStorage",
    "Option",
    "PackageSources",
    "Pending",
    "Pipeline",
    "Pool",
    "Privilege",
    "ProxmoxApi",
    "ProxmoxToken",
    "Repository",
    "SchemaVersion",
    "Secret",
    "SecretName",
    "SecretStore",
    "Service",
    "ServiceContext",
    "Size",
    "Stage",
    "Step",
    "Weather",
    "differences",
    "lab_tags",
]
