"""Checks of the API tokens that services use, and the `pveum` lines that create them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from homelab.errors import HomelabError
from homelab.model import ProxmoxApi, ProxmoxToken, Secret
from homelab.proxmox.checks import Check
from homelab.proxmox.client import Client
from homelab.proxmox.privileges import privileges_on


def token_lines(token: ProxmoxToken) -> Sequence[str]:
    """Return the commands that create the user and the token and grant the role, and the one that stores the secret."""
    user, _, name = token.token_id.partition("!")
    return (
        shlex.join(["pveum", "user", "add", user, "--comment", "homelab"]),
        shlex.join(["pveum", "user", "token", "add", user, name, "--privsep", "1"]),
        _grant_line(token),
        f"then here, with the value that `token add` has printed: homelab secret set {token.secret}",
    )


def _grant_line(token: ProxmoxToken) -> str:
    user, _, _ = token.token_id.partition("!")
    words = ["pveum", "acl", "modify", "/", "--roles", token.role, "--users", user, "--tokens", token.token_id]
    return shlex.join(words)


def check_token(endpoint: ProxmoxApi, token: ProxmoxToken, secret: Secret | None) -> Check:
    """Return the check that Proxmox accepts a token, and that it has the privileges of its role."""
    title = f"token {token.token_id}"
    if secret is None:
        return Check(title, False, f"the secret {token.secret} is not set", token_lines(token))
    try:
        permissions = Client(replace(endpoint, token_id=token.token_id), token=secret).get("access/permissions")
    except HomelabError as error:
        return replace(Check.of(title, error), todo=token_lines(token))
    missing = [each for each in token.privileges if each not in privileges_on(permissions, "/vms")]
    if missing:
        return Check(
            title, False, f"missing, for the token or its user: {', '.join(missing)} on /", (_grant_line(token),)
        )
    return Check(title, True, f"is accepted, with {token.role}")
