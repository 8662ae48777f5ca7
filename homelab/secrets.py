"""Secrets: generated once, stored outside git with mode 0600, never printed."""

from __future__ import annotations

import codecs
import json
import re
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homelab.certificates import Authority, Names
from homelab.errors import InputError
from homelab.model import Secret, Weather
from homelab.private_files import damaged, read_mapping, read_private, write_private

OPERATOR_PUBLIC = "operator_ed25519.pub"  # only in the copy of a runner
_BYTES = 48  # 64 characters, which Airflow requires of a JWT secret
_RESTORE = "Restore it from your backup. Without a backup, move it away: "
_SECRETS_LOST = _RESTORE + "`homelab deploy` then generates new passwords and sets them everywhere."
_COPIED = "On your own machine, run `homelab deploy`, then `homelab ci grant`."
_KEY_LOST = _RESTORE + "the next `homelab deploy` generates a new one."
_AUTHORITY_LOST = _RESTORE + "`homelab deploy` then makes a new CA and new certificates for all containers."


class FileSecretStore:
    """Secrets and SSH keys in a folder of mode 0700; the same name always gives the same value.

    A preview keeps new secrets, keys and certificates in memory. The copy of a runner (see homelab.commands.ci_grant)
    is read-only: the next copy would replace a secret that only the runner knows.
    """

    def __init__(self, folder: Path, *, is_preview: bool = False) -> None:
        self._folder, self._is_preview = folder, is_preview
        self._previewed: dict[Path, str] = {}  # the files that a preview would have written
        self._path = folder / "secrets.json"
        self._lock = threading.Lock()

    def secret(self, name: str) -> Secret:
        """See SecretStore.secret: 64 characters, safe in URLs and configuration files."""
        with self._lock:
            known = self._known()
            if name not in known:
                known[name] = secrets.token_urlsafe(_BYTES)
                self._write(self._path, json.dumps(known, indent=1))
            return Secret(known[name])

    def known_secret(self, name: str) -> Secret | None:
        """See SecretStore.known_secret."""
        known = self._known()
        return Secret(known[name]) if name in known else None

    def set(self, name: str, value: str) -> None:
        """See SecretStore.set."""
        with self._lock:
            self._write(self._path, json.dumps({**self._known(), name: value}, indent=1))

    def _write(self, path: Path, text: str) -> None:
        """Replace a file, or only remember its text for a preview. Raises InputError for the copy of a runner."""
        if (self._folder / OPERATOR_PUBLIC).exists():
            raise InputError(f"Cannot write {path}: this machine has a copy of the secrets", "", _COPIED)
        if self._is_preview:
            self._previewed[path] = text
        else:
            write_private(path, text.encode())

    def _read(self, path: Path, resolution: str) -> str | None:
        return self._previewed.get(path) or read_private(path, resolution)

    def names(self) -> list[str]:
        """See SecretStore.names."""
        return sorted(self._known())

    def _known(self) -> dict[str, str]:
        text = self._previewed.get(self._path)
        known = json.loads(text) if text else read_mapping(self._path, _SECRETS_LOST)
        if not all(isinstance(value, str) and value for value in known.values()):
            raise damaged(self._path, "A secret in it is not a text, or is empty.", _SECRETS_LOST)
        return known

    def has_key(self, name: str) -> bool:
        """See SecretStore.has_key."""
        path = self._key_file(name)
        return path in self._previewed or path.exists()

    def key_path(self, name: str) -> Path:
        """See SecretStore.key_path."""
        self.key_pair(name)
        return self._key_file(name)

    def _key_file(self, name: str) -> Path:
        return self._folder / f"{name}_ed25519"

    def key_pair(self, name: str) -> tuple[Secret, str]:
        """See SecretStore.key_pair: ed25519."""
        path = self._key_file(name)
        with self._lock:
            if not self.has_key(name):
                key = Ed25519PrivateKey.generate().private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
                )
                self._write(path, key.decode())
            pem = self._read(path, _KEY_LOST) or ""
        try:
            loaded = serialization.load_ssh_private_key(pem.encode(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise damaged(path, "It is not an SSH private key without a passphrase.", _KEY_LOST) from error
        public = loaded.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        # A runner logs in with a key of its own, and deploys the operator's.
        others = read_private(self._folder / OPERATOR_PUBLIC, _KEY_LOST) if name == "operator" else None
        return Secret(pem), others or f"{public.decode()} homelab-{name}"

    def preview(self) -> FileSecretStore:
        """See SecretStore.preview."""
        return FileSecretStore(self._folder, is_preview=True)

    def known_authority(self) -> Authority | None:
        """See SecretStore.known_authority."""
        path = self._folder / "ca.pem"
        text = self._read(path, _AUTHORITY_LOST)
        try:
            return None if text is None else Authority.read(text)
        except ValueError as error:
            raise damaged(path, "Its certificate and key are not as homelab wrote them.", _AUTHORITY_LOST) from error

    def authority(self, lab: str, names: Names) -> Authority:
        """See SecretStore.authority."""
        with self._lock:
            found, now = self.known_authority(), datetime.now(UTC)
            if found and found.is_valid_for(names, now):
                return found
            authority = found.renew(names, now) if found else Authority.create(lab, names, now)
            self._write(self._folder / "ca.pem", authority.file())
            return authority


def read_secret(path: Path, name: str, resolution: str) -> Secret:
    """Return a secret from the user's file. Raises InputError if it is missing, not one word, or readable by others."""
    try:
        content, mode = path.read_bytes(), path.stat().st_mode
    except OSError as error:
        raise InputError(f"Cannot read {name}: {error.strerror}", f"{path}", resolution) from error
    if mode & 0o077:
        raise InputError(
            f"Cannot use {name}: other users can read it", f"{path} has mode {mode & 0o777:o}.", f"chmod 600 {path}"
        )
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        raise InputError(f"Cannot use {name}: the file is not UTF-8 text", f"{path}", "Save it as UTF-8.")
    # Editors on Windows begin UTF-8 text with a byte order mark.
    return one_word(content.removeprefix(codecs.BOM_UTF8).decode(errors="replace"), name, str(path), resolution)


def one_word(text: str, name: str, origin: str, resolution: str) -> Secret:
    """Return a secret that is one word of printable ASCII. Raises InputError, which never quotes the text."""
    value = text.strip()
    if not value:
        raise InputError(f"Cannot use {name}: it is empty", origin, resolution)
    if not re.fullmatch(r"[!-~]+", value):
        raise InputError(
            f"Cannot use {name}: it is not one word", f"{origin} must contain the secret alone, in ASCII.", resolution
        )
    return Secret(value)


def openweather_key(weather: Weather) -> Secret:
    """Return OpenWeather's API key. Raises InputError like `read_secret`."""
    return read_secret(
        weather.api_key_file,
        "the OpenWeather API key",
        f"Get one at https://openweathermap.org/api and write it to {weather.api_key_file}, mode 0600.",
    )
