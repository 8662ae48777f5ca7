"""`homelab secret set`: names and values that nothing could use are refused, and the store stays as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from homelab.paths import bundled_path
from homelab.render import render
from homelab.secrets import FileSecretStore

PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----"
_VALUE, _NAME = "the value has a control character, or is not UTF-8 text", "this name cannot be used"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "inventory.yaml"
    path.write_bytes(bundled_path("inventory.yaml").read_bytes())
    return path


def store(inventory: Path) -> FileSecretStore:
    return FileSecretStore(inventory.parent / ".homelab" / "home")


def set_(inventory: Path, name: str, value: bytes | None) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-m", "homelab", "-i", str(inventory), "secret", "set", "--", name]
    words = words if value is not None else ["sh", "-c", 'exec "$@" <&-', "sh", *words]
    return subprocess.run(words, input=value, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("smtp", b"word\xff", "standard input: it is not UTF-8 text"),
        ("smtp", b"wo\0rd", _VALUE),
        ("smtp", b"wo\x1brd", _VALUE),
        ("smtp", "wo\x85rd".encode(), _VALUE),
        ("smtp", b"", "the value is empty"),
        ("smtp", None, "the value is empty"),
        ("gateway-password", b"wo\nrd", "the value has several lines"),
        *((name, b"word", _NAME) for name in ("", "../x", "X", ".hidden", "a b", "a\n", "ä")),
    ],
)
def test_what_nothing_could_use_is_refused(inventory: Path, name: str, value: bytes | None, error: str) -> None:
    done = set_(inventory, name, value)
    assert (done.returncode, error in done.stderr.decode()) == (2, True), done.stderr
    assert b"Traceback" not in done.stderr
    assert not value or value not in done.stderr
    assert store(inventory).names() == []


@pytest.mark.parametrize(
    ("name", "value"), [("smtp", "word"), ("smtp", "it's \"$x\tä"), ("prices-api", PEM), ("gateway-password", "word")]
)
def test_what_is_stored_is_the_value(inventory: Path, name: str, value: str) -> None:
    done = set_(inventory, name, f"{value}\n".encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert store(inventory).secret(name).reveal() == value


def test_piped_statements_that_are_not_utf_8_are_refused(inventory: Path) -> None:
    words = [sys.executable, "-m", "homelab", "-i", str(inventory), "query"]
    done = subprocess.run(words, input=b"select '\xff';", capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        b"Error: Cannot read standard input: it is not UTF-8 text",
    )


def test_password_of_the_exporter_is_quoted() -> None:
    grant = {"database": "postgres", "role": "monitor"}
    text = render(
        "postgres_exporter/postgres-exporter.env.j2", postgres="db", grant=grant, ca_file="/ca", password='a"b\\$c'
    )
    assert "DATA_SOURCE_PASS='a\"b\\$c'\n" in text.decode()
