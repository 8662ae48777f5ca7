"""The JSON Schema of the inventory refuses the structural problems that the reader refuses, and nothing else.

JSON cannot express two of them: `16.0` for a whole number, and a fraction for an address.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from jsonschema import Draft7Validator

from homelab.cli.schema import schema
from homelab.errors import InputError
from homelab.inventory import load
from homelab.inventory.declaration import declaration_of
from homelab.inventory.errors import Problems
from homelab.inventory.json_schema import FILE_NAME, json_schema, render, write_schema
from homelab.inventory.yaml_source import parse
from homelab.model import Service
from homelab.model.options import Duration, KeyNames, Option, SecretName, Size
from homelab.paths import bundled_path
from homelab.services.registry import Registry
from tests.unit.test_inventory import BASE, PROBLEMS, opened, problems, read
from tests.unit.test_openpgp import BOOKWORM

# Problems that a JSON Schema cannot know: they concern several values, files or the meaning of a value.
SEMANTIC = re.compile(
    r"is taken by|is outside the subnet|is the (network|broadcast) address|needs the service|already, and there can"
    r"|ships PostgreSQL|runs on Python|is in the list twice|has \d+ cities|cannot (read|use)|is not a public key"
    r"|is more than|would be for containers|has host bits set|cron's|must hold one key|is not that of"
    r"|has a web UI (on port|with the name)|celery needs|needs `executor: celery`|has no API for tasks"
    r"|has no certificate|prefix length|the service `\w+` needs it|is not a (folder|file)|no installed package"
)
PACKAGES = """
packages:
  apt_proxy: http://192.168.2.5:3142
  apt_mirror: http://192.168.2.5/ubuntu
  apt_security_mirror: http://192.168.2.5/ubuntu
  repositories:
    home:
      uri: https://apt.home.arpa
      suite: stable
      components: [main]
      key: home.asc
      fingerprint: "4D64 FEC1 19C2 0290 67D6 E791 F8D2 585B 8783 D481"
  pypi_index: https://devpi.home.arpa/root/pypi/+simple/
  ca_certificates: [home-ca.pem]
  pins: {postgresql-16: "16.4-*"}
"""


def refused(data: Any) -> list[str]:
    """Return the errors of the JSON Schema in the data of an inventory."""
    return [error.message for error in VALIDATOR.iter_errors(data)]


def parsed(text: str) -> Any:
    return parse(Path("inventory.yaml"), text, Problems()).data


VALIDATOR = Draft7Validator(json_schema())
SHIPPED = bundled_path("inventory.yaml").read_text()


def test_schema_is_valid_and_names_every_service() -> None:
    whole = json_schema()
    Draft7Validator.check_schema(whole)
    containers = whole["properties"]["containers"]["additionalProperties"]["properties"]
    assert set(containers["services"]["properties"]) == set(Registry().names())
    assert containers["services"]["properties"]["airflow"]["properties"]["port"] == {
        "description": "Port of the web UI.",
        "type": ["integer", "null"],
        "minimum": 1024,
        "maximum": 65535,
        "default": 8080,
    }
    assert "default" not in containers["disk"], "its default is that of `defaults:`"
    assert whole["properties"]["defaults"]["properties"]["disk"]["default"] == 8


def test_every_property_has_a_description() -> None:
    def missing(schema: Any, path: str) -> Iterator[str]:
        if isinstance(schema, dict):
            if "additionalProperties" in schema:
                yield from (f"{path}.{k}" for k, v in schema.get("properties", {}).items() if "description" not in v)
            for key, value in schema.items():
                yield from missing(value, f"{path}.{key}")

    assert list(missing(json_schema(), "")) == []


def test_schema_next_to_the_shipped_inventory_is_current(tmp_path: Path) -> None:
    assert SHIPPED.splitlines()[0] == f"# yaml-language-server: $schema={FILE_NAME}"
    hint = "run `homelab schema > inventory.schema.json`"
    assert bundled_path("inventory.yaml").with_name(FILE_NAME).read_text() == render(), hint
    assert write_schema(tmp_path).read_text() == render()
    assert json.loads(render()) == json_schema()


def test_schema_verb_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    schema()
    assert capsys.readouterr().out == render()


@pytest.mark.parametrize("text", [SHIPPED, opened(SHIPPED)], ids=["as shipped", "with its comments opened"])
def test_shipped_inventory_is_valid(text: str) -> None:
    assert refused(parsed(text)) == []


def test_shipped_inventory_is_valid_in_an_editor() -> None:
    """Editors follow YAML 1.2, where `.67` is a number."""

    class Editor(yaml.SafeLoader):
        pass

    Editor.yaml_implicit_resolvers = {
        "t": [("tag:yaml.org,2002:bool", re.compile("true|false"))],
        "f": [("tag:yaml.org,2002:bool", re.compile("true|false"))],
        **{
            first: [
                ("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$")),
                ("tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")),
            ]
            for first in "-+.0123456789"
        },
    }
    data = yaml.load(opened(SHIPPED), Editor)  # noqa: S506 - a SafeLoader
    assert data["network"]["gateway"] == 0.1
    assert refused(data) == []


def disagreement(path: Path, text: str, data: Any) -> str | None:
    """Return the problems of the reader and the errors of the schema if they do not fit together."""
    try:
        load([path], text)
    except InputError as error:
        found = error.details.splitlines()
    else:
        found = []
    structural = [line for line in found if not SEMANTIC.search(line)]
    valid = VALIDATOR.is_valid({} if data is None else data)
    return f"{found} {valid}" if (valid and structural) or (not valid and not found) else None


@pytest.mark.parametrize(("old", "new", "expected"), PROBLEMS, ids=[str(p[2])[:60] for p in PROBLEMS])
def test_each_structural_problem_of_the_reader_is_refused(
    tmp_path: Path, old: str, new: str, expected: str | None
) -> None:
    # No data can have a key twice, and no schema lists the time zones.
    if not re.search("written twice|unknown time zone", str(expected)):
        text = BASE.replace(old, new, 1)
        assert disagreement(tmp_path / "inventory.yaml", text, parsed(text)) is None


VALUES: list[Any] = [None, True, -1, 1.5, "x", [], [None], {"x": {}}]


def _mutations(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield (path, new value) for each value of the data; DELETE and ADD stand for keys."""
    for value in VALUES:
        yield at, value
    items = list(data.items()) if isinstance(data, dict) else list(enumerate(data)) if isinstance(data, list) else []
    for key, value in items:
        yield from _mutations(value, (*at, key))
        if isinstance(data, dict):
            yield (*at, key), DELETE
    if isinstance(data, dict):
        yield (*at, "unknown"), "x"


DELETE = object()


def _mutated(data: Any, at: tuple[Any, ...], value: Any) -> Any:
    result = copy.deepcopy(data)
    if not at:
        return value
    parent = result
    for key in at[:-1]:
        parent = parent[key]
    if value is DELETE:
        del parent[at[-1]]
    else:
        parent[at[-1]] = value
    return result


@pytest.mark.slow
@pytest.mark.timeout(300)  # thousands of inventories
@pytest.mark.parametrize("half", [0, 1])
def test_reader_and_schema_agree_on_every_change_of_one_value(tmp_path: Path, half: int) -> None:
    (tmp_path / "dags").mkdir()
    for name in ("metabase.jar", "duckdb.metabase-driver.jar"):
        (tmp_path / name).touch()
    (tmp_path / "home.asc").write_text(BOOKWORM)
    (tmp_path / "home-ca.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----")
    data = parsed(opened(SHIPPED).partition("\n# packages:")[0] + PACKAGES)
    data["alerts"] = parsed(opened(SHIPPED))["alerts"]
    del data["containers"]["observability"]["services"]["alert_bridge"]  # which `alerts:` adds
    for name in ("analytics-platform", "airflow-orchestration"):
        data["containers"]["postgres-data"]["services"] |= data["containers"].pop(name)["services"]
    data["containers"]["postgres-data"]["services"]["airflow"]["executor"] = "celery"  # `airflow_worker` needs it
    data["containers"]["object-storage"]["services"]["s3"]["users"] = {
        "backup": {"read": [], "write": []}
    }  # of `buckets`
    del data["containers"]["dashboards"]["services"]["superset"]  # each load would parse the files of the dashboards
    path = tmp_path / "inventory.yaml"
    assert load([path], json.dumps(data))
    changes = []
    for at, value in islice(_mutations(data), half, None, 2):
        changed = _mutated(data, at, value)
        changes.append((at, value, disagreement(path, json.dumps(changed, indent=1), changed)))
    assert [change for change in changes if change[2]] == []
    assert len(changes) > 450


class Level(StrEnum):
    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A nested mapping of the service below."""

    url: Annotated[str, Option("URL.", pattern="https?://.+", expected="a URL")]
    every: Annotated[Duration, Option("Interval.", low=Duration("1s"), high=Duration("1h"))] = Duration("15m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboards(Service):
    """Dashboards.

    A service of another package.
    """

    port: Annotated[int, Option("Port.", low=1024, high=65535)] = 3000
    rows: int = 100_000
    ratio: Annotated[float, Option("Ratio.", low=0, high=1)] = 0.5
    public: bool = False
    mode: Literal["all", "some"] = "all"
    level: Level = Level.LOW
    cache: Annotated[Size, Option("Cache.", low=Size("16MiB"))] = Size("256MiB")
    keep: Duration = Duration("15d")
    token: SecretName
    home: Path | None = None
    limit: Annotated[int, Option("Limit.", low=1)] | None = None
    plugins: Sequence[Annotated[str, Option(pattern="[a-z]+", expected="a plugin")]] = ()
    labels: Annotated[Mapping[str, str], Option(keys=KeyNames("[a-z]+", "must be a label"))] = field(
        default_factory=dict
    )
    sources: Mapping[str, Source] = field(default_factory=dict)

    computed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.rows > 1_000_000:
            raise ValueError("`rows` is more than the disk can hold")

    def unsupported_options(self, distribution: object) -> tuple[()]:
        return ()

    database_grants = ports = units = health_probes = lambda self: ()
    steps = health = lambda self, _: ()


@pytest.fixture
def dashboards() -> Registry:
    registry = Registry()
    registry.add("dashboards", Dashboards)
    return registry


def with_dashboards(options: str) -> str:
    return BASE.replace("{airflow: {}}", f"{{airflow: {{}}, dashboards: {options}}}")


def test_options_of_every_type(tmp_path: Path, dashboards: Registry) -> None:
    text = with_dashboards(
        "{token: {secret: chat}, rows: 200000, ratio: 1, public: true, level: high, cache: 1.5GB, keep: 90s, "
        "home: x/y, plugins: [a, b], labels: {room: lab}, sources: {one: {url: 'http://x', every: 2m}}}"
    )
    service = read(tmp_path, text, registry=dashboards).containers[2].services["dashboards"]
    assert service == Dashboards(
        token=SecretName("chat"),
        rows=200_000,
        ratio=1.0,
        public=True,
        level=Level.HIGH,
        cache=Size("1.5GB"),
        keep=Duration("90s"),
        home=tmp_path / "x" / "y",
        plugins=("a", "b"),
        labels={"room": "lab"},
        sources={"one": Source(url="http://x", every=Duration("2m"))},
    )
    assert (service.cache.bytes, service.keep.seconds, str(service.cache)) == (1_500_000_000, 90.0, "1.5GB")
    assert [*Draft7Validator(json_schema(dashboards)).iter_errors(parsed(text))] == []


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("port: 80", "port: must be a whole number from 1024 to 65535, not 80"),
        ("rows: many", "rows: must be a whole number, not 'many'"),
        ("limit: 0", "limit: must be a whole number, at least 1, not 0"),
        ("ratio: 2", "ratio: must be a number from 0 to 1, not 2"),
        ("public: yes", "public: must be true or false, not 'yes'"),
        ("mode: none", "mode: must be one of 'all', 'some', not 'none'"),
        ("level: LOW", "level: must be one of 'low', 'high', not 'LOW'"),
        ("cache: 2 XB", "cache: must be a size such as 512MiB or 2GB, at least 16MiB, not '2 XB'"),
        ("cache: 1MB", "cache: must be a size such as 512MiB or 2GB, at least 16MiB, not '1MB'"),
        ("cache: 5", "cache: must be a size such as 512MiB or 2GB, at least 16MiB, not 5"),
        ("keep: 15 days", "keep: must be a duration such as 90s, 15m, 2h or 7d, not '15 days'"),
        ("token: hunter2", "token: must be {secret: NAME}, with the name of a secret in the lab's secret store, not"),
        ("token: {secret: A!}", "token: must be {secret: NAME}, with the name of a secret in the lab's secret store"),
        ("plugins: [a, B]", "plugins[1]: must be a plugin, not 'B'"),
        ("labels: {A: x}", "labels.A: must be a label"),
        ("labels: {a: 5}", "labels.a: must be text, not 5; put it in quotes if it is meant as text"),
        ("sources: {one: }", "sources.one.url: is missing: a URL"),
        ("sources: {one: {url: 'http://x', every: 2h}}", "sources.one.every: must be a duration such as 90s, 15m, 2h"),
        ("computed: 1", "computed: unknown key; known are port, rows"),
        ("tokne: x", "tokne: unknown key; did you mean `token`?"),
    ],
)
def test_each_problem_of_an_option(tmp_path: Path, dashboards: Registry, option: str, expected: str) -> None:
    token = "" if option.startswith("token:") else "token: {secret: chat}, "
    text = with_dashboards(f"{{{token}{option}}}")
    (found,) = problems(tmp_path, text, registry=dashboards)
    assert found.startswith(f"inventory.yaml:28: containers.flow.services.dashboards.{expected}")
    assert "hunter2" not in found
    too_small_or_long = option in ("cache: 1MB", "sources: {one: {url: 'http://x', every: 2h}}")
    assert bool([*Draft7Validator(json_schema(dashboards)).iter_errors(parsed(text))]) is not too_small_or_long


def test_service_with_a_required_option_needs_it(tmp_path: Path, dashboards: Registry) -> None:
    (found,) = problems(tmp_path, with_dashboards(""), registry=dashboards)
    assert "containers.flow.services.dashboards.token: is missing: {secret: NAME}" in found
    assert [*Draft7Validator(json_schema(dashboards)).iter_errors(parsed(with_dashboards("")))]


def test_service_may_check_its_options_together(tmp_path: Path, dashboards: Registry) -> None:
    (found,) = problems(tmp_path, with_dashboards("{token: {secret: chat}, rows: 2000000}"), registry=dashboards)
    assert found.endswith("containers.flow.services.dashboards: `rows` is more than the disk can hold")


def test_option_of_an_unknown_type_is_an_error_of_the_service() -> None:
    @dataclass
    class Broken:
        value: complex = 1j

    with pytest.raises(TypeError, match=r"Broken\.value: an option cannot be of type complex"):
        declaration_of(Broken)


@pytest.mark.parametrize(("kind", "text"), [(Size, "2XB"), (Size, "0GB"), (Duration, "5"), (SecretName, "A b")])
def test_default_is_checked(kind: type[str], text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        kind(text)
