"""An alert rule of Prometheus, and the file of the rules."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from homelab.services.inhibitions import CAUSES

WATCHDOG = "Watchdog"  # an alert that always fires: Alertmanager's sign of life
TIMER = 60  # seconds between two runs of the services' metric commands
_RUNBOOKS = "docs/how-to/runbooks"


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule: its name, the condition in PromQL, the time for which it has to hold, and the message.

    `runbook` names the page with the cause and the commands that help; `command` is the first of them. `details` is the
    failed program's own message, as a template of Prometheus.
    """

    name: str
    expression: str
    lasting: str
    severity: Literal["warning", "critical"]
    summary: str
    runbook: str
    command: str
    details: str = ""

    @property
    def page(self) -> str:
        """The file of the runbook."""
        return f"{_RUNBOOKS}/{self.runbook}.md"

    def rule(self, keep: float) -> Mapping[str, object]:
        """Return the rule in Prometheus' format; `keep` are the seconds for which a cause outlasts its end."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.lasting,
            **({"keep_firing_for": f"{keep:.0f}s"} if self.name in CAUSES else {}),
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "details": self.details,
                "command": self.command,
                "runbook": self.page,
            },
        }


def rules_file(rules: Sequence[Alert], interval: float) -> bytes:
    """Return the file of the rules: JSON, which Prometheus reads as YAML. `interval` is that of the readings.

    A cause ends after the incidents that it explains: they may end one run of the metrics' timer later.
    """
    keep = TIMER + 4 * interval
    always = {"alert": WATCHDOG, "expr": "vector(1)", "labels": {"severity": "none"}}
    group = {"name": "homelab", "rules": [*(alert.rule(keep) for alert in rules), always]}
    return (json.dumps({"groups": [group]}, indent=2) + "\n").encode()
