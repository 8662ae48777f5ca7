"""The interface of a store of secrets, and the secrets in it that a user sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from homelab.errors import InputError
from homelab.model.inventory import Secret
from homelab.model.options import SecretName

if TYPE_CHECKING:
    from homelab.certificates import Authority, Names

# Names of the secrets that homelab generates.
_OWN_SECRETS = re.compile(
    r"(postgres|clickhouse|broker|airflow|grafana|gateway|redis|superset|metabase|s3|kubernetes)-|stamps$"
)


class SecretStore(Protocol):
    """A store of secrets: the same name always gives the same value."""

    def secret(self, name: str) -> Secret:
        """Return the secret of that name, generated at the first call."""

    def known_secret(self, name: str) -> Secret | None:
        """Return an existing secret, or None; never generate one."""

    def set(self, name: str, value: str) -> None:
        """Store a secret, replacing one of the same name."""

    def names(self) -> list[str]:
        """Return the names of the existing secrets, sorted."""

    def key_pair(self, name: str) -> tuple[Secret, str]:
        """Return an SSH key pair, generated at the first call: private key (OpenSSH's PEM form), public key line."""

    def has_key(self, name: str) -> bool:
        """Check that an SSH key exists, without generating it."""

    def key_path(self, name: str) -> Path:
        """Return the file of a private key, for programs such as ssh."""

    def authority(self, lab: str, names: Names) -> Authority:
        """Return the lab's CA for exactly these names, made at the first call.

        If the names change, or years before its certificate expires, it gets a new certificate for the same key.
        Raises InputError if it is damaged.
        """

    def preview(self) -> SecretStore:
        """Return a store for a preview of changes, which saves no new secret, key or certificate."""

    def known_authority(self) -> Authority | None:
        """Return the lab's CA, or None if there is none yet. Raises InputError if it is damaged."""


def is_reserved(name: str) -> bool:
    """Return True for the name of a secret that homelab generates."""
    return _OWN_SECRETS.match(name) is not None


def user_secrets(store: SecretStore, names: Iterable[SecretName]) -> Mapping[str, Secret]:
    """Return secrets that the user has set, by name. Raises InputError for missing ones, and for homelab's own.

    Without the latter, a pipeline of others could hand out the passwords of the databases to every DAG.
    """
    names = list(names)
    if own := [name for name in names if is_reserved(name)]:
        raise InputError(
            f"Cannot use the {'secrets' if len(own) > 1 else 'secret'} {', '.join(own)}: reserved for homelab",
            "\n".join(f"  {name.place}: {{secret: {name}}}" for name in own),
            "Use another name, and set it with `homelab secret set NAME`.",
        )
    wanted = {name: store.known_secret(name) for name in names}
    missing = [name for name, secret in wanted.items() if secret is None]
    if missing:
        raise InputError(
            f"Cannot use the {'secrets' if len(missing) > 1 else 'secret'} {', '.join(missing)}: not set",
            "\n".join(f"  {name.place}: {{secret: {name}}}" for name in missing),
            "\n".join(f"Run `homelab secret set {name}`." for name in missing),
        )
    return {name: secret for name, secret in wanted.items() if secret is not None}
