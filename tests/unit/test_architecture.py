"""The architecture: imports run downwards, each library has one importer, names are unique, the network guard works."""

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

# From top to bottom; packages on one line do not import each other.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"commands"},
    {"api", "testing"},
    {"runtime"},
    {"dev", "kubernetes"},
    {"inventory", "proxmox", "ssh", "lab"},
    {"services"},
    {"pipelines"},
    {"sandbox"},
    {"plan", "steps", "render", "secrets", "known_hosts", "code_approvals", "pipeline_contract"},
    {"progress", "paths", "private_files", "local_files"},
    {"model"},
    {"distributions", "roles", "certificates"},
    {"host", "terminal", "shortening"},
    {"errors"},
]
ONE_IMPORTER = {"proxmoxer": "proxmox", "paramiko": "ssh", "jinja2": "render", "typer": "cli", "fakepve": "lab"}
# The same idea in two layers may have one name: a verb and its command; the API's client and the lab's side of it.
PAIRS = [{"cli", "commands"}, {"proxmox", "lab"}]
CONVENTIONAL = {"__init__", "errors"}


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
    upwards = []
    for file, part, module in imports():
        if not module.startswith("homelab.") or part == "__init__":
            continue
        target = module.split(".")[1]
        if target != part and level[target] <= level[part]:
            upwards.append(f"{file} imports {module}")
    assert upwards == []


def test_verbs_do_not_import_verbs() -> None:
    assert [
        f"{file} imports {m}" for file, part, m in imports() if part == "commands" and "homelab.commands" in m
    ] == []


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes outside `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from run_time_nodes(node)


def dependencies() -> dict[str, set[str]]:
    """Each module's imports inside the package; those in functions count, those for type checkers only do not."""
    names = {
        ".".join(("homelab", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        found[name] = set()
        for node in run_time_nodes(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                found[name] |= {each if each in names else node.module for each in full} & set(names)
    return found


def test_there_is_no_circle() -> None:
    graph, done = dependencies(), set[str]()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path[path.index(name) :], name))
        if name not in done:
            for each in graph[name]:
                visit(each, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_no_two_modules_share_a_name_for_different_things() -> None:
    places: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        if path.stem not in CONVENTIONAL:
            places.setdefault(path.stem, set()).add(path.relative_to(PACKAGE).parts[0])
    shared = {name: found for name, found in places.items() if len(found) > 1 and not any(found <= p for p in PAIRS)}
    assert shared == {}


def test_each_library_has_one_importer() -> None:
    others = [
        f"{file} imports {module}"
        for file, part, module in imports()
        if ONE_IMPORTER.get(module.split(".")[0], part) != part
    ]
    assert others == []


def test_pipeline_and_homelab_do_not_import_each_other() -> None:
    for path in (ROOT / "pipelines").rglob("*.py"):
        assert "homelab" not in {name.split(".")[0] for name in modules(path)}, path
    assert [f for f, _, module in imports() if module.split(".")[0] == "pipelines"] == []


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
def test_guard_refuses(address: str) -> None:
    # By its words: a worker of pytest's has the guard's class a second time, from Python's start.
    with socket.socket() as sock, pytest.raises(PermissionError, match="the tests' guard refuses"):
        sock.connect((address, 22))


def test_guard_covers_programs_that_tests_start() -> None:
    code = "import socket; socket.create_connection(('192.168.2.67', 22), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "the tests' guard refuses" in done.stderr
