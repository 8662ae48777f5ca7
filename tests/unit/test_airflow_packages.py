"""Packages of the user in Airflow's venv: their lock, and the errors of a missing, an old and a conflicting one."""

from __future__ import annotations

from pathlib import Path

import pytest

from homelab.errors import InputError
from homelab.inventory import load
from homelab.paths import bundled_path
from homelab.services.airflow_packages import LOCK_FILE, airflow_lock, header, user_lock, venv_lock
from homelab.steps import Venv
from tests.unit.test_airflow_options import AIRFLOW, inventory, steps

NEW = "humanize==4.17.0 \\\n    --hash=sha256:aaaa \\\n    --hash=sha256:bbbb\n"
MARKED = "zope-interface==8.0 ; python_full_version < '3.13' \\\n    --hash=sha256:dddd\n"


def entry_of(series: str, package: str) -> str:
    """Return the first line of a package in Airflow's lock."""
    return next(line for line in airflow_lock(series).read_text().splitlines() if line.startswith(f"{package}=="))


@pytest.mark.parametrize("series", ["3.3", "2.11"])
def test_lock_adds_only_packages_that_airflow_has_not(tmp_path: Path, series: str) -> None:
    known = f"{entry_of(series, 'idna')}\n    --hash=sha256:cccc\n"
    lock = user_lock(series, ["humanize", "zope.interface"], NEW + known + MARKED)
    assert lock == header(series, ["humanize", "zope.interface"]) + NEW + MARKED
    (tmp_path / LOCK_FILE).write_text(lock)
    own = airflow_lock(series).read_bytes()
    assert venv_lock(series, ["zope.interface", "humanize"], tmp_path) == own + lock.encode()


def test_package_that_airflow_needs_on_another_python_only_is_locked(tmp_path: Path) -> None:
    assert " ; python_full_version == '3.13.*'" in entry_of("3.3", "pyyaml-ft")
    lock = user_lock("3.3", ["pyyaml-ft"], "pyyaml-ft==8.0.0 \\\n    --hash=sha256:eeee\n")
    assert lock.endswith("pyyaml-ft==8.0.0 \\\n    --hash=sha256:eeee\n")


def test_airflow_without_further_packages_needs_no_lock(tmp_path: Path) -> None:
    assert venv_lock("3.3", [], tmp_path) == airflow_lock("3.3").read_bytes()


@pytest.mark.parametrize(
    ("locked", "detail"),
    [
        (None, "does not exist."),
        (("3.3", ["humanize"]), "was made for other packages, or for another Airflow."),
        (("2.11", ["humanize==4.17.0"]), "was made for other packages, or for another Airflow."),
    ],
)
def test_missing_or_old_lock_is_refused(tmp_path: Path, locked: tuple[str, list[str]] | None, detail: str) -> None:
    if locked:
        (tmp_path / LOCK_FILE).write_text(user_lock(*locked, NEW))
    with pytest.raises(InputError) as raised:
        venv_lock("3.3", ["humanize == 4.17.0"], tmp_path)
    assert raised.value.brief == "Cannot install Airflow's further packages: airflow-packages.txt does not lock them"
    assert raised.value.details == f"{tmp_path / LOCK_FILE} {detail}"
    assert raised.value.resolution == "Run `homelab airflow lock`."


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "packages: [humanize, SQLAlchemy==1.4]",
            "packages[1]: Airflow 3.3 needs SQLAlchemy 2.1.9, not 1.4: remove it",
        ),
        ('packages: ["apache-airflow[celery]==2.9"]', "packages[0]: Airflow 3.3 needs apache-airflow 3.3.2, not 2.9"),
        ("packages: [a b]", "packages[0]: must be a package such as humanize==4.17.0, not 'a b'"),
        ("packages: ['x @ https://example.org/x.whl']", "packages[0]: must be a package"),
        ("packages: [-r other.txt]", "packages[0]: must be a package"),
    ],
)
def test_conflicting_package_has_file_and_line(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(InputError) as raised:
        inventory(tmp_path, text)
    assert "own.yaml:1: containers.airflow-orchestration.services.airflow." + error in raised.value.details


@pytest.mark.parametrize("package", ["humanize", "humanize==4.17.0", "a.b-c_d[x,y]>=1,<2", "x ~= 1.2", "y!=1.*"])
def test_requirements_are_accepted(tmp_path: Path, package: str) -> None:
    assert inventory(tmp_path, f"packages: ['{package}']").container_with("airflow").services


def test_deploy_installs_the_packages_of_both_locks(tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_bytes(bundled_path("inventory.yaml").read_bytes())
    (tmp_path / "own.yaml").write_text(AIRFLOW.format(text="packages: [humanize]", version="3.3"))
    (tmp_path / LOCK_FILE).write_text(user_lock("3.3", ["humanize"], NEW))
    found = load([tmp_path / "inventory.yaml", tmp_path / "own.yaml"])
    (venv,) = (step for step in steps(found) if isinstance(step, Venv))
    assert venv.lock.endswith(NEW.encode())
    assert b"apache-airflow==3.3.2" in venv.lock
