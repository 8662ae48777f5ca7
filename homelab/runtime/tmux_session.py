"""A tmux session with one pane for each log, in windows of a few panes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homelab.errors import HomelabError
from homelab.model import Inventory
from homelab.model.stages import FETCH
from homelab.runtime.interactive import run_interactive
from homelab.runtime.log_sources import units_of

_PANES = 6  # of a window; on 80 columns and 24 rows, a pane has 39 columns and 6 lines

_PLACEHOLDER = ("sleep", "60")  # until the options of the window are set


def session_name(lab: str) -> str:
    """Return the name of a lab's session; tmux reads `.` and `:` in a name as parts of a target."""
    return f"homelab-{re.sub('[.:]', '-', lab)}"


def log_targets(inventory: Inventory) -> Sequence[str]:
    """Return the arguments of `homelab logs` for each pane: the services' units, the ingestions, and dbt's logs."""
    found = [
        f"{container.name} {unit.removesuffix('.service')}"
        for container in inventory.containers
        for unit in units_of(inventory, container)
        if unit.endswith(".service")
    ]
    if inventory.containers_with("airflow"):
        found += [f"{each.dag_id}.{each.task(FETCH)}" for each in inventory.pipelines if FETCH in each.tasks]
    return [*found, *(f"{each.name}.dbt" for each in inventory.pipelines if each.has_dbt)]


@dataclass(frozen=True, slots=True)
class TmuxSession:
    """The session of a name on the user's tmux server."""

    name: str

    @property
    def exists(self) -> bool:
        """True if the server has the session. Raises HomelabError without tmux."""
        if shutil.which("tmux") is None:
            raise HomelabError(
                "Cannot open a tmux session: tmux is not installed",
                "This command arranges `homelab logs` in tmux' panes.",
                "Install it: apt install tmux. Without it: `homelab logs -f`.",
            )
        asked = subprocess.run(["tmux", "has-session", "-t", f"={self.name}"], capture_output=True, check=False)
        return asked.returncode == 0

    def create(self, panes: Mapping[str, Sequence[str]]) -> None:
        """Create the session with a pane for each title and its command.

        Raises HomelabError, after the removal of an incomplete session.
        """
        window = pane = ""
        try:
            for number, (title, command) in enumerate(panes.items()):
                if number % _PANES == 0:
                    window, pane = self._window(first=number == 0)
                else:
                    pane = _tmux("split-window", "-d", "-P", "-F", "#{pane_id}", "-t", pane, *_PLACEHOLDER)
                    _tmux("select-layout", "-t", window, "tiled")
                _tmux("select-pane", "-t", pane, "-T", title)
                _tmux("respawn-pane", "-k", "-t", pane, "-c", os.getcwd(), "--", *command)
            _tmux("select-window", "-t", f"={self.name}:^")
        except BaseException:
            subprocess.run(["tmux", "kill-session", "-t", f"={self.name}"], capture_output=True, check=False)
            raise

    def _window(self, first: bool) -> tuple[str, str]:
        """Create a window, the first one with the session; return the ids of the window and of its pane."""
        columns, lines = map(str, shutil.get_terminal_size())
        session = ("new-session", "-s", self.name, "-x", columns, "-y", lines)
        begin = session if first else ("new-window", "-t", f"={self.name}:")
        shown = ("-d", "-P", "-F", "#{window_id} #{pane_id}", "-n", "logs")
        window, pane = _tmux(*begin, *shown, *_PLACEHOLDER).split()
        # A pane keeps its message after a lost connection.
        for option, value in (("remain-on-exit", "on"), ("pane-border-status", "top"), ("pane-border-format", " #T ")):
            _tmux("set-option", "-w", "-t", window, option, value)
        return window, pane

    def attach(self) -> int:
        """Show the session on the terminal until the user detaches; within tmux, switch to it. Return tmux' status."""
        verb = "switch-client" if os.environ.get("TMUX") else "attach-session"
        return run_interactive(["tmux", verb, "-t", f"={self.name}"])[0]


def _tmux(*words: str) -> str:
    """Run a command of tmux and return its output. Raises HomelabError."""
    done = subprocess.run(["tmux", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HomelabError(
            "Cannot create the tmux session: tmux failed",
            f"`tmux {words[0]}`: {done.stderr.strip()}",
            "Fix the cause, and run the same command again.",
        )
    return done.stdout.strip()
