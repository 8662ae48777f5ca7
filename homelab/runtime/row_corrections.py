"""Corrections of the rows of a user's pipeline: the scripts that exclude rows, and store rows of a file."""

from __future__ import annotations

import getpass
import json
import platform
from collections.abc import Mapping
from typing import Any

from homelab.errors import InputError
from homelab.host import CommandFailed, argv, expected_format
from homelab.inventory.errors import did_you_mean
from homelab.model import Pipeline
from homelab.model.pipelines import Corrections
from homelab.model.stages import INGESTION
from homelab.pipeline_contract import EXIT
from homelab.pipelines.layout import SHARED_SCRIPTS, Layout
from homelab.runtime.session import Session

_DEADLINE = 4 * 3600.0  # seconds


def operator() -> str:
    """Return the user and the machine that run this command."""
    return f"{getpass.getuser()}@{platform.node()}"


def corrections_of(pipeline: Pipeline) -> Corrections:
    """Return the table that can be corrected. Raises InputError if the manifest declares none."""
    if pipeline.corrections is None:
        raise InputError(
            f"Cannot correct rows of the pipeline {pipeline.name}: its manifest declares no table for it",
            f"{pipeline.folder}/pipeline.yaml has no `corrections`.",
            "Add the table, its key and its time: docs/how-to/own-pipelines.md.",
        )
    return pipeline.corrections


def parse_key(pairs: list[str], corrections: Corrections) -> Mapping[str, str]:
    """Return the values by column of `COLUMN=VALUE` texts. Raises InputError for a column that is not in the key."""
    found = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or name not in corrections.key:
            raise InputError(
                f"Cannot use --key {pair}: {'it has no `=`' if not separator else f'{name} is not in the key'}",
                f"The key is {', '.join(corrections.key)}; {did_you_mean(name, corrections.key)}",
                "Write --key COLUMN=VALUE.",
            )
        found[name] = value
    return found


def run_script(session: Session, pipeline: Pipeline, action: str, script: str, *words: str, stdin: bytes = b"") -> Any:
    """Run a script with the pipeline's own role; return its JSON document.

    Raises InputError for options or rows that the script refuses, HomelabError if it fails.
    """
    command = Layout(pipeline).run(argv("python", f"{SHARED_SCRIPTS}/{script}", *words))
    with session.connect_to_stage(INGESTION) as host:
        result = host.run(command, stdin=stdin, timeout=_DEADLINE)
    if result.status == EXIT.bad_input:
        raise InputError(
            f"Cannot {action} of the pipeline {pipeline.name}",
            result.stderr.decode(errors="replace").strip().removeprefix("error: ")[-1500:],
            f"Nothing was changed. List the exclusions: `homelab pipeline exclusions {pipeline.name}`",
        )
    if not result.ok:
        raise CommandFailed(host.name, result, action)
    with expected_format(host.name, action):
        return json.loads(result.text.splitlines()[-1])
