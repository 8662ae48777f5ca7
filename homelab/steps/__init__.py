"""Idempotent steps that check and enforce the state of a host."""

from homelab.steps.apt_mirror import AptMirror, Archives
from homelab.steps.commands import Command, Refuse, WaitFor
from homelab.steps.files import Certificate, Directory, File
from homelab.steps.health_check import HealthCheck
from homelab.steps.packages import DpkgConfigured, Packages, PinnedPackages
from homelab.steps.postgres_config import PgHba, Settings
from homelab.steps.postgres_objects import Database, RevokedLogins, Role, Sql
from homelab.steps.server_certificate import ServerCertificate
from homelab.steps.sshd import SshdSettings
from homelab.steps.trees import Tree
from homelab.steps.units import SystemdUnit
from homelab.steps.upgrades import FinishUpgrade, PrepareUpgrade, Upgrade
from homelab.steps.users import Group, User
from homelab.steps.venv import UvInstall, Venv

__all__ = [
    "AptMirror",
    "Archives",
    "Certificate",
    "Command",
    "Database",
    "Directory",
    "DpkgConfigured",
    "File",
    "FinishUpgrade",
    "Group",
    "HealthCheck",
    "Packages",
    "PgHba",
    "PinnedPackages",
    "PrepareUpgrade",
    "Refuse",
    "RevokedLogins",
    "Role",
    "ServerCertificate",
    "Settings",
    "Sql",
    "SshdSettings",
    "SystemdUnit",
    "Tree",
    "Upgrade",
    "User",
    "UvInstall",
    "Venv",
    "WaitFor",
]
