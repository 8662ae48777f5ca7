"""Fingerprints of OpenPGP keys (RFC 4880, RFC 9580), without gpg."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

_ARMOR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\s*?\n(?P<body>.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL
)
_PUBLIC_KEY = 6  # the tag of a primary key's packet
_VERSION = 4


def dearmored(data: bytes) -> bytes:
    """Return the packets of an armoured or binary key file. Raises ValueError."""
    blocks = [match["body"] for match in _ARMOR.finditer(data.replace(b"\r\n", b"\n"))]
    return b"".join(map(_decoded, blocks)) if blocks else data


def _decoded(body: bytes) -> bytes:
    lines = body.splitlines()
    while lines and (b":" in lines[0] or not lines[0].strip()):
        lines.pop(0)  # `Version: …`, `Comment: …`, and the empty line after them
    # The last line may be a checksum; the fingerprint protects better.
    try:
        return base64.b64decode(b"".join(line.strip() for line in lines if not line.startswith(b"=")), validate=True)
    except binascii.Error as error:
        raise ValueError(f"its armour is broken: {error}") from error


def fingerprints(data: bytes) -> list[str]:
    """Return the fingerprint of each primary key in a file of packets: 40 hexadecimal digits. Raises ValueError."""
    return [_fingerprint(body) for tag, body in packets(data) if tag == _PUBLIC_KEY]


def _fingerprint(body: bytes) -> str:
    if body[:1] != bytes([_VERSION]):
        raise ValueError(f"its key is of OpenPGP's version {body[0] if body else 'none'}, and not {_VERSION}")
    return hashlib.sha1(b"\x99" + len(body).to_bytes(2) + body, usedforsecurity=False).hexdigest().upper()


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and body of each packet. Raises ValueError if a packet is incomplete."""
    at = 0
    while at < len(data):
        head = data[at]
        if not head & 0x80:
            raise ValueError("it is not an OpenPGP key")
        tag, start, size = _new(data, at) if head & 0x40 else _old(data, at)
        at = start + size
        if at > len(data):
            raise ValueError("it is cut off")
        yield tag, data[start:at]


def _new(data: bytes, at: int) -> tuple[int, int, int]:
    first = data[at + 1] if at + 1 < len(data) else 255
    if first < 192:
        return data[at] & 0x3F, at + 2, first
    if first < 224:
        return data[at] & 0x3F, at + 3, ((first - 192) << 8) + int.from_bytes(data[at + 2 : at + 3]) + 192
    if first < 255:
        raise ValueError("it has a packet in parts, which keys do not have")
    return data[at] & 0x3F, at + 6, int.from_bytes(data[at + 2 : at + 6])


def _old(data: bytes, at: int) -> tuple[int, int, int]:
    kind = data[at] & 3
    if kind == 3:
        raise ValueError("it has a packet without a length, which keys do not have")
    return (data[at] >> 2) & 0xF, at + 1 + (1 << kind), int.from_bytes(data[at + 1 : at + 1 + (1 << kind)])
