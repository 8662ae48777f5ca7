"""The deploy engine in a real container: killed in every command, rebooted, and confronted with real failures."""

from __future__ import annotations

import io
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network

import pytest
from rich.console import Console

from homelab.commands.trust_host import trust_host
from homelab.errors import HomelabError
from homelab.host import Host, Result, check
from homelab.known_hosts import fingerprint
from homelab.lab import Lab
from homelab.model import Health, ManagedResource, Step
from homelab.paths import bundled_path
from homelab.progress import TerminalProgress
from homelab.sandbox import Sandbox
from homelab.ssh import shown_key
from homelab.steps import (
    Command,
    Directory,
    DpkgConfigured,
    File,
    HealthCheck,
    Packages,
    SystemdUnit,
    Tree,
    User,
    UvInstall,
    Venv,
)
from homelab.steps import manifest as m
from homelab.steps.converge import converge
from tests.integration.fault_injection import KILL
from tests.integration.lab_fixture import QUIET, LabFixture, in_a_lab, lab_with

LAB = Lab("deploys", IPv4Network("10.99.2.80/28"), "hl-depl", 18096, 8179)
INVENTORY = """
lab: x
proxmox: {host: x, token_id: homelab@pve!x}
network: {subnet: 10.99.2.80/28, gateway: .81, bridge: x}
containers:
  postgres-data: {vmid: 184, ip: .84, cores: 1, memory: 512, disk: 4, services: {postgres: {version: 15}}}
pipelines: {weather: {cities: ["Newark,US"]}}
"""

pytestmark = in_a_lab()


class Doomed:
    """A host that kills the local process with SIGKILL while a command runs in the container."""

    def __init__(self, host: Host, point: int) -> None:
        self.name, self.batch, self.reconnect = host.name, host.batch, host.reconnect
        self._host, self._left = host, point

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        if self._left == 0:
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()
        self._left -= 1
        result = self._host.run(command, stdin=stdin, timeout=timeout)
        if self._left == -1:
            time.sleep(60)  # the command ended before the kill: wait for it
        return result


def deploy_killed_at(box: LabFixture, steps: Sequence[Step], point: int) -> bool:
    """Deploy in a process that is killed during its command number `point`; return False if it ended before."""
    child = os.fork()
    if child == 0:
        converge(Doomed(box.connect(), point), steps, QUIET)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFixture]:
    with lab_with(LAB, tmp_path_factory.mktemp("deploys"), INVENTORY) as box:
        box.up()
        yield box


UNIT = """[Service]
ExecStart=/bin/sh -c 'cp /opt/life/config /run/life; exec sleep infinity'
# {version}
[Install]
WantedBy=multi-user.target
"""
STATE = """cd /
find opt/life etc/systemd/system/life.service var/lib/homelab/manifest var/lib/homelab/markers | sort |
while read -r each; do stat -c '%n %U %a %F' "$each"; [ ! -f "$each" ] || cat "$each"; done
systemctl is-active life.service; systemctl is-enabled life.service; cat /run/life"""


def life(version: str) -> list[Step]:
    """Return the steps of a service; every part depends on the version, and each leaves something to remove."""
    config = File("/opt/life/config", f"{version}\n".encode(), mode=0o600, secret=True)
    tree = Tree("/opt/life/tree", {"part/a": version.encode(), f"only-in-{version}": b""})
    unit = File("/etc/systemd/system/life.service", UNIT.format(version=version).encode())
    made = Command(
        "made",
        f"grep -qx {version} /opt/life/made",
        f"echo {version} >/opt/life/made",
        triggered_by=[tree],
        makes=[ManagedResource("made", "/opt/life/made")],
    )
    return [
        Directory("/opt/life"),
        Directory(f"/opt/life/of-{version}"),
        config,
        tree,
        File(f"/opt/life/of-{version}/file", b"x"),
        made,
        unit,
        SystemdUnit("life.service", triggered_by=[config, unit, tree], settle=0.1),
    ]


def test_next_run_after_a_kill_in_every_command_ends_like_an_undisturbed_one(box: LabFixture) -> None:
    def ended(version: str) -> str:
        """Return the state after an undisturbed run."""
        with box.connect() as host:
            converge(host, life(version), QUIET)
            return check(host, STATE, "read the state").text.replace(version, "V")

    clean = ended("v0")
    assert "active\nenabled\nV" in clean
    assert "var/lib/homelab/manifest root 644 regular file\ndirectory /opt/life\n" in clean
    point = 1
    while deploy_killed_at(box, life(f"v{point}"), point - 1):
        assert ended(f"v{point}") == clean, f"killed in command {point}"
        point += 1
    assert box.pending(life(f"v{point}")) == [], "the last run must have completed"
    assert ended(f"v{point}") == clean
    assert point > 10, "the walk must have covered every command"


def test_reboot_during_a_deploy_is_waited_for(box: LabFixture) -> None:
    box.run("rm -f /root/begun /root/done")
    long = Command("long", "test -e /root/done", "echo begun >>/root/begun; sync; sleep 4; touch /root/done")
    step = [*life("v0"), long]
    before = box.run("stat -c %Y /run/systemd")
    rebooting = threading.Thread(
        target=lambda: box.run(
            "until [ -e /root/begun ]; do sleep 0.1; done; (sleep 0.2; systemctl reboot) >/dev/null 2>&1 &"
        )
    )
    rebooting.start()
    assert "long: not done yet" in box.deploy(step)
    rebooting.join()
    assert box.run("stat -c %Y /run/systemd") != before
    assert box.run("wc -l </root/begun") == "2", "the reboot did not interrupt the command"
    assert box.pending(step) == []


def test_command_in_a_sandbox_that_outlived_a_kill_is_stopped_by_the_next_step(box: LabFixture) -> None:
    """systemd starts it, so killing our processes does not end it."""
    sandbox = Sandbox("confined", ["/var/lib/confined"])
    set_up = [
        User("confined", "/home/confined"),
        Directory("/home/confined"),
        Directory("/var/lib/confined", "confined", "confined", 0o700),
        sandbox.file(),
    ]
    script = 'touch begun; id -un >who; test "$HOME" = "$PWD"; exec sleep "$(printf 77)"'
    long = Command("long", "false", sandbox.run("/bin/sh", "-c", script))

    def deploy_killed() -> None:
        with pytest.raises(HomelabError, match="Cannot run `long`"):
            box.deploy([*life("v0"), *set_up, long])

    deploying = threading.Thread(target=deploy_killed)
    deploying.start()
    box.run("until [ -e /var/lib/confined/begun ]; do sleep 0.1; done")
    box.run(KILL)
    deploying.join()
    left = "systemctl list-units --plain --no-legend 'homelab-step-confined-*'; pgrep -xf 'sleep 77' || true"
    assert "running" in box.run(left), "the command has outlived our processes"
    assert box.run("cat /var/lib/confined/who") == "confined"
    box.deploy([*life("v0"), *set_up, File("/opt/life/next", b"x")])
    assert box.run(left) == ""
    box.deploy(life("v0"))


def test_interrupted_dpkg_is_completed_and_a_running_one_is_waited_for(box: LabFixture) -> None:
    steps = [*life("v0"), Packages(["vim-tiny"])]
    box.run(
        "(apt-get update && apt-get install -y --no-install-recommends vim-tiny) >/root/apt 2>&1 & "
        "for i in $(seq 3000); do if ls /var/lib/dpkg/updates | grep -q . && pgrep -x dpkg >/dev/null; then "
        "pkill -9 -x dpkg; pkill -9 -x apt-get; break; fi; sleep 0.01; done; sleep 0.3"
    )
    assert box.run("dpkg -l vim-tiny | tail -n 1")[:2] != "ii"
    box.run(
        'command -v perl >/dev/null; (perl -e \'use Fcntl; open F, ">/var/lib/dpkg/lock-frontend"; '
        'fcntl(F, F_SETLKW, pack("s s x4 q q i x4", F_WRLCK, 0, 0, 0, 0)); sleep 3\' >/dev/null 2>&1 &)'
    )
    assert box.deploy(steps)[-1] == "packages vim-tiny: not installed: vim-tiny"
    assert box.run("dpkg --audit; dpkg -l vim-tiny | tail -n 1")[:2] == "ii"


def test_almost_unpacked_package_is_unpacked_again(box: LabFixture) -> None:
    """After a kill between its last two records of a package, dpkg refuses it, but apt considers it installed."""
    box.run(
        "apt-get update; cd /var/tmp; apt-get download libjq1; dpkg --unpack libjq1_*.deb; apt-mark auto libjq1; "
        "sed -i '/^Package: libjq1$/,/^$/s/^Status: install ok unpacked$/Status: install reinstreq unpacked/' "
        "/var/lib/dpkg/status; ! apt-get install --fix-broken --yes"
    )
    assert box.run("dpkg -l libjq1 | tail -n 1")[:3] == "iUR"
    assert box.deploy([*life("v0"), Packages(["jq"])])[-1] == "packages jq: not installed: jq"
    assert box.run("dpkg --audit; dpkg -l libjq1 jq | cut -c1-3 | tail -n 2").split() == ["ii", "ii"]
    assert box.run("apt-mark showauto libjq1") == "libjq1"


@pytest.mark.parametrize(
    ("cut_off", "left"),
    [
        # At its end dpkg merges its journal into its list of packages, then removes it file by file.
        ("sed -n '/^Package: jq$/,/^$/p' /var/lib/dpkg/status >/var/lib/dpkg/updates/0000", "its journal is not empty"),
        # The requested package is configured, but ldconfig, a trigger of libc-bin, has not run yet.
        ("cd /var/tmp; dpkg --no-triggers --install libjq1_*.deb", "libc-bin is triggers-pending"),
    ],
)
def test_pending_work_of_dpkg_is_completed(box: LabFixture, cut_off: str, left: str) -> None:
    steps = [*life("v0"), DpkgConfigured(), Packages(["jq"])]
    box.deploy(steps)
    assert box.pending(steps) == []
    box.run(f"apt-get update; cd /var/tmp; apt-get download libjq1; {cut_off}")
    assert box.pending(steps) == [f"dpkg has finished: was interrupted: {left}"]
    box.run(
        "(exec 7>>/var/lib/dpkg/lock-frontend; touch /run/held; sleep 3) >/dev/null 2>&1 & "
        "until [ -e /run/held ]; do sleep 0.1; done; rm /run/held"
    )
    assert box.pending(steps) == [], "another process holds dpkg's lock"
    box.run("sleep 3")
    assert box.deploy(steps) == [f"dpkg has finished: was interrupted: {left}"]
    assert box.run("ls -A /var/lib/dpkg/updates; dpkg --audit; apt-get check -qq") == ""


def test_port_in_use_is_reported_and_removed_units_leave_nothing(box: LabFixture) -> None:
    text = "[Service]\nExecStart=/usr/sbin/sshd -D -p {port}\n[Install]\nWantedBy=multi-user.target\n"
    taken, free = (File("/etc/systemd/system/second.service", text.format(port=port).encode()) for port in (22, 2222))
    with pytest.raises(HomelabError) as error:
        box.deploy([taken, SystemdUnit("second.service", triggered_by=[taken])])
    assert "already listens on that port" in error.value.details
    assert box.deploy([free, SystemdUnit("second.service", triggered_by=[free])]) == [
        "file /etc/systemd/system/second.service: its content differs",
        "unit second.service: is failed",
    ]
    assert box.deploy([]) == [
        "remove unit second.service: no longer in the inventory",
        "remove file /etc/systemd/system/second.service: no longer in the inventory; changes by hand are kept in "
        "/var/lib/homelab/replaced/etc/systemd/system/second.service",
    ]
    assert "second" not in box.run("systemctl list-units --all --plain; ls /etc/systemd/system")


def test_failing_unit_shows_its_journal(box: LabFixture) -> None:
    text = "[Service]\nExecStart=/bin/sh -c '{does}'\n[Install]\nWantedBy=multi-user.target\n"
    bad, good = (
        File("/etc/systemd/system/third.service", text.format(does=does).encode())
        for does in ("echo no key in /etc/third; exit 3", "sleep infinity")
    )
    error = box.fails([bad, SystemdUnit("third.service", triggered_by=[bad])])
    assert error.brief == "Cannot start third.service on postgres-data: the unit is not active"
    assert "  no key in /etc/third\n" in error.details
    assert "`homelab logs postgres-data third.service`" in error.resolution
    assert len(box.deploy([good, SystemdUnit("third.service", triggered_by=[good])])) == 2
    box.deploy([])


def test_port_that_a_slow_program_finds_taken_is_named_without_a_long_wait(box: LabFixture) -> None:
    text = "[Service]\nExecStart=/bin/sh -c 'sleep 1; exec /usr/sbin/sshd -D -p 22'\nRestart=always\nRestartSec=1\n"
    unit = File("/etc/systemd/system/slow.service", f"{text}[Install]\nWantedBy=multi-user.target\n".encode())
    started = SystemdUnit("slow.service", triggered_by=[unit])
    check = HealthCheck("slow", ["false"], lambda _: Health(False, "does not answer"), ("slow.service",), [started])
    with pytest.raises(HomelabError) as error:
        box.deploy([unit, started, check])
    assert error.value.brief == "Cannot start slow.service on postgres-data: the unit is not active"
    assert "already listens on that port" in error.value.details
    box.deploy([])


def test_full_disk_is_reported_and_leaves_no_partial_files(box: LabFixture) -> None:
    box.run("mkdir -p /opt/small && mount -t tmpfs -o size=64k,mode=755 none /opt/small")
    large = bytes(range(256)) * 1024
    for step in (File("/opt/small/file", large), Tree("/opt/small/tree", {"a/b": os.urandom(len(large))})):
        error = box.fails([step])
        assert "The disk of postgres-data is full." in error.details
        assert "`homelab ssh postgres-data -- df -h`" in error.resolution
        assert box.run("cd /opt/small; find . -type f -name '*file*'") == ""
        box.run("umount /opt/small")
        assert len(box.deploy([step])) == 1
        box.run("mount -t tmpfs -o size=64k,mode=755 none /opt/small")
    box.run("umount /opt/small; mount -t tmpfs -o size=64k,mode=755 none /var/cache/apt/archives")
    error = box.fails([Packages(["vim-tiny", "postgresql-15"])])
    assert "The disk of postgres-data is full." in error.details
    assert "You don't have enough free space in /var/cache/apt/archives/." in error.details
    box.run("umount /var/cache/apt/archives")
    assert box.deploy([Packages(["tree"])]) == ["packages tree: not installed: tree"]


def test_without_a_network_and_without_a_mirror(box: LabFixture) -> None:
    package = Packages(["figlet"])
    box.run("echo 'Acquire::Retries::Delay false;' >/etc/apt/apt.conf.d/98quick")
    route = box.run("ip route show default")
    box.run("ip route del default")
    try:
        error = box.fails([package])
    finally:
        box.run(f"ip route replace {route}")
    assert "postgres-data cannot resolve names" in error.details or "no route to that address" in error.details
    assert "`gateway`" in error.resolution
    box.deploy([closed := File("/etc/apt/apt.conf.d/99closed", b'Acquire::http::Proxy "http://127.0.0.1:9";\n')])
    error = box.fails([closed, package])
    assert "A mirror or proxy does not deliver a file" in error.details
    assert "127.0.0.1:9" in error.details
    assert "under `packages`" in error.resolution
    assert box.deploy([package])[1:] == ["packages figlet: not installed: figlet"]


def test_wrong_clock_is_reported_with_its_consequences(box: LabFixture) -> None:
    """Containers share the host's clock, so libfaketime gives commands over SSH another time."""
    box.deploy([Packages(["libfaketime"])])
    box.run("""cp /etc/environment /root/environment; rm -rf /var/lib/apt/lists/*
        echo 'Acquire::Check-Date true;' >/etc/apt/apt.conf.d/zz-dates  # the machine's own settings may disable it
        library=$(dpkg -L libfaketime | grep -m 1 /libfaketime.so)
        printf 'FAKETIME=-5y\\nLD_PRELOAD=%s\\n' "$library" >>/etc/environment""")
    output = io.StringIO()
    try:
        with box.connect() as host:
            converge(host, [], TerminalProgress(Console(file=output, width=300)))
        error = box.fails([Packages(["sl"])])
    finally:
        box.run("mv /root/environment /etc/environment; rm /etc/apt/apt.conf.d/zz-dates")
    assert re.search(r"postgres-data +its clock is 182\d d \d+ h behind: set the clock of its node", output.getvalue())
    assert "too new or too old for the clock of postgres-data" in error.details
    assert "`homelab ssh postgres-data -- date -u`" in error.resolution
    assert box.deploy([Packages(["sl"])]) == ["packages sl: not installed: sl"]


UV = bundled_path("pipelines/shared/requirements/uv.txt").read_bytes()


def test_missing_python_wrong_hash_and_unreachable_index(box: LabFixture) -> None:
    assert box.run("command -v python3 || echo none") == "none"
    python, wrong = Packages(["python3", "python3-venv"]), re.sub(rb"sha256:[0-9a-f]{8}", b"sha256:01234567", UV)
    error = box.fails([UvInstall(UV)])
    assert "postgres-data has no Python." in error.details
    error = box.fails([python, UvInstall(wrong)])
    assert "does not match its hash" in error.details
    assert "empty the proxy's cache" in error.resolution
    found = [python, UvInstall(UV), Directory("/opt/third")]
    assert box.deploy(found)[0] == "uv: not installed, or of another version"
    venv = Venv("/opt/third/venv", UV)
    closed = File("/etc/uv/uv.toml", b'[[index]]\nurl = "http://127.0.0.1:9/simple"\ndefault = true\n')
    error = box.fails([*found, Directory("/etc/uv"), closed, venv])
    assert "A mirror or proxy does not deliver a file" in error.details
    box.run("mv /usr/bin/python3 /usr/bin/python3.gone")
    box.deploy(found)
    error = box.fails([*found, venv])
    assert "postgres-data has no Python." in error.details
    box.run("mv /usr/bin/python3.gone /usr/bin/python3")
    assert box.deploy([*found, venv]) == ["venv /opt/third/venv: does not exist"]


def test_changed_host_key_is_refused_until_trusted(box: LabFixture) -> None:
    key = "/etc/ssh/ssh_host_ed25519_key"
    box.run(f"rm -f {key} && ssh-keygen -qt ed25519 -N '' -f {key} && systemctl restart ssh")
    with pytest.raises(HomelabError) as error:
        box.connect()
    assert error.value.brief == "Cannot connect to postgres-data: its SSH host key has changed"
    assert "another machine may be answering" in error.value.details
    assert "`homelab trust host postgres-data`" in error.value.resolution
    line = shown_key(str(box.inventory.containers[0].address))
    assert line
    trust_host(box.session, "postgres-data", fingerprint(line))
    assert box.deploy([]) is not None


def test_unit_of_a_package_is_masked_and_can_return(box: LabFixture) -> None:
    gone = m.RemoveResource(ManagedResource("unit", "systemd-networkd.service"))
    unit = SystemdUnit(gone.resource.name, settle=0)
    with box.connect() as host:
        gone.apply(host)
        gone.apply(host)
        assert gone.check(host.batch(gone.probes())) is None
        assert host.run(f"systemctl is-enabled {unit.unit}").text == "masked"
        assert unit.check(host.batch(unit.probes())) is not None
        host.run(f"systemctl unmask {unit.unit}")
