"""`homelab ci grant`: copy the secrets of a deploy to the container of the service `runner`."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from homelab.errors import InputError
from homelab.host import check
from homelab.model import Inventory
from homelab.private_files import STATE_FOLDER
from homelab.runtime.session import Session
from homelab.secrets import OPERATOR_PUBLIC
from homelab.services.runner import CLONE, SANDBOX

_OPERATOR = "operator_ed25519"
_COPIED = ("secrets.json", "ca.pem", "known_hosts.json", "airflow_ed25519", "publications_ed25519", "runner_ed25519")


def grant(session: Session) -> tuple[str, Sequence[str]]:
    """Copy the secrets to the clone of the runner; return the name of its container and their paths in the clone.

    Raises InputError without a runner, before the first deploy, or if the clone is missing.
    """
    container = session.inventory.container_with("runner")
    session.require_intact_state()
    files = runner_files(session)
    with session.connect(container) as host:
        if not host.run(SANDBOX.as_user("/usr/bin/test", "-d", f"{CLONE}/.git")).ok:
            raise InputError(
                f"Cannot copy the secrets to {container.name}: {CLONE} is not a clone of your repository",
                "The job `deploy` updates this clone and deploys from it.",
                f"Run `homelab ssh {container.name} {SANDBOX.program} git clone URL {CLONE}`, then try again.",
            )
        # As the runner's user: a job could replace a folder on the way by a link.
        unpack = SANDBOX.as_user("/usr/bin/tar", "-x", "-C", CLONE)
        check(host, unpack, f"copy the secrets to {container.name}", stdin=_archive(files))
    return container.name, sorted(files)


def runner_files(session: Session) -> Mapping[str, bytes]:
    """Return the files of a runner by their path below the clone.

    The runner logs in with its own key, under the name of the operator's; its deploys still install the operator's
    public key. Raises InputError before the first deploy, and for a key of OpenWeather that cannot be copied.
    """
    inventory, secrets = session.inventory, session.secrets
    if not secrets.has_key("runner"):
        raise InputError(
            "Cannot copy the secrets to the runner: it is not deployed yet",
            "The containers have to accept its SSH key first.",
            "Run `homelab up` and `homelab deploy`.",
        )
    state, folder = inventory.state_dir, f"{STATE_FOLDER}/{inventory.lab}"
    found = {f"{folder}/{name}": (state / name).read_bytes() for name in _COPIED if (state / name).exists()}
    found[f"{folder}/{_OPERATOR}"] = secrets.key_pair("runner")[0].reveal().encode()
    found[f"{folder}/{OPERATOR_PUBLIC}"] = secrets.key_pair("operator")[1].strip().encode()
    return {**found, **_api_key(inventory)}


def _api_key(inventory: Inventory) -> Mapping[str, bytes]:
    """Return the file with OpenWeather's key, if it exists. Raises InputError if it is not below the state folder."""
    if inventory.weather is None:
        return {}
    given = inventory.weather.api_key_file
    base, path = (Path(os.path.normpath(each)) for each in (inventory.path.parent, given))  # tar refuses `..`
    if not path.is_relative_to(base / STATE_FOLDER):
        raise InputError(
            f"Cannot copy OpenWeather's key to the runner: its file is not below {base / STATE_FOLDER}",
            f"{given}, from `pipelines: weather: api_key_file`: only {STATE_FOLDER} is a folder in the clone that git "
            "ignores.",
            f"Move the file there, and write `api_key_file: {STATE_FOLDER}/{given.name}`.",
        )
    return {str(path.relative_to(base)): given.read_bytes()} if given.exists() else {}


def _archive(files: Mapping[str, bytes]) -> bytes:
    """Return a tar archive, readable by its owner only."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted({"/".join(each.split("/")[:count]) for each in files for count in (1, 2)} - {*files}):
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(entry)
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
