"""A deploy that is cut off in every one of its commands ends as one that nobody disturbed, part by part.

One run is cut off in the first command that was not cut off before, the next one in the next, and so on until one
comes through: so the walk over all commands costs little more than one deploy. What takes long is cut off several
times, each time after another part of what it takes.

By itself this walks over PostgreSQL's container, in which each command is cut off in one of four ways, by chance. With
`HOMELAB_CRASHES=all`, or some of `cli,cut,kill,reboot`, it walks over the whole stack, once for each of them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from homelab.commands.deploy import HostReport, deploy
from homelab.commands.deploy import connect as over_ssh
from homelab.commands.destroy import destroy
from homelab.host import check
from homelab.known_hosts import KnownHosts, Pin, fingerprint
from homelab.lab import Lab
from homelab.model import Container, Secret
from homelab.paths import bundled_path
from homelab.plan import select_containers
from homelab.ssh import Keepalive, Ssh
from tests.integration.fault_injection import KINDS, FaultInjectingHost, FaultPlan, differences, state
from tests.integration.lab_fixture import QUIET, LabFixture, in_a_lab, lab_with

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

pytestmark = in_a_lab(3600 if ASKED else 300)


@dataclass(frozen=True)
class Stack(LabFixture):
    """The containers of the walk; what it notes is in the folder."""

    folder: Path

    @property
    def containers(self) -> Sequence[Container]:
        """Those that the walk goes over."""
        return select_containers(self.inventory, LIMIT)

    def make(self, keys: Mapping[str, bytes]) -> dict[str, bytes]:
        """Fresh containers, with these host keys, or with new ones. Returns the keys."""
        destroy(self.inventory, known_hosts=self.known_hosts, progress=QUIET, confirm=lambda plan: True, limit=LIMIT)
        self.up(*LIMIT)
        made = {}
        for container in self.containers:
            with self.connect(container.name) as host:
                check(host, "systemctl is-system-running --wait", "boot")
                if container.name in keys:
                    check(
                        host,
                        f"cat >{_KEY} && ssh-keygen -yf {_KEY} >{_KEY}.pub && systemctl restart ssh",
                        "giving it the keys of before",
                        stdin=keys[container.name],
                    )
                made[container.name] = check(host, f"cat {_KEY}", "read its key").stdout
                line = " ".join(check(host, f"cat {_KEY}.pub", "read its key").text.split()[:2])
            self.known_hosts.pin(container.name, Pin(fingerprint(line), line))
        return made

    def deploy_all(self, reach: Callable[..., object] = over_ssh) -> Sequence[HostReport]:
        """What `homelab deploy` does."""
        return deploy(
            self.inventory,
            secret_store=self.secret_store,
            known_hosts=self.known_hosts,
            progress=QUIET,
            limit=LIMIT,
            reach=reach,
        )  # type: ignore[arg-type]

    def deploy_and_be_cut_off(self, fate: FaultPlan) -> int:
        """The same in a process of its own, cut off as fate has it: 0 if all went well, 1 if not, -9 if killed."""
        child = os.fork()
        if child:
            try:
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            except BaseException:  # as at Ctrl-C: it does not outlive its container
                os.kill(child, signal.SIGKILL)
                raise
        try:
            failures = [str(report.failure) for report in self.deploy_all(reaching(fate)) if report.failure]
            sys.stderr.write("".join(f"{failure}\n\n" for failure in failures))
            sys.stderr.flush()
            os._exit(len(failures) and 1)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(70)

    def state(self) -> dict[str, dict[str, str]]:
        """Part by part, what each container is."""
        found = {}
        for container in self.containers:
            with self.connect(container.name) as host:
                check(host, "systemctl is-system-running --wait || systemctl --failed >&2", "boot")
                found[container.name] = state(host)
        return found


def reaching(fate: FaultPlan) -> Callable[[Container, Secret, KnownHosts], FaultInjectingHost]:
    """What connects to a container on which commands are cut off."""

    def reach(container: Container, private: Secret, known_hosts: KnownHosts) -> FaultInjectingHost:
        host = Ssh(container.name, str(container.address), private, known_hosts, keepalive=Keepalive(2, 5))
        host.connect(60)
        return FaultInjectingHost(host, fate)

    return reach


@dataclass(frozen=True)
class Clean:
    """A deploy that nobody disturbed: what it left, what its commands took, and the host keys that it stands on."""

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
    assert [report.failure for report in stack.deploy_all(reaching(learning))] == [None] * len(stack.containers)
    return Clean(stack.state(), learning.seconds, keys)


@pytest.mark.parametrize("kinds", WALKS, ids="-".join)
def test_cut_off_in_every_command_it_ends_as_a_clean_one(stack: Stack, clean: Clean, kinds: Sequence[str]) -> None:
    stack.make(clean.keys)
    fate = FaultPlan(stack.folder / "-".join(kinds), kinds, SEED, 3 if ASKED else 2, dict(clean.seconds))
    runs, before, started = Counter[int](), -1, time.monotonic()
    while (ended := stack.deploy_and_be_cut_off(fate)) or len(fate.met()) > before:
        assert ended in (0, 1, -signal.SIGKILL)
        runs[ended] += 1
        assert ended != 1 or len(fate.met()) > before, "a run that was left in peace has failed"
        before = len(fate.met())
    missed = [name for name in clean.seconds if name not in fate.met()]
    sys.stderr.write(
        f"{kinds}: {len(fate.met())} times cut off in {runs.total()} runs {dict(runs)}, "
        f"{time.monotonic() - started:.0f} s; not met: {missed}\n"
    )
    assert [report.changes for report in stack.deploy_all()] == [[]] * len(stack.containers)
    found = stack.state()
    wrong = [f"{name}: {line}" for name in clean.state for line in differences(clean.state[name], found[name])]
    sys.stderr.write("".join(f"{line}\n" for line in wrong))
    assert wrong == []
    # A command is not needed any more where a look at what the one before it has made shows that it is so already.
    assert len(missed) <= len(clean.seconds) / 10, "the walk must have met every command"


def test_whatever_differs_would_be_seen(stack: Stack, clean: Clean) -> None:
    """In the container that the walk has left: a file too many, a mode, a content, a package, a unit, a role."""
    container = stack.containers[0]
    before = clean.state[container.name]
    with stack.connect(container.name) as host:
        check(
            host,
            """cd /etc/postgresql/15/main; touch .pg_hba.conf.homelab.abcdef; chmod 600 environment
echo >>pg_ident.conf; apt-mark manual libpq5; systemctl mask cron.service e2scrub_reap.service 2>/dev/null
cd /; runuser -u postgres -- psql -qc 'create role other'; ln -sf /etc/hosts /etc/link""",
            "spoiling it",
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
