"""A mirror of the distribution's archive: every format of source files, and their restoration."""

from __future__ import annotations

from pathlib import Path

import pytest

from homelab.progress import SilentProgress
from homelab.steps import AptMirror, Archives, apt_mirror, remote_paths
from homelab.steps.apt_mirror import use_mirror
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes
from tests.support import LocalHost, killed_before_each_command

LIST, DEBIAN, UBUNTU = "/etc/apt/sources.list", "/x/debian.sources", "/x/ubuntu.sources"
# With a backslash, which must not be special.
ONE, BOTH = Archives("http://m/\\1/main"), Archives("http://m/\\1/main", "http://m/security")

# From Proxmox's template of Debian 12.
ONE_LINE = """# Debian 12
deb http://archive.example/debian bookworm main contrib

deb http://archive.example/debian bookworm-updates main contrib
deb-src [arch=amd64 signed-by=/usr/share/keyrings/debian-archive.gpg] http://archive.example/debian bookworm main

deb http://security.example bookworm-security main contrib  # soon
"""
# From Proxmox's template of Ubuntu 24.04: the security updates are in the same archive.
NOBLE_LINES = "".join(
    f"deb http://archive.example/ubuntu {suite} main restricted universe multiverse\n\n"
    for suite in ("noble", "noble-updates", "noble-security")
)
# From Debian 13.
STANZAS = """Types: deb
URIs: http://archive.example/debian
Suites: trixie trixie-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://security.example/debian-security
Suites: trixie-security
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
# From Ubuntu 24.04, with its comment, and with a list over several lines, which deb822 allows.
NOBLE = """# See http://help.example/community/UpgradeNotes
Types: deb
URIs: http://archive.example/ubuntu/
  http://de.archive.example/ubuntu/
Suites: noble noble-updates
  noble-backports
Components: main restricted universe multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

Types: deb
URIs: http://security.example/ubuntu/
Suites: noble-security
Components: main restricted universe multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
"""
OTHERS = """deb https://docker.example/linux/debian bookworm stable
deb https://pgdg.example/pub/repos/apt bookworm-pgdg main
deb http://mine/flat ./
# deb http://archive.example/debian bookworm main
"""
OTHER_STANZA = """Types: deb
URIs: https://grafana.example
Suites: stable
Components: oss
"""


@pytest.mark.parametrize(
    ("path", "text", "archives", "replaced"),
    [
        (LIST, ONE_LINE, ONE, {"http://archive.example/debian": "http://m/\\1/main"}),
        (
            LIST,
            ONE_LINE,
            BOTH,
            {"http://archive.example/debian": "http://m/\\1/main", "http://security.example": "http://m/security"},
        ),
        (DEBIAN, STANZAS, ONE, {"http://archive.example/debian": "http://m/\\1/main"}),
        (
            DEBIAN,
            STANZAS,
            BOTH,
            {
                "http://archive.example/debian": "http://m/\\1/main",
                "http://security.example/debian-security": "http://m/security",
            },
        ),
        (
            UBUNTU,
            NOBLE,
            ONE,
            {"http://archive.example/ubuntu/\n  http://de.archive.example/ubuntu/": "http://m/\\1/main"},
        ),
        (
            UBUNTU,
            NOBLE,
            Archives("http://m/u", "http://m/u"),
            {
                "http://archive.example/ubuntu/\n  http://de.archive.example/ubuntu/": "http://m/u",
                "http://security.example/ubuntu/": "http://m/u",
            },
        ),
        (
            LIST,
            NOBLE_LINES,
            ONE,
            {
                f"http://archive.example/ubuntu {suite} ": f"http://m/\\1/main {suite} "
                for suite in ("noble", "noble-updates")
            },
        ),
        (LIST, NOBLE_LINES, Archives("http://m/u", "http://m/u"), {"http://archive.example/ubuntu": "http://m/u"}),
        (LIST, OTHERS, BOTH, {}),
        (DEBIAN, OTHER_STANZA, BOTH, {}),
        (LIST, "", BOTH, {}),
        (DEBIAN, "\n\n", BOTH, {}),
    ],
)
def test_only_the_archive_is_replaced(path: str, text: str, archives: Archives, replaced: dict[str, str]) -> None:
    wanted = text
    for old, new in replaced.items():
        assert old in text
        wanted = wanted.replace(old, new)
    assert use_mirror(path, text, archives) == wanted
    assert use_mirror(path, wanted, archives) == wanted


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of apt's source files; the third one is missing."""
    monkeypatch.setattr(
        apt_mirror,
        "APT_SOURCES",
        [str(tmp_path / name) for name in ("sources.list", "debian.sources", "ubuntu.sources")],
    )
    return tmp_path


def test_original_files_are_restored_byte_by_byte(apt: Path) -> None:
    file, stanzas = apt / "sources.list", apt / "debian.sources"
    file.write_bytes(before := ONE_LINE.encode() + b"# \xff\n")
    stanzas.write_text(STANZAS)
    host = LocalHost()
    first, other = AptMirror(ONE), AptMirror(Archives("http://other", "http://other"))
    (change,) = converge(host, [first], SilentProgress())
    assert "+deb http://m/\\1/main bookworm main contrib" in change.pending.diff
    assert "+URIs: http://m/\\1/main" in change.pending.diff
    assert b"archive.example" not in file.read_bytes() + stanzas.read_bytes()
    assert converge(host, [first], SilentProgress()) == []
    assert len(converge(host, [other], SilentProgress())) == 1
    assert b"deb http://other bookworm-security" in file.read_bytes(), "from the original file"
    file.write_text("deb http://by-hand bookworm main\n")
    assert "changed by hand" in str(pending_changes(host, [other])[0])
    converge(host, [other], SilentProgress())
    assert [change.step.title for change in converge(host, [], SilentProgress())] == [f"remove mirror {file}"]
    assert (file.read_bytes(), stanzas.read_text()) == (before, STANZAS)
    assert sorted(path.name for path in apt.iterdir()) == ["debian.sources", "sources.list"]
    assert converge(host, [], SilentProgress()) == []


def test_file_without_the_archive_is_not_changed(apt: Path) -> None:
    (apt / "sources.list").write_text(OTHERS)
    assert converge(LocalHost(), [AptMirror(ONE)], SilentProgress()) == []
    converge(LocalHost(), [], SilentProgress())
    assert [(path.name, path.read_text()) for path in apt.iterdir()] == [("sources.list", OTHERS)]


@pytest.mark.slow
def test_runs_killed_at_any_command_are_finished_in_both_directions(apt: Path) -> None:
    files = {apt / "sources.list": ONE_LINE, apt / "debian.sources": STANZAS}
    for file, text in files.items():
        file.write_text(text)

    def use(host: LocalHost) -> None:
        converge(host, [AptMirror(ONE)], SilentProgress())

    def restore(host: LocalHost) -> None:
        converge(host, [], SilentProgress())

    done = forward = 0
    for forward in killed_before_each_command(use, apt, Path(remote_paths.STATE)):
        use(LocalHost())
        assert all(file.read_text() == use_mirror(str(file), text, ONE) for file, text in files.items()), forward
        restore(LocalHost())
        assert all(file.read_text() == text for file, text in files.items()), forward
    use(LocalHost())
    for done in killed_before_each_command(restore, apt, Path(remote_paths.STATE)):
        restore(LocalHost())
        assert all(file.read_text() == text for file, text in files.items()), done
    assert min(forward, done) > 3, "the walk must have met every boundary"
