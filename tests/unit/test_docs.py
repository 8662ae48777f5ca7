"""Check the documentation: every command parses with the real command line, and every link resolves."""

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
DOCS = ROOT / "docs"
READMES = [ROOT / folder / "README.md" for folder in ("benchmarks", "pipelines")]
PAGES = sorted([*ROOT.glob("*.md"), *READMES, *DOCS.rglob("*.md")])
# The pages that are generated from the code.
GENERATED = {
    DOCS / f"reference/{name}.md" for name in ("cli", "inventory", "services", "api", "steps", "exit-codes", "json")
}
LARGEST_PICTURE = 150_000  # bytes
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(homelab [^`]+)`")
_LINK = re.compile(r"\[[^]]*\]\(([^)\s#]*)(?:#([^)\s]*))?\)")
_TEST = re.compile(r"`(tests/\S+\.py)::(\w+)`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _commands(text: str) -> Iterator[str]:
    """Yield the `homelab` lines of the console blocks. In a block with prompts, lines without one are output."""
    for block in _BLOCK.findall(text):
        lines = block.splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        yield from (line for line in lines if re.match(r"homelab\b", line))


def _words(command: str) -> list[str]:
    """Return the arguments that the shell passes to homelab: no comment, no redirection, nothing after a pipe."""
    words = shlex.split(command, comments=True)
    end = next((index for index, word in enumerate(words) if word in ("<", ">", "|", "&&")), len(words))
    return words[1:end]


def _parse(words: list[str]) -> None:
    """Find the verb and parse its options without running it. Raise the error that the user would see."""
    name, command, context = "homelab", HOMELAB, None
    while True:
        context = command.make_context(name, words, parent=context)
        if not hasattr(command, "resolve_command"):
            return
        rest = [*context._protected_args, *context.args]
        if not rest:
            return  # global options only
        name, command, words = command.resolve_command(context, rest)


def _links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield the target and the anchor of each relative link."""
    for target, anchor in _LINK.findall(_CODE.sub("", page.read_text())):
        if "://" not in target:
            yield (page.parent / target).resolve() if target else page, anchor


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_CODE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_picture_is_small_and_on_a_page() -> None:
    pictures = sorted((DOCS / "images").iterdir())
    assert pictures
    text = "".join(page.read_text() for page in PAGES)
    assert [each.name for each in pictures if f"images/{each.name}" not in text] == []
    assert [each.name for each in pictures if each.stat().st_size > LARGEST_PICTURE] == []


def test_pictures_load_nothing() -> None:
    for picture in (DOCS / "images").glob("*.svg"):
        assert re.findall(r"(?:href|src)=|url\((?!#)|@import", picture.read_text()) == []


@pytest.mark.parametrize(("page", "command"), [(_name(p), c) for p in PAGES for c in _commands(p.read_text())])
def test_command_in_console_block_parses(page: str, command: str) -> None:
    _parse(_words(command))


@pytest.mark.parametrize(("page", "command"), [(_name(p), c) for p in PAGES for c in _INLINE.findall(p.read_text())])
def test_command_in_sentence_exists(page: str, command: str) -> None:
    with contextlib.suppress(typer.BadParameter, typer.Exit):  # a missing argument; `--help` has printed its text
        _parse([word for word in _words(command) if word != "…"])


@pytest.mark.parametrize("words", [["deply"], ["deploy", "--dry"], ["lab", "start"], ["status", "x"]])
def test_unknown_command_is_detected(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"^(No such|Got unexpected)"):
        _parse(words)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for target, anchor in _links(page):
        if target in GENERATED and not target.exists():
            continue
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(f"{target}#{anchor}" if anchor else str(target))
    assert broken == []


def test_each_test_that_a_page_names_exists() -> None:
    named = [(_name(page), *found) for page in PAGES for found in _TEST.findall(page.read_text())]
    assert len(named) > 25
    defined = {file: (ROOT / file).read_text() if (ROOT / file).exists() else "" for _, file, _ in named}
    assert [f"{page}: {file}::{test}" for page, file, test in named if f"\ndef {test}(" not in defined[file]] == []


def test_each_line_of_the_threat_model_names_a_test() -> None:
    text = (DOCS / "explanation" / "security.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert [row for row in rows if not _TEST.search(row) and not row.endswith(" test |")] == []


def test_index_links_every_page() -> None:
    indexes = [DOCS / "README.md", DOCS / "adr" / "README.md", DOCS / "how-to" / "runbooks" / "README.md"]
    linked = {target for index in indexes for target, _ in _links(index)}
    pages = {page for page in PAGES if page.is_relative_to(DOCS)} - {DOCS / "README.md"}
    assert sorted(map(_name, pages - linked)) == []


def test_readme_leads_to_the_index() -> None:
    assert DOCS / "README.md" in {target for target, _ in _links(ROOT / "README.md")}


@pytest.mark.parametrize("page", [p for p in PAGES if p.is_relative_to(DOCS) and p not in GENERATED], ids=_name)
def test_page_begins_with_its_purpose(page: Path) -> None:
    title, purpose, *_ = page.read_text().split("\n\n")
    assert title.startswith("# ")
    assert re.match(r"(After|On|From) (this|these) (tutorial|pages?), you can .*\.$", purpose, re.DOTALL), purpose
