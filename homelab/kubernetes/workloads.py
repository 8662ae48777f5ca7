"""The workloads of an export: processes with their images, variables, files and limits. Pure: no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SECRETS = "homelab-secrets"  # the Secret with all passwords and keys; each process gets only its own keys of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Files of a pod. A `scratch` volume is empty at each start.

    `source` is the name of the ConfigMap, the Secret or the claim; "" is the workload's own ConfigMap, or the Secret
    `SECRETS`. `keys` limits a Secret to these keys, each with the name of its file.
    """

    name: str
    kind: Literal["config", "secret", "claim", "scratch"]
    source: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A volume, or one file of it, at a path."""

    volume: str
    path: str
    file: str = ""
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Resources:
    """The limits of a container of the inventory."""

    cores: int
    memory: int  # MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One container of a pod. `secrets` are variables, each with its key in the Secret `SECRETS`.

    `probe` is a command that succeeds while it serves.
    """

    name: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...]
    folder: str = ""
    resources: Resources
    probe: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Storage that outlives the pods, in GiB."""

    name: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """The limits of a job: its attempts, its seconds, and the exit statuses that are not tried again."""

    attempts: int
    seconds: int
    lasting: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A server, a job, or a job on a schedule: processes that run in order in one pod; a server is the last one.

    `clients` are the workloads that may connect to its `port`. A schedule of "" starts only by hand.
    """

    name: str
    kind: Literal["server", "job", "schedule"]
    user: int  # uid and gid
    processes: tuple[Process, ...]
    volumes: tuple[Volume, ...]
    claims: tuple[Claim, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict, repr=False)  # of its ConfigMap, by name
    port: int = 0
    clients: tuple[str, ...] = ()
    schedule: str = ""
    retries: Retries = Retries(attempts=1, seconds=0)

    @property
    def object_name(self) -> str:
        """The name of its object. A job cannot be changed, so its name has a hash of all that it runs."""
        if self.kind != "job":
            return self.name
        return f"{self.name}-{content_hash({**self.files, 'processes': repr(self.processes)})[:8]}"

    @property
    def config(self) -> str:
        """The name of its ConfigMap."""
        return f"{self.object_name}-config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The build context of an image: a Dockerfile with the files that it copies."""

    name: str
    registry: str = ""
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def reference(self) -> str:
        """The name with the registry and a tag: a hash of the context, so that changed files are another image."""
        return "/".join(filter(None, (self.registry, f"{self.name}:{content_hash(self.files)}")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Everything that an export consists of; it has no secret, only their names.

    `authority` is the certificate of the lab's CA (PEM). `secrets` are the lab's secrets, which are keys of the Secret
    `SECRETS` by the same names. `certificates` are Secrets with a server's key and certificate, each with the secret of
    the lab. `left_out` names services and commands that are not exported.
    """

    lab: str
    workloads: tuple[Workload, ...]
    images: tuple[Image, ...]
    authority: str = field(repr=False)
    secrets: Sequence[str]
    api_key_file: Path | None
    certificates: Mapping[str, str]
    left_out: Sequence[str]


def content_hash(files: Mapping[str, str] | Mapping[str, bytes]) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of files with their names."""
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name]
        data = content.encode() if isinstance(content, str) else content
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:12]
