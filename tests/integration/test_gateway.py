"""The gateway's configuration in a real Caddy: https, a login where a web UI has none, and the start page."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import urlsplit

import bcrypt
import pytest
import requests
from requests.adapters import HTTPAdapter

from homelab.certificates import Authority, Names
from homelab.inventory import load
from homelab.model import Container, Endpoint, ServiceContext
from homelab.model.web_uis import OFFSET, WebUi
from homelab.paths import bundled_path
from homelab.services.caddy_config import Gateway, caddy_config, health_path
from homelab.services.gateway import LOGIN, USER, free_ports
from homelab.steps import File, Tree
from tests.integration.waiting import until_started
from tests.scripts import ROOT
from tests.support import FixedSecretStore, LocalHost

CADDY = shutil.which("caddy") or shutil.which("caddy", path=ROOT / ".venv" / "promtool")
PASSWORD = "secret-of-the-door"
pytestmark = pytest.mark.skipif(CADDY is None, reason="caddy is missing: run `./bootstrap --test`")


class Echo(BaseHTTPRequestHandler):
    """A web UI that answers with the headers of the request; its health is good. `requests` has all of them.

    It offers to keep a connection, and ends it when its second request arrives: a busy server does so whose limit of
    idle connections is over in the same moment.
    """

    protocol_version = "HTTP/1.1"
    requests: ClassVar[list[str]] = []

    def handle(self) -> None:
        """Answer one request, and wait for the next one."""
        self.handle_one_request()
        self.rfile.read(1)

    def do_GET(self) -> None:
        """Answer."""
        self.requests.append(f"{self.command} {self.path}")
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = f"{self.path}\n{self.headers}".encode()
        self.send_response(200)
        self.send_header("Set-Cookie", "session=x; HttpOnly")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


def free_port(below: int = 55_000) -> int:
    """Return a free port with a free counterpart on the gateway."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = int(server.getsockname()[1])
        if port < below:
            return port


@dataclass(frozen=True)
class Door:
    """A running gateway."""

    session: requests.Session
    start: str
    http: str
    open: WebUi  # without a login of its own
    closed: WebUi  # with one
    silent: WebUi  # that does not answer

    def get(self, url: str, **options: object) -> requests.Response:
        """Send a request, without following redirects."""
        return self.session.get(url, timeout=10, allow_redirects=False, **options)  # type: ignore[arg-type]


def web_ui(title: str, port: int, *credentials: str, domain: str = "") -> WebUi:
    container = load([bundled_path("inventory.yaml")]).containers[0]
    local: Container = replace(container, shape=replace(container.shape, address=IPv4Interface("127.0.0.1/8")))
    endpoint = Endpoint(
        name="web",
        port=port,
        description=title,
        audience="lan",
        protocol="http",
        health_path="/-/ready",
        web_ui=title,
        credentials=credentials,
    )
    return WebUi(title.lower(), local, endpoint, local, domain)


@contextmanager
def backend() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Echo)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with opened(tmp_path_factory.mktemp("gateway")) as door:
        yield door


DOMAIN = "home.example"


@pytest.fixture(scope="module")
def named_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A gateway with names."""
    with opened(tmp_path_factory.mktemp("gateway"), DOMAIN) as door:
        yield door


@contextmanager
def opened(folder: Path, domain: str = "") -> Iterator[Door]:
    hosts = {domain, *(f"{name}.{domain}" for name in ("open", "closed", "silent"))} if domain else set[str]()
    names = Names.of({"door", *hosts}, {IPv4Address("127.0.0.1")})
    authority = Authority.create("x", Names.of({"door", domain} - {""}, {IPv4Address("127.0.0.1")}))
    (folder / "ca.crt").write_text(authority.certificate)
    (folder / "gateway.pem").write_text(authority.issue(names))
    (folder / "index.html").write_text("the start page")
    with backend() as first, backend() as second:
        uis = [
            web_ui("Open", first, domain=domain),
            web_ui("Closed", second, "closed-admin", domain=domain),
            web_ui("Silent", free_port(), "x", domain=domain),
        ]
        gateway = Gateway(
            address="127.0.0.1",
            name="door",
            data=str(folder / "data"),
            certificate=str(folder / "gateway.pem"),
            ca_file=str(folder / "ca.crt"),
            pages=str(folder),
            user=USER,
            password_hash=bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode(),
            http=free_port(),
            https=free_port(),
        )
        (folder / "caddy.json").write_bytes(caddy_config(gateway, uis))
        session = requests.Session()
        session.trust_env, session.verify = False, str(folder / "ca.crt")
        start, http = f"https://127.0.0.1:{gateway.https}", f"http://127.0.0.1:{gateway.http}"
        process = subprocess.Popen(
            [str(CADDY), "run", "--config", str(folder / "caddy.json")], stderr=subprocess.DEVNULL
        )
        try:
            until_started(process, lambda: socket.create_connection(("127.0.0.1", gateway.https), 1).close())
            yield Door(session, start, http, *uis)
        finally:
            process.terminate()
            process.wait(20)


def test_web_ui_with_a_login_is_served_over_https_as_it_is(door: Door) -> None:
    answer = door.get(f"{door.closed.url}/page?x=1")
    assert answer.status_code == 200
    assert answer.text.splitlines()[0] == "/page?x=1"
    assert "X-Forwarded-Proto: https" in answer.text
    assert answer.headers["Set-Cookie"] == "session=x; HttpOnly; Secure"
    assert f"Host: 127.0.0.1:{door.closed.endpoint.port + OFFSET}" in answer.text


def test_connection_that_a_web_ui_ends_loses_no_request(door: Door) -> None:
    answers = [door.session.post(door.closed.url, data="x", timeout=10) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 5


def test_web_ui_without_a_login_gets_one(door: Door) -> None:
    url = door.open.url
    assert door.get(url).status_code == 401
    assert door.get(url, auth=(USER, "wrong")).status_code == 401
    answer = door.get(url, auth=(USER, PASSWORD))
    assert answer.status_code == 200
    assert "Authorization" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/-/ready",
        "/-/READY",
        "/-/ready?x=1",
        "/page/..%2f-/ready",
        "/-/ready/..%2f..%2fpage",
        "//-/ready",
        "/;/-/ready",
    ],
)
def test_no_path_avoids_the_login(door: Door, path: str) -> None:
    request = requests.Request("GET", door.open.url).prepare()
    request.url = f"{door.open.url}{path}"  # as it is
    request.headers["X-Original-URL"] = request.headers["X-Forwarded-Uri"] = "/-/ready"
    request.headers["Host"] = "127.0.0.1"
    assert door.session.send(request, timeout=10, allow_redirects=False).status_code == 401


def test_http_leads_to_https_on_each_port(door: Door) -> None:
    found = [door.get(url) for url in (f"{door.http}/a?b", door.closed.url.replace("https", "http") + "/a?b")]
    assert [each.status_code for each in found] == [308, 308]
    assert found[0].headers["Location"] == "https://127.0.0.1/a?b"
    assert found[1].headers["Location"] == f"{door.closed.url}/a?b"


def test_start_page_shows_the_health_of_each_web_ui(door: Door) -> None:
    page = door.get(door.start)
    assert page.text == "the start page"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    states = {ui.service: door.get(f"{door.start}{health_path(ui)}") for ui in (door.open, door.closed, door.silent)}
    assert {name: state.status_code for name, state in states.items()} == {"open": 200, "closed": 200, "silent": 502}
    assert {state.text for state in states.values()} == {""}


def test_web_ui_that_does_not_answer_is_named(door: Door) -> None:
    answer = door.get(door.silent.url)
    assert answer.status_code == 502
    assert answer.text == f"Silent on {door.silent.container.name} does not answer.\nSee `homelab status`.\n"
    assert door.get(door.closed.url).status_code == 200
    refused = door.get(door.open.url)
    assert (refused.status_code, refused.text) == (401, "")
    assert refused.headers["WWW-Authenticate"].startswith("Basic")


class Named(HTTPAdapter):
    """Resolves each name of the gateway to its address, as the name server of a home does."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def send(self, request: requests.PreparedRequest, *words: Any, **options: Any) -> requests.Response:
        """Send the request to the gateway, with the name in `Host` and in the TLS handshake."""
        name = urlsplit(str(request.url)).hostname
        self.poolmanager.connection_pool_kw |= {"server_hostname": name, "assert_hostname": name}
        self.poolmanager.clear()
        request.headers["Host"] = str(name)
        request.url = str(request.url).replace(f"https://{name}", f"https://127.0.0.1:{self._port}", 1)
        return super().send(request, *words, **options)


def test_each_web_ui_is_served_at_its_name(named_door: Door) -> None:
    door = named_door
    door.session.mount(f"https://{DOMAIN}", adapter := Named(int(door.start.rpartition(":")[2])))
    for ui in (door.open, door.closed, door.silent):
        door.session.mount(ui.url, adapter)
    assert door.get(f"https://{DOMAIN}/").text == "the start page"
    assert door.get(f"{door.closed.url}/page?x=1").text.splitlines()[0] == "/page?x=1"
    assert f"Host: closed.{DOMAIN}" in door.get(door.closed.url).text
    assert door.get(door.open.url).status_code == 401
    assert door.get(door.open.url, auth=(USER, PASSWORD)).status_code == 200
    silent = door.get(door.silent.url)
    assert (silent.status_code, silent.text.splitlines()[0]) == (
        502,
        f"Silent on {door.silent.container.name} does not answer.",
    )
    states = [door.get(f"https://{DOMAIN}{health_path(ui)}").status_code for ui in (door.open, door.silent)]
    assert states == [200, 502]
    # At the address, there is the start page only.
    assert door.get(f"{door.start}/page").status_code == 404


def test_http_leads_to_the_name(named_door: Door) -> None:
    answer = named_door.get(f"{named_door.http}/a?b", headers={"Host": f"closed.{DOMAIN}"})
    assert answer.headers["Location"] == f"https://closed.{DOMAIN}/a?b"


def test_health_of_a_web_ui_lets_nothing_else_pass(door: Door) -> None:
    url = f"{door.start}{health_path(door.open)}"
    Echo.requests.clear()
    assert door.get(f"{url}?action=delete").status_code == 200
    assert door.session.post(url, data="x", timeout=10).status_code == 404
    assert Echo.requests == ["GET /-/ready"]


def test_free_ports_are_no_error_and_a_taken_one_names_its_process() -> None:
    free = free_port()
    with socket.create_server(("", 0)) as other, socket.create_server(("127.0.0.1", 0)) as local:
        taken, inside = (int(each.getsockname()[1]) for each in (other, local))
        done = LocalHost().run(free_ports([free, taken, inside], "caddy"))
        own = LocalHost().run(free_ports([taken], Path("/proc/self/comm").read_text().strip()))
    assert done.stderr.decode().strip().startswith(f"port {taken}: Address already in use: ((")
    assert len(done.stderr.decode().split("port")) == 2
    assert (done.ok, own.ok) == (False, True)
    assert LocalHost().run(free_ports([free], "caddy")).ok


def context(folder: Path) -> ServiceContext:
    overlay = folder / "overlay.yaml"
    overlay.write_text(
        "containers: {door: {vmid: 171, ip: .71, cores: 1, memory: 256, services: {gateway: {}}}, "
        "observability: {vmid: 170, ip: .70, cores: 1, memory: 512, services: {prometheus: {}, alertmanager: {}}}}"
    )
    found = load([bundled_path("inventory.yaml"), overlay])
    container = found.container_with("gateway")
    return ServiceContext(inventory=found, container=container, secret_store=FixedSecretStore(), host_keys={})


def test_configuration_has_a_server_for_each_web_ui_and_a_hash_of_the_password(tmp_path: Path) -> None:
    found = context(tmp_path)
    steps = found.container.services["gateway"].steps(found)
    (config,) = [step for step in steps if isinstance(step, File) and step.path.endswith("caddy.json")]
    text = config.content.decode()
    for listen in (":80", ":443", ":18080", ":19090", ":19093"):
        assert f'"192.168.2.71{listen}"' in text
    password = FixedSecretStore().secret(LOGIN).reveal()
    assert password not in text
    stored = text.partition('"password": "')[2].partition('"')[0]
    assert bcrypt.checkpw(password.encode(), stored.encode())
    (tree,) = [step for step in steps if isinstance(step, Tree)]
    page = tree.files["index.html"].decode()
    assert 'href="https://192.168.2.71:18080/"' in page
    assert set(tree.files) == {"index.html", "style.css", "health.js"}
