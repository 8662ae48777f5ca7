"""Services of installed packages and of files next to the inventory: found, approved, and refused with their origin."""

from __future__ import annotations

from pathlib import Path

import pytest

from homelab.code_approvals import CodeApprovals
from homelab.commands.service_new import new_service
from homelab.errors import InputError
from homelab.inventory.service_options import services_schema
from homelab.services.registry import Registry, ServiceError
from tests.unit.test_inventory import BASE, problems, read

SERVICE = '''
from dataclasses import dataclass
from typing import Annotated

from homelab.api import Health, Option, Service

TOP = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo(Service):
    """A service that repeats its input."""

    port: Annotated[int, Option("Port.", low=1024, high=65535)] = 7000


    def steps(self, context):
        return ()

    def health(self, answers):
        return Health(True, "ok")
'''


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's state folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state"


def local(folder: Path, text: str = SERVICE, name: str = "echo", approved: bool = True) -> Path:
    """Write `services/<name>.py` and approve it."""
    path = folder / "services" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    if approved:
        CodeApprovals.of_user().approve(path, path.read_bytes())
    return path


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, target: str = "echo_stack:Echo", name: str = "echo") -> None:
    """Put a package with an entry point on the path, in the layout of an installed wheel."""
    site = folder / "site"
    info = site / "echo_stack-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-stack\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[homelab.services]\n{name} = {target}\n")
    (site / "echo_stack.py").write_text(SERVICE)
    monkeypatch.syspath_prepend(site)


def with_echo(options: str = "{port: 7001}") -> str:
    return BASE.replace("{airflow: {}}", f"{{airflow: {{}}, echo: {options}}}")


def cause(folder: Path, name: str = "echo") -> str:
    with pytest.raises(ServiceError) as caught:
        Registry(folder).get(name)
    return str(caught.value)


def test_approved_file_is_a_service_with_options(tmp_path: Path) -> None:
    local(tmp_path)
    assert read(tmp_path, with_echo()).containers[2].services["echo"].port == 7001  # type: ignore[attr-defined]
    (found,) = problems(tmp_path, with_echo("{port: 80}"))
    assert "echo.port: must be a whole number from 1024 to 65535, not 80" in found


def test_installed_package_provides_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    assert read(tmp_path, with_echo()).containers[2].services["echo"].port == 7001  # type: ignore[attr-defined]
    (source,) = [each for each in Registry(tmp_path).sources() if each.name == "echo"]
    assert (source.origin, source.version) == ("package echo-stack", "1.2")


def test_file_does_not_run_before_its_approval(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = local(tmp_path, f"open({str(marker)!r}, 'w')\n{SERVICE}", approved=False)
    (found,) = problems(tmp_path, with_echo())
    assert "services.echo: cannot be loaded: services/echo.py is not approved" in found
    assert "`homelab trust code services/echo.py`" in found
    assert not marker.exists()
    CodeApprovals.of_user().approve(path, path.read_bytes())
    read(tmp_path, with_echo())
    assert marker.exists()


def test_changed_or_moved_file_needs_a_new_approval(tmp_path: Path) -> None:
    path = local(tmp_path)
    path.write_text(SERVICE + "# changed\n")
    assert "not approved, or was changed" in cause(tmp_path)
    path.write_text(SERVICE)
    assert Registry(tmp_path).get("echo")
    path.rename(path.with_name("other.py"))
    assert "not approved" in cause(tmp_path, "other")


def test_unused_file_is_never_run(tmp_path: Path) -> None:
    local(tmp_path, "raise SystemExit('ran')", name="unused")
    assert read(tmp_path, BASE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import missing_module", "services/echo.py cannot be imported: ModuleNotFoundError: No module named 'miss"),
        ("raise SystemExit(3)", "services/echo.py cannot be imported: SystemExit: 3"),
        ("x = (", "services/echo.py cannot be imported: SyntaxError: '(' was never closed (echo.py, line 1)"),
        ("x = 1", "services/echo.py must define one class that derives from Service, not 0"),
        (SERVICE + SERVICE.replace("Echo", "Other"), "services/echo.py must define one class"),
        (SERVICE.replace("def steps(", "def other("), "services/echo.py: Echo lacks steps()"),
        (SERVICE.replace("@dataclass(frozen=True, slots=True, kw_only=True)\n", ""), "Echo must be a dataclass"),
    ],
)
def test_file_without_a_service_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    local(tmp_path, text)
    assert expected in cause(tmp_path)
    (found,) = problems(tmp_path, with_echo())
    assert "services.echo: cannot be loaded: " in found


def test_option_of_an_unknown_type_is_refused(tmp_path: Path) -> None:
    local(tmp_path, SERVICE.replace("port: Annotated[int", "port: Annotated[complex"))
    (found,) = problems(tmp_path, with_echo("{}"))
    assert (
        "services.echo: cannot be loaded: homelab_local_services.echo.Echo.port: an option cannot be of type complex"
        in found
    )


def test_entry_point_without_a_service_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "echo_stack:TOP")
    assert cause(tmp_path) == "package echo-stack must give a class that derives from homelab.api.Service, not 1"


def test_name_that_is_used_twice_names_both_origins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local(tmp_path)
    install(tmp_path, monkeypatch)
    assert cause(tmp_path).startswith("the name is used more than once: services/echo.py, package echo-stack;")
    local(tmp_path, name="postgres")
    assert cause(tmp_path, "postgres").startswith("the name is used more than once: homelab, services/postgres.py;")


@pytest.mark.parametrize("need", ["requires", "uses"])
def test_services_that_need_each_other_are_refused(tmp_path: Path, need: str) -> None:
    local(tmp_path, SERVICE.replace("    port:", '    requires = ("reply",)\n    port:'))
    local(tmp_path, SERVICE.replace("    port:", f'    {need} = ("echo",)\n    port:'), name="reply")
    found = problems(tmp_path, BASE.replace("{airflow: {}}", "{airflow: {}, echo: {}, reply: {}}"))
    assert any("services need each other: echo → reply → echo" in each for each in found)


def test_container_starts_after_those_of_services_that_it_uses(tmp_path: Path) -> None:
    local(tmp_path, SERVICE.replace("    port:", '    uses = ("airflow", "prometheus")\n    port:'))
    containers = {each.name: each for each in read(tmp_path, with_echo()).containers}
    orders = {name: container.shape.startup_order for name, container in containers.items()}
    assert Registry(tmp_path).start_order("echo", {"airflow"}) == 4
    assert Registry(tmp_path).start_order("echo", ()) == 1
    assert max(order or 0 for order in orders.values()) == 4


ENDPOINTS = """
    minimum_memory = 3000

    def endpoints(self):
        from homelab.api import Endpoint
        return [Endpoint(name="web", port=self.port, description="echo", audience="lan", protocol="http", {more})]
"""


def test_containers_services_share_no_port_and_have_enough_memory(tmp_path: Path) -> None:
    local(tmp_path, SERVICE + ENDPOINTS.format(more=""))
    assert problems(tmp_path, with_echo("{port: 8080}")) == [
        "inventory.yaml:28: containers.flow.services.echo: provides port 8080, as airflow does on the same container"
    ]
    local(tmp_path, SERVICE + ENDPOINTS.format(more="").replace("3000", "3500"))
    (found,) = problems(tmp_path, with_echo())
    assert found.endswith("flow.memory: must be at least 4524 MiB for its services (airflow 1024, echo 3500)")


INSTANCES = """
    instances = True

    def units(self):
        return (f"echo-{self.instance or 'main'}.service",)
"""


def test_container_has_several_instances_of_a_service(tmp_path: Path) -> None:
    local(tmp_path, SERVICE + ENDPOINTS.format(more="").replace("3000", "100") + INSTANCES)
    both = with_echo("{port: 7001}, echo@photos: {port: 7002}")
    flow = read(tmp_path, both).container_with("echo")
    assert {name: service.units() for name, service in flow.services.items() if "echo" in name} == {
        "echo": ("echo-main.service",),
        "echo@photos": ("echo-photos.service",),
    }
    (found,) = problems(tmp_path, both.replace("7002", "7001"))
    assert found.endswith("services.echo@photos: provides port 7001, as echo does on the same container")
    (found,) = problems(tmp_path, both.replace("@photos", "@My Photos"))
    assert found.endswith("must have an instance of small letters, digits and `-`")
    schema = services_schema(Registry(tmp_path))
    assert list(schema["patternProperties"]) == ["^echo@[a-z0-9][a-z0-9-]{0,30}$"]


def test_service_without_instances_refuses_them(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, BASE.replace("{airflow: {}}", "{airflow: {}, airflow@second: {}}"))
    assert found.endswith("services.airflow@second: has no instances; write `airflow`")


def test_instance_meets_the_requirement_of_another_service(tmp_path: Path) -> None:
    local(tmp_path, SERVICE + INSTANCES)
    local(tmp_path, SERVICE.replace("    port:", '    requires = ("echo",)\n    port:'), name="reply")
    both = BASE.replace("{airflow: {}}", "{airflow: {}, echo@one: {}, reply: {}}")
    inventory = read(tmp_path, both)
    assert [container.name for container in inventory.containers_with("echo")] == ["flow"]
    assert Registry(tmp_path).start_order("reply", ()) == 2


def test_declaration_that_fails_is_a_problem_of_its_service(tmp_path: Path) -> None:
    local(tmp_path, SERVICE + ENDPOINTS.format(more='metrics_path="metrics"'))
    (found,) = problems(tmp_path, with_echo())
    assert found.endswith(
        "services.echo: cannot be used: endpoints() raised ValueError: the path metrics of the endpoint web does not "
        "begin with /"
    )


def test_unknown_service_suggests_a_local_one(tmp_path: Path) -> None:
    local(tmp_path)
    (found,) = problems(tmp_path, with_echo().replace("echo:", "ecko:"))
    assert "unknown service; did you mean `echo`?" in found


def test_damaged_approvals_are_an_input_error(tmp_path: Path, state: Path) -> None:
    local(tmp_path)
    (state / "homelab" / "approved-code.json").write_text("[]")
    with pytest.raises(InputError, match=r"Cannot read .*approved-code\.json: it is damaged"):
        Registry(tmp_path).get("echo")


def test_new_service_gets_no_name_of_a_system_account(tmp_path: Path) -> None:
    for name in ("root", "postgres", "airflow", "Upper", "a-b"):
        with pytest.raises(InputError, match=f"Cannot create service {name}: "):
            new_service(tmp_path, name)
    assert list(tmp_path.glob("services/*")) == []
