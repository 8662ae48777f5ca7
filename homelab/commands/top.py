"""`homelab top`: samples of containers, units, pipelines and PostgreSQL for a live view."""

from __future__ import annotations

from homelab.runtime.lab_sample import Sampler
from homelab.runtime.session import Session


def top(session: Session) -> Sampler:
    """Return the source of samples; closing it ends its connections."""
    return Sampler(session)
