"""The node's template list and download. Where Proxmox fetches a template, this node builds it with mmdebstrap."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fakepve import FakePve, PveError

from homelab.lab import template_build
from homelab.lab.settings import Lab
from homelab.lab.tasks import log_line

_SOURCE = "mmdebstrap"


class ApplianceNode(FakePve):  # type: ignore[misc]
    """Mixin for container templates, which are kept on the storage `local`."""

    lab: Lab

    def register_templates(self, templates: Iterable[Path]) -> None:
        """Register template files as volumes of the storage."""
        self.templates = {f"local:vztmpl/{file.name}": file for file in templates}
        for file in self.templates.values():
            self._show(file)

    def _show(self, file: Path) -> None:
        self.storages["local"]["volumes"][f"vztmpl/{file.name}"] = {
            "content": "vztmpl",
            "size": file.stat().st_size,
            "ctime": int(file.stat().st_mtime),
            "format": "tzst",
        }

    async def synthesise(self, match: Any, method: str, info: Any, user: str, values: Mapping[str, Any]) -> Any:
        """Answer the template calls; fakepve has already checked parameters and privileges."""
        if match.template == "/nodes/{node}/aplinfo":
            return _rows() if method == "GET" else await self._download(user, values)
        return await super().synthesise(match, method, info, user, values)

    async def _download(self, user: str, v: Mapping[str, Any]) -> str:
        release = next(
            (each for each in template_build.RELEASES if template_build.file_name(each) == v["template"]), None
        )
        if release is None:
            raise PveError(400, "Parameter verification failed.", {"template": "no such template"})
        if v["storage"] != "local":
            raise PveError(500, f"storage '{v['storage']}' does not exist")

        async def body() -> None:
            await self._make(release)

        return str(await self.task(v["node"], "download", v["template"], user, body))

    async def _make(self, release: template_build.Release) -> None:
        volume = f"local:vztmpl/{template_build.file_name(release)}"
        if volume in self.templates:
            log_line("OK, got correct file already, no need to download")
            return
        log_line(f"building {volume} with {_SOURCE}")
        recipe = template_build.recipe(release)
        made = template_build.cached(self.lab.cache, recipe)
        if made is None:
            made = await asyncio.to_thread(template_build.build, self.lab.cache, recipe)
        self.templates[volume] = made
        self._show(made)


def _rows() -> list[dict[str, Any]]:
    """Return the supported releases as rows of Proxmox's template list."""
    return [
        {
            "package": f"{release.alias}-standard",
            "template": template_build.file_name(release),
            "type": "lxc",
            "os": release.alias,
            "section": "system",
            "source": _SOURCE,
            "location": _SOURCE,
            "version": template_build.version(release),
            "architecture": template_build.architecture(),
            "headline": f"Debian {release.suite} (standard)",
            "description": "A small system.",
            "infopage": "https://pve.proxmox.com/wiki/Linux_Container#pct_supported_distributions",
            "maintainer": "homelab",
        }
        for release in template_build.RELEASES
    ]
