"""`bootstrap`, killed at each of its steps, completes at the next run. Python, uv, apt-get and dpkg are stand-ins."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each stand-in leaves half of its work and kills bootstrap at its own step.
PYTHON = """#!/bin/sh
here=$(dirname "$0")
case "$*" in
-c*) exit 0 ;;
"-m venv --clear .venv")
    rm -rf .venv; mkdir -p .venv/bin
    [ "$KILL_AT" != venv ] || kill -9 "$PPID"
    cp "$0" .venv/bin/python ;;
*"pip install"*uv.txt)
    echo half >.venv/bin/uv; chmod +x .venv/bin/uv
    [ "$KILL_AT" != pip ] || kill -9 "$PPID"
    cp "$UV" .venv/bin/uv ;;
*"pip install"*pg16*) [ "$KILL_AT" != pg16 ] || kill -9 "$PPID"; mkdir -p .venv/pg16 ;;
*"pip install"*seaweedfs*) [ "$KILL_AT" != seaweedfs ] || kill -9 "$PPID"; mkdir -p .venv/seaweedfs ;;
*) exit 9 ;;
esac
"""
UV = """#!/bin/sh
case "$*" in
--version) ;;
*dev.txt) mkdir -p .venv/half; [ "$KILL_AT" != packages ] || kill -9 "$PPID"; mv .venv/half .venv/packages ;;
*"-e .") [ "$KILL_AT" != homelab ] || kill -9 "$PPID"; touch .venv/homelab ;;
"venv "*--clear*)
    words=$*; venv=${words##* }
    rm -rf "$venv"; mkdir -p "$venv/bin"
    [ "$KILL_AT" != "${venv#.venv-}" ] || kill -9 "$PPID"
    touch "$venv/bin/python"; chmod +x "$venv/bin/python" ;;
"pip sync "*)
    words=$*; venv=${words#*--python }; venv=${venv%%/*}
    mkdir "$venv/half"; [ "$KILL_AT" != "sync ${venv#.venv-}" ] || kill -9 "$PPID"
    mv "$venv/half" "$venv/packages" ;;
*) exit 9 ;;
esac
"""
APT = """#!/bin/sh
[ "$1 $2" = "download -q" ] || exit 9
touch "$3.deb"
"""
TOOLS = {"promtool", "amtool", "prometheus-alertmanager", "caddy"}
DPKG = f"""#!/bin/sh
mkdir -p usr/bin
for tool in {" ".join(TOOLS)}; do touch "usr/bin/$tool"; chmod +x "usr/bin/$tool"; done
"""
VENVS = ("analytics", "clickhouse", "chdb", "fakesnow")
PARTS = ("pip", "venv", "packages", "homelab", "pg16", "seaweedfs", *VENVS, *(f"sync {name}" for name in VENVS))


def run(folder: Path, kill_at: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "PYTHON": str(folder / "bin" / "python"),
        "UV": str(folder / "bin" / "uv"),
        "KILL_AT": kill_at,
    }
    command = [str(folder / "bootstrap"), "--test"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    stand_ins = {
        "python": PYTHON,
        "uv": UV,
        "apt-get": APT,
        "dpkg": DPKG,
        "dpkg-query": "#!/bin/sh\nprintf installed\n",
    }
    for name, text in stand_ins.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    shutil.copy(ROOT / "bootstrap", tmp_path)
    return tmp_path


@pytest.mark.parametrize("kill_at", PARTS)
def test_killed_bootstrap_completes_at_the_next_run(project: Path, kill_at: str) -> None:
    assert run(project, kill_at).returncode == -signal.SIGKILL
    ended = run(project, "")
    assert (ended.returncode, ended.stderr) == (0, "")
    environment = project / ".venv"
    assert (environment / "bin" / "uv").read_text() == UV
    assert {path.name for path in environment.iterdir()} >= {"bin", "packages", "homelab", "pg16", "seaweedfs"}
    for name in VENVS:
        assert {path.name for path in (project / f".venv-{name}").iterdir()} == {"bin", "packages"}
    assert not [path for path in environment.iterdir() if path.name in ("half", "incomplete")]
    assert {path.name for path in (environment / "promtool").iterdir()} == TOOLS


def test_complete_bootstrap_creates_nothing_again(project: Path) -> None:
    assert run(project, "").returncode == 0
    (project / ".venv" / "mine").touch()
    (project / ".venv" / "packages").rmdir()
    for name in VENVS:
        shutil.rmtree(project / f".venv-{name}" / "packages")
    assert run(project, "").returncode == 0
    assert (project / ".venv" / "mine").exists()
