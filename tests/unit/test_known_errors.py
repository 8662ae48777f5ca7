"""Original error messages of programs, and the known error that each of them matches."""

from __future__ import annotations

import re

import pytest

from homelab.steps.known_errors import KNOWN_ERRORS, explain

EXAMPLES = [
    ("homelab: refused to write: /home/u/.ssh is a link", "no other user of box can redirect the write"),
    ("dpkg: error: failed to write status database record: No space left on device", "The disk of box is full."),
    ("E: You don't have enough free space in /var/cache/apt/archives/.", "The disk of box is full."),
    ("psql: error: could not extend file: No space left on device\nKilled", "The disk of box is full."),
    ("tar: a/b: Wrote only 4608 of 10240 bytes\ntar: Exiting with failure status", "The disk of box is full."),
    (
        "psql:<stdin>:600: ERROR:  changed by hand: column raw.quarantine.reason text not null\nCONTEXT:  PL/pgSQL",
        "dropped or changed by hand",
    ),
    ("mkdir: cannot create directory '/opt/x': Read-only file system", "The disk of box is read-only"),
    (
        "E: Release file for http://archive.example/debian/dists/bookworm/InRelease is not valid "
        "yet (invalid for another "
        "3h 2min 1s). Updates for this repository will not be applied.",
        "too new or too old for the clock of box",
    ),
    ("invalid peer certificate: NotValidYet", "for the clock of box"),
    *(
        (text, "shows no certificate of the lab's CA")
        for text in (
            'psql: error: connection to server at "192.0.2.1", port 5432 failed: SSL error: certificate verify failed',
            'connection to server at "192.0.2.1", port 5432 failed: server does not support SSL, but SSL was required',
            'server certificate for "a" (and 1 other name) does not match host name "192.0.2.1"',
            'PostgreSQL server at "192.0.2.1:5432" rejected SSL upgrade',
        )
    ),
    ("invalid peer certificate: UnknownIssuer", "signed by a CA that box does not know"),
    (
        "Certificate verification failed: The certificate is NOT trusted. The certificate issuer is unknown.",
        "signed by a CA that box does not know",
    ),
    ("E: Failed to fetch http://archive.example/x.deb  Hash Sum mismatch", "does not match its hash"),
    ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "does not match its hash"),
    (
        "error: Failed to download `six==1.17.0`\n  Caused by: Hash mismatch for `six==1.17.0`",
        "does not match its hash",
    ),
    (
        "W: GPG error: https://x InRelease: The following signatures couldn't be verified because "
        "the public key is not "
        "available: NO_PUBKEY 7FCC7D46ACCC4CF8",
        "not signed by a key that box trusts",
    ),
    (
        "W: An error occurred during the signature verification. The repository is not updated and the previous index "
        "files will be used. OpenPGP signature verification failed: https://x trixie InRelease: "
        "Sub-process /usr/bin/sqv "
        "returned an error code (1), error message is: Missing key 7FCC7D46ACCC4CF8, which is needed.\n"
        "W: Failed to fetch https://x/dists/trixie/InRelease  Sub-process /usr/bin/sqv returned an error code (1)\n"
        "E: Unable to locate package figlet",
        "not signed by a key that box trusts",
    ),
    (
        "Err:1 http://archive.example/debian bookworm InRelease\n  Temporary failure resolving 'archive.example'\n"
        "E: Failed to fetch http://archive.example/debian/dists/bookworm/InRelease",
        "box cannot resolve names",
    ),
    (
        "error: client error (Connect)\n  Caused by: dns error: failed to lookup address "
        "information: Temporary failure "
        "in name resolution",
        "box cannot resolve names",
    ),
    (
        "Cannot initiate the connection to archive.example:80 (2a04::). - connect (101: Network is unreachable)",
        "box has no route to that address",
    ),
    ("E: Unable to locate package postgresql-99", "is not in the package sources of box"),
    ("E: Version '16.1' for 'postgresql-16' was not found", "is not in the package sources of box"),
    (
        "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 731 (unattended-upgr)",
        "Another package manager is running in box",
    ),
    ('could not bind IPv4 address "0.0.0.0": Address already in use', "already listens on that port"),
    (
        "[Errno 98] error while attempting to bind on address ('0.0.0.0', 8080): address already in use",
        "already listens on that port",
    ),
    ("/dev/stdin:2:1-12: Error: Could not process rule: Operation not permitted", "nftables does not work in box"),
    ("netlink: Error: cache initialization failed: Operation not permitted", "nftables does not work in box"),
    ("sh: 3: /usr/bin/python3: not found", "box has no Python"),
    ("E: Failed to fetch http://archive.example/x  503  Service Unavailable", "A mirror or proxy does not deliver"),
    (
        "  Could not connect to apt.example:3142 (192.0.2.1). - connect (111: Connection refused)",
        "A mirror or proxy does not deliver",
    ),
    (
        "E: Unable to locate package figlet\nE: Failed to fetch "
        "http://archive.example/debian/dists/bookworm/InRelease  "
        "Could not connect to 127.0.0.1:9 (127.0.0.1).",
        "A mirror or proxy does not deliver",
    ),
    (
        "error: Failed to fetch: `https://pypi.example/simple/six/`\n  Caused by: error sending request for url",
        "A mirror or proxy does not deliver",
    ),
    ("MemoryError", "box has run out of memory"),
    ("Killed", "killed with SIGKILL"),
    (
        "dpkg: error processing package ca-certificates (--configure):\n installed ca-certificates package "
        "post-installation script subprocess returned error exit status 1\nErrors were encountered while processing:\n "
        "ca-certificates\nE: Sub-process /usr/bin/dpkg returned an error code (1)",
        "dpkg could not configure a package",
    ),
]


@pytest.mark.parametrize(("text", "cause"), EXAMPLES)
def test_known_error_is_explained(text: str, cause: str) -> None:
    found = explain(text, "box")
    assert found is not None
    assert cause in found[0]
    assert found[1].endswith(".")
    assert not re.search(r"[{}](?!ca_)", found[1].replace("…]}", "")), "every placeholder is replaced"


def test_unknown_error_is_not_explained() -> None:
    for text in ("", "exit status 3", 'ERROR:  relation "raw.x" does not exist', "Unit x.service not found."):
        assert explain(text, "box") is None


def test_every_known_error_has_an_example() -> None:
    matched = {explain(text, "box") for text, _ in EXAMPLES}
    assert [known.cause for known in KNOWN_ERRORS if known.on("box") not in matched] == []
