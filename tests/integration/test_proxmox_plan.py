"""`plan`: what it shows is what `up` does, it changes nothing, and its exit code says which it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from homelab.cli import app
from homelab.cli.common import settings
from homelab.commands import plan as module
from homelab.commands.deploy import HostReport
from homelab.commands.plan import Line, Preview, lines, preview
from homelab.errors import HomelabError, InputError
from homelab.model import Inventory, Pending
from homelab.plan import Plan
from homelab.progress import SilentProgress
from homelab.steps import User
from homelab.steps.converge import Change
from tests.integration.test_proxmox_up import NAMES, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.support import FixedSecretStore


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> dict[str, HostReport]:
    """What `deploy` says of each container, instead of SSH to it; nothing to change unless a test says otherwise."""
    reports: dict[str, HostReport] = {}

    def deploy(inventory: Inventory, *, limit: Sequence[str], dry_run: bool, **_: Any) -> list[HostReport]:
        assert dry_run
        assert limit
        return [reports.get(name, HostReport(name, (), 0.0)) for name in limit]

    monkeypatch.setattr(module, "deploy", deploy)
    return reports


def look(site: Site, *limit: str) -> Preview:
    return preview(
        site.inventory,
        secret_store=FixedSecretStore(),
        known_hosts=site.known_hosts,
        progress=SilentProgress(),
        limit=limit,
    )


def test_it_shows_what_up_then_does_and_changes_nothing(site: Site, inside: dict[str, HostReport]) -> None:
    seen = look(site)
    assert [(line.container, line.effect) for line in seen.up] == [(name, "live") for name in NAMES]
    assert sorted(seen.unseen) == sorted(NAMES)
    assert {call.split()[0] for call in site.pve.calls()} == {"GET"}
    assert [line.what for line in seen.up] == [text for texts in site.up().done.values() for text in texts]
    assert not look(site)
    assert not look(site).unseen


def test_every_line_says_when_it_takes_effect(site: Site, inside: dict[str, HostReport]) -> None:
    site.up()
    site.pve.ct(167).config["memory"] = 512
    site.pve.ct(168).status = "stopped"
    site.pve.ct(169).config["onboot"] = 0
    site.overlaid("network: {nameservers: [.1]}")
    assert look(site).up == [
        Line("postgres-data", "update postgres-data: memory: 512 → 2048", "live"),
        Line("postgres-data", "update postgres-data: nameservers: none → 192.168.2.1", "pending until restart"),
        Line(
            "postgres-data", "stop postgres-data, so that it starts with the new nameservers", "restarts the container"
        ),
        Line("postgres-data", "start postgres-data", "restarts the container"),
        Line("analytics-platform", "update analytics-platform: nameservers: none → 192.168.2.1", "live"),
        Line("analytics-platform", "start analytics-platform", "live"),
        Line(
            "airflow-orchestration",
            "update airflow-orchestration: nameservers: none → 192.168.2.1",
            "pending until restart",
        ),
        Line("airflow-orchestration", "update airflow-orchestration: onboot: False → True", "live"),
        Line(
            "airflow-orchestration",
            "stop airflow-orchestration, so that it starts with the new nameservers",
            "restarts the container",
        ),
        Line("airflow-orchestration", "start airflow-orchestration", "restarts the container"),
    ]
    assert look(site, "analytics-platform").unseen == {"analytics-platform": "it is stopped"}


def test_it_looks_into_what_runs(site: Site, inside: dict[str, HostReport]) -> None:
    site.up("postgres-data", "analytics-platform")
    change = Change(User("etl", "/srv/etl"), Pending("missing", "+etl"))
    inside["postgres-data"] = HostReport("postgres-data", [change], 0.1)
    inside["analytics-platform"] = HostReport("analytics-platform", (), 0.1, HomelabError("No SSH", "timed out"))
    seen = look(site)
    assert seen.deploy == [Line("postgres-data", "postgres-data: user etl: missing", "live", "+etl")]
    assert seen.unseen["analytics-platform"] == "No SSH: timed out"
    assert "does not exist yet" in seen.unseen["airflow-orchestration"]


def test_what_is_unsafe_is_refused_by_plan_too(site: Site, inside: dict[str, HostReport]) -> None:
    site.pve.add_vm(169, "windows", node="pve")
    with pytest.raises(HomelabError, match="taken by a virtual machine"):
        look(site)


def test_up_shows_the_same_lines_as_plan(site: Site, inside: dict[str, HostReport]) -> None:
    site.up()
    site.overlaid("network: {nameservers: [.1]}")
    seen = look(site).up
    site.up()
    assert list(lines(site.asked[-1])) == seen


@pytest.mark.parametrize(
    "disturb",
    [
        lambda site: site.pve.ct(167).config.update(memory=777),
        lambda site: site.pve.cts.remove(site.pve.ct(167)),
        # The same vmid, but another container now: the one that must never be destroyed.
        lambda site: (site.pve.cts.remove(site.pve.ct(167)), site.pve.add_ct(167, "paperless", node="pve")),
    ],
)
@pytest.mark.parametrize("verb", ["up", "destroy"])
def test_a_change_after_the_plan_stops_it(site: Site, disturb: Callable[[Site], object], verb: str) -> None:
    site.up()
    site.overlaid("containers: {postgres-data: {disk: 20}}")
    before: list[str] = []

    def confirm(plan: Plan) -> bool:
        disturb(site)
        before[:] = [call for call in site.pve.calls() if not call.startswith("GET")]
        return True

    site._confirm = confirm  # type: ignore[method-assign]
    with pytest.raises(HomelabError, match="postgres-data was changed after the plan was made"):
        getattr(site, verb)("postgres-data")
    assert [call for call in site.pve.calls() if not call.startswith("GET")] == before


def cli(site: Site, *words: str) -> Result:
    return CliRunner().invoke(app, ["--quiet", "--inventory", str(site.folder / "inventory.yaml"), "plan", *words])


def test_exit_codes_and_json(site: Site, inside: dict[str, HostReport], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.__class__, "load", lambda _: site.inventory)
    assert (cli(site).exit_code, cli(site, "--detailed-exitcode").exit_code) == (0, 2)
    shown = cli(site).stdout
    assert "create postgres-data (167)" in shown
    assert "[live]" in shown
    data = json.loads(cli(site, "--json").stdout)
    assert data["up"][0] | {"what": ""} == {"container": "postgres-data", "what": "", "effect": "live", "diff": ""}
    site.up()
    done = cli(site, "--detailed-exitcode")
    assert (done.exit_code, done.stdout) == (0, "Nothing to do.\n")
    # Not all of it could be seen: neither "nothing" nor "changes".
    inside["postgres-data"] = HostReport("postgres-data", (), 0.1, HomelabError("No SSH", "timed out"))
    assert (cli(site).exit_code, cli(site, "--detailed-exitcode").exit_code) == (0, 1)
    assert "postgres-data: not looked into: No SSH: timed out" in cli(site).stdout


def test_an_input_error_is_not_taken_for_changes(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.__class__, "load", lambda _: site.inventory)
    wrong = ("--limit", "nope")
    assert isinstance(cli(site, *wrong).exception, InputError)
    done = cli(site, "--detailed-exitcode", *wrong)
    assert (done.exit_code, "No container is called nope" in done.output) == (1, True)
