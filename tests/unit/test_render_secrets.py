"""Rendering, secrets and pins: strict, private, and reproducible."""

from __future__ import annotations

import shlex
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from homelab.errors import HomelabError, InputError
from homelab.known_hosts import KnownHosts, Pin
from homelab.model import Secret
from homelab.private_files import private_folder, write_private
from homelab.render import Templates, render
from homelab.secrets import FileSecretStore, read_secret


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ values.append(1) }}",
        "{{ render.__globals__ }}",
    ],
)
def test_template_cannot_run_code(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.j2").write_text(f"first\n{text}\n")
    with pytest.raises(HomelabError, match=r"Cannot render services/x\.j2: line 2: "):
        Templates(tmp_path, "services").render("x.j2", values=[], render=render)


def test_missing_value_is_an_error_with_its_line() -> None:
    with pytest.raises(HomelabError) as error:
        render("postgres/pg_hba.conf.j2")
    assert str(error.value).startswith("Cannot render templates/postgres/pg_hba.conf.j2: line 5: 'rows' is undefined")
    assert "{% for" in error.value.details


def test_pg_hba_names_each_address_and_rejects_the_rest() -> None:
    rows = [("airflow_metadata", "airflow_admin", "192.168.2.69"), ("project_data", "analytics", "192.168.2.68")]
    lines = [
        " ".join(line.split())
        for line in render("postgres/pg_hba.conf.j2", rows=rows).decode().splitlines()
        if not line.startswith("#")
    ]
    assert lines == [
        "local all postgres peer",
        "hostssl airflow_metadata airflow_admin 192.168.2.69/32 scram-sha-256",
        "hostssl project_data analytics 192.168.2.68/32 scram-sha-256",
        "host all all 0.0.0.0/0 reject",
        "host all all ::/0 reject",
    ]


@pytest.mark.parametrize("value", ["plain", "with space", "it's", 'a"b', "$(reboot)", "ä"])
def test_shell_reads_quoted_values_unchanged(value: str) -> None:
    import subprocess

    text = render(
        "postgres/client.env.j2", postgres="127.0.0.1", database="d", role="r", password=value, ca_file="/ca"
    ).decode()
    shown = subprocess.run(["sh", "-c", text + '\nprintf %s "$PGPASSWORD"'], capture_output=True, check=True)
    assert shown.stdout.decode() == value


def test_secret_is_generated_once_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    first = FileSecretStore(folder).secret("a").reveal()
    assert FileSecretStore(folder).secret("a").reveal() == first
    assert FileSecretStore(folder).secret("b").reveal() != first
    assert len(first) == 64
    assert FileSecretStore(folder).names() == ["a", "b"]
    assert (mode(folder), mode(folder / "secrets.json")) == (0o700, 0o600)
    assert (folder / ".gitignore").read_text() == "*\n"


def test_many_threads_get_the_same_secret(tmp_path: Path) -> None:
    secret_store, seen = FileSecretStore(tmp_path / "state"), set()
    threads = [threading.Thread(target=lambda: seen.add(secret_store.secret("x").reveal())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1


def test_key_pair_is_generated_once_and_openssh_reads_it(tmp_path: Path) -> None:
    import subprocess

    secret_store = FileSecretStore(tmp_path / "state")
    private, public = secret_store.key_pair("operator")
    assert secret_store.key_pair("operator")[1] == public
    assert private.reveal().startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    path = secret_store.key_path("operator")
    assert mode(path) == 0o600
    derived = subprocess.run(["ssh-keygen", "-y", "-f", str(path)], capture_output=True, text=True, check=True)
    assert derived.stdout.split()[:2] == public.split()[:2]


def test_printed_secret_is_masked() -> None:
    secret = Secret("hunter2")
    assert f"{secret} {secret!r} {[secret]}" == "Secret(***) Secret(***) [Secret(***)]"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "Cannot read the key: No such file"),
        ("", "Cannot use the key: it is empty"),
        ("  \n", "Cannot use the key: it is empty"),
    ],
)
def test_missing_secret_is_an_error_with_its_resolution(tmp_path: Path, content: str | None, error: str) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
        path.chmod(0o600)
    with pytest.raises(InputError, match=error) as caught:
        read_secret(path, "the key", "Write it there.")
    assert caught.value.resolution == "Write it there."


def test_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("hunter2")
    path.chmod(0o640)
    with pytest.raises(InputError, match="Cannot use the key: other users can read it") as error:
        read_secret(path, "the key", "")
    assert error.value.resolution == f"chmod 600 {path}"
    path.chmod(0o600)
    assert read_secret(path, "the key", "").reveal() == "hunter2"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"hunter2\nhunter3\n", "it is not one word"),
        ("│ full-tokenid │ a@pve!b │\n│ value │ hunter2 │".encode(), "it is not one word"),
        ("hunter2".encode("utf-16"), "the file is not UTF-8 text"),
        ("hunter2".encode("utf-16-be"), "the file is not UTF-8 text"),
        (b"hunter2\xff", "it is not one word"),
        (b"hunter2\x1b[2J", "it is not one word"),
    ],
)
def test_malformed_secret_is_refused_and_not_quoted(tmp_path: Path, content: bytes, error: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InputError, match=f"Cannot use the key: {error}") as caught:
        read_secret(path, "the key", "Write it there.")
    assert "hunter" not in f"{caught.value.brief} {caught.value.details} {caught.value.resolution}"


def test_byte_order_mark_of_utf8_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"\xef\xbb\xbfhunter2\r\n")
    path.chmod(0o600)
    assert read_secret(path, "the key", "").reveal() == "hunter2"


def test_damaged_key_is_an_error_that_does_not_quote_it(tmp_path: Path) -> None:
    store = FileSecretStore(tmp_path / "state")
    store.key_path("operator").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n")
    with pytest.raises(HomelabError, match="It is not an SSH private key") as caught:
        store.key_pair("operator")
    assert "hunter" not in f"{caught.value}"


def test_state_folders_are_private_and_others_are_left_alone(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / ".homelab").mkdir(parents=True)
    (project / ".homelab").chmod(0o755)
    project.chmod(0o755)
    private_folder(project / ".homelab" / "home")
    for folder in (project / ".homelab", project / ".homelab" / "home"):
        assert (mode(folder), (folder / ".gitignore").read_text()) == (0o700, "*\n")
    write_private(project / "token", b"x")
    assert (mode(project), sorted(path.name for path in project.iterdir())) == (0o755, [".homelab", "token"])


def test_pins_are_stored_completed_and_removed(tmp_path: Path) -> None:
    hosts = KnownHosts(tmp_path / "state" / "pins.json")
    assert hosts.pins() == {}
    hosts.pin("a", Pin("SHA256:x"))
    hosts.pin("b", Pin("SHA256:y", "ssh-ed25519 AAAA"))
    hosts.pin("a", Pin("SHA256:x", "ssh-ed25519 BBBB"))
    hosts.forget("b")
    assert hosts.pins() == {"a": Pin("SHA256:x", "ssh-ed25519 BBBB")}
    assert mode(tmp_path / "state" / "pins.json") == 0o600


@pytest.mark.parametrize("password", ["plain", "a@b", "a:b", "100%", "a/b", "ä"])
def test_database_url_has_the_same_password(password: str) -> None:
    values: dict[str, Any] = {"password": password, "postgres": "127.0.0.1", "worker": False, "celery": {}}
    superset = render("superset/secrets.env.j2", key="k", **values).decode()
    options = {"version": "3.3"}
    airflow = render(
        "airflow/secrets.env.j2", options=options, fernet="f", secret_key="s", jwt_secret="j", **values
    ).decode()
    for text, name in ((superset, "HOMELAB_METADATA"), (airflow, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")):
        (word,) = [shlex.split(line)[0] for line in text.splitlines() if line.startswith(f"{name}=")]
        url = urlsplit(word.partition("=")[2])
        assert (unquote(url.password or ""), url.hostname) == (password, "127.0.0.1")
