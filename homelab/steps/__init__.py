"""Steps: what has to be so on a host, each able to say why it is not, and to make it so."""

from homelab.steps.commands import Command, WaitFor
from homelab.steps.files import Certificate, Directory, File, Tree
from homelab.steps.gate import Gate
from homelab.steps.mirror import Archives, Mirror
from homelab.steps.packages import Finished, Packages, Pinned
from homelab.steps.postgres import Database, Hba, Role, Settings, Sql
from homelab.steps.units import Running
from homelab.steps.users import User
from homelab.steps.venv import Uv, Venv

__all__ = [
    "Archives", "Certificate", "Command", "Database", "Directory", "File", "Finished", "Gate", "Hba", "Mirror",
    "Packages", "Pinned", "Role", "Running", "Settings", "Sql", "Tree", "User", "Uv", "Venv", "WaitFor",
]
