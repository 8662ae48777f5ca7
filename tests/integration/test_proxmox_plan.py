"""`plan` shows the actions of `up`, changes nothing, and has meaningful exit codes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Sequence

import pytest
from typer.testing import CliRunner, Result

from homelab.cli import app, main
from homelab.cli.global_options import settings
from homelab.commands import plan as module
from homelab.commands.plan import Preview, preview
from homelab.errors import HomelabError
from homelab.model import Container, Pending
from homelab.plan import Plan
from homelab.runtime.convergence import HostReport
from homelab.runtime.plan_lines import PlanLine, plan_lines
from homelab.runtime.session import Session
from homelab.steps import User
from homelab.steps.converge import Change
from tests.integration.test_proxmox_up import NAMES, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.support import make_session


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> dict[str, HostReport]:
    """Reports of a fake `deploy` by container; without a report, there are no changes."""
    reports: dict[str, HostReport] = {}

    def converge(_: Session, containers: Sequence[Container], dry_run: bool) -> list[HostReport]:
        assert dry_run
        return [reports.get(container.name, HostReport(container.name, (), 0.0)) for container in containers]

    monkeypatch.setattr(module, "converge_containers", converge)
    return reports


def look(site: Site, *limit: str) -> Preview:
    return preview(make_session(site.inventory, site.known_hosts), limit=limit)


def test_plan_shows_the_actions_of_up_and_changes_nothing(site: Site, inside: dict[str, HostReport]) -> None:
    seen = look(site)
    assert [(line.container, line.effect) for line in seen.up] == [(name, "live") for name in NAMES]
    assert sorted(seen.not_inspected) == sorted(NAMES)
    assert {call.split()[0] for call in site.pve.calls()} == {"GET"}
    assert [line.change for line in seen.up] == [text for texts in site.up().done.values() for text in texts]
    assert not look(site)
    assert not look(site).not_inspected


def test_every_line_has_its_effect(site: Site, inside: dict[str, HostReport]) -> None:
    site.up()
    site.pve.ct(167).config["memory"] = 512
    site.pve.ct(168).status = "stopped"
    site.pve.ct(169).config["onboot"] = 0
    site.overlaid("network: {nameservers: [.1]}")
    assert look(site).up == [
        PlanLine("postgres-data", "update postgres-data: memory: 512 → 2048", "live"),
        PlanLine("postgres-data", "update postgres-data: nameservers: none → 192.168.2.1", "pending until restart"),
        PlanLine(
            "postgres-data", "stop postgres-data, to restart it with the new nameservers", "restarts the container"
        ),
        PlanLine("postgres-data", "start postgres-data", "restarts the container"),
        PlanLine("analytics-platform", "update analytics-platform: nameservers: none → 192.168.2.1", "live"),
        PlanLine("analytics-platform", "start analytics-platform", "live"),
        PlanLine(
            "airflow-orchestration",
            "update airflow-orchestration: nameservers: none → 192.168.2.1",
            "pending until restart",
        ),
        PlanLine("airflow-orchestration", "update airflow-orchestration: onboot: False → True", "live"),
        PlanLine(
            "airflow-orchestration",
            "stop airflow-orchestration, to restart it with the new nameservers",
            "restarts the container",
        ),
        PlanLine("airflow-orchestration", "start airflow-orchestration", "restarts the container"),
    ]
    assert look(site, "analytics-platform").not_inspected == {"analytics-platform": "is stopped"}


def test_plan_inspects_running_containers(site: Site, inside: dict[str, HostReport]) -> None:
    site.up("postgres-data", "analytics-platform")
    change = Change(User("etl", "/srv/etl"), Pending("missing", "+etl"))
    inside["postgres-data"] = HostReport("postgres-data", [change], 0.1)
    inside["analytics-platform"] = HostReport("analytics-platform", (), 0.1, HomelabError("No SSH", "timed out"))
    seen = look(site)
    assert seen.deploy == [PlanLine("postgres-data", "postgres-data: user etl: missing", "live", "+etl")]
    assert seen.not_inspected["analytics-platform"] == "No SSH: timed out"
    assert "does not exist yet" in seen.not_inspected["airflow-orchestration"]


def test_refused_container_does_not_hide_the_plan_of_the_others(
    site: Site, inside: dict[str, HostReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings.__class__, "load", lambda _: site.inventory)
    site.pve.add_vm(169, "windows", node="pve")
    seen = look(site)
    assert [line.container for line in seen.up] == NAMES[:2]
    assert [each.brief for each in seen.refused] == [
        "Cannot use vmid 169 for airflow-orchestration: it belongs to a virtual machine that is not ours"
    ]
    shown = cli(site)
    assert shown.exit_code == 1
    assert "create postgres-data (167)" in shown.stdout
    assert "! homelab up will refuse: Cannot use vmid 169 for airflow-orchestration" in shown.stdout
    assert "Nothing to do" not in shown.stdout
    with pytest.raises(HomelabError, match="it belongs to a virtual machine"):
        site.up()


def test_up_shows_the_lines_of_plan(site: Site, inside: dict[str, HostReport]) -> None:
    site.up()
    site.overlaid("network: {nameservers: [.1]}")
    seen = look(site).up
    site.up()
    assert list(plan_lines(site.asked[-1])) == seen


@pytest.mark.parametrize(
    "disturb",
    [
        lambda site: site.pve.ct(167).config.update(memory=777),
        lambda site: site.pve.cts.remove(site.pve.ct(167)),
        # Another container with the same vmid, which must never be destroyed.
        lambda site: (site.pve.cts.remove(site.pve.ct(167)), site.pve.add_ct(167, "paperless", node="pve")),
    ],
)
@pytest.mark.parametrize("verb", ["up", "destroy"])
def test_change_after_the_plan_is_detected(site: Site, disturb: Callable[[Site], object], verb: str) -> None:
    site.up()
    site.overlaid("containers: {postgres-data: {disk: 20}}")
    before: list[str] = []

    def confirm(plan: Plan) -> bool:
        disturb(site)
        before[:] = [call for call in site.pve.calls() if not call.startswith("GET")]
        return True

    site._confirm = confirm  # type: ignore[method-assign]
    with pytest.raises(HomelabError, match="postgres-data: it was changed after the plan was made"):
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
    assert data["up"][0] | {"change": ""} == {
        "container": "postgres-data",
        "change": "",
        "effect": "live",
    } | dict.fromkeys(["diff", "kept"], "")
    site.up()
    done = cli(site, "--detailed-exitcode")
    assert (done.exit_code, done.stdout) == (0, "Nothing to do.\n")
    # An incomplete plan is neither "nothing" nor "changes".
    inside["postgres-data"] = HostReport("postgres-data", (), 0.1, HomelabError("No SSH", "timed out"))
    assert (cli(site).exit_code, cli(site, "--detailed-exitcode").exit_code) == (0, 1)
    assert "postgres-data: not inspected: No SSH: timed out" in cli(site).stdout


def test_input_error_is_not_reported_as_changes(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings.__class__, "load", lambda _: site.inventory)
    monkeypatch.setattr(settings, "changes_found", False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for options, status in (((), 2), (("--detailed-exitcode",), 1)):
        monkeypatch.setattr(sys, "argv", ["homelab", "--quiet", "plan", *options, "--limit", "nope"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == status
        assert "Error: Cannot find container nope: it is not in the inventory\n" in capsys.readouterr().err
