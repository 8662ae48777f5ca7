"""The lab's credentials (TLS certificate, API token, weather key) and the inventory overlay that refers to them."""

from __future__ import annotations

import hashlib
import secrets
import ssl
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

from homelab.lab.settings import NODE, TOKEN_ID, Lab
from homelab.private_files import write_private

_RENEW_BEFORE = timedelta(days=3)


def ensure(lab: Lab) -> None:
    """Create the certificate, the token and the weather key if they are missing, and renew an expiring certificate."""
    if not _certificate_is_good(lab):
        from fakepve.certs import make_cert

        make_cert(str(lab.state_dir), name=lab.certificate.stem)
    for file in (lab.token_file, lab.monitoring_token_file):
        if not file.exists():
            write_private(file, f"{uuid.uuid4()}\n".encode())
    if not lab.api_key_file.exists():
        write_private(lab.api_key_file, f"{secrets.token_hex(16)}\n".encode())


def _certificate_is_good(lab: Lab) -> bool:
    from cryptography import x509  # a slow import that most lab commands do not need

    try:
        certificate = x509.load_pem_x509_certificate(lab.certificate.read_bytes())
        # The key is written last: if it is missing, an earlier run was killed in between.
        return (
            lab.certificate.with_suffix(".key").stat().st_size > 0
            and certificate.not_valid_after_utc > datetime.now(UTC) + _RENEW_BEFORE
        )
    except (FileNotFoundError, ValueError):
        return False


def certificate_fingerprint(pem: str) -> str:
    """Return a certificate's SHA-256 fingerprint in Proxmox's format, `AA:BB:…`."""
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper()
    return ":".join(digest[index : index + 2] for index in range(0, len(digest), 2))


class _Existing(dict[str, object]):
    """A mapping that applies only to an inventory that has its key."""


def write_overlay(lab: Lab, nameservers: Sequence[IPv4Address]) -> None:
    """Write the overlay that redirects an inventory to this lab."""
    import yaml

    overlay = {
        "lab": lab.name,
        "proxmox": {
            "host": "127.0.0.1",
            "port": lab.api_port,
            "node": NODE,
            "token_id": TOKEN_ID,
            "token_file": str(lab.token_file),
            "fingerprint": certificate_fingerprint(lab.certificate.read_text()),
        },
        "network": {
            "subnet": str(lab.subnet),
            "gateway": str(lab.gateway),
            "bridge": lab.bridge,
            "nameservers": [str(server) for server in nameservers],
            "ssh_allowed_from": [str(lab.gateway)],
        },
        "defaults": {"template": "debian-12", "storage": "local", "template_storage": "local"},
        "containers": {
            # Debian 12 packages PostgreSQL 15.
            "postgres-data": _Existing(services={"postgres": _Existing(version=15)}),
            # The containers reach the API at the bridge's address.
            "observability": _Existing(services={"pve_exporter": _Existing(host=str(lab.gateway))}),
        },
        "pipelines": {"weather": _Existing(api_url=lab.replay_url, api_key_file=str(lab.api_key_file))},
    }

    class Dumper(yaml.SafeDumper):
        """Writes the tag of conditional mappings."""

    Dumper.add_representer(_Existing, lambda dumper, mapping: dumper.represent_mapping("!existing", mapping))
    text = "# Written by `homelab lab up`: the values that replace those of your inventory in the lab.\n" + yaml.dump(
        overlay, Dumper=Dumper, sort_keys=False
    )
    write_private(lab.overlay, text.encode())
