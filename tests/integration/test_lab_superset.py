"""Superset in a lab: behind the gateway, on a container of its own, with the files that the pipelines publish."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import requests

from homelab.commands.dashboard_export import prepare_export
from homelab.commands.deploy import deploy
from homelab.commands.open_ import web_address
from homelab.commands.pipeline_copy import copy_pipeline
from homelab.commands.pipeline_new import new_pipeline
from homelab.inventory import load
from homelab.lab import Lab
from homelab.model.dashboards import connection_uuid
from homelab.runtime.backfills import BackfillOptions, backfill_api
from homelab.runtime.lab_report import report_lab
from homelab.runtime.marts import query_marts
from homelab.services.superset_metadata import ADMIN, VIEWER
from tests.integration.lab_fixture import LabFixture, changes, in_a_lab, lab_with
from tests.integration.superset_browser import browser_on, logged_in, needs_browser, show
from tests.integration.waiting import until

LAB = Lab("dashboards", IPv4Network("10.99.2.16/28"), "hl-dash", 18196, 8279)
INVENTORY = """
lab: x
proxmox: {host: x, token_id: homelab@pve!x}
network: {subnet: 10.99.2.16/28, gateway: .17, bridge: x}
containers:
  postgres-data:
    {vmid: 181, ip: .18, cores: 1, memory: 1024, disk: 4, services: {postgres: {version: 15}, gateway: {}}}
  analytics-platform: {vmid: 182, ip: .19, cores: 2, memory: 2048, disk: 4, services: {analytics: {}}}
  dashboards: {vmid: 183, ip: .20, cores: 2, memory: 1024, disk: 4, services: {superset: {}}}
pipelines:
  prices: {path: pipelines/prices}
  weather: {path: pipelines/weather, cities: ["New York,US", "Newark,US", "Queens,US"]}
"""
URL, PLAIN = "https://10.99.2.18:18088", "http://10.99.2.20:8088"
SUM = {"expressionType": "SQL", "sqlExpression": "sum(average)", "label": "total"}
INSERT = "insert into prices.readings values ('electricity', '2026-01-05 00:00+00', 1000)"
FACTS = """
with days as (
    select * from weather_daily
    where observation_date > (select max(observation_date) - 60 from weather_daily)
),
complete as (
    select * from weather_completeness
    where observation_date > (select max(observation_date) - 60 from weather_completeness)
)
select max(temperature_max_c) as "Highest", min(temperature_min_c) as "Lowest",
    sum(rain_mm) / count(distinct city) as "Rain",
    (select 100.0 * sum(times_observed) / sum(times_expected) from complete) as "Complete"
from days
"""
NOW = """
select city, max_by(temperature_mean_c, observation_hour) as c from weather_hourly where observations > 0 group by city
"""
COUNTS = """
select 'Records' as title, count(*) as rows from weather_records
union all select 'This month so far, and the same days of earlier years', count(*) from weather_month_to_date
union all select 'Implausible values', count(*) from observation_issues
union all select 'The last runs', least(count(*), 30) from pipeline_runs
union all
select 'Temperature by day: mean and extremes, °C', least(count(distinct observation_date), 60) from weather_daily
"""

pytestmark = in_a_lab(900)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFixture]:
    folder = tmp_path_factory.mktemp("dashboards")
    new_pipeline(folder, "prices")
    copy_pipeline(folder, "weather")
    with lab_with(LAB, folder, INVENTORY) as stack:
        stack.up()
        changes(stack)
        yield stack


class Client(requests.Session):
    """A client of Superset's API, through the gateway."""

    def __init__(self, ca_file: Path, user: str, password: str) -> None:
        super().__init__()
        self.trust_env, self.verify = False, str(ca_file)
        self.headers["Referer"] = f"{URL}/"
        words = {"username": user, "password": password, "provider": "db", "refresh": False}
        login = self.call("POST", "security/login", words)
        if login.ok:
            self.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
            self.headers["X-CSRFToken"] = self.call("GET", "security/csrf_token/").json()["result"]

    def call(self, method: str, path: str, body: object = None) -> requests.Response:
        """Send a request to the API."""
        return self.request(method, f"{URL}/api/v1/{path}", json=body, timeout=120)

    def total(self, dataset: int) -> float:
        """Return the number that a chart of the dataset shows."""
        query = {
            "datasource": {"id": dataset, "type": "table"},
            "queries": [{"columns": [], "metrics": [SUM], "row_limit": 10}],
            "result_format": "json",
            "result_type": "full",
        }
        answer = self.call("POST", "chart/data", query)
        assert answer.ok, answer.text
        (row,) = answer.json()["result"][0]["data"]
        return float(row["total"])


@pytest.fixture(scope="module")
def ca_file(stack: LabFixture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's CA."""
    authority = stack.session.secrets.known_authority()
    assert authority
    path = tmp_path_factory.mktemp("ca") / "ca.crt"
    path.write_text(authority.certificate)
    return path


def log_in(stack: LabFixture, ca_file: Path, user: str) -> Client:
    return Client(ca_file, user, stack.session.secrets.secret(f"superset-{user}").reveal())


@pytest.fixture(scope="module")
def admin(stack: LabFixture, ca_file: Path) -> Client:
    """The client of `admin`."""
    return log_in(stack, ca_file, "admin")


@pytest.fixture(scope="module")
def dataset(stack: LabFixture, admin: Client) -> int:
    """A dataset of the first publication."""
    build(stack, "fetch", "build")
    until(lambda: stack.run("ls /var/lib/homelab-published/prices/published.duckdb || true", "dashboards"))
    databases = admin.call("GET", "database/").json()["result"]
    (number,) = [each["id"] for each in databases if each["uuid"] == connection_uuid("prices")]
    made = admin.call("POST", "dataset/", {"database": number, "schema": "main", "table_name": "prices_daily"})
    assert made.ok, made.text
    return int(made.json()["id"])


def build(stack: LabFixture, *commands: str) -> None:
    for command in commands:
        stack.run(f"/usr/local/sbin/homelab-pipeline prices.{command}", "analytics-platform")


@pytest.fixture(scope="module")
def weather(stack: LabFixture) -> None:
    """A month of weather on the container of Superset."""
    backfill_api(stack.session, date(2013, 1, 1), date(2013, 2, 1), BackfillOptions())
    stack.run("/usr/local/sbin/homelab-pipeline weather.build", "analytics-platform")
    until(lambda: stack.run("ls /var/lib/homelab-published/weather/published.duckdb || true", "dashboards"))


def reloaded(stack: LabFixture) -> LabFixture:
    """The same containers, with the present files of the pipelines."""
    folder = stack.inventory.path.parent
    return LabFixture(replace(load([folder / "0.yaml", LAB.overlay]), state_dir=stack.inventory.state_dir))


def chart(admin: Client, title: str) -> int:
    """Return the number of a chart."""
    (found,) = [
        each for each in admin.call("GET", "chart/?q=(page_size:100)").json()["result"] if each["slice_name"] == title
    ]
    return int(found["id"])


@pytest.fixture(scope="module")
def chromium(stack: LabFixture, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A browser in the lab's network."""
    with browser_on(LAB.bridge, f"{LAB.subnet[-2]}/{LAB.subnet.prefixlen}", tmp_path_factory.mktemp("web")) as program:
        yield program


@needs_browser
@pytest.mark.parametrize(("size", "width"), [("desktop", 1440), ("phone", 390)])
def test_weather_dashboard_shows_the_numbers_of_the_marts_to_a_viewer(
    stack: LabFixture, chromium: str, weather: None, size: str, width: int
) -> None:
    password = stack.session.secrets.secret(VIEWER).reveal()
    with logged_in(chromium, URL, "viewer", password, size) as page:
        shown = show(page, URL, "weather")
    dashboards = stack.inventory.pipeline("weather").dashboards
    assert shown.errors == []
    assert shown.width == width
    assert sorted(shown.rows) == sorted(each.title for each in dashboards if each.kind == "chart")
    (facts,) = query_marts(stack.session, FACTS, "weather")
    for title in ("Highest", "Lowest", "Rain", "Complete"):
        (value,) = shown.rows[title][0].values()
        assert value == pytest.approx(facts[title])
        assert shown.texts[title].splitlines()[:2] == [title, f"{value:.1f}"]
    now = {row["city"]: row["temperature_mean_c"] for row in shown.rows["Now"]}
    assert now == pytest.approx({row["city"]: row["c"] for row in query_marts(stack.session, NOW, "weather")})
    assert all(city in shown.texts["Now"] for city in now)
    counts = query_marts(stack.session, COUNTS, "weather")
    assert [(row["title"], len(shown.rows[row["title"]])) for row in counts] == [
        (row["title"], row["rows"]) for row in counts
    ]


@needs_browser
def test_edit_in_the_browser_is_shown_kept_and_replaced(stack: LabFixture, chromium: str, admin: Client) -> None:
    with logged_in(chromium, URL, "admin", stack.session.secrets.secret(ADMIN).reveal()) as page:
        show(page, URL, "weather")
    assert changes(stack) == [], "opening a dashboard is no edit"
    path = f"chart/{chart(admin, 'Rain by city, mm')}"
    assert admin.call("PUT", path, {"slice_name": "Drops"}).ok
    (plan,) = [each for each in deploy(stack.session, dry_run=True) if each.changes]
    assert [change.pending.diff for change in plan.changes] == ["~ chart Rain by city, mm (changed in the browser)\n"]
    assert changes(stack) == ["dashboards of weather: 1 to change"]
    kept = stack.run("cat /var/lib/homelab/replaced/dashboards/weather/*/charts/drops.yaml", "dashboards")
    assert kept.startswith("slice_name: Drops\n")
    assert admin.call("GET", path).json()["result"]["slice_name"] == "Rain by city, mm"
    assert changes(stack) == []


def test_export_writes_edits_and_the_next_deploy_changes_nothing(stack: LabFixture, admin: Client) -> None:
    folder = stack.inventory.pipeline("weather").folder / "dashboards"
    assert prepare_export(stack.session, "weather").changes.changes == []
    assert admin.call("PUT", f"chart/{chart(admin, 'Records')}", {"slice_name": "Extremes"}).ok
    drawn = {"dashboard_title": "Draft", "published": False}
    assert admin.call("POST", "dashboard/", drawn).ok
    prepared = prepare_export(stack.session, "weather")
    assert [str(each) for each in prepared.changes.changes] == ["change charts/records.yaml (chart Extremes)"]
    prepared.write(stack.session)
    assert (folder / "charts" / "records.yaml").read_text().startswith("slice_name: Extremes\n")
    after = reloaded(stack)
    assert changes(after) == []
    assert prepare_export(after.session, "weather").changes.changes == []


def test_content_that_superset_refuses_fails_only_its_pipeline(stack: LabFixture) -> None:
    path = stack.inventory.pipeline("weather").folder / "dashboards" / "charts" / "now.yaml"
    before = path.read_text()
    path.write_text(before.replace("params:\n", "cache_timeout: soon\nparams:\n"))
    (report,) = [each for each in deploy(reloaded(stack).session) if each.failure]
    assert report.failure
    assert "Cannot import the dashboards of weather on dashboards: Superset does not accept" in str(report.failure)
    assert "charts/now.yaml: cache_timeout: ['Not a valid integer.']" in str(report.failure)
    path.write_text(before)
    assert changes(reloaded(stack)) == []


def test_removed_files_remove_only_imported_assets(stack: LabFixture, admin: Client) -> None:
    folder = stack.inventory.pipeline("weather").folder / "dashboards"
    folder.rename(folder.with_name("away"))
    assert changes(reloaded(stack)) == ["dashboards of removed pipelines: 27 to remove"]
    left = admin.call("GET", "dashboard/").json()["result"]
    assert [each["dashboard_title"] for each in left] == ["Draft"]
    folder.with_name("away").rename(folder)
    assert changes(reloaded(stack)) == ["dashboards of weather: 27 to add"]


def test_superset_is_healthy_behind_the_gateway_with_little_memory(stack: LabFixture, ca_file: Path) -> None:
    assert web_address(stack.inventory, "superset") == URL
    assert requests.get(f"{URL}/health", verify=str(ca_file), timeout=30).text == "OK"
    page = requests.get(f"{URL}/login/", verify=str(ca_file), timeout=60)
    assert page.url.startswith(f"{URL}/login")
    cookies = [header for name, header in page.raw.headers.items() if name.lower() == "set-cookie"]
    assert all(each.startswith("superset_session=") and each.endswith("; Secure") for each in cookies)
    assert cookies
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{PLAIN}/health", timeout=5)
    reports = [service for each in report_lab(stack.session).containers for service in each.services]
    assert [service.health.summary for service in reports if not service.healthy] == []
    stack.run("systemd-analyze security --no-pager --threshold=30 superset.service", "dashboards")
    stack.run("systemctl restart superset", "dashboards")
    until(lambda: requests.get(f"{URL}/health", verify=str(ca_file), timeout=30).text == "OK", 300)
    idle = stack.memory("homelab-superset", "dashboards")
    print(f"idle memory of Superset: {idle >> 10} MiB")
    assert idle < 450 << 10  # 347 MiB, of which its Python modules are most


def test_second_publication_is_visible_without_a_restart(stack: LabFixture, admin: Client, dataset: int) -> None:
    before = admin.total(dataset)
    stack.run(f'cd /; runuser -u postgres -- psql -q project_data -c "{INSERT}"', "postgres-data")
    build(stack, "build")
    published = time.monotonic()
    until(lambda: admin.total(dataset) > before + 900)
    print(f"visible after {time.monotonic() - published:.0f} s")


def test_viewer_reads_and_cannot_write(stack: LabFixture, ca_file: Path, admin: Client, dataset: int) -> None:
    viewer = log_in(stack, ca_file, "viewer")
    assert viewer.total(dataset) == admin.total(dataset)
    assert viewer.call("GET", "dashboard/").ok
    sql = {"database_id": 1, "sql": "select 1", "schema": "main", "client_id": "abc"}
    chart = {"slice_name": "a", "viz_type": "table", "datasource_id": dataset, "datasource_type": "table"}
    writes: list[tuple[str, str, Any]] = [
        ("POST", "dashboard/", {"dashboard_title": "mine"}),
        ("POST", "chart/", chart),
        ("PUT", f"dataset/{dataset}", {"description": "mine"}),
        ("DELETE", f"dataset/{dataset}", None),
        ("POST", "database/", {"database_name": "mine", "sqlalchemy_uri": "duckdb:///:memory:"}),
        ("POST", "sqllab/execute/", sql),
    ]
    assert [(method, path, viewer.call(method, path, body).status_code) for method, path, body in writes] == [
        (method, path, 403) for method, path, _ in writes
    ]


def test_query_reads_no_other_file_and_writes_nothing(admin: Client, dataset: int) -> None:
    number = admin.call("GET", f"dataset/{dataset}").json()["result"]["database"]["id"]
    for sql in ("select * from read_text('/etc/hostname')", "create table main.mine (a int)"):
        body = {"database_id": number, "sql": sql, "schema": "main", "client_id": f"c{len(sql)}", "runAsync": False}
        answer = admin.call("POST", "sqllab/execute/", body)
        assert not answer.ok, answer.text


def test_passwords_are_rotated_by_a_deploy_and_the_next_one_changes_nothing(
    stack: LabFixture, ca_file: Path, admin: Client
) -> None:
    stack = reloaded(stack)  # the export wrote files of the dashboards
    assert changes(stack) == []
    old = stack.session.secrets.secret(ADMIN).reveal()
    stack.session.secrets.set(ADMIN, "another-password")
    assert changes(stack) == ["superset's users and connections: not done yet"]
    assert "Authorization" not in Client(ca_file, "admin", old).headers
    assert "Authorization" in log_in(stack, ca_file, "admin").headers
    passwords = "\n".join(stack.session.secrets.secret(name).reveal() for name in (ADMIN, VIEWER))
    with stack.connect("dashboards") as host:
        found = host.run("grep -rlsFf - /etc /var/lib /proc/[0-9]*/cmdline; true", stdin=passwords.encode())
    assert found.text == ""
    started = time.monotonic()
    assert changes(stack) == []
    print(f"no-op deploy: {time.monotonic() - started:.1f} s")
