"""The export to Kubernetes: valid manifests, the facts of the inventory in them, no secrets, and safe folders."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from homelab.commands.export_kubernetes import export_kubernetes
from homelab.commands.pipeline_new import new_pipeline
from homelab.errors import InputError
from homelab.inventory import load
from homelab.known_hosts import KnownHosts
from homelab.kubernetes.export_files import export_files
from homelab.kubernetes.schedules import cron
from homelab.kubernetes.stack_export import stack_export
from homelab.model import Inventory, Service, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.progress import SilentProgress
from homelab.runtime.session import Session
from homelab.secrets import FileSecretStore
from tests.scripts import ROOT
from tests.support import FixedSecretStore, with_service

VERSIONS = ("1.31", "1.34", "1.37")
KEY = "a-key-of-openweather"
MANIFEST = """
commands: {fetch: scripts/fetch.py, check: scripts/fetch.py --check, export: scripts/fetch.py --all}
environment: {API_KEY: {secret: shop}, CURRENCY: EUR}
corrections: {table: readings, key: [item], time: measured_at}
schedule: "0 6 * * 1-7"
"""
READER = "reads: [prices]\n"
S3 = {"endpoint": "https://nas.home.arpa:9000", "bucket": "lake", "access_key": "me", "secret_key": {"secret": "nas"}}
PLATFORM, POSTGRES = "analytics-platform", "postgres-data"
LAKE = {"pipelines": {"weather": {"target": "lake"}}}
OVERLAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "own pipeline": {"pipelines": {"prices": {"path": "pipelines/prices"}}},
    "dhcp": {"containers": {PLATFORM: {"ip": "dhcp"}, POSTGRES: {"ip": "dhcp"}}},
    "external storage": {"containers": {PLATFORM: {"services": {"s3": S3}}}, **LAKE},
    "ingestion": {
        "containers": {"box": {"vmid": 199, "ip": ".99", "cores": 3, "memory": 768, "services": {"ingestion": {}}}}
    },
}


def inventory(folder: Path, overlay: dict[str, Any], manifest: str = MANIFEST) -> Inventory:
    """Return the shipped inventory with an overlay, and the folders of the pipelines prices and offers."""
    if not (folder / "pipelines").exists():
        new_pipeline(folder, "prices")
        (folder / "pipelines" / "prices" / "pipeline.yaml").write_text(manifest)
        new_pipeline(folder, "offers_2")
        path = folder / "pipelines" / "offers_2" / "pipeline.yaml"
        path.write_text(READER + path.read_text())
    (folder / "inventory.yaml").write_text(bundled_path("inventory.yaml").read_text())
    (folder / "overlay.yaml").write_text(json.dumps(overlay))
    return load([folder / "inventory.yaml", folder / "overlay.yaml"])


def session(found: Inventory) -> Session:
    """Return a session with real secrets of its own, and those that the user sets."""
    store = FileSecretStore(found.state_dir)
    for name in ("shop", "nas"):
        store.set(name, f"a-secret-{name}")
    assert found.weather is not None
    found.weather.api_key_file.write_text(KEY)
    return Session(
        inventory=found, secrets=store, known_hosts=KnownHosts.of(found.state_dir), progress=SilentProgress()
    )


def objects(folder: Path, overlay: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of an export."""
    files = export_files(stack_export(inventory(folder, overlay), FixedSecretStore()))
    return [
        each
        for name, content in files.items()
        if "/" not in name and name != "kustomization.yaml"
        for each in yaml.safe_load_all(content)
    ]


def find(found: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (only,) = (each for each in found if each["kind"] == kind and each["metadata"]["name"].startswith(name))
    return only


def containers(workload: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = workload["spec"]
    pod = (spec["jobTemplate"]["spec"] if "jobTemplate" in spec else spec)["template"]["spec"]
    return {each["name"]: each for each in (*pod.get("initContainers", ()), *pod["containers"])}


def variables(container: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a container, a secret one as `secret NAME`."""
    return {
        each["name"]: each["value"] if "value" in each else f"secret {each['valueFrom']['secretKeyRef']['key']}"
        for each in container["env"]
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_are_valid_in_three_versions(tmp_path: Path, overlay: str) -> None:
    found = objects(tmp_path, OVERLAYS[overlay])
    assert {"StatefulSet", "Job", "CronJob", "NetworkPolicy", "PersistentVolumeClaim"} <= {x["kind"] for x in found}
    for each in found:
        for version in VERSIONS:
            assert kubernetes_validate.validate(each, version, strict=True) == version


def test_validation_finds_a_wrong_field(tmp_path: Path) -> None:
    found = find(objects(tmp_path, {}), "StatefulSet", POSTGRES)
    found["spec"]["template"]["spec"]["containers"][0]["limits"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found, VERSIONS[-1], strict=True)


def test_kubectl_builds_the_folder(tmp_path: Path) -> None:
    written = export_kubernetes(session(inventory(tmp_path, OVERLAYS["own pipeline"])), tmp_path / "k8s")
    built = subprocess.run(
        [ROOT / ".venv" / "bin" / "kubectl", "kustomize", tmp_path / "k8s"], check=True, capture_output=True
    )
    found = list(yaml.safe_load_all(built.stdout))
    assert {each["metadata"].get("namespace") for each in found if each["kind"] != "Namespace"} == {"home"}
    assert len({each["metadata"]["name"] for each in found if each["kind"] == "ConfigMap"}) == 5
    assert {"kustomization.yaml", "pipeline-prices.yaml"} <= set(written.files)


def test_each_task_has_the_variables_and_secrets_of_its_stage_only(tmp_path: Path) -> None:
    tasks = containers(find(objects(tmp_path, {}), "CronJob", "pipeline-weather"))
    assert list(tasks) == ["fetch", "build", "check"]
    found = {name: variables(each) for name, each in tasks.items()}
    users = {name: (each["PGUSER"], each["PGPASSWORD"]) for name, each in found.items()}
    writer, reader = ("analytics", "secret postgres-analytics"), ("dbt", "secret postgres-dbt")
    assert users == {"fetch": writer, "build": reader, "check": writer}
    assert {each["PGHOST"] for each in found.values()} == {POSTGRES}
    assert {each["PGSSLMODE"] for each in found.values()} == {"verify-full"}
    assert found["fetch"]["OPENWEATHER_API_KEY"] == "secret OPENWEATHER_API_KEY"
    assert "OPENWEATHER_API_KEY" not in found["build"]


def test_own_pipeline_has_its_secrets_schedule_tables_and_commands(tmp_path: Path) -> None:
    overlay = {"pipelines": {"prices": {"path": "pipelines/prices"}}}
    found = objects(tmp_path, overlay)
    job = find(found, "CronJob", "pipeline-prices")
    assert (job["spec"]["schedule"], job["spec"]["suspend"]) == ("0 6 * * 1,2,3,4,5,6,0", False)
    fetch = variables(containers(job)["fetch"])
    assert (fetch["API_KEY"], fetch["CURRENCY"], fetch["PGUSER"]) == ("secret shop", "EUR", "prices")
    assert "API_KEY" not in variables(containers(job)["build"])
    tables = containers(find(found, "Job", "database-setup"))["pipeline-prices-tables"]
    assert variables(tables)["PGUSER"] == "prices"
    sql = find(found, "ConfigMap", "database-setup")["data"]["pipeline-prices.sql"]
    assert "comment on schema prices is 'homelab 1:" in sql
    assert "readings_included" in sql
    export = stack_export(inventory(tmp_path, overlay), FixedSecretStore())
    assert "the command `export` of the pipeline `prices`" in export.left_out


@pytest.mark.parametrize(
    ("value", "written"),
    [("a$b", "a$b"), ("$(PGHOST)", "$$(PGHOST)"), ("a$$b $c", "a$$$$b $$c"), ("yes", "yes"), ("a # b", "a # b")],
)
def test_kubernetes_changes_no_value(tmp_path: Path, value: str, written: str) -> None:
    """It replaces `$(NAME)`, and `$$` by `$`."""
    manifest = MANIFEST.replace("CURRENCY: EUR", f"CURRENCY: {json.dumps(value)}")
    found = inventory(tmp_path, OVERLAYS["own pipeline"], manifest)
    content = export_files(stack_export(found, FixedSecretStore()))["pipeline-prices.yaml"]
    job = find(list(yaml.safe_load_all(content)), "CronJob", "pipeline-prices")
    assert variables(containers(job)["fetch"])["CURRENCY"] == written


def test_secret_of_several_lines_is_an_error(tmp_path: Path) -> None:
    site = session(inventory(tmp_path, OVERLAYS["own pipeline"]))
    site.secrets.set("shop", "abc\ndef")
    with pytest.raises(InputError, match="secret shop: it has several lines") as error:
        export_kubernetes(site, tmp_path / "k8s")
    assert "abc" not in str(error.value)
    assert not (tmp_path / "k8s").exists()


def test_pipeline_that_reads_another_mounts_its_claim_read_only(tmp_path: Path) -> None:
    both = {"prices": {"path": "pipelines/prices"}, "offers_2": {"path": "pipelines/offers_2"}}
    found = objects(tmp_path, {"pipelines": both})
    job = find(found, "CronJob", "pipeline-offers-2")
    build = containers(job)["build"]
    folder = "/opt/analytics-platform/pipelines/prices/data"
    (mount,) = (each for each in build["volumeMounts"] if each["mountPath"] == folder)
    assert mount["readOnly"] is True
    assert variables(build)["READS_prices"] == f"{folder}/published.duckdb"
    volumes = {each["name"]: each for each in job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]}
    assert volumes[mount["name"]]["persistentVolumeClaim"] == {"claimName": "pipeline-prices-data"}


@pytest.mark.parametrize(
    ("overlay", "workload", "container", "limits"),
    [
        ({}, ("StatefulSet", POSTGRES), "postgres", ("1", "2048Mi")),
        ({}, ("CronJob", "pipeline-weather"), "fetch", ("2", "4096Mi")),
        (OVERLAYS["ingestion"], ("CronJob", "pipeline-weather"), "fetch", ("3", "768Mi")),
        (OVERLAYS["ingestion"], ("CronJob", "pipeline-weather"), "build", ("2", "4096Mi")),
        (OVERLAYS["ingestion"], ("CronJob", "pipeline-weather"), "check", ("3", "768Mi")),
    ],
)
def test_limits_are_those_of_the_containers(
    tmp_path: Path, overlay: dict[str, Any], workload: tuple[str, str], container: str, limits: tuple[str, str]
) -> None:
    found = containers(find(objects(tmp_path, overlay), *workload))[container]
    assert found["resources"]["limits"] == {"cpu": limits[0], "memory": limits[1]}


@pytest.mark.parametrize("overlay", ["default", "ingestion", "dhcp"])
def test_only_the_holders_of_grants_may_connect(tmp_path: Path, overlay: str) -> None:
    found = objects(tmp_path, OVERLAYS[overlay])
    assert find(found, "NetworkPolicy", "deny")["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    (rule,) = find(found, "NetworkPolicy", POSTGRES)["spec"]["ingress"]
    clients = [each["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for each in rule["from"]]
    assert clients == ["database-setup", "pipeline-weather"]
    assert rule["ports"] == [{"port": 5432, "protocol": "TCP"}]
    hba = find(found, "ConfigMap", f"{POSTGRES}-config")["data"]["pg_hba.conf"]
    rows = [line.split()[:4] for line in hba.splitlines() if line.startswith("hostssl")]
    assert rows == [
        ["hostssl", "all", "postgres", "all"],
        ["hostssl", "project_data", "analytics", "all"],
        ["hostssl", "project_data", "dbt", "all"],
    ]


def test_server_has_probes_storage_and_an_unprivileged_user(tmp_path: Path) -> None:
    mounts = {"containers": {POSTGRES: {"mounts": {"/var/lib/postgresql": 32}}}}
    for overlay, size in (({}, "16Gi"), (mounts, "32Gi")):
        server = find(objects(tmp_path, overlay), "StatefulSet", POSTGRES)
        (claim,) = server["spec"]["volumeClaimTemplates"]
        assert claim["spec"]["resources"]["requests"]["storage"] == size
    postgres = containers(server)["postgres"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= postgres.keys()
    assert postgres["image"] == "docker.io/library/postgres:16"
    pod = server["spec"]["template"]["spec"]
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsNonRoot"]) == (999, True)


def test_job_has_another_name_after_a_change(tmp_path: Path) -> None:
    """A job cannot be changed, so `kubectl apply` would fail."""
    first, second = (
        find(objects(tmp_path, overlay), "Job", "database-setup")["metadata"]["name"]
        for overlay in ({}, {"containers": {POSTGRES: {"services": {"postgres": {"retention_months": 3}}}}})
    )
    assert first != second
    assert first == find(objects(tmp_path, {}), "Job", "database-setup")["metadata"]["name"]


@pytest.mark.parametrize("status", [0, 1, 4, 6])
def test_partial_fetch_is_built_and_other_statuses_stay(tmp_path: Path, status: int) -> None:
    """Status 4: a part is stored. Kubernetes does not try 6, a refused key, again."""
    job = find(objects(tmp_path, {}), "CronJob", "pipeline-weather")
    shell = containers(job)["fetch"]["command"][:4]
    assert subprocess.run([*shell, "sh", "-c", f"exit {status}"], check=False).returncode == (status % 4 and status)
    (rule,) = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert {6, 7, 8} == {*rule["onExitCodes"]["values"]}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("@hourly", "@hourly"),
        ("*/30 * * * *", "*/30 * * * *"),
        ("0 6 * * 7", "0 6 * * 0"),
        ("0 6 * * 5-7", "0 6 * * 5,6,0"),
        ("0 6 * * 1-7/2", "0 6 * * 1,3,5,0"),
        ("0 6 * * 1,7", "0 6 * * 1,0"),
        ("0 6 7 * mon-fri", "0 6 7 * mon-fri"),
    ],
)
def test_sunday_is_0_for_kubernetes(schedule: str, expected: str) -> None:
    assert cron(schedule) == expected


def test_images_have_the_locks_and_the_files_of_the_pipeline(tmp_path: Path) -> None:
    (tmp_path / "cities.csv").write_text("name\nBerlin\n")
    export = stack_export(
        inventory(tmp_path, {"pipelines": {"weather": {"cities": {"file": "cities.csv"}}}}), FixedSecretStore()
    )
    (image,) = export.images
    assert (
        image.files["locks/analytics.txt"] == bundled_path("pipelines/shared/requirements/analytics.txt").read_bytes()
    )
    assert image.files["pipeline/cities.csv"] == b"name\nBerlin\n"
    assert "pipeline/dbt/dbt_project.yml" in image.files
    lines = image.files["Dockerfile"].decode().splitlines()
    assert all("--require-hashes" in line for line in lines if "pip install" in line or "pip sync" in line)
    copied = [line.split()[1] for line in lines if line.startswith("COPY")]
    assert {name.partition("/")[0] for name in image.files} == {"Dockerfile", *copied}
    fetch = next(each for each in export.workloads if each.kind == "schedule").processes[0]
    assert fetch.environment["WEATHER_CITIES_FILE"] == "/opt/analytics-platform/pipelines/weather/cities.csv"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_file_has_a_secret(tmp_path: Path, overlay: str) -> None:
    site = session(inventory(tmp_path, OVERLAYS[overlay]))
    written = export_kubernetes(site, tmp_path / "k8s")
    assert {*written.files} == {
        str(path.relative_to(tmp_path / "k8s")) for path in (tmp_path / "k8s").rglob("*") if path.is_file()
    } - {".homelab-export.json"}
    secrets = [site.secrets.secret(name).reveal() for name in site.secrets.names()]
    assert len(secrets) >= 6
    texts = [*((tmp_path / "k8s" / name).read_text() for name in written.files), *written.commands]
    assert not [name for text in texts for name in (*secrets, KEY, "PRIVATE KEY") if name in text]


def test_certificate_stays_while_it_fits(tmp_path: Path) -> None:
    site = session(inventory(tmp_path, {}))
    name = f"kubernetes-{POSTGRES}-certificate"

    def exported() -> str:
        stack_export(site.inventory, site.secrets)
        return site.secrets.secret(name).reveal()

    first = exported()
    assert f'"hosts": ["{POSTGRES}"]' in first
    assert exported() == first
    (site.inventory.state_dir / "ca.pem").unlink()  # a new CA
    assert exported() != first


def test_services_without_an_export_are_named(tmp_path: Path) -> None:
    redis = {"cores": 1, "memory": 512, "vmid": 190, "ip": ".90", "services": {"gateway": {}}}
    export = stack_export(inventory(tmp_path, {"containers": {"web": redis}}), FixedSecretStore())
    assert export.left_out == ("the service `airflow` of airflow-orchestration", "the service `gateway` of web")


def test_service_without_units_and_ports_is_named(tmp_path: Path) -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Files(Service):
        """A service that only installs files."""

        def steps(self, context: ServiceContext) -> list[Step]:
            """See Service."""
            return []

    overlay = json.dumps({"containers": {PLATFORM: {"services": {"files": {}}}}})
    export = stack_export(with_service(tmp_path, "files", Files, overlay), FixedSecretStore())
    assert f"the service `files` of {PLATFORM}" in export.left_out


def test_second_export_replaces_its_own_files_only(tmp_path: Path) -> None:
    folder, both = tmp_path / "k8s", OVERLAYS["own pipeline"]
    export_kubernetes(session(inventory(tmp_path, both)), folder)
    before = (folder / "pipeline-weather.yaml").read_bytes()
    export_kubernetes(session(inventory(tmp_path, {})), folder)
    assert not (folder / "pipeline-prices.yaml").exists()
    assert (folder / "pipeline-weather.yaml").read_bytes() == before

    (folder / "shared.yaml").write_text("mine")
    with pytest.raises(InputError, match="files that no export wrote, or that were changed") as error:
        export_kubernetes(session(inventory(tmp_path, both)), folder)
    assert "shared.yaml" in error.value.details
    assert (folder / "shared.yaml").read_text() == "mine"
    assert not (folder / "pipeline-prices.yaml").exists()


def test_killed_export_can_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, folder, write = session(inventory(tmp_path, {})), tmp_path / "k8s", Path.write_bytes

    def killed(path: Path, content: bytes) -> int:
        if path.name == "database-setup.yaml":
            raise KeyboardInterrupt
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        export_kubernetes(site, folder)
    assert (folder / "kustomization.yaml").exists()
    monkeypatch.undo()
    export_kubernetes(site, folder)
    assert (folder / "database-setup.yaml").exists()


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"pipelines": {"weather": {"to": "broker"}}}, "stores its rows through the broker"),
        (LAKE, "keeps data in the object storage"),
        (
            {
                "containers": {"storage": None},  # which would refuse the name of the second one
                "pipelines": {name: {"path": "pipelines/prices"} for name in ("a_b", "a_b_")},
            },
            "pipeline-a-b: two manifests",
        ),
        ({"containers": {POSTGRES: {"services": {"postgres": {"version": 13, "source": "pgdg"}}}}}, "PostgreSQL 13"),
        ({"pipelines": {"prices": {"path": "pipelines/prices"}}}, "shop: not set"),
    ],
)
def test_unsupported_inventory_is_an_error(tmp_path: Path, overlay: dict[str, Any], message: str) -> None:
    boxes = {
        "broker": {"vmid": 175, "ip": ".75", "cores": 1, "memory": 512, "services": {"broker": {}, "consumer": {}}},
        "storage": {"vmid": 178, "ip": ".78", "cores": 1, "memory": 1024, "services": {"s3": {}}},
    }
    found = inventory(tmp_path, {**overlay, "containers": {**boxes, **overlay.get("containers", {})}})
    with pytest.raises(InputError, match=message) as error:
        stack_export(found, FileSecretStore(found.state_dir))
    assert error.value.resolution


@pytest.mark.parametrize(
    ("make", "registry", "message"),
    [
        (lambda folder: folder.write_text("mine"), "", "it is a file"),
        (lambda folder: (folder.mkdir(), (folder / "notes").touch()), "", "files that no export wrote"),
        (lambda folder: (folder.mkdir(), (folder / ".homelab-export.json").write_text("{")), "", "damaged"),
        (lambda folder: None, "https://registry.home.arpa", "no prefix of an image"),
        (lambda folder: None, "x:99999", "no prefix of an image"),
    ],
)
def test_bad_folder_or_registry_is_an_error(tmp_path: Path, make: Any, registry: str, message: str) -> None:
    site, folder = session(inventory(tmp_path, {})), tmp_path / "k8s"
    make(folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match=message):
        export_kubernetes(site, folder, registry)
    assert sorted(folder.rglob("*")) == before


def test_postgresql_alone_is_exported(tmp_path: Path) -> None:
    found = inventory(tmp_path, {})
    only = tuple(each for each in found.containers if each.name == POSTGRES)
    export = stack_export(replace(found, containers=only, pipelines=(), weather=None), FixedSecretStore())
    assert [each.name for each in export.workloads] == [POSTGRES, "database-setup"]
    assert export.secrets == ["kubernetes-postgres"]
    assert (export.images, export.api_key_file, export.left_out) == ((), None, ())


def test_commands_build_hand_over_and_apply_in_order(tmp_path: Path) -> None:
    site = session(inventory(tmp_path, {}))
    build, push, namespace, secrets, certificate, apply = export_kubernetes(
        site, tmp_path / "k8s", "registry.home.arpa:5000/lab"
    ).commands
    image = "registry.home.arpa:5000/lab/homelab-pipeline-weather:"
    assert build.startswith(f"docker build -t {image}")
    assert push.startswith(f"docker push {image}")
    assert namespace == f"kubectl apply -f {tmp_path}/k8s/namespace.yaml"
    assert "for name in kubernetes-postgres postgres-analytics postgres-dbt;" in secrets
    assert f"cat {tmp_path}/.homelab/openweather-api-key" in secrets
    assert certificate.startswith(f"homelab secret show kubernetes-{POSTGRES}-certificate | kubectl create secret")
    assert apply == f"kubectl apply -k {tmp_path}/k8s"
