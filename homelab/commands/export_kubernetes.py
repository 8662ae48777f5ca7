"""`homelab export kubernetes`: manifests and images of the inventory, in a folder of the user."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from homelab.errors import InputError
from homelab.kubernetes.database import CERTIFICATE
from homelab.kubernetes.export_files import export_files
from homelab.kubernetes.stack_export import stack_export
from homelab.kubernetes.workloads import SECRETS, Export
from homelab.model.urls import PORT
from homelab.private_files import read_mapping
from homelab.runtime.session import Session

_RECORD = ".homelab-export.json"  # the files of the last export, with their hashes
_REGISTRY = re.compile(rf"[a-z0-9]([a-z0-9._-]*[a-z0-9])?(:{PORT})?(/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class WrittenExport:
    """The files of an export below `folder`, the parts of the inventory without an export, and the next commands."""

    folder: Path
    files: Sequence[str]
    not_exported: Sequence[str]
    commands: Sequence[str]


def export_kubernetes(session: Session, folder: Path, registry: str = "", homelab: str = "homelab") -> WrittenExport:
    """Write the export into a folder, and remove files of an earlier export that are not part of it any more.

    `homelab` is shell text that runs homelab with the same inventory.

    Raises InputError for a folder with files that no export wrote, or that were changed since; nothing is written then.
    """
    if registry and not _REGISTRY.fullmatch(registry):
        raise InputError(
            f"Cannot use the registry {registry}: it is no prefix of an image",
            "It begins with a host name in lower case, without https://.",
            "Example: --registry registry.home.arpa:5000/lab",
        )
    export = stack_export(session.inventory, session.secrets, registry)
    files = export_files(export)
    try:
        _write(folder, files)
    except OSError as error:
        raise InputError(
            f"Cannot write {folder}: {error.strerror}", f"{error.filename}.", "Name a folder that you can write."
        ) from None
    return WrittenExport(folder, sorted(files), export.left_out, list(_commands(export, folder, homelab)))


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace the files of an earlier export. Raises InputError as `_earlier` does, or OSError."""
    earlier, record = _earlier(folder), folder / _RECORD
    hashes = {name: [_hash(content)] for name, content in files.items()}
    folder.mkdir(parents=True, exist_ok=True)
    # Both until the end, so that a killed export can run again.
    both = {name: [*earlier.get(name, ()), *hashes.get(name, ())] for name in {**earlier, **hashes}}
    record.write_text(json.dumps(both))
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name in earlier.keys() - files.keys():
        (folder / name).unlink(missing_ok=True)
    record.write_text(json.dumps(hashes, indent=1) + "\n")


def _earlier(folder: Path) -> Mapping[str, Sequence[str]]:
    """Return the files of the last export, with their hashes. Raises InputError for other or changed files."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"Cannot write {folder}: it is a file", "", "Name a folder.")
    recorded = read_mapping(folder / _RECORD, "Name another folder, or remove this one.")
    if theirs := list(islice(_other_files(folder, recorded), 4)):
        raise InputError(
            f"Cannot write {folder}: it has files that no export wrote, or that were changed since",
            f"{', '.join(theirs[:3])}{' and others' if len(theirs) > 3 else ''}.",
            "Name another folder, or move these files away. Keep changes of your own in a kustomization over this one.",
        )
    return recorded


def _other_files(folder: Path, recorded: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the files that are not as an export wrote them."""
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        known = path.is_file() and name in recorded
        if not (path.is_dir() or name == _RECORD or (known and _hash(path.read_bytes()) in recorded[name])):
            yield name


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _commands(export: Export, folder: Path, homelab: str) -> Iterator[str]:
    """Yield the commands that build the images, hand over the secrets, and apply the manifests, in order.

    The secrets reach kubectl through a pipe: they are in no file and no argument.
    """
    where = shlex.quote(str(folder))
    for image in export.images:
        yield f"docker build -t {image.reference} {where}/images/{image.name}"
        if image.registry:
            yield f"docker push {image.reference}"
    yield f"kubectl apply -f {where}/namespace.yaml"
    names = " ".join(map(shlex.quote, export.secrets))
    key = f" printf 'OPENWEATHER_API_KEY='; cat {shlex.quote(str(export.api_key_file))};" if export.api_key_file else ""
    create = f"kubectl create secret generic --namespace {export.lab}"
    show = f"{homelab} secret show"
    yield (
        f'{{ for name in {names}; do printf \'%s=\' "$name"; {show} "$name"; done;{key} }} | '
        f"{create} {SECRETS} --from-env-file=/dev/stdin"
    )
    for name, secret in export.certificates.items():
        yield f"{show} {secret} | {create} {name} --from-file={CERTIFICATE}=/dev/stdin"
    yield f"kubectl apply -k {where}"
