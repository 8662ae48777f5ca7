"""A pipeline of the user on this machine: its set-up, with a psql that only notes its variables."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from homelab.dev.local_stack import Stack
from homelab.dev.own_pipeline import set_up
from homelab.progress import SilentProgress
from tests.support import FixedSecretStore
from tests.unit.test_pipelines import with_prices


def stack(folder: Path) -> Stack:
    def environment(database: str, user: str = "postgres") -> dict[str, str]:
        return {"PGDATABASE": database, "PGUSER": user, "PGPASSWORD": "hunter2"}

    program = folder / "psql"
    program.write_text(f'#!/bin/sh\ncat >/dev/null\necho "$PGUSER $PGPASSWORD" >>{folder}/logins\n')
    program.chmod(0o700)
    cluster = SimpleNamespace(
        environment=environment, program=lambda name: str(folder / name), password="hunter2", home=folder
    )
    installed = SimpleNamespace(extensions=folder, python=folder / "python")
    (folder / "bin").mkdir()
    (folder / "bin" / "psql").symlink_to(program)
    return cast(Stack, SimpleNamespace(cluster=cluster, installed=installed, folder=folder))


def test_password_is_in_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every user of the machine can read the process list."""
    started, run = list[str](), subprocess.run

    def recording(words: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        started.extend(words)
        return run(words, **options)

    monkeypatch.setattr(subprocess, "run", recording)
    set_up(stack(tmp_path), with_prices(tmp_path).pipeline("prices"), FixedSecretStore(), SilentProgress())
    assert not [text for text in started if "hunter2" in text]
    assert {*(tmp_path / "logins").read_text().splitlines()} == {"postgres hunter2", "prices hunter2"}
