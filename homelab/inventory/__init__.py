"""inventory.yaml and its overlays become an Inventory, or one error that names every fault."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from homelab.errors import InputError
from homelab.inventory import containers, package_sources, sections, yaml_source
from homelab.inventory.container_defaults import ContainerDefaults, container_defaults
from homelab.inventory.errors import Place, Problems
from homelab.inventory.section import Section, shown
from homelab.model import Inventory

_SECTION = "a mapping, as in the commented example that `homelab init` writes"


def load(paths: Sequence[Path], proposed: str | None = None) -> Inventory:
    """Read the inventory, then the overlays over it. Raises InputError with every fault that was found.

    `proposed` is read instead of what stands in the inventory's file.
    """
    faults = Problems()
    path, *overlays = (path.absolute() for path in paths)
    document = (
        _read(path, faults, "`homelab init` writes a commented one to start from.")
        if proposed is None
        else _parsed(path, proposed, faults)
    )
    above = [_read(overlay, faults, "It was given as an overlay of the inventory.") for overlay in overlays]
    if document.broken or any(overlay.broken for overlay in above):
        faults.raise_all(path)
    for overlay in above:
        yaml_source.merge(document, overlay)
    inventory = _inventory(path, Section(document, faults, (), document.data))
    if inventory is None or faults.found:
        faults.raise_all(path)
    return inventory


def _read(path: Path, faults: Problems, hint: str) -> yaml_source.Document:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path.name} cannot be read", f"{path}: {error.strerror}.", hint) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not UTF-8 text", f"{path}: {error}.", hint) from error
    return _parsed(path, text, faults)


def _parsed(path: Path, text: str, faults: Problems) -> yaml_source.Document:
    document = yaml_source.parse(path, text, faults)
    if document.data is None:
        document.data = {}
    if not isinstance(document.data, dict):
        faults.add(Place(path, 1), (), f"must be a mapping, not {shown(document.data)}")
        document.broken = True
    return document


def _inventory(path: Path, root: Section) -> Inventory | None:
    lab = (
        root.text(
            "lab",
            pattern=r"(?!golden$)[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?",  # homelab-golden is a tag
            says="the lab's name: lower-case letters, digits and hyphens, at most 32; not `golden`",
        )
        or "lab"
    )
    endpoint = sections.endpoint(root.table("proxmox", says=_SECTION))
    network = sections.network(root.table("network", says=_SECTION))
    defaults_table = root.table("defaults", required=False, says=_SECTION)
    defaults = container_defaults(defaults_table, ContainerDefaults.on(network))
    containers.check_template(defaults_table, defaults.template)
    vmids = containers.vmid_range(defaults_table)
    defaults_table.close()
    reader = containers.Reader(lab, path, network, endpoint.node, defaults, vmids)
    found = tuple(reader.read(root.table("containers", says=_SECTION)))
    pipeline = sections.pipeline(root.table("pipeline", says=_SECTION))
    packages = package_sources.sources(
        root.table("packages", required=False, says=_SECTION), [c.template for c in found]
    )
    root.close()
    if network is None:
        return None
    return Inventory(
        lab=lab,
        path=path,
        state_dir=path.parent / ".homelab" / lab,
        endpoint=endpoint,
        network=network,
        containers=found,
        pipeline=pipeline,
        vmid_range=vmids,
        sources=packages,
    )
