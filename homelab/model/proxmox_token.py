"""API tokens of Proxmox VE that services use, next to homelab's own."""

from __future__ import annotations

from dataclasses import dataclass

from homelab.model.options import SecretName


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxmoxToken:
    """A token of a service: its id, the secret with its value, and the role of Proxmox that it needs on `/`.

    `privileges` are those of the role that the service uses.
    """

    token_id: str
    secret: SecretName
    role: str
    privileges: tuple[str, ...]
