"""Saves in a folder: what is found, what is ignored, and several writes of one save."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from homelab.dev.saves import saves


def after_start(action: Callable[[], object]) -> None:
    """Run the action while the folder is watched."""
    threading.Timer(0.5, action).start()


def test_changed_added_and_removed_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "dbt").mkdir()
    kept, gone = tmp_path / "dbt" / "a.sql", tmp_path / "b.py"
    kept.write_text("select 1")
    gone.write_text("")
    later = saves(tmp_path)

    def save() -> None:
        kept.write_text("select 22")
        gone.unlink()
        (tmp_path / "c.csv").write_text("x")

    after_start(save)
    assert next(later) == ["b.py", "c.csv", "dbt/a.sql"]
    kept.write_text("select 333")  # during the work on the previous save
    assert next(later) == ["dbt/a.sql"]


def test_save_before_the_first_look_is_found(tmp_path: Path) -> None:
    later = saves(tmp_path)
    (tmp_path / "a.sql").write_text("x")
    assert next(later) == ["a.sql"]


def test_writes_of_one_save_are_one_change(tmp_path: Path) -> None:
    def save() -> None:
        for number in range(4):
            (tmp_path / f"{number}.sql").write_text("x")
            time.sleep(0.2)

    later = saves(tmp_path)
    after_start(save)
    assert next(later) == ["0.sql", "1.sql", "2.sql", "3.sql"]


def test_files_of_dbt_python_and_editors_are_ignored(tmp_path: Path) -> None:
    for folder in ("dbt/target", "scripts/__pycache__", ".git"):
        (tmp_path / folder).mkdir(parents=True)

    def save() -> None:
        for name in ("dbt/target/manifest.json", "scripts/__pycache__/a.pyc", ".git/index", ".a.sql.swp", "a.sql~"):
            (tmp_path / name).write_text("x")
        threading.Timer(1.5, (tmp_path / "a.sql").touch).start()

    later = saves(tmp_path)
    after_start(save)
    assert next(later) == ["a.sql"]
