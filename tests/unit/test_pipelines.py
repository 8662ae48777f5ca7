"""A user's pipeline: its manifest, its steps in the containers, and the example that homelab writes."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from homelab.commands.pipeline_new import new_pipeline
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.model import DatabaseGrant, Duration, Inventory, ServiceContext, Size, Step
from homelab.model.object_storage import ObjectStorage
from homelab.model.pipelines import SchemaVersion, lock_header
from homelab.model.secret_store import user_secrets
from homelab.paths import bundled_path
from homelab.pipelines.broker_contract import broker_variables, publisher_variables
from homelab.pipelines.clickhouse_login import clickhouse_variables
from homelab.pipelines.container_steps import secret_variables
from homelab.pipelines.layout import Layout
from homelab.pipelines.schema_step import SchemaVersions
from homelab.runtime.convergence import steps_of
from homelab.secrets import FileSecretStore
from homelab.services.postgres import hba
from homelab.steps import File, Tree
from tests.support import FixedSecretStore, LocalHost, respecting_modes
from tests.unit.test_dag import load as load_dag

KEYS = {"analytics-platform": "ssh-ed25519 AAAAHost"}
ROOT = "/opt/analytics-platform/pipelines/prices"


def inventory(folder: Path, *names: str) -> Inventory:
    """The shipped inventory with pipelines next to it."""
    key = folder / "key"
    key.write_text("openweather-key")
    key.chmod(0o600)
    pipelines: dict[str, object] = {name: {"path": f"pipelines/{name}"} for name in names}
    overlay = folder / "overlay.yaml"
    overlay.write_text(json.dumps({"pipelines": {"weather": {"api_key_file": "key"}, **pipelines}}))
    return load([bundled_path("inventory.yaml"), overlay])


def with_prices(folder: Path) -> Inventory:
    new_pipeline(folder, "prices")
    return inventory(folder, "prices")


def steps(wanted: Inventory, service: str) -> list[Step]:
    container = wanted.container_with(service)
    secrets = FixedSecretStore()
    return list(steps_of(ServiceContext(inventory=wanted, container=container, secret_store=secrets, host_keys=KEYS)))


def file(found: list[Step], path: str) -> str:
    (step,) = [step for step in found if isinstance(step, File) and step.path == path]
    return step.content.decode()


def problems(folder: Path, *names: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        inventory(folder, *names)
    return [line.strip().removeprefix(f"{folder}/") for line in caught.value.details.splitlines()]


def test_manifest_is_read(tmp_path: Path) -> None:
    new_pipeline(tmp_path, "prices")
    manifest = tmp_path / "pipelines" / "prices" / "pipeline.yaml"
    manifest.write_text(
        manifest.read_text() + "expected_every: 2d\nlimits: {memory: 512MiB, threads: 1, timeout: 90s}\n"
    )
    prices = inventory(tmp_path, "prices").pipeline("prices")
    assert (prices.schedule, prices.expected_every, prices.tasks) == ("@daily", Duration("2d"), ("fetch", "build"))
    assert (prices.memory, prices.threads, prices.timeout) == (Size("512MiB"), 1, Duration("90s"))
    assert prices.folder == tmp_path / "pipelines" / "prices"
    (version,) = prices.schema_versions
    assert version.number == 1
    assert version.sql.startswith("create table readings (")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("Prices", "a pipeline's name has lower-case letters"),
        ("a" * 23, "a pipeline's name has lower-case letters"),
        ("order", "`order` is a reserved word"),
        ("pg_prices", "`pg_prices` is a reserved word"),
        ("prices_dbt", "the names that end in `_dbt` are those of dbt's roles"),
        ("raw", "`raw` is the name of a schema of the pipeline `weather` already"),
        ("raw_aside", "`raw_aside` is a reserved word"),
        ("upkeep_aside", "`upkeep_aside` is a reserved word"),
        ("airflow", "`airflow` is the name of a service already"),
        ("analytics", "`analytics` is the name of a role of the pipeline `weather` already"),
        ("weather_new_rows", "`weather_new_rows` is the name of a DAG of the pipeline `weather` already"),
    ],
)
def test_name_that_a_pipeline_cannot_have_is_refused(tmp_path: Path, name: str, error: str) -> None:
    new_pipeline(tmp_path, "prices")
    (tmp_path / "pipelines" / "prices").rename(tmp_path / "pipelines" / name)
    assert any(error in line for line in problems(tmp_path, name))


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("pipeline.yaml", "a: [", "pipeline.yaml:1: not valid YAML"),
        ("pipeline.yaml", "[]", "pipeline.yaml:1: must be a mapping"),
        ("pipeline.yaml", "schedul: x", "pipeline.yaml:1: schedul: unknown key; did you mean `schedule`?"),
        ("pipeline.yaml", "\nschedule: '@dayly'", "pipeline.yaml:2: schedule: unknown preset '@dayly'; did you mean"),
        ("pipeline.yaml", "commands: {fetch: fetch.py}", "pipeline.yaml:1: commands.fetch: must be a path below"),
        ("pipeline.yaml", "commands: {fetch: scripts/../x.py}", "pipeline.yaml:1: commands.fetch: must be a path"),
        ("pipeline.yaml", "commands: {fetch: scripts/no.py}", "commands.fetch: scripts/no.py does not exist"),
        ("pipeline.yaml", "commands: {fetch: scripts/fetch.py $x}", "pipeline.yaml:1: commands.fetch: must be a path"),
        ("pipeline.yaml", "dag: own", "pipeline.yaml:1: dag: there are no DAGs in dags/"),
        ("pipeline.yaml", "tasks: {build: make}", "pipeline.yaml:1: tasks: there are no DAGs in dags/"),
        ("pipeline.yaml", "commands: {Fetch: scripts/fetch.py}", "commands.Fetch: a command has lower-case letters"),
        ("pipeline.yaml", "limits: {memory: 2}", "pipeline.yaml:1: limits.memory: must be"),
        ("pipeline.yaml", "environment: {PGHOST: x}", "environment.PGHOST: a variable has capital letters"),
        ("pipeline.yaml", "environment: {PATH: x}", "environment.PATH: a variable has capital letters"),
        ("pipeline.yaml", "environment: {S3_SECRET_ACCESS_KEY: x}", "environment.S3_SECRET_ACCESS_KEY: a variable has"),
        ("pipeline.yaml", 'environment: {URL: "a\\nb"}', "pipeline.yaml:1: environment.URL: must"),
        ("pipeline.yaml", "corrections: {table: a, key: [], time: t}", "corrections.key: needs a column"),
        ("pipeline.yaml", "corrections: {table: A, key: [k], time: t}", "corrections.table: must be a name with"),
        ("schema.sql", "-- version 2\nselect 1", "schema.sql:1: must be `-- version 1`: versions count from 1"),
        ("schema.sql", f"-- version {'9' * 5000}\nselect 1", "schema.sql:1: must be `-- version 1`"),
        ("schema.sql", "select 1;\n-- version 1\nselect 1", "schema.sql:1: has SQL before its first line"),
        ("requirements.txt", "requests==2.32.5", "requirements.txt:1: has no hashes: write requirements.in"),
        ("requirements.txt", "x==1 --hash=sha256:0\nduckdb==1.0.0 --hash=sha256:0", "txt:2: has duckdb 1.0.0, but"),
        ("dags/own.py", "", "pipeline.yaml:3: schedule: the DAGs in dags/ have their own schedule"),
    ],
)
def test_problem_of_a_pipelines_file_has_its_place(tmp_path: Path, path: str, text: str, problem: str) -> None:
    new_pipeline(tmp_path, "prices")
    changed = tmp_path / "pipelines" / "prices" / path
    changed.parent.mkdir(exist_ok=True)
    changed.write_text(text)
    (found,) = problems(tmp_path, "prices")
    assert problem in found.removeprefix("pipelines/prices/")


def test_missing_folder_of_a_pipeline_is_a_problem_of_the_inventory(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "prices")
    assert found.startswith("overlay.yaml:1: pipelines.prices.path: cannot read ")
    assert "`homelab pipeline new prices` writes an example" in found


def install(folder: Path, target: str, monkeypatch: pytest.MonkeyPatch, package: str = "price_stack") -> None:
    """Install a package that provides the pipeline `prices`."""
    site = folder / package
    info = site / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[homelab.pipelines]\nprices = {target}\n")
    new_pipeline(site, "prices")
    (site / f"{package}.py").write_text(
        "from pathlib import Path\nPRICES = Path(__file__).parent / 'pipelines' / 'prices'\nWRONG = 5\n"
    )
    monkeypatch.syspath_prepend(site)


def from_package(folder: Path) -> Inventory:
    (folder / "overlay.yaml").write_text(json.dumps({"pipelines": {"prices": {}}}))
    return load([bundled_path("inventory.yaml"), folder / "overlay.yaml"])


def test_pipeline_of_a_package_needs_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "price_stack:PRICES", monkeypatch)
    prices = from_package(tmp_path).pipeline("prices")
    assert (prices.folder, prices.tasks) == (tmp_path / "price_stack" / "pipelines" / "prices", ("fetch", "build"))


@pytest.mark.parametrize(
    ("targets", "error"),
    [
        ([], "needs a path, as no installed package provides it; `homelab pipeline new prices` writes one"),
        (["price_stack:WRONG"], "package price_stack 1.0 must give the path of a folder, not 5"),
        (["price_stack:NOTHING"], "package price_stack 1.0 cannot be imported: AttributeError"),
        (["price_stack:PRICES", "x:y"], "several packages provide it: package"),
    ],
)
def test_pipeline_that_no_package_provides_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: list[str], error: str
) -> None:
    for target in targets:
        install(tmp_path, target, monkeypatch, target.partition(":")[0])
    with pytest.raises(InputError) as caught:
        from_package(tmp_path)
    assert f"overlay.yaml:1: pipelines.prices: {error}" in caught.value.details


def test_pipeline_without_a_service_that_runs_it_is_refused(tmp_path: Path) -> None:
    new_pipeline(tmp_path, "prices")
    inventory(tmp_path, "prices")
    none = tmp_path / "none.yaml"
    none.write_text("containers: {analytics-platform: null, airflow-orchestration: null}")
    with pytest.raises(InputError, match=r"pipelines\.prices: needs the service `analytics`, which no container has"):
        load([bundled_path("inventory.yaml"), tmp_path / "overlay.yaml", none])


def test_pipeline_without_anything_to_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pipelines" / "prices").mkdir(parents=True)
    (tmp_path / "pipelines" / "prices" / "pipeline.yaml").write_text("description: nothing\n")
    assert "has nothing to run" in problems(tmp_path, "prices")[0]


def test_roles_of_a_pipeline_are_admitted_from_its_container(tmp_path: Path) -> None:
    wanted = with_prices(tmp_path)
    secrets = FixedSecretStore()
    container = wanted.container_with("postgres")
    context = ServiceContext(inventory=wanted, container=container, secret_store=secrets, host_keys=KEYS)
    rows = [line.split()[1:4] for line in hba(context).decode().splitlines() if "prices" in line]
    assert rows == [["project_data", "prices", "192.168.2.68/32"], ["project_data", "prices_dbt", "192.168.2.68/32"]]
    assert DatabaseGrant("project_data", "prices_dbt", "read", "prices") in {g for _, g in wanted.database_grants()}
    titles = [step.title for step in steps(wanted, "postgres")]
    assert {"role prices", "role prices_dbt", "schema prices of project_data"} <= set(titles)


def test_commands_of_a_pipeline_pass_the_gate_into_its_own_sandbox(tmp_path: Path) -> None:
    found = steps(with_prices(tmp_path), "analytics")
    wrapper = file(found, "/usr/local/sbin/homelab-pipeline")
    assert f"1:prices.fetch)\n    exec /usr/local/sbin/homelab-as-pipeline-prices {ROOT}/bin/fetch ;;" in wrapper
    assert "prices.build" in file(found, "/opt/analytics-platform/bin/gate")
    assert "NOPASSWD: /usr/local/sbin/homelab-pipeline prices.build" in file(found, "/etc/sudoers.d/homelab-pipeline")
    for name, words in (("fetch", f"{ROOT}/scripts/fetch.py"), ("build", "--profile prices")):
        assert words in file(found, f"{ROOT}/bin/{name}")


def test_script_without_own_packages_uses_the_shared_venv(tmp_path: Path) -> None:
    wanted = with_prices(tmp_path)
    assert "exec /opt/analytics-platform/venv/bin/python" in file(steps(wanted, "analytics"), f"{ROOT}/bin/fetch")
    lock = b"requests==2.32.5 --hash=sha256:0\n"
    own = replace(wanted, pipelines=(replace(wanted.pipeline("prices"), requirements=lock),))
    found = steps(own, "analytics")
    assert f"exec {ROOT}/venv/bin/python" in file(found, f"{ROOT}/bin/fetch")
    assert f"venv {ROOT}/venv" in [step.title for step in found]
    assert "/opt/analytics-platform/venv/bin/python" in file(found, f"{ROOT}/bin/build")


def test_packages_that_are_not_locked_are_refused_by_the_deploy(tmp_path: Path) -> None:
    new_pipeline(tmp_path, "prices")
    root = tmp_path / "pipelines" / "prices"
    (root / "requirements.in").write_text("humanize\n")
    with pytest.raises(InputError, match="is not locked") as caught:
        steps(inventory(tmp_path, "prices"), "analytics")
    assert caught.value.resolution == "Run `homelab pipeline lock prices`."
    header = lock_header(b"humanize\n")
    (root / "requirements.txt").write_text(f"{header}humanize==4.14.0 --hash=sha256:0\n")
    assert steps(inventory(tmp_path, "prices"), "analytics")
    (root / "requirements.in").write_text("humanize>4\n")
    with pytest.raises(InputError, match="was changed after it was locked"):
        steps(inventory(tmp_path, "prices"), "analytics")


def test_trees_of_a_pipeline_have_its_files_only(tmp_path: Path) -> None:
    trees = {step.path: set(step.files) for step in steps(with_prices(tmp_path), "analytics") if isinstance(step, Tree)}
    assert trees[f"{ROOT}/scripts"] == {"fetch.py", "prices.csv"}
    models = {"models/sources.yml", "models/prices_daily.sql", "models/prices_daily.yml"}
    assert trees[f"{ROOT}/dbt"] == {"dbt_project.yml", *models}


@pytest.mark.parametrize(("folder", "service"), [("scripts", "analytics"), ("dbt", "analytics"), ("dags", "airflow")])
def test_link_out_of_a_pipelines_folder_is_refused(tmp_path: Path, folder: str, service: str) -> None:
    """Its trees are readable by everyone in the container, and a folder of others may link to a secret."""
    new_pipeline(tmp_path, "prices")
    root = tmp_path / "pipelines" / "prices"
    (root / "pipeline.yaml").write_text("commands: {fetch: scripts/fetch.py}\n")
    (root / folder).mkdir(exist_ok=True)
    (root / folder / "own.py").symlink_to("../schema.sql")
    assert steps(inventory(tmp_path, "prices"), service)
    (root / folder / "far.py").symlink_to(tmp_path / "key")
    with pytest.raises(InputError, match=r"Cannot install .*/far\.py: it leads out of .*/prices"):
        steps(inventory(tmp_path, "prices"), service)


def own_variables() -> set[str]:
    """All variables that homelab sets for the commands of pipelines, read from the templates and the functions."""
    templates = ["pipelines/pipeline.env.j2", "pipelines/weather.env.j2", "pipelines/secrets.env.j2"]
    texts = [bundled_path(f"templates/{each}").read_text() for each in (*templates, "postgres/client_tls.env.j2")]
    found = {name for text in texts for name in re.findall(r"^([A-Z][A-Z0-9_]*)(?==|\{)", text, re.MULTILINE)}
    functions = [secret_variables, clickhouse_variables, publisher_variables, ObjectStorage.variables.fget]
    found |= {name for each in functions for name in re.findall(r'"([A-Z][A-Z0-9_]*)":', inspect.getsource(each))}
    of_broker = re.findall(r'"([A-Z_]+)":', inspect.getsource(broker_variables))
    return found | {f"{broker}_{name}" for broker in ("NATS", "KAFKA") for name in of_broker}


def test_environment_cannot_replace_a_variable_of_homelab(tmp_path: Path) -> None:
    names = sorted(own_variables())
    some = {"PGPASSWORD", "S3_ENDPOINT", "DUCKDB_EXTENSIONS", "OPENWEATHER_API_KEY", "CLICKHOUSE_DBT", "KAFKA_PASSWORD"}
    assert some | {"WEATHER_TO", "LAKE_SCHEMA", "NATS_URL", "DBT_PGUSER", "READS_"} <= set(names)
    new_pipeline(tmp_path, "prices")
    manifest = tmp_path / "pipelines" / "prices" / "pipeline.yaml"
    free = {"API_KEY": "x", "KAFKA_TOPIC": "x", "WEATHERPROOF": "x", "S3": "x"}
    manifest.write_text(json.dumps({"environment": dict.fromkeys(names, "x") | free}))
    refused = [line.split(": ")[1].removeprefix("environment.") for line in problems(tmp_path, "prices")]
    assert sorted(refused) == names


@pytest.mark.parametrize("part", ["scripts", "dbt", "dags"])
@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100])
def test_folder_of_a_pipeline_that_cannot_be_read_is_named(tmp_path: Path, part: str, mode: int) -> None:
    """It would count as missing, and the deploy would remove its files."""
    new_pipeline(tmp_path, "prices")
    folder = tmp_path / "pipelines" / "prices" / part
    folder.mkdir(exist_ok=True)
    folder.chmod(mode)
    try:
        with respecting_modes(), pytest.raises(InputError, match=rf"/{part}:1: .*cannot be read: Permission denied"):
            inventory(tmp_path, "prices")
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("name", ["scripts", "dbt", "dags", "schema.sql", "requirements.txt", "dbt/dbt_project.yml"])
def test_dangling_link_in_a_pipeline_is_named(tmp_path: Path, name: str) -> None:
    new_pipeline(tmp_path, "prices")
    path = tmp_path / "pipelines" / "prices" / name
    if path.exists():
        path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "missing")
    with pytest.raises(InputError, match=rf"/{name}:1: .*(leads to nothing|cannot be read)"):
        inventory(tmp_path, "prices")


def test_schema_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    new_pipeline(tmp_path, "prices")
    (tmp_path / "pipelines" / "prices" / "schema.sql").write_text("\ufeff-- version 1\nselect 1;\n")
    versions = inventory(tmp_path, "prices").pipeline("prices").schema_versions
    assert [version.sql for version in versions] == ["select 1;"]


def test_variables_and_secrets_of_a_pipeline_are_in_separate_files(tmp_path: Path) -> None:
    new_pipeline(tmp_path, "prices", "postgres")
    wanted = inventory(tmp_path, "prices")
    prices = wanted.pipeline("prices")
    assert str(prices.secrets["SOURCE_PASSWORD"]) == "prices"
    found = steps(wanted, "analytics")
    environment = file(found, f"{ROOT}/pipeline.env")
    assert "SOURCE='host=db.home.arpa port=5432 dbname=shop" in environment
    assert "SOURCE_PASSWORD" not in environment
    assert "SOURCE_PASSWORD=secret-of-prices\n" in file(found, f"{ROOT}/secrets.env")


def test_secret_of_a_pipeline_that_is_not_set_is_named(tmp_path: Path) -> None:
    new_pipeline(tmp_path, "prices", "postgres")
    prices = inventory(tmp_path, "prices").pipeline("prices")
    with pytest.raises(InputError, match="Cannot use the secret prices: not set") as caught:
        user_secrets(FileSecretStore(tmp_path / "state"), prices.secrets.values())
    assert f"{prices.folder}/pipeline.yaml:10: {{secret: prices}}" in caught.value.details


@pytest.mark.parametrize(("text", "error"), [("x = 1\n", ""), ("x = (\n", "fetch.py")])
def test_script_that_python_cannot_parse_is_not_installed(tmp_path: Path, text: str, error: str) -> None:
    wanted = with_prices(tmp_path)
    (tmp_path / "pipelines" / "prices" / "scripts" / "fetch.py").write_text(text)
    (scripts,) = [s for s in steps(wanted, "analytics") if isinstance(s, Tree) and s.path == f"{ROOT}/scripts"]
    for name, content in scripts.files.items():
        (tmp_path / name).write_bytes(content)
    done = LocalHost().run(f"new={tmp_path}; {scripts.validate}")
    assert (done.ok, error in done.stderr.decode()) == (not error, True)


def test_project_is_installed_after_dbt_has_built_it_without_rows(tmp_path: Path) -> None:
    found = steps(with_prices(tmp_path), "analytics")
    (project,) = [step for step in found if isinstance(step, Tree) and step.path == f"{ROOT}/dbt"]
    assert f"build_project.py --project {ROOT}/dbt.new" in project.validate
    assert "--check" in project.validate
    before = ["tables of prices", "view prices.readings_included", f"file {ROOT}/profiles.yml"]
    assert [step.title for step in project.triggered_by] == before


def test_failure_of_a_pipelines_steps_stops_no_other(tmp_path: Path) -> None:
    new_pipeline(tmp_path, "prices")
    new_pipeline(tmp_path, "power")
    found = steps(inventory(tmp_path, "prices", "power"), "analytics")
    parts = {step.title: step.part for step in found}
    assert parts["tables of prices"] == parts[f"tree {ROOT}/dbt"] == "the pipeline prices"
    assert parts["tables of power"] == "the pipeline power"
    weather = "/opt/analytics-platform/pipelines/weather"
    assert parts[f"tree {weather}/dbt"] == parts[f"tree {weather}/scripts"] == "the pipeline weather"
    assert parts["file /opt/analytics-platform/bin/gate"] == ""


@pytest.mark.parametrize("version", ["3.3", "2.11"])
def test_generated_dag_runs_the_tasks_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    wanted = with_prices(tmp_path)
    manifest = tmp_path / "pipelines" / "prices" / "pipeline.yaml"
    manifest.write_text(
        'description: Say "x"\nschedule: "@daily"\ncommands: {fetch: scripts/fetch.py, check: scripts/fetch.py}'
    )
    wanted = inventory(tmp_path, "prices")
    (tree,) = [s for s in steps(wanted, "airflow") if isinstance(s, Tree) and s.path.endswith("/prices")]
    assert (tree.path, tree.part) == ("/opt/airflow/bundles/prices", "the pipeline prices")
    (tmp_path / "dag.py").write_bytes(tree.files["prices.py"])
    names = load_dag(monkeypatch, version, tmp_path / "dag.py")
    assert names["dag"].arguments["dag_id"] == "prices"
    assert names["dag"].arguments["schedule"] == "@daily"
    assert names["dag"].arguments["description"] == 'Say "x"'
    last = names["previous"]
    assert (last.arguments["task_id"], last.arguments["command"]) == ("check", "prices.check")
    assert last.arguments["cmd_timeout"] == 1800


def test_pipeline_with_own_dags_gets_no_generated_one(tmp_path: Path) -> None:
    new_pipeline(tmp_path, "prices")
    root = tmp_path / "pipelines" / "prices"
    (root / "dags").mkdir()
    (root / "dags" / "own.py").write_text("x = 1")
    (root / "pipeline.yaml").write_text("commands: {fetch: scripts/fetch.py}\n")
    found = steps(inventory(tmp_path, "prices"), "airflow")
    (tree,) = [step for step in found if isinstance(step, Tree) and step.path.endswith("/prices")]
    assert set(tree.files) == {"own.py"}


def test_each_version_of_a_schema_is_applied_once(tmp_path: Path) -> None:
    prices = replace(
        with_prices(tmp_path).pipeline("prices"), schema_versions=(SchemaVersion(1, "a"), SchemaVersion(2, "b"))
    )
    step = SchemaVersions(Layout(prices))

    def pending(comment: str, ok: bool = True) -> str:
        found = step.check([Result("", 0 if ok else 2, comment.encode())])
        return found.reason if found else ""

    a, b = "ca978112ca1bbdca", "3e23e8160039594a"
    assert pending("", ok=False) == "not known yet"
    assert pending("") == "not applied: version 1, 2 of schema.sql"
    assert pending("a comment of the user") == "not applied: version 1, 2 of schema.sql"
    assert pending(f"homelab {'1' * 5000}:{a}") == "not applied: version 1, 2 of schema.sql"  # by the pipeline's role
    assert pending(f"homelab 1:{a}") == "not applied: version 2 of schema.sql"
    assert pending(f"homelab 1:{a} 2:{b}") == ""
    assert pending(f"homelab 1:{b} 2:{b}") == "version 1 of schema.sql differs from the applied one"
    assert pending(f"homelab 1:{a} 2:{b} 3:{b}") == "version 3 of schema.sql differs from the applied one"


def test_changed_version_of_a_schema_is_refused(tmp_path: Path) -> None:
    step = SchemaVersions(Layout(with_prices(tmp_path).pipeline("prices")))

    class Answering:
        name = "box"

        def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
            return Result(command, 0, b"homelab 1:0123456789abcdef")

    with pytest.raises(HomelabError, match="its version 1 differs from the applied one") as caught:
        step.apply(Answering())  # type: ignore[arg-type]
    assert "-- version 2" in caught.value.resolution


@pytest.mark.parametrize("source", ["csv", "api", "postgres"])
def test_tests_of_a_new_pipeline_pass(tmp_path: Path, source: str) -> None:
    new_pipeline(tmp_path, "prices", source)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "pipelines/prices/tests"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_new_pipeline_overwrites_nothing(tmp_path: Path) -> None:
    new_pipeline(tmp_path, "prices")
    with pytest.raises(InputError, match="already exists"):
        new_pipeline(tmp_path, "prices")
    with pytest.raises(InputError, match="`select` is a reserved word"):
        new_pipeline(tmp_path, "select")
