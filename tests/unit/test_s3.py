"""The service s3: options, rights, connections of the pipelines, ports, and health."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.pipeline_new import new_pipeline
from homelab.errors import InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.model import Inventory, ServiceContext, Size
from homelab.model.firewall import desired_firewall
from homelab.model.object_storage import BUCKET
from homelab.paths import bundled_path
from homelab.runtime.convergence import steps_of
from homelab.services.s3 import S3, bucket_of
from homelab.services.seaweedfs import server_health
from homelab.steps import Command, File
from tests.support import FixedSecretStore

OWN = {"object-storage": {"vmid": 175, "ip": ".75", "cores": 1, "memory": 1024, "disk": 32}}
EXTERNAL = {
    "endpoint": "https://nas.home.arpa:9000",
    "bucket": "home-lake",
    "access_key": "homelab",
    "secret_key": {"secret": "nas"},
}
ENVIRONMENT = "/opt/analytics-platform/pipelines/weather"


def inventory(folder: Path, options: dict[str, Any], name: str = "object-storage", **more: object) -> Inventory:
    own = OWN.get(name, {})
    containers = {name: {**own, "services": {"s3": options}}}
    key = folder / "key"
    key.write_text("openweather-key")
    key.chmod(0o600)
    overlay = folder / "overlay.yaml"
    overlay.write_text(
        json.dumps({"containers": containers, "pipelines": {"weather": {"api_key_file": str(key)}}, **more})
    )
    return load([bundled_path("inventory.yaml"), overlay])


def steps(found: Inventory, name: str) -> Sequence[object]:
    (container,) = [each for each in found.containers if each.name == name]
    keys = {each.name: f"ssh-ed25519 AAAA {each.name}" for each in found.containers}
    context = ServiceContext(inventory=found, container=container, secret_store=FixedSecretStore(), host_keys=keys)
    return list(steps_of(context))


def files(found: Sequence[object]) -> dict[str, str]:
    return {step.path: step.content.decode() for step in found if isinstance(step, File)}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"endpoint": "http://nas:9000"}, "without TLS, it cannot be used"),
        ({"endpoint": "https://nas/path"}, "https://HOST:PORT"),
        ({**EXTERNAL, "endpoint": "https://nas:70000"}, "s3.endpoint: must have a port from 1 to 65535"),
        ({"endpoint": "https://nas"}, "s3.access_key: is missing: `endpoint` needs it"),
        ({**EXTERNAL, "buckets": ["exports"]}, "s3.buckets: is an option of SeaweedFS, which `endpoint` replaces"),
        ({**EXTERNAL, "secret_key": "in-clear"}, "s3.secret_key"),
        ({"bucket": "home-lake"}, "s3.bucket: needs `endpoint`"),
        ({"port": 80}, "s3.port"),
        ({"port": 9327}, "port 9327"),
        ({"bukets": []}, "buckets"),
        ({"buckets": ["Photos"]}, "3 to 63 lower-case letters"),
        ({"buckets": ["a..b"]}, "3 to 63 lower-case letters"),
        ({"buckets": ["10.0.0.1"]}, "3 to 63 lower-case letters"),
        ({"buckets": ["pipeline-x"]}, "must not begin with pipeline-"),
        ({"buckets": ["exports", "exports"]}, "already in the list"),
        ({"users": {"reports": {"read": ["exports"]}}}, "is not a bucket: add exports to `buckets`"),
        ({"users": {"pipeline-weather": {}}}, "does not begin with pipeline-"),
        ({"reserve": "1MB"}, "100MB"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, Any], error: str) -> None:
    with pytest.raises(InputError) as caught:
        inventory(tmp_path, options)
    assert error in f"{caught.value.brief} {caught.value.details} {caught.value.resolution}"


def test_seaweedfs_needs_a_container_of_its_own_and_an_endpoint_does_not(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        inventory(tmp_path, {}, "analytics-platform")
    assert "analytics-platform.services.s3: needs a container of its own, apart from analytics" in caught.value.details
    inventory(tmp_path, {}, defaults={"monitoring": True})  # with node_exporter
    assert inventory(tmp_path, EXTERNAL, "analytics-platform").object_storage("weather")


def test_each_user_has_its_own_buckets_only(tmp_path: Path) -> None:
    users = {"reports": {"read": ["exports", "pipeline-weather"]}, "backup": {"write": ["exports"]}}
    found = steps(inventory(tmp_path, {"buckets": ["exports"], "users": users}), "object-storage")
    identities = {each["name"]: each for each in json.loads(files(found)["/etc/homelab/s3.json"])["identities"]}
    assert {name: each["actions"] for name, each in identities.items()} == {
        "pipeline-weather": [f"{action}:pipeline-weather" for action in ("List", "Read", "Tagging", "Write")],
        "reports": ["List:exports", "List:pipeline-weather", "Read:exports", "Read:pipeline-weather"],
        "backup": ["List:exports", "Read:exports", "Tagging:exports", "Write:exports"],
    }
    keys = [each["credentials"][0]["secretKey"] for each in identities.values()]
    assert len({*keys}) == 3
    (modes,) = [(each.group, each.mode) for each in found if isinstance(each, File) and each.path.endswith("/s3.json")]
    assert modes == ("homelab-s3", 0o640)
    buckets = [each.name for each in found if isinstance(each, Command) and each.name.startswith("bucket ")]
    assert buckets == ["bucket pipeline-weather", "bucket exports"]


def test_right_on_the_bucket_of_a_missing_pipeline_is_refused(tmp_path: Path) -> None:
    found = inventory(tmp_path, {"users": {"reports": {"read": ["pipeline-wether"]}}})
    with pytest.raises(InputError, match="the user reports has rights on a missing bucket") as caught:
        steps(found, "object-storage")
    assert "Buckets: pipeline-weather." in caught.value.resolution


def test_server_listens_on_loopback_and_the_socket_on_its_address(tmp_path: Path) -> None:
    found = files(steps(inventory(tmp_path, {"port": 9000}), "object-storage"))
    unit = found["/etc/systemd/system/homelab-s3.service"]
    assert "-ip.bind=127.0.0.1 " in unit
    assert "s3.ip.bind" not in unit
    assert "-master.telemetry=false" in unit
    assert "-master.volumeSizeLimitMB=128 " in unit
    assert "secret-of" not in unit
    assert "ListenStream=192.168.2.75:9000\n" in found["/etc/systemd/system/homelab-s3.socket"]


def test_pipeline_gets_its_connection_and_its_key(tmp_path: Path) -> None:
    found = files(steps(inventory(tmp_path, {}), "analytics-platform"))
    lines = found[f"{ENVIRONMENT}/pipeline.env"].splitlines()
    assert [each for each in lines if each.startswith("S3_")] == [
        "S3_URL=s3://pipeline-weather",
        "S3_ENDPOINT=192.168.2.75:8333",
        "S3_REGION=us-east-1",
        "S3_URL_STYLE=path",
        "S3_CA_FILE=/etc/ssl/homelab/ca.crt",
        "S3_ACCESS_KEY_ID=pipeline-weather",
    ]
    secrets = found[f"{ENVIRONMENT}/secrets.env"]
    assert "S3_SECRET_ACCESS_KEY=secret-of-s3-pipeline-weather\n" in secrets
    assert "secret-of" not in found[f"{ENVIRONMENT}/pipeline.env"]


def test_pipeline_gets_a_folder_at_an_endpoint(tmp_path: Path) -> None:
    found = inventory(tmp_path, {**EXTERNAL, "region": "eu-1", "url_style": "vhost"}, "analytics-platform")
    storage = found.object_storage("weather")
    assert storage
    assert storage.url == "s3://home-lake/pipeline-weather"
    assert storage.endpoint == "nas.home.arpa:9000"
    assert storage.variables["S3_CA_FILE"] == "/etc/ssl/certs/ca-certificates.crt"
    assert storage.variables["S3_URL_STYLE"] == "vhost"
    assert storage.variables["S3_URL"] == storage.url
    rendered = files(steps(found, "analytics-platform"))
    assert "S3_URL=s3://home-lake/pipeline-weather\n" in rendered[f"{ENVIRONMENT}/pipeline.env"]
    assert not [path for path in rendered if "homelab-s3" in path]


def test_endpoint_without_a_port_has_that_of_https(tmp_path: Path) -> None:
    found = inventory(
        tmp_path, {**EXTERNAL, "endpoint": "https://s3.eu-central-1.amazonaws.com/"}, "analytics-platform"
    )
    storage = found.object_storage("weather")
    assert storage
    assert storage.endpoint == "s3.eu-central-1.amazonaws.com:443"


def test_without_the_service_nothing_changes(tmp_path: Path) -> None:
    found = load([bundled_path("inventory.yaml")])
    assert found.object_storage("weather") is None
    assert [each for container in found.containers for each in container.services if each == "s3"] == []


def test_bucket_has_no_underscores() -> None:
    assert bucket_of("energy_prices") == "pipeline-energy-prices"


@pytest.mark.parametrize(("clients", "source"), [("stack", "192.168.2.68"), ("lan", "192.168.2.0/24")])
def test_firewall_opens_only_the_declared_ports(tmp_path: Path, clients: str, source: str) -> None:
    found = inventory(tmp_path, {"clients": clients}, defaults={"firewall": True})
    rules = desired_firewall(found, found.container_with("s3")).rules
    assert [(each.port, each.source) for each in rules if each.port not in ("22", "9327", "")] == [("8333", source)]


LISTED = b"  exports\tsize:400\tlogical:400\tchunk:1\n  pipeline-weather\tsize:1600000000\tlogical:1\tchunk:1\n"


@pytest.mark.parametrize(
    ("answer", "has_volumes", "free", "expected"),
    [
        (b"200", True, b"5000000000", (True, True, "2 buckets with 1.6 GB; 5.0 GB of the disk are free")),
        (b"200", True, b"900000000", (False, True, "full: only reads; 2 buckets")),
        (b"200", False, b"5000000000", (False, False, "does not answer")),
        (b"503", True, b"5000000000", (False, False, "does not answer")),
        (b"", True, b"5000000000", (False, False, "does not answer")),
    ],
)
def test_health(answer: bytes, has_volumes: bool, free: bytes, expected: tuple[bool, bool, str]) -> None:
    contents = ((not answer, answer), (not has_volumes, b""), (0, LISTED), (0, free))
    found = server_health([Result("", int(status), text, b"") for status, text in contents], Size("1GB"))
    assert (found.healthy, found.ready) == expected[:2]
    assert found.summary.startswith(expected[2])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((0, b"403", b""), "https://nas.home.arpa:9000 answers"),
        ((1, b"", b"certificate verify failed"), "does not answer: certificate verify failed"),
    ],
)
def test_health_of_an_endpoint(tmp_path: Path, answer: tuple[int, bytes, bytes], expected: str) -> None:
    (service,) = [
        each for _, each in inventory(tmp_path, EXTERNAL, "analytics-platform").services() if isinstance(each, S3)
    ]
    found = service.health([Result("", *answer)])
    assert found.healthy == (answer[0] == 0)
    assert expected in found.summary


@pytest.mark.parametrize(
    ("name", "options", "accepted"),
    [
        ("my_prices", {}, True),
        ("my__prices", {}, True),
        ("a234567890123456789012", {}, True),
        ("prices_", {}, False),
        ("prices__", {}, False),
        ("prices_s3alias", {}, False),
        ("prices_", EXTERNAL, True),  # a folder has any name
    ],
)
def test_pipeline_whose_bucket_s3_refuses_is_a_problem(
    tmp_path: Path, name: str, options: dict[str, Any], accepted: bool
) -> None:
    new_pipeline(tmp_path, name)
    container = "analytics-platform" if options else "object-storage"
    key, overlay = tmp_path / "key", tmp_path / "overlay.yaml"
    key.write_text("openweather-key")
    key.chmod(0o600)
    pipelines = {"weather": {"api_key_file": str(key)}, name: {"path": f"pipelines/{name}"}}
    containers = {container: {**OWN.get(container, {}), "services": {"s3": options}}}
    overlay.write_text(json.dumps({"containers": containers, "pipelines": pipelines}))
    files = [bundled_path("inventory.yaml"), overlay]
    if accepted:
        storage = load(files).object_storage(name)
        assert storage
        assert re.fullmatch(BUCKET, storage.bucket)
        return
    with pytest.raises(InputError) as caught:
        load(files)
    assert f"pipelines.{name}: S3 does not accept the name of its bucket, {bucket_of(name)}" in caught.value.details
