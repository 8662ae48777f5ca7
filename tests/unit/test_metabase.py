"""The service Metabase: its files, its settings, its first user, and its way to the published files.

No package registry has its jar: no test runs it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from homelab.errors import InputError
from homelab.inventory import load
from homelab.model import Inventory, Secret, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.runtime.convergence import steps_of
from homelab.services.alert_rules import alerts
from homelab.steps import Command, File, SystemdUnit, Tree
from tests.support import FixedSecretStore

FILES = {"metabase.jar": b"the jar", "duckdb.metabase-driver.jar": b"the driver"}
METABASE = {
    "jar": "metabase.jar",
    "jar_sha256": hashlib.sha256(FILES["metabase.jar"]).hexdigest(),
    "driver": "duckdb.metabase-driver.jar",
    "driver_sha256": hashlib.sha256(FILES["duckdb.metabase-driver.jar"]).hexdigest(),
}
BOX = {"vmid": 172, "ip": ".72", "cores": 1, "memory": 2048}
GATEWAY = {"door": {"vmid": 173, "ip": ".73", "cores": 1, "memory": 256, "services": {"gateway": {}}}}
PUBLISHED = "/opt/analytics-platform/pipelines/weather/data/published.duckdb"
COPY = "/var/lib/homelab-published/weather/published.duckdb"
PROGRAM = bundled_path("templates/metabase/setup.py")


def write_jars(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).write_bytes(content)


def apart(**changes: object) -> dict[str, object]:
    """Return Metabase on a container of its own."""
    return {"dashboards": {**BOX, "services": {"metabase": {**METABASE, **changes}}}}


TOGETHER = {"analytics-platform": {"services": {"metabase": METABASE}}}


def inventory(folder: Path, containers: dict[str, object], **more: object) -> Inventory:
    if not (folder / "metabase.jar").exists():
        write_jars(folder)
    key = folder / "key"
    key.write_text("openweather-key")
    key.chmod(0o600)
    overlay = folder / "overlay.yaml"
    weather = {"weather": {"api_key_file": str(key)}}
    overlay.write_text(json.dumps({"containers": containers, "pipelines": weather, **more}))
    return load([bundled_path("inventory.yaml"), overlay])


def steps(found: Inventory, name: str) -> list[Step]:
    (container,) = [each for each in found.containers if each.name == name]
    keys = {each.name: f"ssh-ed25519 AAAA {each.name}" for each in found.containers}
    context = ServiceContext(inventory=found, container=container, secret_store=FixedSecretStore(), host_keys=keys)
    return list(steps_of(context))


def text(found: list[Step], end: str) -> str:
    return next(step.content.decode() for step in found if isinstance(step, File) and step.path.endswith(end))


def first_user(found: list[Step]) -> Command:
    return next(s for s in found if isinstance(s, Command) and s.name == "metabase's admin user and connections")


def test_jars_are_installed_if_they_are_the_named_ones(tmp_path: Path) -> None:
    found = steps(inventory(tmp_path, apart()), "dashboards")
    (jars,) = [step for step in found if isinstance(step, Tree)]
    assert jars.files == FILES
    (unit,) = [step for step in found if isinstance(step, SystemdUnit) and step.unit == "metabase.service"]
    assert jars in unit.triggered_by, "another jar restarts Metabase"


@pytest.mark.parametrize("name", FILES)
def test_other_file_than_the_named_one_is_refused(tmp_path: Path, name: str) -> None:
    found = inventory(tmp_path, apart())
    (tmp_path / name).write_bytes(b"another file")
    with pytest.raises(InputError, match=f"Cannot deploy metabase: .*{name} is not the expected file"):
        steps(found, "dashboards")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"jar": "missing.jar"}, "missing.jar is not a file: download it, or correct the path"),
        ({"driver_sha256": "12ab"}, "must be 64 hexadecimal digits"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, changes: dict[str, object], error: str) -> None:
    with pytest.raises(InputError) as caught:
        inventory(tmp_path, apart(**changes))
    assert error in caught.value.details


def test_distribution_with_an_older_java_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        inventory(tmp_path, {"dashboards": {**apart()["dashboards"], "template": "debian-12"}})  # type: ignore[dict-item]
    assert "Metabase runs on Java 21 or newer, and debian-12 has 17: use another template" in caught.value.details


def test_metadata_are_reached_over_verified_tls_and_secrets_are_in_a_file_of_their_own(tmp_path: Path) -> None:
    found = steps(inventory(tmp_path, apart()), "dashboards")
    settings, store = text(found, "/metabase.env"), FixedSecretStore()
    assert (
        "MB_DB_CONNECTION_URI=jdbc:postgresql://192.168.2.67:5432/metabase_metadata?sslmode=verify-full"
        "&sslrootcert=/etc/ssl/homelab/ca.crt\n" in settings
    )
    assert "MB_JETTY_HOST=192.168.2.72\nMB_JETTY_PORT=3001\n" in settings
    secrets = text(found, "/metabase-secrets.env")
    for name in ("postgres-metabase", "metabase-key"):
        assert store.secret(name).reveal() in secrets
        assert store.secret(name).reveal() not in settings


def test_links_of_metabase_have_the_address_of_the_gateway(tmp_path: Path) -> None:
    assert "MB_SITE_URL" not in text(steps(inventory(tmp_path, apart()), "dashboards"), "/metabase.env")
    found = inventory(tmp_path, {**apart(), **GATEWAY})
    assert "MB_SITE_URL=https://192.168.2.73:13001\n" in text(steps(found, "dashboards"), "/metabase.env")
    rules = text(steps(found, "dashboards"), "/closed-ports.nft")
    assert "3001" in rules, "only the gateway reaches the plain port"


@pytest.mark.parametrize(
    ("containers", "name", "path", "groups"),
    [(apart(), "dashboards", COPY, False), (TOGETHER, "analytics-platform", PUBLISHED, True)],
)
def test_it_reads_published_files_in_place_or_as_copies(
    tmp_path: Path, containers: dict[str, object], name: str, path: str, groups: bool
) -> None:
    found = inventory(tmp_path, containers)
    (connection,) = json.loads(first_user(steps(found, name)).stdin)["connections"]
    assert (connection["name"], connection["engine"]) == ("weather", "duckdb")
    assert connection["details"]["database_file"] == path
    assert connection["details"]["read_only"]
    assert ("SupplementaryGroups=readers-weather\n" in text(steps(found, name), "/metabase.service")) == groups
    units = [step.unit for step in steps(found, "analytics-platform") if isinstance(step, SystemdUnit)]
    assert ("homelab-publications.service" in units) != groups
    assert any(rule.name == "CopyOutdated" for rule in alerts(found))


def test_superset_and_metabase_share_a_container(tmp_path: Path) -> None:
    services = {"metabase": METABASE, "superset": {}}
    found = steps(inventory(tmp_path, {"dashboards": {**BOX, "memory": 4096, "services": services}}), "dashboards")
    assert {"unit metabase.service", "unit superset.service"} <= {step.title for step in found}


def test_password_comes_from_standard_input_and_another_one_is_noticed(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Changed(FixedSecretStore):
        """A secret store with another password."""

        def secret(self, name: str) -> Secret:
            """See SecretStore."""
            return Secret("another value") if name == "metabase-admin" else super().secret(name)

    found = inventory(tmp_path, apart())
    command = first_user(steps(found, "dashboards"))
    password = FixedSecretStore().secret("metabase-admin").reveal()
    assert json.loads(command.stdin)["password"] == password
    assert password not in command.command
    container = found.container_with("metabase")
    changed = ServiceContext(inventory=found, container=container, secret_store=Changed(), host_keys={})
    assert first_user(list(container.services["metabase"].steps(changed))).done != command.done


@dataclass
class FakeMetabase:
    """An API as Metabase documents it, with one token for the first user."""

    users: dict[str, str] = field(default_factory=dict)
    databases: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    port: int = 0

    def answer(self, method: str, path: str, body: Any, session: str) -> tuple[int, Any]:
        self.calls.append(f"{method} {path}")
        if (method, path) == ("GET", "/api/session/properties"):
            return 200, {"has-user-setup": bool(self.users), "setup-token": None if self.users else "token"}
        if (method, path) == ("POST", "/api/setup"):
            if self.users or body["token"] != "token":
                return 403, None
            self.users[body["user"]["email"]] = body["user"]["password"]
            return 200, {"id": "session"}
        if (method, path) == ("POST", "/api/session"):
            right = self.users.get(body["username"]) == body["password"]
            return (200, {"id": "session"}) if right else (401, None)
        if session != "session":
            return 401, None
        if (method, path) == ("GET", "/api/database"):
            return 200, {"data": self.databases}
        if (method, path) == ("POST", "/api/database"):
            self.databases.append({"id": len(self.databases) + 1, **body})
        elif method == "PUT":
            (database,) = [each for each in self.databases if path == f"/api/database/{each['id']}"]
            database |= body
        return (204, None) if method == "DELETE" else (200, {})


@pytest.fixture
def metabase() -> Iterator[FakeMetabase]:
    """A fake of Metabase's API on loopback."""
    fake = FakeMetabase()

    class Handler(BaseHTTPRequestHandler):
        def handle_request(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(content) if content else None
            status, answer = fake.answer(self.command, self.path, body, self.headers["X-Metabase-Session"])
            sent = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PUT = do_DELETE = handle_request

        def log_message(self, *_: object) -> None:
            """Discard the log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


def load_program() -> ModuleType:
    """Return the program, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("tests_metabase_setup", PROGRAM)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_setup(monkeypatch: pytest.MonkeyPatch, fake: FakeMetabase, **changes: object) -> None:
    connection = {"name": "weather", "engine": "duckdb", "details": {"database_file": COPY}}
    wanted = {"email": "admin@example.org", "password": "first", "connections": [connection], **changes}
    description = json.dumps({"address": "127.0.0.1", "port": fake.port, **wanted})
    monkeypatch.setattr(sys, "stdin", StringIO(description))
    load_program().main()


def test_first_user_and_connections_are_created_once(monkeypatch: pytest.MonkeyPatch, metabase: FakeMetabase) -> None:
    for _ in range(2):
        run_setup(monkeypatch, metabase)
    assert metabase.users == {"admin@example.org": "first"}
    assert [(each["name"], each["details"]) for each in metabase.databases] == [("weather", {"database_file": COPY})]
    assert metabase.calls.count("POST /api/setup") == 1
    assert metabase.calls[-1] == "DELETE /api/session"


def test_moved_file_gets_the_same_connection(monkeypatch: pytest.MonkeyPatch, metabase: FakeMetabase) -> None:
    run_setup(monkeypatch, metabase)
    moved = {"name": "weather", "engine": "duckdb", "details": {"database_file": PUBLISHED}}
    run_setup(monkeypatch, metabase, connections=[moved])
    assert [(each["id"], each["details"]) for each in metabase.databases] == [(1, {"database_file": PUBLISHED})]


@pytest.mark.parametrize("users", [{"visitor@example.org": "x"}, {"admin@example.org": "changed in Metabase"}])
def test_other_first_user_and_other_password_are_errors(
    monkeypatch: pytest.MonkeyPatch, metabase: FakeMetabase, users: dict[str, str]
) -> None:
    metabase.users |= users
    with pytest.raises(SystemExit, match=r"Cannot log in to Metabase as admin@example\.org: HTTP 401"):
        run_setup(monkeypatch, metabase)
    assert metabase.users == users
