"""The contract of a service, as tests that render it on each distribution and apply it to a recorder."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from homelab.certificates import Authority, Names
from homelab.code_approvals import CodeApprovals
from homelab.distributions import DISTRIBUTIONS
from homelab.host import Result
from homelab.inventory import load
from homelab.model import Inventory, Secret, Service, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.services.registry import Registry
from homelab.steps import Directory, File, FinishUpgrade, PrepareUpgrade, Tree, Upgrade, Venv

_UNIT = re.compile(r"/etc/systemd/system/([^/]+\.service)(\.d/[^/]+\.conf)?")  # or a drop-in with all its limits
_EXPOSURE = "30"  # of `systemd-analyze security`, in tenths
_SECRET = "secret-of-"  # noqa: S105 - the beginning of each secret of the tests


class _AnyContent(CodeApprovals):
    """Approvals of every file: its tests run it in any case."""

    def approves(self, path: Path, content: bytes) -> bool:
        """See CodeApprovals."""
        return True


def load_service(folder: Path, name: str) -> type[Service]:
    """Return the service of `services/NAME.py` in an inventory's folder, without an approval. Raises ServiceError."""
    return Registry(folder, _AnyContent(Path())).get(name)


@dataclass(frozen=True, slots=True)
class FixedSecrets:
    """A secret store with secrets that a test recognises."""

    def secret(self, name: str) -> Secret:
        """See SecretStore."""
        return Secret(_SECRET + name)

    def known_secret(self, name: str) -> Secret | None:
        """See SecretStore."""
        return self.secret(name)

    def set(self, name: str, value: str) -> None:
        """See SecretStore."""

    def names(self) -> list[str]:
        """See SecretStore."""
        return []

    def authority(self, lab: str, names: Names) -> Authority:
        """See SecretStore."""
        return _authority(lab, names)

    def preview(self) -> FixedSecrets:
        """See SecretStore."""
        return self

    def known_authority(self) -> Authority | None:
        """See SecretStore."""
        return None

    def key_pair(self, name: str) -> tuple[Secret, str]:
        """See SecretStore."""
        return self.secret(name), f"ssh-ed25519 AAAA {name}"

    def has_key(self, name: str) -> bool:
        """See SecretStore."""
        return True

    def key_path(self, name: str) -> Path:
        """See SecretStore."""
        return Path(name)


@functools.cache
def _authority(lab: str, names: Names) -> Authority:
    return Authority.create(lab, names)


@dataclass
class RecordingHost:
    """A host that runs nothing, and records the commands that it gets."""

    name: str = "recorder"
    commands: list[str] = field(default_factory=list)

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        self.commands.append(command)
        return Result(command, 0)

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """See Host.batch."""
        return [Result(command, 0) for command in commands]

    def reconnect(self, deadline: float) -> None:
        """See Host.reconnect."""


class ServiceContract:
    """The contract of a service, as tests; `options` are those of the inventory."""

    service: ClassVar[type[Service]]
    options: ClassVar[Mapping[str, Any]] = {}
    distributions: ClassVar[Sequence[str]] = tuple(DISTRIBUTIONS)
    overlay: ClassVar[Mapping[str, Any]] = {}  # merged over the tests' inventory

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test that renders on every distribution. Called by pytest."""
        if "template" in metafunc.fixturenames:
            metafunc.parametrize("template", metafunc.cls.distributions if metafunc.cls else ())

    @pytest.fixture
    def context(self, template: str, tmp_path: Path) -> ServiceContext:
        """The service on a container of its own, or on its container of the shipped inventory."""
        inventory = inventory_with(self.service, self.options, template, tmp_path, self.overlay)
        keys = {container.name: f"ssh-ed25519 AAAA {container.name}" for container in inventory.containers}
        container = inventory.container_with(name_of(self.service))
        return ServiceContext(inventory=inventory, container=container, secret_store=FixedSecrets(), host_keys=keys)

    @pytest.fixture
    def instance(self, context: ServiceContext) -> Service:
        """The service with its options."""
        return context.container.services[name_of(self.service)]

    @pytest.fixture
    def steps(self, instance: Service, context: ServiceContext) -> Sequence[Step]:
        """The service's steps."""
        return instance.steps(context)

    def test_titles_are_unique(self, steps: Sequence[Step]) -> None:
        titles = [step.title for step in steps]
        _require_none("titles of several steps", [title for title in set(titles) if titles.count(title) > 1])

    def test_triggers_come_before_the_steps_that_they_trigger(self, steps: Sequence[Step]) -> None:
        late = [
            f"{step.title} is triggered by {trigger.title}"
            for number, step in enumerate(steps)
            for trigger in step.triggered_by
            if trigger not in steps[:number]
        ]
        _require_none("steps that come before their trigger", late)

    def test_no_late_wait_is_a_trigger(self, steps: Sequence[Step]) -> None:
        # Without a probe it is always pending, so each deploy would apply the step.
        late = {step for step in steps if step.is_wait and not step.probes()}
        waits = [step.title for step in steps if late.intersection(step.triggered_by)]
        _require_none("steps that a wait without probes triggers", waits)

    def test_second_rendering_is_the_same(
        self, instance: Service, context: ServiceContext, steps: Sequence[Step]
    ) -> None:
        again = {step.title: step.probes() for step in instance.steps(context)}
        _require_none("steps that change", [step.title for step in steps if again.get(step.title) != step.probes()])

    def test_endpoints_have_names_and_ports_of_their_own(self, instance: Service) -> None:
        names = [endpoint.name for endpoint in instance.endpoints()]
        ports = [endpoint.port for endpoint in instance.endpoints()]
        _require_none("names of several endpoints", [name for name in set(names) if names.count(name) > 1])
        _require_none("ports of several endpoints", [port for port in set(ports) if ports.count(port) > 1])

    def test_no_secret_is_in_a_command(self, instance: Service, steps: Sequence[Step]) -> None:
        host = RecordingHost()
        for step in steps:
            if not step.is_wait:
                step.apply(host)
        hooks = instance.backup_hooks()
        texts = [*host.commands, *(probe for step in steps for probe in step.probes())]
        texts += [*hooks.before, *hooks.after, *hooks.restored]
        _require_none("commands with a secret", [text for text in texts if _SECRET in text])

    def test_no_title_shows_a_secret(self, steps: Sequence[Step]) -> None:
        _require_none("titles with a secret", [step.title for step in steps if _SECRET in step.title])

    def test_root_writes_nothing_in_folders_of_a_user(self, steps: Sequence[Step]) -> None:
        folders = [step.path for step in steps if isinstance(step, Directory) and step.owner != "root"]
        written = [step.path for step in steps if isinstance(step, File | Tree | Venv | Directory)]
        inside = [path for path in written for folder in folders if path.startswith(f"{folder.rstrip('/')}/")]
        _require_none("paths that root writes in a folder of another user", inside)

    def test_folders_of_its_user_are_declared_as_data(self, instance: Service, steps: Sequence[Step]) -> None:
        declared = [*instance.data_folders(), "/home", "/run"]
        folders = [step.path for step in steps if isinstance(step, Directory) and step.owner != "root"]
        missing = [path for path in folders if not any(f"{path}/".startswith(f"{each}/") for each in declared)]
        _require_none("folders that `homelab prune` would leave", missing)

    def test_files_with_secrets_are_private(self, steps: Sequence[Step]) -> None:
        secret = [step for step in steps if isinstance(step, File) and _SECRET.encode() in step.content]
        _require_none("open files", [step.path for step in secret if not step.secret or step.mode & 0o007])

    def test_unit_is_hardened(self, steps: Sequence[Step], tmp_path: Path) -> None:
        if shutil.which("systemd-analyze") is None:
            pytest.skip("this machine has no systemd-analyze")
        units = [step for step in steps if isinstance(step, File) and _UNIT.fullmatch(step.path)]
        exposed = [unit.path for unit in units if not _is_hardened(unit, tmp_path)]
        _require_none("units with an exposure above 3.0", exposed)

    def test_upgrade_is_prepared_then_finished_before_the_units_start(
        self, instance: Service, steps: Sequence[Step]
    ) -> None:
        _require_none("upgrades in the wrong place", list(_misplaced_upgrades(instance, steps)))

    def test_units_of_the_service_are_started_by_a_step(self, instance: Service, steps: Sequence[Step]) -> None:
        titles = {step.title for step in steps}
        _require_none("units without a step", [unit for unit in instance.units() if f"unit {unit}" not in titles])

    def test_health_is_false_if_its_probes_fail(self, instance: Service) -> None:
        health = instance.assess([Result(probe, 1) for probe in instance.health_probes()])
        _require_none("a healthy service without answers", [health.summary] if health.healthy else [])

    @pytest.mark.parametrize("output", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 5000, b'{"a": "b"}'])
    def test_health_is_an_answer_for_any_output(self, instance: Service, output: bytes) -> None:
        health = instance.assess([Result(probe, 0, output) for probe in instance.health_probes()])
        _require_none("a health without a summary", [] if health.summary else [health])


def _require_none(description: str, found: Sequence[object]) -> None:
    if found:
        raise AssertionError("\n".join([f"{description}:", *(f"  {each}" for each in found)]))


def _misplaced_upgrades(service: Service, steps: Sequence[Step]) -> Iterator[str]:
    prepared: list[Upgrade] = []
    units = {f"unit {unit}" for unit in service.units()}
    started = next((number for number, step in enumerate(steps) if step.title in units), len(steps))
    for number, step in enumerate(steps):
        if isinstance(step, PrepareUpgrade):
            prepared.append(step.upgrade)
        if isinstance(step, FinishUpgrade):
            if step.upgrade.before and step.upgrade not in prepared:
                yield f"{step.title}: its preparation is not a step before it"
            if number > started:
                yield f"{step.title}: {steps[started].title} comes before it"
            prepared = [each for each in prepared if each != step.upgrade]
    for upgrade in prepared:
        yield f"upgrade of {upgrade.service}: it is prepared, and no later step finishes it"


def _is_hardened(unit: File, folder: Path) -> bool:
    path = folder / _UNIT.sub(r"\1", unit.path)
    path.write_bytes(unit.content)
    words = ("systemd-analyze", "security", "--offline=true", f"--threshold={_EXPOSURE}", str(path))
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def name_of(service: type[Service]) -> str:
    """Return the name of a service: the registered one, or that of its class."""
    registry = Registry()
    return next((name for name in registry.names() if registry.find(name) is service), service.__name__.lower())


@functools.cache
def _shipped_containers() -> Mapping[str, str]:
    """Return the containers of the shipped inventory by service."""
    shipped = load([bundled_path("inventory.yaml")])
    return {service: container.name for container in shipped.containers for service in container.services}


def inventory_with(
    service: type[Service], options: Mapping[str, Any], template: str, folder: Path, overlay: Mapping[str, Any]
) -> Inventory:
    """Return the shipped inventory with a service, on a container `tested` unless the shipped inventory has it."""
    registry, name = Registry(), name_of(service)
    registry.add(name, service)
    container = _shipped_containers().get(name, "tested")
    own = {"tested": {"vmid": 199, "ip": ".199", "cores": 1, "memory": 2048}} if container == "tested" else {}
    key = folder / "openweather-key"
    key.write_text(f"{_SECRET}openweather")
    key.chmod(0o600)
    changes = [
        {
            "defaults": {"template": template},
            "containers": {
                "postgres-data": {"services": {"postgres": {"version": DISTRIBUTIONS[template].postgres}}},
                **own,
            },
            "pipelines": {"weather": {"api_key_file": str(key)}},
        },
        {"containers": {container: {"services": {name: dict(options)}}}},
        overlay,
    ]
    paths = [bundled_path("inventory.yaml")]
    for number, change in enumerate(changes):
        paths.append(folder / f"overlay{number}.yaml")
        paths[-1].write_text(json.dumps(change))
    return load(paths, registry=registry)
