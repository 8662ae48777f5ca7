"""The service runner: runs the workflows of a repository at GitHub or Gitea, with the right to deploy.

Its program comes from its vendor, pinned by hash. No test runs it: the tests reach neither vendor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from homelab.host import argv
from homelab.model import ManagedResource, Service, ServiceContext, Step
from homelab.model.options import Option, SecretName
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services.password_stamp import STAMPS, Stamp
from homelab.steps import Command, Directory, File, Packages, SystemdUnit

UNIT = "homelab-runner.service"
CLONE = "/srv/homelab"  # the clone of the user's repository, as `homelab ci init` expects it
SANDBOX = Sandbox("homelab-runner", ("/var/lib/homelab-runner", CLONE))
_HOME, _FOLDER = SANDBOX.writable[0], "/opt/homelab/runner"
# GitHub's program needs ICU: the name of its library's package differs by distribution, that of libicu-dev does not.
_PACKAGES = ("ca-certificates", "curl", "git", "libicu-dev", "openssh-client", "python3", "python3-venv")
_LABELS = ("self-hosted", "homelab")  # those of the job `deploy`
# Both programs read the token from standard input: other users can read the arguments of a process.
_REGISTER = {
    "github": """cd {home} && tar -xzf {program} && rm -f .runner .credentials .credentials_rsaparams
read -r ACTIONS_RUNNER_INPUT_TOKEN && export ACTIONS_RUNNER_INPUT_TOKEN
./config.sh --unattended --replace --url "$1" --name "$2" --labels "$3" && test -s .runner""",
    "gitea": """cd {home} && rm -f .runner && read -r token
printf '%s\\n' "$1" "$token" "$2" "$3" | {program} register && test -s .runner""",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner(Service):
    """Runs the workflows of your repository on a container of its own, and deploys merges."""

    kind: Annotated[Literal["github", "gitea"], Option("Program: GitHub's actions/runner, or Gitea's act_runner.")]
    url: Annotated[
        str,
        Option(
            "The repository or organization at GitHub, or the address of Gitea.",
            pattern=r"https?://[\w.:\[\]-]+(/[\w.-]+)*/?",
            expected="a URL that begins with https:// or http://",
            examples=("https://github.com/you/homelab",),
        ),
    ]
    download: Annotated[
        str,
        Option(
            "Address of the program: GitHub's archive, or Gitea's file for Linux.",
            pattern=r"https?://[\w.:/\[\]%+~-]+",
            expected="a URL that begins with https:// or http://",
            examples=(
                "https://github.com/actions/runner/releases/download/v2.330.0/actions-runner-linux-x64-2.330.0.tar.gz",
            ),
        ),
    ]
    sha256: Annotated[str, Option("SHA-256 of the program.", pattern=r"[0-9a-f]{64}", expected="64 hexadecimal digits")]
    token: Annotated[SecretName, Option("Secret with the token for the registration.")] = SecretName("runner", "runner")

    minimum_memory: ClassVar[int] = 512
    deploys: ClassVar[bool] = True

    def combination_errors(
        self, services: Mapping[str, Sequence[Service]], neighbours: Collection[str]
    ) -> Iterator[tuple[Sequence[str | int], str]]:
        """Return an error for neighbours: workflows run the code of everyone who can push."""
        if others := sorted({*neighbours} - {"node_exporter"}):
            yield (), f"needs a container of its own, apart from {', '.join(others)}"

    def data_folders(self) -> Sequence[str]:
        """Return the folder of the registration and the jobs, and the clone."""
        return SANDBOX.writable

    def units(self) -> Sequence[str]:
        """Return its unit."""
        return (UNIT,)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, program, registration and unit. Raises InputError without the token."""
        program = self._program()
        start = f"{_HOME}/run.sh" if self.kind == "github" else f"{program.makes[0].name} daemon"
        text = render("runner/homelab-runner.service.j2", start=start, sandbox=SANDBOX)
        unit = File(f"/etc/systemd/system/{UNIT}", text)
        registered = self._registered(context, program)
        return (
            *SANDBOX.account(),
            SANDBOX.file(),
            Packages(_PACKAGES),
            Directory(_FOLDER),
            Directory(STAMPS),
            program,
            registered,
            unit,
            SystemdUnit(UNIT, triggered_by=[program, registered, unit]),
        )

    def _program(self) -> Command:
        """Return the step that downloads the program, and installs it only with the expected hash."""
        path = f"{_FOLDER}/{'runner.tar.gz' if self.kind == 'github' else 'act_runner'}"
        check = f"echo {self.sha256}  {path}"
        checked = f"{{ {check}.new | sha256sum --check --quiet || {{ rm -f {path}.new; exit 1; }}; }}"
        fetch = argv("curl", "-fsSL", "--proto", "=https,http", "--output", f"{path}.new", self.download)
        install = f"chmod 755 {path}.new && mv {path}.new {path}"
        return Command(
            f"the program of {self.kind}'s runner",
            f"{check} | sha256sum --check --status",
            f"{fetch} && {checked} && {install}",
            makes=[ManagedResource("made", path)],
        )

    def _registered(self, context: ServiceContext, program: Command) -> Step:
        """Return the step that registers the runner once for its address, with the token on standard input."""
        labels = ",".join(_LABELS if self.kind == "github" else [f"{label}:host" for label in _LABELS])
        words = (self.url, context.container.name, labels)
        script = _REGISTER[self.kind].format(home=_HOME, program=program.makes[0].name)
        token = context.user_secrets([self.token])[self.token].reveal()
        digest = hashlib.sha256("\n".join((self.kind, self.sha256, *words)).encode()).hexdigest()
        command = SANDBOX.run("/bin/bash", "-c", script, "register", *words)
        return Stamp("runner", digest).command("the runner's registration", command, f"{token}\n".encode())
