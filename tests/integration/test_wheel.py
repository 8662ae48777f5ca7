"""The wheel contains all files that a deploy copies into the containers, and works without the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("homelab_data_stack-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def tracked(*folders: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


def test_wheel_contains_templates_pipelines_and_inventory(unpacked: Path) -> None:
    wanted = tracked("templates", "pipelines", "inventory.yaml", "requirements/postgres.txt")
    found = {str(p.relative_to(unpacked / "homelab" / "_data")) for p in (unpacked / "homelab" / "_data").rglob("*")}
    assert wanted - found == set()


def test_installed_package_works_without_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import homelab\n"
        "from homelab.inventory import load; from homelab.render import render\n"
        "from homelab.paths import bundled_path\n"
        f"assert Path(homelab.__file__).is_relative_to({str(unpacked)!r}), homelab.__file__\n"
        "print(len(load([bundled_path('inventory.yaml')]).containers), len(render('postgres/pg_hba.conf.j2', rows=[])))"
    )
    # -S, and the wheel first in the path, so that the editable install of the checkout is not imported.
    packages = next(p for p in sys.path if p.endswith("site-packages"))
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": f"{unpacked}:{packages}"},
    )
    assert done.stdout.split()[:1] == ["3"], done.stderr


def test_metadata_of_the_wheel(unpacked: Path) -> None:
    (metadata,) = unpacked.glob("homelab_data_stack-*.dist-info/METADATA")
    text = metadata.read_text()
    assert "License-Expression: AGPL-3.0-or-later" in text
    assert "Provides-Extra: lab" in text
    assert any(line.startswith("Requires-Dist: fakepve") and "extra == 'lab'" in line for line in text.splitlines())
    assert (metadata.parent / "entry_points.txt").read_text().split() == [
        "[console_scripts]",
        "homelab",
        "=",
        "homelab.__main__:main",
    ]
