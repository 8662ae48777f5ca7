"""The state of this machine that a lab changes, and has to restore."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from homelab.lab import Lab
from homelab.lab.settings import BRIDGES


def machine_state(lab: Lab) -> dict[str, list[str]]:
    """Return its parts by name, without those of other labs, which may start and end at the same time."""
    others = re.compile(rf"{BRIDGES}(?!{lab.bridge.removeprefix(BRIDGES)})|homelab_(?!{lab.name})")

    def shown(*argv: str) -> list[str]:
        text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        return sorted(line.strip() for line in text.splitlines() if not others.search(line))

    folder = str(lab.state_dir)
    paths = (lab.state_dir, Path("/run/lxc/lock") / lab.lxcpath.relative_to("/"))
    return {
        "links": [line.split("@")[0].split()[0] for line in shown("ip", "-br", "link")],
        "addresses": [line for line in shown("ip", "-o", "-br", "addr") if BRIDGES in line],
        "routes": shown("ip", "route", "show", "table", "all"),
        "rules": [line for table in shown("nft", "list", "tables") for line in shown("nft", "list", *table.split())],
        "iptables": [
            line
            for line in (shown("iptables-save") if shutil.which("iptables-save") else ())
            if not line.startswith("#")
        ],
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if folder in line],
        "processes": [line for line in _command_lines() if folder in line or f'"name": "{lab.name}"' in line],
        "cgroups": sorted(map(str, Path("/sys/fs/cgroup").glob(f"**/homelab-{lab.name}-*"))),
        "state": [str(path) for path in paths if path.exists()],
    }


def _command_lines() -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.append((process / "cmdline").read_text(errors="replace").replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
