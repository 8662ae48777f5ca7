"""Pinned SSH host keys: fingerprints from Proxmox's task log, completed at the first connection."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from homelab.private_files import damaged, read_mapping, write_private

_KEY_LINE = r"\S+ [A-Za-z0-9+/]+=*( .*)?"


@dataclass(frozen=True, slots=True)
class Pin:
    """A pinned host key: its SHA-256 fingerprint (`SHA256:…`), and its key line after the first connection."""

    fingerprint: str
    key: str | None = None

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Pin:
        """Parse an entry of the file. Raises TypeError or ValueError."""
        pin = cls(**fields)
        if not re.fullmatch(r"SHA256:\S+", pin.fingerprint) or not re.fullmatch(_KEY_LINE, pin.key or "x x"):
            raise ValueError("not a fingerprint and a key line")
        return pin


def fingerprint(key_line: str) -> str:
    """Return the SHA-256 fingerprint of a public key line (`ssh-ed25519 AAAA…`), in the format of ssh-keygen."""
    digest = hashlib.sha256(base64.b64decode(key_line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


class KnownHosts:
    """Pins by container name, in one JSON file of mode 0600; a preview keeps new pins in memory."""

    def __init__(self, path: Path, *, is_preview: bool = False) -> None:
        self._path, self._is_preview = path, is_preview
        self._previewed: Mapping[str, Pin] | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, state_dir: Path) -> KnownHosts:
        """Return the known hosts of a lab."""
        return cls(state_dir / "known_hosts.json")

    def preview(self) -> KnownHosts:
        """Return the known hosts for a preview of changes, which saves none."""
        return KnownHosts(self._path, is_preview=True)

    def pins(self) -> Mapping[str, Pin]:
        """Return every pin by container name."""
        if self._previewed is not None:
            return self._previewed
        resolution = "Move it away and run `homelab up`, which reads the fingerprints from Proxmox again."
        try:
            return {name: Pin.read(fields) for name, fields in read_mapping(self._path, resolution).items()}
        except (TypeError, ValueError) as error:
            raise damaged(self._path, "An entry is not a fingerprint and a host key.", resolution) from error

    def key_lines(self) -> Mapping[str, str]:
        """Return the host key line of each container that has shown its key, by name."""
        return {name: pin.key for name, pin in self.pins().items() if pin.key}

    def pin(self, name: str, pin: Pin) -> None:
        """Pin the key of a container."""
        with self._lock:
            self._write({**self.pins(), name: pin})

    def forget(self, name: str) -> None:
        """Remove the pin of a container."""
        with self._lock:
            self._write({key: pin for key, pin in self.pins().items() if key != name})

    def _write(self, pins: Mapping[str, Pin]) -> None:
        if self._is_preview:
            self._previewed = pins
            return
        text = json.dumps({name: asdict(pin) for name, pin in sorted(pins.items())}, indent=1)
        write_private(self._path, text.encode())
