"""The list of templates, and their download: what Proxmox fetches, this node makes with mmdebstrap."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fakepve import FakePve, PveError

from homelab.lab import template_build
from homelab.lab.settings import Lab
from homelab.lab.tasks import say

_SOURCE = "mmdebstrap"


class ApplianceNode(FakePve):  # type: ignore[misc]
    """The part of a node that has templates. Its storage `local` is the one that takes them."""

    lab: Lab

    def hold(self, templates: Iterable[Path]) -> None:
        """Have these templates on the storage."""
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
        """What fakepve would make up, its parameters and privileges checked already."""
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
            say("OK, got correct file already, no need to download")
            return
        say(f"making {volume} with {_SOURCE}")
        recipe = template_build.recipe(release)
        made = template_build.cached(self.lab.cache, recipe)
        if made is None:
            made = await asyncio.to_thread(template_build.build, self.lab.cache, recipe)
        self.templates[volume] = made
        self._show(made)


def _rows() -> list[dict[str, Any]]:
    """The releases as Proxmox lists its templates."""
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
