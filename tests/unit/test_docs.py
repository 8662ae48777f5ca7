"""What the pages say is there: every command parses with the real command line, every linked page exists."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from homelab.cli import app

HOMELAB = typer.main.get_command(app)
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(homelab [^`]+)`")
_LINK = re.compile(r"\[[^]]*\]\(([^)\s#]+)(?:#[^)]*)?\)")


def _commands(text: str) -> Iterator[str]:
    """The `homelab` lines of the console blocks. Where a block has prompts, lines without one are output."""
    for block in _BLOCK.findall(text):
        lines = block.splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        yield from (line for line in lines if re.match(r"homelab\b", line))


def _words(command: str) -> list[str]:
    """The words that the shell hands over: without comment, redirections, and what comes after a pipe."""
    words = shlex.split(command, comments=True)
    end = next((index for index, word in enumerate(words) if word in ("<", ">", "|", "&&")), len(words))
    return words[1:end]


def _parse(words: list[str]) -> None:
    """Go down to the verb and parse its options, running nothing. Raises what the user would be shown."""
    name, command, context = "homelab", HOMELAB, None
    while True:
        context = command.make_context(name, words, parent=context)
        if not hasattr(command, "resolve_command"):
            return
        rest = [*context._protected_args, *context.args]
        if not rest:
            return  # options of all verbs alone
        name, command, words = command.resolve_command(context, rest)


@pytest.mark.parametrize(("page", "command"), [(p.name, c) for p in PAGES for c in _commands(p.read_text())])
def test_every_command_of_the_pages_parses(page: str, command: str) -> None:
    _parse(_words(command))


@pytest.mark.parametrize(("page", "command"), [(p.name, c) for p in PAGES for c in _INLINE.findall(p.read_text())])
def test_every_command_in_a_sentence_is_one(page: str, command: str) -> None:
    with contextlib.suppress(typer.BadParameter, typer.Exit):  # an argument is left out; `--help` is done
        _parse([word for word in _words(command) if word != "…"])


@pytest.mark.parametrize("words", [["deply"], ["deploy", "--dry"], ["lab", "start"], ["logs", "x", "y", "z"]])
def test_what_is_no_command_is_found(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"^(No such|Got unexpected)"):
        _parse(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_linked_page_exists(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in readme] == []
