"""The programs of Prometheus that Debian and Ubuntu package: their units, and requests to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import ClassVar

from homelab.model import Service, ServiceContext, Step
from homelab.model.web_uis import published_url
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.steps import Directory, File, Packages, SystemdUnit

SETTINGS = "/etc/homelab"
# Without a proxy of the environment. `ss` names the address on which the program really listens.
_REQUEST = """import ssl, sys, urllib.request as r
url, *ca = sys.argv[1:]
more = [r.HTTPSHandler(context=ssl.create_default_context(cafile=ca[0]))] if ca else []
sys.stdout.buffer.write(r.build_opener(r.ProxyHandler({}), *more).open(url, timeout=5).read())"""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A program of Prometheus with its port.

    On Debian 12, Debian 13 and Ubuntu 24.04, `package` is the name of the package, of the unit and of the program. The
    packages' users are shared: each program gets a user of its own, named as its folder.
    """

    package: str
    port: int
    environment: Sequence[str] = ()
    capabilities: Sequence[str] = ()

    @property
    def unit(self) -> str:
        """The unit of the package."""
        return f"{self.package}.service"

    @property
    def sandbox(self) -> Sandbox:
        """The limits of the program."""
        user = f"homelab-{self.package.removeprefix('prometheus-')}"
        return Sandbox(user, (f"/var/lib/{user}",), self.environment, capabilities=self.capabilities)

    def steps(
        self,
        context: ServiceContext,
        arguments: Sequence[str],
        files: Sequence[File] = (),
        others: Sequence[Step] = (),
        packages: Sequence[str] = (),
    ) -> Sequence[Step]:
        """Return user, files, unit and package; a change of `files` restarts the program, one of `others` does not.

        The package comes last: its installation starts the unit, which would listen on all addresses otherwise.
        """
        listen = f"--web.listen-address={context.container.address}:{self.port}"
        folder, drop_in = self.drop_in([listen, *arguments])
        return (
            *self.sandbox.account(),
            Directory(SETTINGS),
            *others,
            *files,
            folder,
            drop_in,
            Packages([self.package, "python3", *packages]),
            SystemdUnit(self.unit, triggered_by=[drop_in, *files]),
        )

    def drop_in(self, arguments: Sequence[str], program: str = "", unit: str = "") -> tuple[Directory, File]:
        """Return the steps for the drop-in that runs the program within its limits, for another program or unit, too.

        They come before the package, so that the program never runs without them.
        """
        folder = Directory(f"/etc/systemd/system/{unit or self.unit}.d")
        text = render(
            "monitoring/daemon.service.conf.j2",
            program=program or f"/usr/bin/{self.package}",
            arguments=arguments,
            sandbox=self.sandbox,
        )
        return folder, File(f"{folder.path}/homelab.conf", text)

    def request(self, path: str, only: str = "", ca_file: str = "") -> str:
        """Return shell text that prints the program's answer to a request, or its lines that match `only`.

        Without such a line, it fails. With `ca_file`, the request is sent over TLS, verified by this CA.
        """
        listens = f"$(ss -Hltn {quote(f'sport = :{self.port}')} | awk '{{print $4; exit}}')"
        scheme, more = ("https://", f" {quote(ca_file)}") if ca_file else ("http://", "")
        text = f'python3 -c {quote(_REQUEST)} {scheme}"{listens}"{quote(path)}{more}'
        return f"{text} | grep -E {quote(only)}" if only else text


def external_url(context: ServiceContext, service: str) -> Sequence[str]:
    """Return the arguments for the links to a program, if the gateway serves it."""
    url = published_url(context.inventory.containers, service)
    return (f"--web.external-url={url}/", "--web.route-prefix=/") if url else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonService(Service):
    """A service that is one such program."""

    daemon: ClassVar[Daemon]

    def data_folders(self) -> Sequence[str]:
        """Return the program's folder; that of an exporter stays empty."""
        return self.daemon.sandbox.writable

    def units(self) -> Sequence[str]:
        """Return the program's unit."""
        return (self.daemon.unit,)
