"""Template list and download as in PVE::API2::Nodes and PVE::Tools; fakepve's own list is empty."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from fakepve import FakePve, PveError, TaskError

SOURCE = "http://download.proxmox.com/images"
_MIB = 1 << 20
_LINE = 32  # MiB per line of wget's output


def appliance(system: str, version: str, headline: str, architecture: str = "amd64") -> dict[str, Any]:
    """Return a row of GET /nodes/{node}/aplinfo for a system such as `debian-12`."""
    package = f"{system}-standard"
    template = f"{package}_{version}_{architecture}.tar.zst"
    return {
        "package": package,
        "version": version,
        "type": "lxc",
        "os": system,
        "section": "system",
        "maintainer": "Proxmox Support Team <support@proxmox.com>",
        "architecture": architecture,
        "location": f"{SOURCE}/system/{template}",
        "template": template,
        "source": SOURCE,
        "md5sum": hashlib.md5(template.encode(), usedforsecurity=False).hexdigest(),
        "sha512sum": hashlib.sha512(template.encode()).hexdigest(),
        "infopage": "https://pve.proxmox.com/wiki/Linux_Container#pct_supported_distributions",
        "headline": headline,
        "description": "A small system including all standard packages.",
    }


def appliances() -> list[dict[str, Any]]:
    """Return a part of the list, unsorted as on Proxmox."""
    return [
        appliance("debian-13", "13.6-1", "Debian 13 Trixie (standard)"),
        appliance("debian-12", "12.12-1", "Debian 12 Bookworm (standard)"),
        appliance("debian-12", "12.2-1", "Debian 12 Bookworm (standard)"),
        appliance("debian-12", "12.13-1", "Debian 12 Bookworm (standard)", "arm64"),
        appliance("ubuntu-24.04", "24.04-2", "Ubuntu 24.04 Noble (standard)"),
        appliance("ubuntu-24.10", "24.10-1", "Ubuntu 24.10 Oracular (standard)"),
        appliance("debian-12", "18.0-1", "TurnKey Core")
        | {
            "package": "turnkey-core",
            "section": "turnkeylinux",
            "template": "debian-12-turnkey-core_18.0-1_amd64.tar.gz",
        },
    ]


class Appliances(FakePve):  # type: ignore[misc]
    """Mixin that lists templates and downloads them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.appliances = appliances()
        self.machine = "x86_64"
        self.internet = True
        self.breaking = 0  # number of downloads that fail half-way
        self.download_secs = 4.0  # for the whole file, before the time scale
        self.download_size = 126515062  # bytes

    def _routes_appliances(self) -> list[tuple[str, str, Any]]:
        return [
            ("GET", "/nodes/{node}/aplinfo", self._aplinfo),
            ("POST", "/nodes/{node}/aplinfo", self._apl_download),
            ("GET", "/nodes/{node}/status", self._node_status),
        ]

    async def _aplinfo(self, v: Mapping[str, Any], user: str) -> list[dict[str, Any]]:
        return self.appliances

    async def _node_status(self, v: Mapping[str, Any], user: str) -> Any:
        kernel = {
            "sysname": "Linux",
            "release": "6.14.11-4-pve",
            "version": "#1 SMP PREEMPT_DYNAMIC PMX",
            "machine": self.machine,
        }
        return self._complete("/nodes/{node}/status", {"current-kernel": kernel}, node=v["node"])

    async def _apl_download(self, v: Mapping[str, Any], user: str) -> str:
        storage, template = v["storage"], v["template"]
        row = next((row for row in self.appliances if row["template"] == template), None)
        if row is None:
            raise PveError(400, "Parameter verification failed.", {"template": "no such template"})
        store = self._active_store(storage, v["node"])
        if "vztmpl" not in store["content"].split(","):
            raise PveError(500, f"storage '{storage}' does not support templates")

        async def body() -> None:
            record = next(t for t in reversed(self.tasklog) if (t["type"], t["id"]) == ("download", template))
            await self._fetch_appliance(storage, row, record["log"])

        return str(await self.task(v["node"], "download", template, user, body))

    async def _fetch_appliance(self, storage: str, row: Mapping[str, Any], log: list[str]) -> None:
        """Run the download task. Proxmox delays wget's newest line, to use it in the error."""
        url, file = row["location"], f"/var/lib/vz/template/cache/{row['template']}"
        log.append(f"downloading {url} to {file}")
        if f"vztmpl/{row['template']}" in self.storages[storage].get("volumes", {}):
            log.append("calculating checksum of existing file...OK, got correct file already, no need to download")
            return
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        log.append(f"--{now}--  {url}")
        if not self.internet:
            log.append(
                "Resolving download.proxmox.com (download.proxmox.com)... failed: Temporary failure in name resolution."
            )
            raise TaskError("download failed: wget: unable to resolve host address 'download.proxmox.com'")
        log += [
            "Resolving download.proxmox.com (download.proxmox.com)... 203.0.113.10",
            "Connecting to download.proxmox.com (download.proxmox.com)|203.0.113.10|:80... connected.",
            "HTTP request sent, awaiting response... 200 OK",
            f"Length: {self.download_size} ({self.download_size // _MIB}M) [application/octet-stream]",
            f"Saving to: '{file}.tmp_dwnl.4711'",
        ]
        held = ""
        for start in range(0, self.download_size, _LINE * _MIB):
            await self.pause(self.download_secs * _LINE * _MIB / self.download_size)
            done = min(start + _LINE * _MIB, self.download_size)
            log += [held] if held else []
            if self.breaking and 2 * done >= self.download_size:
                self.breaking -= 1
                raise TaskError("download failed: exit code 4")
            held = (
                f"{start >> 10:6}K ........ ........ ........ ........ {100 * done // self.download_size:2}% 61.0M 1s"
            )
        self.store_file(storage, row["template"], self.download_size, content="vztmpl")
        log += [
            held,
            f"{now} (69.5 MB/s) - '{file}.tmp_dwnl.4711' saved [{self.download_size}/{self.download_size}]",
            "calculating checksum...OK, checksum verified",
            f"download of '{url}' to '{file}' finished",
        ]
