"""Each step against the possible answers of a host: its reason for a change, and its effect on files."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from homelab.errors import HomelabError
from homelab.host import CommandFailed, Result
from homelab.model import Secret, Step
from homelab.steps import (
    Certificate,
    Command,
    Database,
    Directory,
    DpkgConfigured,
    File,
    Packages,
    PgHba,
    PinnedPackages,
    Role,
    Settings,
    Sql,
    SshdSettings,
    SystemdUnit,
    Tree,
    User,
    UvInstall,
    Venv,
    remote_paths,
)
from homelab.steps.scram import scram_verifier, verifies
from homelab.steps.users import remove_stale_locks
from tests.support import LocalHost, SavedFolders, owner_of_new_files

# RFC 7677's example: user `user`, password `pencil`, this salt, 4096 iterations.
_RFC_SALT = b"[m\x99h\x9d\x12\x35\x8e\xec\xa0K\x14\x12\x36\xfa\x81"


def answer(text: str = "", status: int = 0) -> Result:
    return Result("probe", status, text.encode())


GONE = answer(status=1)
PASSWORD = Secret("pencil")
VENV = Venv("/opt/x/venv", b"dbt==1\n")
PEM = (
    b"-----BEGIN CERTIFICATE-----\n"
    + b"".join(each * 64 + b"\n" for each in (b"a", b"b", b"c"))
    + (b"d==\n-----END CERTIFICATE-----\n")
)
Z = "0" * 64
Y = hashlib.sha256(b"y\n").hexdigest()
TWO = f"{'0' * 64}  a\n{'0' * 64}  b\n"
HBA = PgHba("/hba", b"local\n", "postgres", "postgres", 0o640)
SETTINGS = Settings("/conf", b"port = 1\n", server=SystemdUnit("u"))


def unit_state(active: str = "active", enabled: str = "enabled", needs_reload: str = "no") -> Result:
    return answer(f"ActiveState={active}\nUnitFileState={enabled}\nNeedDaemonReload={needs_reload}")


DROP_IN = "/etc/systemd/system/u.service.d/o.conf"
OVERRIDABLE = SystemdUnit(
    "u.service",
    triggered_by=[
        File("/etc/systemd/system/u.service", b"[Service]\nUser=x\nEnvironment=A=1\n"),
        File("/etc/systemd/system/u.service.d/homelab.conf", b"[Service]\nUMask=0077\n"),
        File("/etc/x.env", b"MemoryMax=1\n"),
        File("/etc/x.key", b"\xff"),
    ],
)

TABLE: list[tuple[Step, list[Result], str | None]] = [
    (DpkgConfigured(), [answer("")], None),
    (
        DpkgConfigured(),
        [answer("its journal is not empty\na is unpacked\nb is unpacked\nc is unpacked\nd is unpacked")],
        "was interrupted: its journal is not empty, a is unpacked, b is unpacked and 2 more",
    ),
    (Packages(["a", "b"]), [answer("a installed\nb installed")], None),
    (Packages(["a", "b"]), [answer("a installed\nb config-files", 1)], "not installed: b"),
    (Packages(["a", "b"]), [GONE], "not installed: a, b"),
    (PinnedPackages({"a": "1.*"}), [answer("a installed 1.2-3")], None),
    (PinnedPackages({"a": "1.*"}), [answer("a installed 2.0")], "a 2.0 → 1.*"),
    (PinnedPackages({"a": "1.*"}), [answer("a config-files 2.0")], None),
    (PinnedPackages({"a": "1.*"}), [GONE], None),
    (Certificate("/c/x.crt", PEM), [answer("root:root 644"), answer(PEM.decode()), answer()], None),
    (Certificate("/c/x.crt", PEM), [answer("root:root 644"), answer(PEM.decode()), GONE], "is not trusted yet"),
    (User("u", "/home/u"), [answer("u:x:999:999::/home/u:/usr/sbin/nologin"), answer()], None),
    (
        User("u", "/home/u"),
        [answer("u:x:999:999::/home/u:/usr/sbin/nologin"), GONE],
        "has no group, or no entry in shadow or gshadow",
    ),
    (
        User("u", "/home/u"),
        [answer("u:x:999:999::/:/bin/sh"), answer()],
        "home / → /home/u, shell /bin/sh → /usr/sbin/nologin",
    ),
    (User("u", "/home/u"), [GONE, GONE], "does not exist"),
    (Directory("/d"), [answer("directory root:root 755")], None),
    (Directory("/d"), [answer("directory u:root 755")], "directory u:root 755 → directory root:root 755"),
    (Directory("/d"), [answer("regular file root:root 755")], "regular file root:root 755 → directory root:root 755"),
    (Directory("/d"), [GONE], "does not exist"),
    (File("/f", b"x\n"), [answer("root:root 644"), answer("x\n")], None),
    (File("/f", b"x\n"), [answer(f"root:root 644\n{Y}"), answer("y\n")], "its content differs"),
    (File("/f", b"x\n"), [answer(f"root:root 644\n{Z}\n{Y}"), answer("y\n")], "its content differs"),
    (File("/f", b"x\n"), [answer("root:root 644"), answer("x")], "its content differs; kept in STATE/replaced/f"),
    (File("/f", b"x\n"), [answer(f"root:root 644\n{Y}"), answer("z\n")], "changed by hand; kept in STATE/replaced/f"),
    (File("/f", b"x\n"), [answer(f"root:root 644\n{Y}"), answer("x\n")], None),
    (File("/f", b"x\n"), [answer("root:root 600"), answer("x\n")], "root:root 600 → root:root 644"),
    (File("/f", b"x\n"), [GONE, GONE], "does not exist"),
    (
        File("/f", b"x\n", secret=True),
        [answer("root:root 644"), answer(hashlib.sha256(b"x\n").hexdigest() + "  -")],
        None,
    ),
    (
        File("/f", b"x\n", secret=True),
        [answer("root:root 644"), answer("0" * 64)],
        "its content differs; kept in STATE/replaced/f (secret, not shown)",
    ),
    (HBA, [answer("postgres:postgres 640"), answer("local\n"), answer(), answer()], None),
    (HBA, [answer("postgres:postgres 640"), answer("local\n"), GONE, answer()], "is not loaded yet"),
    (HBA, [answer("postgres:postgres 640"), answer("local\n"), answer("is other"), answer()], "is other"),
    (HBA, [answer("postgres:postgres 640"), answer("local\n"), answer(), GONE], "the previous version is still there"),
    (
        HBA,
        [answer("postgres:postgres 640"), answer("trust\n"), answer(), answer()],
        "its content differs; kept in STATE/replaced/hba",
    ),
    (Tree("/t", {"a": b"1"}), [answer(f"{hashlib.sha256(b'1').hexdigest()}  a\n"), GONE, answer()], None),
    (
        Tree("/t", {"a": b"1"}),
        [answer(f"{hashlib.sha256(b'1').hexdigest()}  a\n"), GONE, GONE],
        "the previous version is still there",
    ),
    (
        Tree("/t", {"a": b"1"}),
        [answer(TWO), answer(hashlib.sha256(TWO.encode()).hexdigest()), answer()],
        "its content differs: 1 files to write, 1 to remove",
    ),
    (
        Tree("/t", {"a": b"1"}),
        [answer(TWO), answer("0" * 64), answer()],
        "changed by hand; kept in STATE/replaced/t: 1 files to write, 1 to remove",
    ),
    (Tree("/t", {"a": b"1"}), [GONE, GONE, answer()], "does not exist"),
    (Command("c", "true", "x"), [answer()], None),
    (Command("c", "true", "x"), [GONE], "not done yet"),
    (SystemdUnit("u"), [unit_state("active", "enabled", "no"), answer()], None),
    (SystemdUnit("u"), [unit_state("active", "enabled-runtime", "no"), answer()], None),
    (SystemdUnit("u"), [unit_state("failed", "enabled", "no"), answer()], "is failed"),
    (SystemdUnit("u"), [unit_state("active", "disabled", "no"), answer()], "does not start at boot"),
    (SystemdUnit("u"), [unit_state("active", "enabled", "yes"), answer()], "its file has changed"),
    (SystemdUnit("u"), [GONE, answer()], "is missing"),
    (OVERRIDABLE, [unit_state(), answer(f"{DROP_IN}:MemoryMax=1G")], None),
    (OVERRIDABLE, [unit_state(), answer("/etc/systemd/system/u.service.d/homelab.conf:User=x")], None),
    (OVERRIDABLE, [unit_state(), answer(f"{DROP_IN}:Environment=HTTPS_PROXY=http://proxy")], None),
    (OVERRIDABLE, [unit_state(), answer(f"{DROP_IN}:Environment=")], f"{DROP_IN} overrides Environment"),
    (
        OVERRIDABLE,
        [unit_state(), answer(f"{DROP_IN}:User=root\n/etc/systemd/system/service.d/p.conf:UMask=0")],
        f"{DROP_IN} overrides User; /etc/systemd/system/service.d/p.conf overrides UMask",
    ),
    (VENV, [answer(f"/opt/x/venv-3.11.2-{VENV.digest}"), answer("Python 3.11.2"), answer()], None),
    (
        VENV,
        [answer(f"/opt/x/venv-3.11.2-{VENV.digest}"), answer("Python 3.13.5"), answer()],
        "the interpreter has changed",
    ),
    (
        VENV,
        [answer("/opt/x/venv-3.11.2-0123456789abcdef"), answer("Python 3.11.2"), answer()],
        "the lock file has changed",
    ),
    (VENV, [answer(f"/opt/x/venv-3.11.2-{VENV.digest}"), answer("Python 3.11.2"), GONE], "does not exist"),
    (VENV, [GONE, answer("Python 3.11.2"), GONE], "does not exist"),
    (UvInstall(b"uv==1\n"), [answer(hashlib.sha256(b"uv==1\n").hexdigest())], None),
    (UvInstall(b"uv==1\n"), [answer("0" * 64)], "not installed, or of another version"),
    (Role("r", PASSWORD), [answer(scram_verifier(PASSWORD))], None),
    (Role("r", PASSWORD), [answer(scram_verifier(Secret("crayon")))], "its password differs"),
    (Role("r", PASSWORD), [answer("md5abc")], "its password differs"),
    (Role("r", PASSWORD), [answer("")], "does not exist, or has other privileges, settings or members"),
    (Role("r", PASSWORD), [GONE], "does not exist, or has other privileges, settings or members"),
    (Database("d"), [answer("UTF8 postgres false")], None),
    (
        Database("d"),
        [answer("LATIN1 postgres true")],
        "encoding, owner, open to PUBLIC: LATIN1 postgres true → UTF8 postgres false",
    ),
    (Database("d"), [answer("")], "does not exist"),
    (Sql("s", "select true", ""), [answer("t")], None),
    (Sql("s", "select true", ""), [answer("f")], "not done yet"),
    (Sql("s", "select true", ""), [GONE], "not done yet"),
]


@pytest.mark.parametrize(
    ("step", "answers", "expected"),
    TABLE,
    ids=[f"{i}-{step.title}-{expected}" for i, (step, _, expected) in enumerate(TABLE)],
)
def test_step_gives_its_reason(step: Step, answers: list[Result], expected: str | None) -> None:
    assert len(answers) == len(step.probes())
    pending = step.check(answers)
    assert (pending and pending.reason.replace(remote_paths.STATE, "STATE")) == expected


def test_scram_verifiers_are_those_of_the_rfc() -> None:
    # The stored and server keys follow from RFC 7677's exchange; PostgreSQL itself is asked in the integration tests.
    verifier = scram_verifier(PASSWORD, _RFC_SALT)
    assert verifier.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    assert verifier == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
        ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert verifies(verifier, PASSWORD)
    assert not verifies(verifier, Secret("Pencil"))


def test_secret_is_never_printed() -> None:
    step = File("/f", b"hunter2", secret=True)
    shown = f"{PASSWORD} {PASSWORD!r} {Role('r', PASSWORD)!r} {step.check([GONE, GONE])}"
    assert "pencil" not in shown
    assert "hunter2" not in shown


def reason(host: LocalHost, step: Step) -> str | None:
    pending = step.check(host.batch(step.probes()))
    return pending.reason.replace(remote_paths.STATE, "STATE") if pending else None


def test_file_is_written_once(tmp_path: Path) -> None:
    host = LocalHost()
    step = File(str(tmp_path / "it's a file"), b"one\ntwo\n", *owner_of_new_files(), mode=0o640)
    assert reason(host, step) == "does not exist"
    step.apply(host)
    assert reason(host, step) is None
    path = Path(step.path)
    path.write_bytes(b"one\nthree\n")
    pending = step.check(host.batch(step.probes()))
    assert pending is not None
    assert "-three\n+two\n" in pending.diff
    step.apply(host)
    assert path.read_bytes() == b"one\ntwo\n"
    assert [p.name for p in tmp_path.iterdir()] == ["it's a file"]


def test_last_five_foreign_contents_are_kept(tmp_path: Path) -> None:
    host, path = LocalHost(), tmp_path / "it's a file"
    kept = Path(remote_paths.replaced(str(path)))
    path.write_text("by hand 0")
    for number in range(1, 8):
        File(str(path), b"ours %d" % number, *owner_of_new_files()).apply(host)
        File(str(path), b"ours again", *owner_of_new_files()).apply(host)
        path.write_text(f"by hand {number}")
        for index, each in enumerate(sorted(kept.iterdir())):
            each.rename(kept / f"2000-{index}")  # as if time had passed
    assert [each.read_text() for each in sorted(kept.iterdir())] == [f"by hand {number}" for number in range(2, 7)]
    assert oct(kept.stat().st_mode) == "0o40700"


def test_invalid_file_does_not_replace_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    step = File(str(path), b"new", *owner_of_new_files(), validate='grep -q good "$new"')
    with pytest.raises(CommandFailed):
        step.apply(LocalHost())
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_sshd_config_includes_the_settings_once_even_if_they_are_never_in_force(tmp_path: Path) -> None:
    config, sshd = tmp_path / "sshd_config", tmp_path / "sshd"
    config.write_text("Match User root\nPermitRootLogin yes\n")
    sshd.write_text("#!/bin/sh\n")
    sshd.chmod(0o755)
    path = tmp_path / "00-homelab.conf"
    step = SshdSettings(str(path), b"PermitRootLogin no\n", *owner_of_new_files(), sshd=str(sshd), config=str(config))
    for _ in range(2):
        with pytest.raises(HomelabError, match="is not in force"):
            step.apply(LocalHost())
        assert config.read_text() == f"Include {path}\nMatch User root\nPermitRootLogin yes\n"
    (kept,) = Path(remote_paths.replaced(str(config))).iterdir()
    assert kept.read_text() == "Match User root\nPermitRootLogin yes\n"


def test_tree_has_exactly_its_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("a/b.sql", "a/target/x", "__pycache__/c.pyc", "d.yml"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    host, goal = LocalHost(), tmp_path / "goal"
    step = Tree.of(str(goal), source)
    assert sorted(step.files) == ["a/b.sql", "d.yml"]
    step.apply(host)
    (goal / "surplus").write_text("x")
    expected = f"changed by hand; kept in STATE/replaced{goal}: 0 files to write, 1 to remove"
    assert reason(host, step) == expected
    pending = step.check(host.batch(step.probes()))
    assert pending
    assert pending.kept == f"{goal}/surplus: kept in {remote_paths.replaced(str(goal))}"
    step.apply(host)
    assert reason(host, step) is None
    (kept,) = Path(remote_paths.replaced(str(goal))).iterdir()
    assert (kept / "surplus").read_text() == "x"
    changed = Tree(str(goal), {"a": b"ours"})
    assert reason(host, changed) == "its content differs: 1 files to write, 2 to remove"
    own = changed.check(host.batch(changed.probes()))
    assert own
    assert not own.kept
    changed.apply(host)
    assert len(list(kept.parent.iterdir())) == 1, "our own content is not kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["goal", "source"]


class CutHost(LocalHost):
    """A host that runs only the first lines of a command, as if its shell were killed after them."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines = lines

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        """See Host.run. A killed shell runs no traps."""
        super().run("\n".join(command.splitlines()[: self.lines]).replace("trap ", ": "), stdin=stdin, timeout=timeout)
        return Result(command, 137)


def ends(step: Step) -> list[int]:
    """Return the line counts after which the script of a step is between two commands: not inside an `if`."""
    host = LocalHost()
    step.apply(host)
    (lines,) = (command.splitlines() for command in host.ran)
    return [
        count
        for count in range(1, len(lines))
        if not subprocess.run(["sh", "-n", "-c", "\n".join(lines[:count])], check=False, capture_output=True).returncode
    ]


def snapshot(folder: Path) -> dict[str, str]:
    """Return each path below a folder with its mode and content; times in names are replaced by their order."""
    moments = sorted({found[0] for path in folder.rglob("*") if (found := re.search(r"\d{8}T\d{6}Z", str(path)))})

    def timeless(path: Path) -> str:
        name = str(path.relative_to(folder))
        return re.sub(r"\d{8}T\d{6}Z", lambda found: f"MOMENT {moments.index(found[0])}", name)

    return {
        timeless(path): f"{path.lstat().st_mode:o} {path.read_text() if path.is_file() else ''}"
        for path in folder.rglob("*")
    }


CLOCK = """#!/bin/sh
echo tick >>{ticks}; printf '20261123T%06dZ\\n' $(wc -l <{ticks})
"""


def changing(kind: str, path: str) -> list[Step]:
    """Return the step with its old content, and with its new content."""
    owner = owner_of_new_files()
    if kind == "tree":
        return [Tree(path, {"a/b": content, "c": b"x"}) for content in (b"1", b"2")]
    return [
        File(path, content, *owner, mode=0o640, validate='ln -f "$new" "$new.csv"; rm -f "$new.csv"')
        for content in (b"1", b"2")
    ]


@pytest.mark.parametrize("before", ["nothing", "ours", "foreign"])
@pytest.mark.parametrize("kind", ["file", "tree"])
def test_step_killed_after_any_line_is_finished_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, before: str
) -> None:
    """The result equals that of an uninterrupted run, including copies, recorded hashes and temporary files."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "date").write_text(CLOCK.format(ticks=tmp_path / "ticks"))
    (tmp_path / "bin" / "date").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")

    folder = tmp_path / "host"
    path = folder / "etc" / "thing"
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(remote_paths, "STATE", str(folder / "state"))
    old, new = changing(kind, str(path))
    if before != "nothing":
        old.apply(LocalHost())
    if before == "foreign":
        (path / "c" if kind == "tree" else path).write_text("by hand")
    first = SavedFolders(folder)

    def result_after_kill(lines: int) -> dict[str, str]:
        first.restore()
        if lines:
            with pytest.raises(CommandFailed):
                new.apply(CutHost(lines))
        if reason(LocalHost(), new):
            new.apply(LocalHost())
        assert reason(LocalHost(), new) is None
        return snapshot(folder)

    uninterrupted = result_after_kill(0)
    assert sum("replaced" in path and "MOMENT" in path for path in uninterrupted) == (before == "foreign") * (
        4 if kind == "tree" else 1
    )
    for lines in ends(changing(kind, str(tmp_path / "any"))[1]):
        assert result_after_kill(lines) == uninterrupted, f"killed after line {lines}"


APT = """#!/bin/sh
echo "$1" >>{log}
case "$1 $(grep -c update {log})" in
    "update 1") echo "E: Could not get lock /var/lib/apt/lists/lock" >&2; exit 100 ;;
    "update 2") {second} ;;
esac
"""


DPKG = """#!/bin/sh
echo dpkg >>{log}.dpkg
[ $(wc -l <{log}.dpkg) -gt 2 ] || {{
    echo "dpkg: error: dpkg frontend lock was locked by another process with pid 7" >&2; exit 2
}}
"""


@pytest.mark.parametrize(
    ("second", "calls", "good"),
    [
        ("exit 0", ["update", "update", "install"], True),
        ("echo 'E: The repository is gone' >&2; exit 100", ["update", "update"], False),
    ],
)
def test_packages_are_retried_for_a_lock_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str, calls: list[str], good: bool
) -> None:
    log = tmp_path / "log"
    for name, text in (
        ("apt-get", APT.format(log=log, second=second)),
        ("sleep", "#!/bin/sh\n"),
        ("dpkg", DPKG.format(log=log)),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    if good:
        Packages(["x"]).apply(LocalHost())
    else:
        with pytest.raises(CommandFailed, match="Cannot install packages on local") as error:
            Packages(["x"]).apply(LocalHost())
        assert "The repository is gone" in error.value.details
    assert log.read_text().split() == calls
    assert Path(f"{log}.dpkg").read_text().split() == ["dpkg"] * 3


def test_pins_apply_to_installed_packages_and_are_patterns_of_apt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    (tmp_path / "a=1-x").touch()  # which a shell would substitute for the pattern
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("apt-get", f'[ "$1" = update ] || echo "$*" >{log}'),
        ("dpkg", ""),
        ("dpkg-query", 'printf "installed a\\nconfig-files b\\ninstalled ab\\n"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    PinnedPackages({"a": "1*", "b": "2*", "c": "3"}).apply(LocalHost())
    assert log.read_text().split()[-1] == "a=1*"
    assert "b=2*" not in log.read_text()
    assert "--allow-downgrades" in log.read_text()


def test_leftovers_of_a_killed_useradd_are_removed_unless_one_is_running(tmp_path: Path) -> None:
    mine = {"group", "group-", "group.1", "shadow.2024"}
    left = {"group.lock": "1910\0", "group.1910": "1910\0", "gshadow.2503": "", "gshadow+": "half"}
    for name, content in {**dict.fromkeys(mine, "kept"), **left, ".pwd.lock": ""}.items():
        (tmp_path / name).write_text(content)
    with (tmp_path / ".pwd.lock").open():
        assert LocalHost().run(remove_stale_locks(str(tmp_path))).ok
        assert (tmp_path / "group.lock").exists()
    assert LocalHost().run(remove_stale_locks(str(tmp_path))).ok
    assert {path.name for path in tmp_path.iterdir()} == {*mine, ".pwd.lock"}
