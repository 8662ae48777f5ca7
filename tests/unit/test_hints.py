"""Hints: commands in messages are complete, exist, and never widen the scope of the typed command."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from rich.text import Text

import homelab
from homelab.cli import app, output
from homelab.cli.hints import Typed
from tests.unit.test_global_options import run_main

LAB = Typed(["--lab"])


def command_paths() -> set[str]:
    """Return the verbs and the groups' verbs, such as `up` and `golden create`."""
    paths = set()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        paths |= {name, *(f"{name} {verb}" for verb in getattr(command, "commands", ()))}
    return paths


def hints() -> Iterator[tuple[str, str]]:
    """Yield each command in backticks in a string of the code; a formatted value is `{}`."""
    for path in Path(homelab.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                text = node.value
            else:
                continue
            for command in re.findall(r"`(homelab [^`]*)`", text):
                yield path.name, command


@pytest.mark.parametrize(
    ("typed", "text", "expected"),
    [
        (Typed(), "Run `homelab up`.", "Run `homelab up`."),
        (LAB, "Run `homelab up`.", "Run `homelab --lab up`."),
        (LAB, "`homelab ssh a -- df -h`, `homelab deploy`", "`homelab --lab ssh a -- df -h`, `homelab --lab deploy`"),
        (LAB, "Then:\n  homelab trust a", "Then:\n  homelab --lab trust a"),
        (LAB, "homelab cannot log in", "homelab cannot log in"),
        (LAB, "`homelab lab up`, `homelab schema`", "`homelab lab up`, `homelab schema`"),
        (LAB, "`homelab trust code a.py`", "`homelab trust code a.py`"),
        (Typed(["-i", "my lab.yaml"]), "`homelab up`", "`homelab -i 'my lab.yaml' up`"),
        (Typed(["--overlay", "a.yaml"]), "`homelab up`", "`homelab --overlay a.yaml up`"),
        (
            Typed([], "deploy", ["a", "b"]),
            "then `homelab deploy` again",
            "then `homelab deploy --limit a --limit b` again",
        ),
        (Typed(["--lab"], "destroy", ["a"]), "`homelab destroy`", "`homelab --lab destroy --limit a`"),
        (Typed([], "deploy", ["a"]), "`homelab up` first", "`homelab up` first"),
        (Typed([], "destroy", ["a"]), "`homelab destroy --limit b`", "`homelab destroy --limit b`"),
    ],
)
def test_command_in_a_message_is_completed(typed: Typed, text: str, expected: str) -> None:
    assert typed.complete(text) == expected


def test_style_of_a_completed_text_is_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(output, "typed", LAB)
    output.console().print(Text.assemble(("✗ ", "red"), ("run `homelab up` now", "bold")))
    assert capsys.readouterr().out == "✗ run `homelab --lab up` now\n"
    completed = output.safe(Text("run `homelab up` now", "bold"))
    console = output.console()
    assert all(completed.get_style_at_offset(console, place).bold for place in (0, 6, 14, 25))


def test_every_hint_is_a_command_without_a_gap() -> None:
    paths, found = command_paths(), list(hints())
    assert len(found) > 80
    for module, command in found:
        words = command.split()[1:]
        assert not re.search(r"…|\.\.\.|<", command), f"{module}: `{command}` cannot be typed"
        if words[0].startswith(("{", "-")):
            continue
        assert words[0] in paths, f"{module}: `{command}` is no command"
        groups = {path.split()[0] for path in paths if " " in path}
        if words[0] in groups and len(words) > 1 and not words[1].startswith(("{", "-")):
            assert " ".join(words[:2]) in paths or words[0] == "secret", f"{module}: `{command}` is no command"


def test_every_command_in_a_message_is_in_backticks() -> None:
    verbs = "|".join(sorted({path.split()[0] for path in command_paths()} - {"lab", "schema"}))
    bare = re.compile(rf"(?:: |, |or |^)homelab (?:{verbs})\b.")
    for path in Path(homelab.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error"):
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        assert not bare.search(part.value), f"{path.name}: {part.value}"


def test_hint_repeats_the_typed_inventory(tmp_path: Path) -> None:
    missing = tmp_path / "other.yaml"
    ended = run_main("status", "-i", str(missing))
    assert f"`homelab -i {missing} init`" in ended.stderr
