"""Pods on this machine: the processes of manifests, with their variables and mounts, in a folder instead of images.

Absolute paths of the images become paths below the folder. Images of pipelines are built from their Dockerfiles there.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homelab.dev.local_postgres import as_server_user, give_to_server
from homelab.lab.process import wait_until
from homelab.pipelines.layout import SHARED_VENV

Manifest = dict[str, Any]
# The folders of images and mounts that are mapped. /tmp stays that of the machine.
_MAPPED = re.compile(
    r"(?<![\w./-])/(?=(opt|etc/homelab|etc/ssl/homelab|run/homelab|var/lib/postgresql|var/run/postgresql)\b)"
)
# Not run: they need root, or a registry of packages, which the tests may not reach.
_SKIPPED = re.compile(r"chown |.*\b(pip install|pip sync|uv venv)\b")


@dataclass
class Pods:
    """The manifests and the folder; `path` has the programs of PostgreSQL's image, `overrides` the loopback."""

    root: Path
    venv: Path
    manifests: Sequence[Manifest]
    path: str
    overrides: Mapping[str, str]
    built: set[str] = field(default_factory=set)

    def find(self, kind: str, name: str) -> Manifest:
        """Return the only object with this kind, whose name begins with `name`."""
        (found,) = (
            each for each in self.manifests if each["kind"] == kind and each["metadata"]["name"].startswith(name)
        )
        return found

    def local(self, text: str) -> str:
        """Return a text with the paths of the images below the folder."""
        return _MAPPED.sub(f"{self.root}/", text)

    def build(self, context: Path) -> None:
        """Build an image: copy the files of its Dockerfile, and run its commands; equal ones only once.

        Packages are not installed: `venv` is an environment from the same lock.
        """
        link = Path(self.local(SHARED_VENV))
        if not link.exists():
            link.parent.mkdir(parents=True)
            link.symlink_to(self.venv)
        for line in (context / "Dockerfile").read_text().splitlines():
            instruction, _, words = line.partition(" ")
            if instruction == "COPY":
                source, target = words.split()
                shutil.copytree(context / source, self.local(target), dirs_exist_ok=True)
            elif instruction == "RUN" and not _SKIPPED.match(words) and words not in self.built:
                subprocess.run(["/bin/sh", "-c", self.local(words)], check=True, timeout=240)
                self.built.add(words)

    def run(self, pod: Manifest) -> list[subprocess.CompletedProcess[str]]:
        """Run the containers of a pod in order, until one fails; return their results."""
        self._mount(pod)
        results = []
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            results.append(self.start(pod, container))
            if results[-1].returncode:
                break
        return results

    def start(self, pod: Manifest, container: Manifest, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one container of a pod to its end."""
        return subprocess.run(
            self._command(pod, container["command"]),
            env=self._environment(container) | environment,
            cwd=self.local(container.get("workingDir", "/")),
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    @contextmanager
    def serving(self, pod: Manifest, log: Path, *options: str) -> Iterator[None]:
        """Run the init containers, and the server with further options until the end of the block."""
        self._mount(pod)
        for container in pod["spec"].get("initContainers", ()):
            done = self.start(pod, container)
            assert done.returncode == 0, done.stdout + done.stderr
        (container,) = pod["spec"]["containers"]
        probe = container["readinessProbe"]["exec"]["command"]
        with log.open("wb") as output:
            words = [*self._command(pod, container["command"]), *options]
            server = subprocess.Popen(words, env=self._environment(container), cwd="/", stdout=output, stderr=output)
        try:
            wait_until(
                lambda: server.poll() is not None or self.start(pod, container | {"command": probe}).returncode == 0, 60
            )
            assert server.poll() is None, log.read_text()
            yield
        finally:
            server.terminate()
            server.wait(30)

    def image_files(self) -> set[str]:
        """Return the files of the images, without those on mounts, and those that Python need not write."""
        found = (Path(folder, name) for folder, _, names in os.walk(self.root / "opt") for name in names)
        return {str(path) for path in found if "__pycache__" not in path.parts and not path.is_symlink()}

    def claim(self, name: str) -> Path:
        """Return the folder of a claim."""
        return self.root / "claims" / name

    def _command(self, pod: Manifest, words: Sequence[str]) -> list[str]:
        user = as_server_user() if self._is_database(pod) else []
        return [*user, *(self.local(expand(word)) for word in words)]

    def _is_database(self, pod: Manifest) -> bool:
        return "postgres" in pod["spec"]["containers"][0]["image"]

    def _environment(self, container: Manifest) -> dict[str, str]:
        """Return the variables of the manifest, and only those; `overrides` replace the addresses."""
        found = {"PATH": self.path}
        for each in container["env"]:
            found[each["name"]] = expand(each["value"]) if "value" in each else self._secret(each["valueFrom"])
        return {name: self.local(value) for name, value in found.items()} | self.overrides

    def _secret(self, source: Manifest) -> str:
        reference = source["secretKeyRef"]
        return base64.b64decode(self.find("Secret", reference["name"])["data"][reference["key"]]).decode()

    def _mount(self, pod: Manifest) -> None:
        volumes = {each["name"]: self._volume(each, pod) for each in pod["spec"]["volumes"]}
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            for mount in container["volumeMounts"]:
                target = Path(self.local(mount["mountPath"]))
                if not target.is_relative_to(self.root):
                    continue
                source = volumes.get(mount["name"]) or self._of_template(mount["name"], pod)
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.is_dir() and not target.is_symlink():
                    target.rmdir()
                target.unlink(missing_ok=True)
                target.symlink_to(source / mount.get("subPath", ""))

    def _of_template(self, name: str, pod: Manifest) -> Path:
        return self._folder(self.claim(name), pod)

    def _volume(self, volume: Manifest, pod: Manifest) -> Path:
        match volume:
            case {"configMap": source}:
                folder = self.root / "config" / source["name"]
                files = {
                    name: self.local(text) for name, text in self.find("ConfigMap", source["name"])["data"].items()
                }
            case {"secret": source}:
                folder, data = self.root / "secret" / volume["name"], self.find("Secret", source["secretName"])["data"]
                items = source.get("items") or [{"key": key, "path": key} for key in data]
                files = {each["path"]: base64.b64decode(data[each["key"]]).decode() for each in items}
            case {"persistentVolumeClaim": source}:
                return self._folder(self.claim(source["claimName"]), pod)
            case _:
                return self._folder(self.root / "scratch" / volume["name"], pod)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = folder / name
            path.unlink(missing_ok=True)
            path.touch(mode=0o600 if "secret" in volume else 0o644)
            path.write_text(text)
            if self._is_database(pod):
                give_to_server(path)
        return folder

    def _folder(self, folder: Path, pod: Manifest) -> Path:
        if not folder.exists():
            folder.mkdir(parents=True)
            if self._is_database(pod):
                give_to_server(folder)
        return folder


def expand(text: str) -> str:
    """Return a text as the kubelet takes it: `$$` is `$`; no manifest refers to a variable."""
    assert not re.search(r"(?<!\$)(\$\$)*\$\(", text), text
    return text.replace("$$", "$")


def in_order(results: Sequence[subprocess.CompletedProcess[str]]) -> list[int]:
    """Return the exit statuses of a pod's containers."""
    return [each.returncode for each in results]


def environment_of_tests() -> dict[str, str]:
    """Return the variables with which the printed commands find the programs of this checkout's venv."""
    venv = Path(os.environ.get("VIRTUAL_ENV") or Path(__file__).resolve().parents[2] / ".venv")
    return {**os.environ, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}"}
