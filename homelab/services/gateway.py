"""The service gateway: Caddy serves all web UIs over https at one address, with a start page.

The containers close the web UIs' own ports to the LAN: see closed_ports.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from homelab.errors import InputError
from homelab.host import Result
from homelab.model import Endpoint, Health, Inventory, ServiceContext, Step
from homelab.model.options import Option
from homelab.model.web_uis import WebUi, published_names, published_web_uis
from homelab.paths import bundled_path
from homelab.render import render
from homelab.services.caddy_config import HTTP, HTTPS, Gateway, caddy_config, health_path
from homelab.services.lab_certificates import CA_FILE, server_certificate
from homelab.services.monitoring import SETTINGS, Daemon, DaemonService
from homelab.services.password_stamp import password_stamp
from homelab.steps import Directory, File, Packages, SystemdUnit, Tree

_DAEMON = Daemon("caddy", HTTPS, capabilities=("CAP_NET_BIND_SERVICE",))
_FOLDER = f"{SETTINGS}/gateway"
_PAGES = f"{_FOLDER}/pages"
_CONFIG = f"{_FOLDER}/caddy.json"
LOGIN = "gateway-password"  # the secret with the password of the web UIs that have no login
USER = "homelab"
_LONGEST = 72  # bytes of a password that bcrypt reads
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebGateway(DaemonService):
    """All web UIs over https at one address, with a start page; by Caddy."""

    daemon: ClassVar[Daemon] = _DAEMON
    minimum_memory: ClassVar[int] = 64
    publishes_web_uis: ClassVar[bool] = True

    domain: Annotated[
        str | None,
        Option(
            "Domain of the names of the web UIs, such as airflow.home.example; by default, each has a port.",
            pattern=rf"({_LABEL}\.)+(?![0-9]+$){_LABEL}",
            expected="a domain of your own in lower case, such as home.example",
            examples=("home.example",),
        ),
    ] = None

    @property
    def web_domain(self) -> str:
        """See Service."""
        return self.domain or ""

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the start page, and the port that redirects to it; each web UI has a port of its own, too."""
        return (
            Endpoint(
                name="start",
                port=HTTPS,
                description="start page",
                audience="lan",
                protocol="http",
                tls=True,
                health_path="/",
                web_ui="Start page",
            ),
            Endpoint(name="http", port=HTTP, description="redirect to https", audience="lan"),
        )

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, certificate, pages, configuration and unit."""
        uis = published_web_uis(context.inventory.containers)
        sandbox = _DAEMON.sandbox
        names = published_names(context.inventory.containers)
        certificate = server_certificate(context, "gateway", sandbox.user, names)
        content = caddy_config(_gateway(context, certificate.path), uis)
        config = File(
            _CONFIG, content, group=sandbox.user, mode=0o640, secret=True, validate=free_ports(_ports(uis), "caddy")
        )
        folder, drop_in = _DAEMON.drop_in(["run", "--config", _CONFIG])
        return (
            *sandbox.account(),
            certificate,
            Directory(SETTINGS),
            Directory(_FOLDER),
            Tree(_PAGES, _pages(context, uis)),
            config,
            folder,
            drop_in,
            Packages(["caddy", "python3"]),
            SystemdUnit(_DAEMON.unit, triggered_by=[certificate, config, drop_in]),
        )

    def health_probes(self) -> Sequence[str]:
        """Return a request for the start page."""
        return (_DAEMON.request("/", ca_file=CA_FILE),)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it answers with its certificate."""
        return Health(answers[0].ok, "answers over https" if answers[0].ok else "does not answer")


def _ports(uis: Sequence[WebUi]) -> Sequence[int]:
    return (HTTP, HTTPS, *(ui.port for ui in uis if not ui.domain))


def free_ports(ports: Sequence[int], program: str) -> str:
    """Return shell text that fails if another process than the program has one of the ports, with its name.

    A single taken port would end Caddy, and with it all web UIs.
    """
    return f"""taken=
for port in {" ".join(map(str, ports))}; do
    owner=$(ss -Hltnp "sport = :$port" | grep -vE '"{program}"|[[:space:]](127[.]|[[]::1])' || true)
    [ -z "$owner" ] || taken="$taken
port $port: Address already in use: ${{owner##*users:}}"
done
[ -z "$taken" ] || {{ echo "$taken" >&2; exit 1; }}"""


def _gateway(context: ServiceContext, certificate: str) -> Gateway:
    return Gateway(
        address=str(context.container.address),
        name=context.container.name,
        data=_DAEMON.sandbox.writable[0],
        certificate=certificate,
        ca_file=CA_FILE,
        pages=_PAGES,
        user=USER,
        password_hash=_password_hash(context),
    )


def _password_hash(context: ServiceContext) -> str:
    """Return the bcrypt hash of the password, the same at each deploy. Raises InputError for a long password."""
    import bcrypt  # a slow import

    password = context.secret_store.secret(LOGIN).reveal().encode()
    if len(password) > _LONGEST:
        raise InputError(
            f"Cannot use the secret {LOGIN}: it is longer than {_LONGEST} bytes",
            "The gateway would compare only its beginning.",
            f"Set a shorter one with `homelab secret set {LOGIN}`.",
        )
    salt = base64.b64encode(password_stamp(context, LOGIN)[:16]).decode().rstrip("=")
    # The alphabet of bcrypt differs from that of Base64, and its last character holds two bits only.
    standard = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    own = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return bcrypt.hashpw(password, f"$2b$10${salt.translate(str.maketrans(standard, own))}".encode()).decode()


@dataclass(frozen=True, slots=True)
class _Card:
    """A link of the start page: title, address, web UI, and the path of the web UI's health."""

    title: str
    url: str
    ui: WebUi
    health: str


def _cards(inventory: Inventory, uis: Sequence[WebUi]) -> Iterator[_Card]:
    for ui in uis:
        pages = ui.container.services[ui.service].web_pages(inventory) or {ui.endpoint.web_ui: "/"}
        yield from (_Card(title, f"{ui.url}{path}", ui, health_path(ui)) for title, path in pages.items())


def _pages(context: ServiceContext, uis: Sequence[WebUi]) -> dict[str, bytes]:
    """Return the files of the start page."""
    static: Path = bundled_path("templates/gateway/static")
    page = render(
        "gateway/index.html.j2",
        lab=context.inventory.lab,
        cards=list(_cards(context.inventory, uis)),
        login=LOGIN,
        user=USER,
    )
    return {"index.html": page, **{path.name: path.read_bytes() for path in sorted(static.iterdir())}}
