"""The tutorial about own pipelines as a script, and homelab as its reader installs it: from a wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.scripts import ROOT

_PAGE = ROOT / "docs" / "tutorials" / "own-pipeline.md"
_UV = Path(sys.executable).parent  # the folder of uv, after those of the system
_BLOCK = re.compile(r"^(?P<before>(?!```)[^\n]*)\n+```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the page, and the file that the sentence before it names last."""

    language: str
    text: str
    path: str


def blocks(heading: str) -> list[Block]:
    """Return the blocks of a section of the page."""
    (section,) = re.findall(rf"^## \d+\. {heading}\n(.*?)(?=^## |\Z)", _PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [
        Block(found["language"], found["text"], ["", *re.findall(r"`([\w./-]+)`", found["before"])][-1])
        for found in _BLOCK.finditer(section)
    ]


def commands(heading: str) -> list[str]:
    """Return the commands of a section."""
    return [line for block in blocks(heading) if block.language == "console" for line in block.text.splitlines()]


def install_homelab(environment: Path, *packages: Path) -> Path:
    """Install homelab's wheel and further packages into an environment of its own; return its `homelab`."""
    for words in (["venv", str(environment)], ["pip", "install", "--python", str(environment), str(ROOT)]):
        further = map(str, packages) if words[0] == "pip" else ()
        subprocess.run([_UV / "uv", *words, "--quiet", *further], check=True)
    return environment / "bin" / "homelab"


def add_to_inventory(inventory: Path) -> None:
    """Add the lines of the page to an inventory that has `pipelines: weather:`."""
    (block,) = [each for each in blocks("Write the example") if each.language == "yaml"]
    text = inventory.read_text()
    assert "\npipelines:\n" in text
    inventory.write_text(text.replace("\npipelines:\n", f"\npipelines:\n{block.text.splitlines()[-1]}\n"))


@dataclass
class Reader:
    """A reader of the tutorial with a home folder; `replacements` are those that a test needs in the commands."""

    home: Path
    replacements: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of the inventory."""
        return self.home / "lab"

    def replaced(self, text: str) -> str:
        """Return a text of the page with the replacements."""
        for old, new in {"~": str(self.home), **self.replacements}.items():
            text = text.replace(old, new)
        return text

    def follow(self, heading: str, typed: str = "") -> str:
        """Write the files of a section, run its commands in one shell, and return their output."""
        lines = ["set -e"]
        if self.folder.exists():
            lines += [f"cd {self.folder}", f". {self.home}/homelab/bin/activate"]
        for block in blocks(heading):
            if block.language == "console":
                lines += self.replaced(block.text).splitlines()
            elif block.language in ("python", "json"):
                path = self.folder / block.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self.replaced(block.text))
        return self.run("\n".join(lines), typed)

    def run(self, script: str, typed: str = "") -> str:
        """Run a script without a terminal, as a user whose state is below the home folder; return its output."""
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=ROOT,
            input=typed,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            start_new_session=True,
            env=os.environ | {"XDG_STATE_HOME": f"{self.home}/state", "PATH": f"{os.environ['PATH']}:{_UV}"},
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr
