"""The limits of the services' processes, in their units and in the commands that run their code for a deploy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homelab.host import argv
from homelab.model import Step
from homelab.render import render
from homelab.steps import Directory, File, User

# `systemd-analyze security` rates them 1.7. Without MemoryDenyWriteExecute=, for PostgreSQL's just-in-time compiler.
LIMITS = (
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectHostname=yes",
    "ProtectClock=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
    "UMask=0077",
)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The limits of one service: its user, and the only folders that it can write; the first is its working directory.

    `environment` are the files with its environment, which only root can read. `passed` are the variables that a
    command within the limits takes over from its caller, `capabilities` the only ones of root that its unit keeps, and
    `groups` the further groups of its processes.
    """

    user: str
    writable: Sequence[str]
    environment: Sequence[str] = ()
    passed: Sequence[str] = ()
    capabilities: Sequence[str] = ()
    groups: Sequence[str] = ()

    @property
    def lines(self) -> Sequence[str]:
        """The lines of a unit's section [Service]."""
        return (
            f"User={self.user}",
            f"Group={self.user}",
            *([f"SupplementaryGroups={' '.join(self.groups)}"] if self.groups else []),
            *(f"EnvironmentFile={file}" for file in self.environment),
            f"Environment=HOME={self.writable[0]}",  # the user's home cannot be read, which libpq takes for an error
            *LIMITS,
            *(
                f"{kind}={name}"
                for name in self.capabilities
                for kind in ("CapabilityBoundingSet", "AmbientCapabilities")
            ),
            f"ReadWritePaths={' '.join(self.writable)}",
        )

    @property
    def program(self) -> str:
        """The program in the container that runs a command within the limits, for root only."""
        return f"/usr/local/sbin/homelab-as-{self.user}"

    def account(self) -> Sequence[Step]:
        """Return the steps for the user and the folders that it can write."""
        folders = [Directory(path, self.user, self.user, 0o750) for path in self.writable]
        return (User(self.user, self.writable[0]), *folders)

    def file(self) -> File:
        """Return the step that installs the program."""
        return File(self.program, render("sandbox.j2", sandbox=self), mode=0o700)

    def run(self, *words: str) -> str:
        """Return shell text that runs exactly these words within the limits."""
        return argv(self.program, *words)

    def read(self, path: str, size: int = 100_000) -> str:
        """Return shell text that prints the last bytes of a file, with the privileges of the user, within 5 seconds.

        The user can replace a file in its folders with a link to a file of root, or with a pipe that never ends.
        """
        return f"timeout 5 {self.as_user('/usr/bin/tail', '-c', str(size), path)} 2>/dev/null"

    def as_user(self, *words: str) -> str:
        """Return shell text that runs exactly these words with the privileges of the user, without the other limits."""
        return argv("setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", "--", *words)
