"""A deploy that is interrupted in each of its commands ends in the same state as an undisturbed one.

Each run is interrupted in the first command that was not interrupted before, until a run completes: so the walk over
all commands costs little more than one deploy. A long command is interrupted several times, at different moments.

The default walk covers PostgreSQL's container and chooses one of four faults per command at random. With
`HOMELAB_CRASHES=all`, or some of `cli,cut,kill,reboot`, it covers the whole stack, once for each of these faults.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from homelab.commands.deploy import deploy
from homelab.commands.destroy import destroy
from homelab.host import check
from homelab.known_hosts import KnownHosts, Pin, fingerprint
from homelab.lab import Lab
from homelab.model import Container, Secret
from homelab.paths import bundled_path
from homelab.plan import select_containers
from homelab.runtime.connections import Connector, connect_ssh
from homelab.runtime.convergence import HostReport
from homelab.ssh import Keepalive, Ssh
from tests.integration.fault_injection import KINDS, FaultInjectingHost, FaultPlan, differences, state
from tests.integration.lab_fixture import LabFixture, in_a_lab, lab_with

LAB = Lab("crash", IPv4Network("10.99.2.112/28"), "hl-crsh", 18086, 8169)
OVERLAY = """
containers:
  postgres-data: {vmid: 215, ip: 10.99.2.115}
  analytics-platform: {vmid: 216, ip: 10.99.2.116}
  airflow-orchestration: {vmid: 217, ip: 10.99.2.117}
"""
ASKED = os.environ.get("HOMELAB_CRASHES", "")
WALKS = [(kind,) for kind in KINDS if ASKED == "all" or kind in ASKED.split(",")] or [KINDS]
SEED = int(os.environ.get("HOMELAB_SEED", "5"))
LIMIT = () if ASKED else ("postgres-data",)
_KEY = "/etc/ssh/ssh_host_ed25519_key"

pytestmark = in_a_lab(3600 if ASKED else 600)


@dataclass(frozen=True)
class Stack(LabFixture):
    """The containers of the walk, and the folder of its log."""

    folder: Path

    @property
    def containers(self) -> Sequence[Container]:
        """The containers that the walk covers."""
        return select_containers(self.inventory, LIMIT)

    def make(self, keys: Mapping[str, bytes]) -> dict[str, bytes]:
        """Create new containers with these host keys or new ones, and return the keys."""
        destroy(self.session, confirm=lambda plan: True, limit=LIMIT)
        self.up(*LIMIT)
        made = {}
        for container in self.containers:
            with self.connect(container.name) as host:
                check(host, "systemctl is-system-running --wait", "boot")
                if container.name in keys:
                    check(
                        host,
                        f"cat >{_KEY} && ssh-keygen -yf {_KEY} >{_KEY}.pub && systemctl restart ssh",
                        "restoring its host key",
                        stdin=keys[container.name],
                    )
                made[container.name] = check(host, f"cat {_KEY}", "read its key").stdout
                line = " ".join(check(host, f"cat {_KEY}.pub", "read its key").text.split()[:2])
            self.known_hosts.pin(container.name, Pin(fingerprint(line), line))
        return made

    def deploy_all(self, connector: Connector = connect_ssh) -> Sequence[HostReport]:
        """Run `homelab deploy`."""
        return deploy(replace(self.session, connector=connector), limit=LIMIT)

    def deploy_with_faults(self, fate: FaultPlan) -> int:
        """Deploy in a separate process with faults; return 0 after success, 1 after errors, -9 if it was killed."""
        child = os.fork()
        if child:
            try:
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            except BaseException:  # such as Ctrl-C: the child must not outlive the lab
                os.kill(child, signal.SIGKILL)
                raise
        try:
            failures = [str(report.failure) for report in self.deploy_all(connecting_with(fate)) if report.failure]
            sys.stderr.write("".join(f"{failure}\n\n" for failure in failures))
            sys.stderr.flush()
            os._exit(len(failures) and 1)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(70)

    def state(self) -> dict[str, dict[str, str]]:
        """Return each container's state."""
        found = {}
        for container in self.containers:
            with self.connect(container.name) as host:
                check(host, "systemctl is-system-running --wait || systemctl --failed >&2", "boot")
                found[container.name] = state(host)
        return found


def connecting_with(fate: FaultPlan) -> Callable[[Container, Secret, KnownHosts, float], FaultInjectingHost]:
    """Return a connect function for containers with faults in their commands."""

    def reach(container: Container, private: Secret, known_hosts: KnownHosts, _deadline: float) -> FaultInjectingHost:
        host = Ssh(container.name, str(container.address), private, known_hosts, keepalive=Keepalive(2, 5))
        host.connect(60)  # a faulty container may be rebooting
        return FaultInjectingHost(host, fate)

    return reach


@dataclass(frozen=True)
class Clean:
    """An undisturbed deploy: the resulting state, the commands' durations, and the host keys."""

    state: Mapping[str, Mapping[str, str]]
    seconds: dict[str, float]
    keys: Mapping[str, bytes]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("crash")
    with lab_with(LAB, folder, bundled_path("inventory.yaml").read_text(), OVERLAY) as box:
        yield Stack(box.inventory, folder)


@pytest.fixture(scope="module")
def clean(stack: Stack) -> Clean:
    keys = stack.make({})
    learning = FaultPlan(stack.folder / "none")
    assert [report.failure for report in stack.deploy_all(connecting_with(learning))] == [None] * len(stack.containers)
    return Clean(stack.state(), learning.seconds, keys)


@pytest.mark.parametrize("kinds", WALKS, ids="-".join)
def test_interrupted_deploy_ends_like_an_undisturbed_one(stack: Stack, clean: Clean, kinds: Sequence[str]) -> None:
    stack.make(clean.keys)
    fate = FaultPlan(stack.folder / "-".join(kinds), kinds, SEED, 3 if ASKED else 2, dict(clean.seconds))
    runs, before, started = Counter[int](), -1, time.monotonic()
    while (ended := stack.deploy_with_faults(fate)) or len(fate.interrupted()) > before:
        assert ended in (0, 1, -signal.SIGKILL)
        runs[ended] += 1
        assert ended != 1 or len(fate.interrupted()) > before, "a run without faults failed"
        before = len(fate.interrupted())
    missed = [name for name in clean.seconds if name not in fate.interrupted()]
    sys.stderr.write(
        f"{kinds}: {len(fate.interrupted())} faults in {runs.total()} runs {dict(runs)}, "
        f"{time.monotonic() - started:.0f} s; commands without a fault: {missed}\n"
    )
    assert [report.changes for report in stack.deploy_all()] == [[]] * len(stack.containers)
    found = stack.state()
    wrong = [f"{name}: {line}" for name in clean.state for line in differences(clean.state[name], found[name])]
    sys.stderr.write("".join(f"{line}\n" for line in wrong))
    assert wrong == []
    # A few commands are skipped when the interrupted run has already reached their goal.
    assert len(missed) <= len(clean.seconds) / 10, "the walk missed too many commands"


def test_comparison_detects_every_kind_of_difference(stack: Stack, clean: Clean) -> None:
    """Change a file, a mode, a content, a package, a unit and a role in the walk's container."""
    container = stack.containers[0]
    before = clean.state[container.name]
    with stack.connect(container.name) as host:
        check(
            host,
            """cd /etc/postgresql/15/main; touch .pg_hba.conf.homelab.abcdef; chmod 600 environment
echo >>pg_ident.conf; apt-mark manual libpq5; systemctl mask cron.service e2scrub_reap.service 2>/dev/null
cd /; runuser -u postgres -- psql -qc 'create role other'; ln -sf /etc/hosts /etc/link""",
            "changing it",
        )
        found = [line.partition(":")[0] for line in differences(before, state(host))]
    folder = "/etc/postgresql/15/main"
    assert {
        f"{folder}/.pg_hba.conf.homelab.abcdef",
        f"{folder}/environment",
        f"{folder}/pg_ident.conf",
        "/etc/link",
        "packages",
        "unit files",
        "databases",
    } <= set(found)
