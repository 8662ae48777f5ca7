"""The stable names for services outside of this repository; everything else in homelab may change without notice.

A service imports from here only:

    from homelab.api import File, Health, Option, Packages, Service, ServiceContext, SystemdUnit, Templates
"""

from homelab.distributions import Distribution
from homelab.errors import HomelabError, InputError
from homelab.host import Host, Result, argv
from homelab.model import (
    AirflowObjects,
    BackupHooks,
    Connection,
    Container,
    DatabaseGrant,
    Duration,
    Endpoint,
    Health,
    Inventory,
    KeyNames,
    ManagedResource,
    Option,
    Pending,
    Pool,
    ProxmoxToken,
    Secret,
    SecretName,
    SecretStore,
    Service,
    ServiceContext,
    Size,
    Step,
)
from homelab.render import Templates
from homelab.sandbox import Sandbox
from homelab.services.lab_certificates import CA_FILE, server_certificate
from homelab.steps import Command, Directory, File, Packages, SystemdUnit, Tree, Upgrade, User, UvInstall, Venv, WaitFor

VERSION = 1  # grows when a name or its meaning changes incompatibly

__all__ = [
    "CA_FILE",
    "VERSION",
    "AirflowObjects",
    "BackupHooks",
    "Command",
    "Connection",
    "Container",
    "DatabaseGrant",
    "Directory",
    "Distribution",
    "Duration",
    "Endpoint",
    "File",
    "Health",
    "HomelabError",
    "Host",
    "InputError",
    "Inventory",
    "KeyNames",
    "ManagedResource",
    "Option",
    "Packages",
    "Pending",
    "Pool",
    "ProxmoxToken",
    "Result",
    "Sandbox",
    "Secret",
    "SecretName",
    "SecretStore",
    "Service",
    "ServiceContext",
    "Size",
    "Step",
    "SystemdUnit",
    "Templates",
    "Tree",
    "Upgrade",
    "User",
    "UvInstall",
    "Venv",
    "WaitFor",
    "argv",
    "server_certificate",
]
