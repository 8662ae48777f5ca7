"""Real, unprivileged LXC containers, with the runtime that Proxmox itself uses. Every call here blocks."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from homelab.known_hosts import fingerprint
from homelab.lab import cgroups, disks, guest, network
from homelab.lab.command import ProgramFailed, attempt, run
from homelab.lab.process import kill_all, processes
from homelab.lab.settings import Lab
from homelab.lab.subids import COUNT, FIRST

_SHARED = Path("/usr/share/lxc/config")
_KEY_TYPES = ("rsa", "ecdsa", "ed25519")
_INTERFACE_NAME_MAX = 15
_COPY = 1800.0  # timeout in seconds for a copy
AS_CONTAINER_ROOT = ("lxc-usernsexec", "-m", f"b:0:{FIRST}:{COUNT}", "--")


@dataclass(frozen=True, slots=True)
class Runtime:
    """Manager of one lab's containers."""

    lab: Lab

    def prepare(self) -> None:
        """Create the folder of containers; only root and the containers' root can enter it."""
        self.lab.lxcpath.mkdir(exist_ok=True)
        os.chown(self.lab.lxcpath, 0, FIRST)
        self.lab.lxcpath.chmod(0o710)

    def root(self, vmid: int) -> Path:
        """Return the container's root file system; its files are owned by the mapped ids."""
        return self.lab.lxcpath / str(vmid) / "rootfs"

    def create(
        self,
        vmid: int,
        hostname: str,
        template: Path,
        public_keys: str,
        password: str | None,
        log_line: Callable[[str], None],
    ) -> None:
        """Unpack the template into the container's root, and generate its own keys.

        `log_line` receives Proxmox's log lines.
        """
        root = self.root(vmid)
        log_line(f"extracting archive '{template}'")
        with tempfile.TemporaryDirectory(dir=root.parent, prefix="keys-") as folder, ThreadPoolExecutor(1) as pool:
            making = pool.submit(_make_host_keys, Path(folder), hostname)
            # Unpack as the container's root, so that every file gets its mapped owner. An id-mapped mount would do
            # the same, but LXC 5.0 loses the mapping when a container reboots from inside.
            run(
                [
                    *AS_CONTAINER_ROOT,
                    "tar",
                    "-I",
                    "zstd",
                    "--numeric-owner",
                    "--xattrs",
                    "-xpf",
                    template,
                    "-C",
                    root,
                    "--anchored",
                    "--exclude=./dev/*",
                ],
                timeout=600,
            )
            log_line("Detected container architecture: amd64")
            making.result()
            self._personalise(root, Path(folder), hostname, public_keys, log_line)
        if password:
            run([*AS_CONTAINER_ROOT, "chpasswd", "--root", root], stdin=f"root:{password}\n".encode())

    def make_root(self, vmid: int, disk: int = 0) -> None:
        """Make the container's empty root: a disk of that many bytes, or a folder without a limit."""
        root = self.root(vmid)
        root.mkdir(parents=True)
        os.chown(root, FIRST, FIRST)
        if disk:
            disks.make_disk(root, disk)

    def _personalise(
        self, root: Path, keys: Path, hostname: str, public_keys: str, log_line: Callable[[str], None]
    ) -> None:
        # Proxmox generates the keys in random order, so clients must not rely on one.
        for kind in random.sample(_KEY_TYPES, len(_KEY_TYPES)):
            name = f"ssh_host_{kind}_key"
            log_line(f"Creating SSH host key '{name}' - this may take some time ...")
            public = (keys / f"{name}.pub").read_bytes()
            guest.write_inside(root, {f"etc/ssh/{name}": (keys / name).read_bytes()}, 0o600)
            guest.write_inside(root, {f"etc/ssh/{name}.pub": public})
            log_line(f"done: {fingerprint(public.decode())} root@{hostname}")
        guest.write_inside(root, {"etc/machine-id": f"{uuid.uuid4().hex}\n".encode()}, 0o444)
        if public_keys:
            guest.write_inside(root, {"root/.ssh/authorized_keys": public_keys.encode()}, 0o600)

    def start(self, vmid: int, config: Mapping[str, object], filters: str = "") -> None:
        """Write the container's settings, load its nftables rules, boot it, and return when its init runs.

        Raises HomelabError.
        """
        disks.attach(self.root(vmid))
        self.guard(vmid, filters, running=False)
        guest.write_inside(self.root(vmid), guest.settings(config, network.nameservers()))
        self.tidy(vmid)  # the monitor may outlive the container that it has stopped
        folder = self.root(vmid).parent
        (folder / "config").write_text(self.configuration(vmid, config))
        log = folder / "start.log"
        log.unlink(missing_ok=True)
        done = attempt(["lxc-start", "-P", self.lab.lxcpath, "-n", str(vmid), "-d", "-o", log, "-l", "WARN"])
        if done.returncode:
            lines = log.read_text(errors="replace").splitlines()[-6:] if log.exists() else []
            raise ProgramFailed(f"startup for container '{vmid}' failed", "\n".join(lines))

    def configuration(self, vmid: int, config: Mapping[str, object]) -> str:
        """Render the container's LXC configuration."""
        features = guest.parse_properties(str(config.get("features", "")))
        nesting = features.get("nesting") == "1"
        return (
            "\n".join(
                [
                    f"lxc.include = {_SHARED}/common.conf",
                    f"lxc.include = {_SHARED}/userns.conf",
                    *([f"lxc.include = {_SHARED}/nesting.conf"] if nesting else []),
                    *_apparmor(nesting=nesting),
                    f"lxc.idmap = u 0 {FIRST} {COUNT}",
                    f"lxc.idmap = g 0 {FIRST} {COUNT}",
                    f"lxc.rootfs.path = dir:{self.root(vmid)}",
                    f"lxc.uts.name = {config['hostname']}",
                    "lxc.autodev = 1",
                    "lxc.tty.max = 0",
                    "lxc.signal.halt = SIGRTMIN+3",
                    f"lxc.cgroup.dir.monitor = {self.lab.cgroup(vmid)}-monitor",
                    f"lxc.cgroup.dir.container = {self.lab.cgroup(vmid)}",
                    *cgroups.lxc_lines(config),
                    *self._network(vmid, config),
                    # Runs before the container's init, also when it reboots from inside.
                    "lxc.hook.start-host = "
                    f"sh -c 'exec nsenter --net=/proc/$LXC_PID/ns/net nft -f {self._filters(vmid)}'",
                ]
            )
            + "\n"
        )

    def guard(self, vmid: int, filters: str, running: bool) -> None:
        """Store a container's nftables rules for its next start, and load them if it runs. Raises HomelabError."""
        if self._filters(vmid).parent.is_dir():  # missing while the container is being created
            self._filters(vmid).write_text(filters)
        if running:
            self.inside(vmid, "nft", "-f", str(self._filters(vmid)))

    def _filters(self, vmid: int) -> Path:
        return self.root(vmid).parent / "firewall.nft"

    def _network(self, vmid: int, config: Mapping[str, object]) -> Sequence[str]:
        lines = []
        for number, device in guest.network_devices(config).items():
            key = f"lxc.net.{number}"
            lines += [
                f"{key}.type = veth",
                f"{key}.link = {device['bridge']}",
                f"{key}.flags = up",
                f"{key}.name = {device.get('name', f'eth{number}')}",
                f"{key}.hwaddr = {device['hwaddr']}",
            ]
            if len(pair := self.veth(vmid, number)) <= _INTERFACE_NAME_MAX:
                lines.append(f"{key}.veth.pair = {pair}")
        return lines or ["lxc.net.0.type = empty"]

    def veth(self, vmid: int, number: int) -> str:
        """Return the name of the host's end of a container's network device."""
        return f"{self.lab.bridge}{vmid}i{number}"

    def pid(self, vmid: int) -> int | None:
        """Return the host's pid of the container's init; None if it does not run."""
        done = attempt(["lxc-info", "-P", self.lab.lxcpath, "-n", str(vmid), "-p", "-H"])
        text = done.stdout.decode().strip()
        return int(text) if done.returncode == 0 and text.isdigit() and int(text) > 0 else None

    def shutdown(self, vmid: int, timeout: int) -> bool:
        """Ask init to power off and return whether it did so within `timeout` seconds."""
        return (
            attempt(
                ["lxc-stop", "-P", self.lab.lxcpath, "-n", str(vmid), "--nokill", "--timeout", str(timeout)],
                timeout=timeout + 30,
            ).returncode
            == 0
        )

    def kill(self, vmid: int) -> None:
        """Kill the container in any state and remove its cgroups."""
        attempt(["lxc-stop", "-P", self.lab.lxcpath, "-n", str(vmid), "-k"])
        self.tidy(vmid)

    def tidy(self, vmid: int) -> None:
        """Remove the leftovers of a stopped container: monitor, cgroups and network device."""
        title = f"[lxc monitor] {self.lab.lxcpath} {vmid}"
        kill_all(lambda: [stat.pid for stat in processes() if _title(stat.pid) == title], f"the monitor of {vmid}")
        cgroups.clean(self.lab.cgroup(vmid))
        # The kernel removes them with the container's namespace, which ends later than the container.
        for link in Path("/sys/class/net").glob(f"{self.veth(vmid, 0)[:-1]}[0-9]*"):
            attempt(["ip", "link", "del", link.name])

    @contextmanager
    def frozen(self, vmid: int) -> Iterator[None]:
        """Freeze a running container for the duration of the block. Raises TimeoutError."""
        if self.pid(vmid) is not None:
            cgroups.freeze(self.lab.cgroup(vmid))
        try:
            yield
        finally:
            self.unfreeze(vmid)

    def unfreeze(self, vmid: int) -> None:
        """Unfreeze a container that a killed node has left frozen; does nothing to others."""
        cgroups.thaw(self.lab.cgroup(vmid))

    def remove(self, vmid: int) -> None:
        """Kill the container and remove its files."""
        self.kill(vmid)
        disks.detach(self.root(vmid))
        remove_tree(self.root(vmid).parent)

    def known(self) -> list[int]:
        """Return the vmids that have files here, including partly created containers."""
        if not self.lab.lxcpath.is_dir():
            return []
        return sorted(int(path.name) for path in self.lab.lxcpath.iterdir() if path.name.isdigit())

    def sweep(self) -> None:
        """Remove the monitors, cgroups and locks of containers without files."""
        title = f"[lxc monitor] {self.lab.lxcpath} "
        kill_all(
            lambda: [stat.pid for stat in processes() if _title(stat.pid).startswith(title)],
            f"the monitors of {self.lab.name}",
        )
        cgroups.clean(rf"homelab-{self.lab.name}-\d+")
        locks = Path("/run/lxc/lock") / self.lab.lxcpath.relative_to("/")
        shutil.rmtree(locks, ignore_errors=not locks.exists())
        for folder in locks.parents:
            # LXC also created the parent folders; keep those that hold other locks.
            if folder == Path("/run") or not folder.is_dir() or any(folder.iterdir()):
                break
            folder.rmdir()

    def inside(self, vmid: int, *argv: str) -> str:
        """Run a program of this machine in a running container's network namespace. Raises HomelabError."""
        pid = self.pid(vmid)
        if pid is None:
            raise ProgramFailed(f"Cannot enter the network of container {vmid}: it is not running")
        return run(["nsenter", f"--net=/proc/{pid}/ns/net", *argv])


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder with owners, modes, times, links and extended attributes. Raises HomelabError."""
    run(
        ["cp", "--archive", "--reflink=auto", "--one-file-system", "--no-target-directory", source, target],
        timeout=_COPY,
    )


def remove_tree(folder: Path) -> None:
    """Remove a folder with its content; does nothing if it is missing. Raises HomelabError."""
    run(["rm", "-rf", "--one-file-system", "--", folder], timeout=300)


def _make_host_keys(folder: Path, hostname: str) -> None:
    for kind in _KEY_TYPES:
        run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", f"root@{hostname}", "-f", folder / f"ssh_host_{kind}_key"])


def _apparmor(*, nesting: bool) -> list[str]:
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    if not enabled.exists() or enabled.read_text().strip() != "Y":
        return []
    if not shutil.which("apparmor_parser"):
        return ["lxc.apparmor.profile = unconfined"]
    return ["lxc.apparmor.profile = generated", f"lxc.apparmor.allow_nesting = {int(nesting)}"]


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0 ")
    except (FileNotFoundError, ProcessLookupError):
        return ""
