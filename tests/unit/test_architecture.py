"""The rules of the house: imports run one way down, each library has one importer, and the guard stands."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import homelab

PACKAGE = Path(homelab.__file__).parent
ROOT = PACKAGE.parent

# From the top down; those on one line do not know each other.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"commands"},
    {"runtime"},
    {"dev"},
    {"inventory", "proxmox", "ssh", "lab"},
    {"services"},
    {"plan", "steps", "render", "secrets", "known_hosts"},
    {"progress", "paths", "private_files"},
    {"model"},
    {"distributions", "roles"},
    {"host"},
    {"errors"},
]
# What a layer may know beside those below it.
BESIDE = set[tuple[str, str]]()
ONE_IMPORTER = {"proxmoxer": "proxmox", "paramiko": "ssh", "jinja2": "render", "typer": "cli", "fakepve": "lab"}


@cache
def modules(path: Path) -> list[str]:
    """The modules that a file imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif isinstance(node, ast.Import):
            found += [name.name for name in node.names]
    return found


def imports() -> Iterator[tuple[str, str, str]]:
    """(file, part of the package it belongs to, module that it imports)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        for module in modules(path):
            yield str(relative), relative.parts[0].removesuffix(".py"), module


def test_imports_run_downwards() -> None:
    level = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    faults = []
    for file, part, module in imports():
        if not module.startswith("homelab.") or part == "__init__":
            continue
        target = module.split(".")[1]
        if target != part and level[target] <= level[part] and (part, target) not in BESIDE:
            faults.append(f"{file} imports {module}")
    assert faults == []


def test_each_library_has_one_importer() -> None:
    faults = [
        f"{file} imports {module}"
        for file, part, module in imports()
        if ONE_IMPORTER.get(module.split(".")[0], part) != part
    ]
    assert faults == []


def test_the_pipeline_and_homelab_do_not_know_each_other() -> None:
    for path in (ROOT / "pipeline").rglob("*.py"):
        assert "homelab" not in {name.split(".")[0] for name in modules(path)}, path
    assert [f for f, _, module in imports() if module.split(".")[0] == "pipeline"] == []


def test_modules_are_small() -> None:
    sizes = {str(p.relative_to(PACKAGE)): len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    assert {name: size for name, size in sizes.items() if size > 300} == {}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['homelab', '--help']\nfrom homelab.cli import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        "print([m for m in ('paramiko', 'proxmoxer', 'requests', 'jinja2', 'yaml', 'cryptography')"
        " if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("address", ["192.168.2.67", "10.99.3.1", "8.8.8.8", "192.168.2.10"])
def test_the_guard_refuses(address: str) -> None:
    # By its words: a worker of pytest's has the guard's class a second time, from Python's start.
    with socket.socket() as sock, pytest.raises(PermissionError, match="the tests' guard refuses"):
        sock.connect((address, 22))


def test_the_guard_stands_in_programs_that_tests_start() -> None:
    code = "import socket; socket.create_connection(('192.168.2.67', 22), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "the tests' guard refuses" in done.stderr
