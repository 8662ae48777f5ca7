"""The frozen types that everything else speaks in: what the inventory wants, and what was found."""

from homelab.model.service import Health, Owned, Pending, Service, Site, Step, Vault
from homelab.model.shape import Difference, Mount, Shape, differences
from homelab.model.wanted import (
    Access,
    City,
    Container,
    Endpoint,
    Inventory,
    Listen,
    Network,
    Pipeline,
    Privilege,
    Repository,
    Secret,
    Sources,
    marks,
)

__all__ = ["Access", "City", "Container", "Difference", "Endpoint", "Health", "Inventory", "Listen", "Mount", "Network",
           "Owned", "Pending", "Pipeline", "Privilege", "Repository", "Secret", "Service", "Shape", "Site", "Sources",
           "Step", "Vault", "differences", "marks"]
