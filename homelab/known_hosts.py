"""The SSH host keys that we trust: pinned from Proxmox's task log, completed at the first connection."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from homelab.errors import HomelabError
from homelab.private_files import write_private


@dataclass(frozen=True, slots=True)
class Pin:
    """A host key: its SHA-256 fingerprint (`SHA256:…`), and the whole key line once it was seen."""

    fingerprint: str
    key: str | None = None


def fingerprint(key_line: str) -> str:
    """The SHA-256 fingerprint of a public key's line (`ssh-ed25519 AAAA…`), as ssh-keygen prints it."""
    digest = hashlib.sha256(base64.b64decode(key_line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


class KnownHosts:
    """Pins by container name, in one JSON file of mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    @classmethod
    def of(cls, state_dir: Path) -> KnownHosts:
        """Those of a lab."""
        return cls(state_dir / "known_hosts.json")

    def pins(self) -> Mapping[str, Pin]:
        """Every pin by container name."""
        try:
            raw = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise HomelabError(
                f"{self._path} is damaged",
                f"It is not JSON: {error}.",
                "Move it away and run `homelab up`, which reads them from Proxmox again.",
            ) from error
        return {name: Pin(**pin) for name, pin in raw.items()}

    def pin(self, name: str, pin: Pin) -> None:
        """Trust this key for this container from now on."""
        with self._lock:
            self._write({**self.pins(), name: pin})

    def forget(self, name: str) -> None:
        """Trust no key for this container any more."""
        with self._lock:
            self._write({key: pin for key, pin in self.pins().items() if key != name})

    def _write(self, pins: Mapping[str, Pin]) -> None:
        text = json.dumps({name: asdict(pin) for name, pin in sorted(pins.items())}, indent=1)
        write_private(self._path, text.encode())
