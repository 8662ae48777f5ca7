"""Fingerprints of OpenPGP keys, checked against published keys."""

from __future__ import annotations

import base64

import pytest

from homelab.inventory.openpgp import dearmored, fingerprints

# Debian Stable Release Key (12/bookworm); its fingerprint is at https://ftp-master.debian.org/keys.html
BOOKWORM = """-----BEGIN PGP PUBLIC KEY BLOCK-----
Comment: as `gpg --export-options export-minimal` writes it

mDMEY865UxYJKwYBBAHaRw8BAQdAd7Z0srwuhlB6JKFkcf4HU4SSS/xcRfwEQWzr
crf6AEq0SURlYmlhbiBTdGFibGUgUmVsZWFzZSBLZXkgKDEyL2Jvb2t3b3JtKSA8
ZGViaWFuLXJlbGVhc2VAbGlzdHMuZGViaWFuLm9yZz6IlgQTFggAPhYhBE1k/sEZ
wgKQZ9bnkfjSWFuHg9SBBQJjzrlTAhsDBQkPCZwABQsJCAcCBhUKCQgLAgQWAgMB
Ah4BAheAAAoJEPjSWFuHg9SBSgwBAP9qpeO5z1s5m4D4z3TcqDo1wez6DNya27QW
WoG/4oBsAQCEN8Z00DXagPHbwrvsY2t9BCsT+PgnSn9biobwX7bDDg==
=5NZE
-----END PGP PUBLIC KEY BLOCK-----
"""
FINGERPRINT = "4D64FEC119C2029067D6E791F8D2585B8783D481"


@pytest.mark.parametrize(
    "data",
    [
        BOOKWORM.encode(),
        BOOKWORM.replace("\n", "\r\n").encode(),
        b"by mail:\n" + BOOKWORM.encode() + b"bye\n",
        dearmored(BOOKWORM.encode()),
    ],
)
def test_a_real_key_in_every_form(data: bytes) -> None:
    assert fingerprints(dearmored(data)) == [FINGERPRINT]


def test_two_keys_are_two() -> None:
    assert fingerprints(dearmored(BOOKWORM.encode() * 2)) == [FINGERPRINT] * 2


KEY = dearmored(BOOKWORM.encode())


@pytest.mark.parametrize(
    "head",
    [  # each encoding of the length of a packet of 51 bytes
        b"\x98\x33",
        b"\x99\x00\x33",
        b"\x9a\x00\x00\x00\x33",
        b"\xc6\x33",
        b"\xc6\xff\x00\x00\x00\x33",
    ],
)
def test_every_encoding_of_a_length(head: bytes) -> None:
    assert fingerprints(head + KEY[2:53] + KEY[53:]) == [FINGERPRINT]


def test_a_long_packet() -> None:
    body = KEY[2:53] + bytes(200)  # 251 bytes: 192 more than 59
    assert fingerprints(b"\xc6\xc0\x3b" + body) == fingerprints(b"\x99\x00\xfb" + body)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"hello", "not an OpenPGP key"),
        (KEY[:40], "cut off"),
        (KEY[:1], "cut off"),
        (b"\x98\x01\x06", "version 6"),
        (b"\x9b\x04", "without a length"),
        (b"\xc6\xe1\x00", "in parts"),
        (BOOKWORM.replace("mDMEY", "mD€EY").encode(), "armour is broken"),
        (b"", None),
        (KEY[53:], None),
    ],
)
def test_invalid_keys(data: bytes, error: str | None) -> None:
    if error is None:
        assert fingerprints(dearmored(data)) == []
        return
    with pytest.raises(ValueError, match=error):
        fingerprints(dearmored(data))


def test_one_bit_makes_another_key() -> None:
    packets = bytearray(base64.b64decode(base64.b64encode(KEY)))
    packets[30] ^= 1
    assert fingerprints(bytes(packets)) != [FINGERPRINT]
