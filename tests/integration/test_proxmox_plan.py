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
from tests.integration.test_proxmox_up import context as context
from tests.integration.test_proxmox_up import pair as pair
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


def look(context: Site, *limit: str) -> Preview:
    return preview(
        context.inventory,
        secret_store=FixedSecretStore(),
        known_hosts=context.known_hosts,
        progress=SilentProgress(),
        limit=limit,
    )


def test_it_shows_what_up_then_does_and_changes_nothing(context: Site, inside: dict[str, HostReport]) -> None:
    seen = look(context)
    assert [(line.container, line.effect) for line in seen.up] == [(name, "live") for name in NAMES]
    assert sorted(seen.unseen) == sorted(NAMES)
    assert {call.split()[0] for call in context.pve.calls()} == {"GET"}
    assert [line.what for line in seen.up] == [text for texts in context.up().done.values() for text in texts]
    assert not look(context)
    assert not look(context).unseen


def test_every_line_says_when_it_takes_effect(context: Site, inside: dict[str, HostReport]) -> None:
    context.up()
    context.pve.ct(167).config["memory"] = 512
    context.pve.ct(168).status = "stopped"
    context.pve.ct(169).config["onboot"] = 0
    context.overlaid("network: {nameservers: [.1]}")
    assert look(context).up == [
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
    assert look(context, "analytics-platform").unseen == {"analytics-platform": "it is stopped"}


def test_it_looks_into_what_runs(context: Site, inside: dict[str, HostReport]) -> None:
    context.up("postgres-data", "analytics-platform")
    change = Change(User("etl", "/srv/etl"), Pending("missing", "+etl"))
    inside["postgres-data"] = HostReport("postgres-data", [change], 0.1)
    inside["analytics-platform"] = HostReport("analytics-platform", (), 0.1, HomelabError("No SSH", "timed out"))
    seen = look(context)
    assert seen.deploy == [Line("postgres-data", "postgres-data: user etl: missing", "live", "+etl")]
    assert seen.unseen["analytics-platform"] == "No SSH: timed out"
    assert "does not exist yet" in seen.unseen["airflow-orchestration"]


def test_what_is_unsafe_is_refused_by_plan_too(context: Site, inside: dict[str, HostReport]) -> None:
    context.pve.add_vm(169, "windows", node="pve")
    with pytest.raises(HomelabError, match="taken by a virtual machine"):
        look(context)


def test_up_shows_the_same_lines_as_plan(context: Site, inside: dict[str, HostReport]) -> None:
    context.up()
    context.overlaid("network: {nameservers: [.1]}")
    seen = look(context).up
    context.up()
    assert list(lines(context.asked[-1])) == seen


@pytest.mark.parametrize(
    "disturb",
    [
        lambda context: context.pve.ct(167).config.update(memory=777),
        lambda context: context.pve.cts.remove(context.pve.ct(167)),
        # The same vmid, but another container now: the one that must never be destroyed.
        lambda context: (context.pve.cts.remove(context.pve.ct(167)), context.pve.add_ct(167, "paperless", node="pve")),
    ],
)
@pytest.mark.parametrize("verb", ["up", "destroy"])
def test_a_change_after_the_plan_stops_it(context: Site, disturb: Callable[[Site], object], verb: str) -> None:
    context.up()
    context.overlaid("containers: {postgres-data: {disk: 20}}")
    before: list[str] = []

    def confirm(plan: Plan) -> bool:
        disturb(context)
        before[:] = [call for call in context.pve.calls() if not call.startswith("GET")]
        return True

    context._confirm = confirm  # type: ignore[method-assign]
    with pytest.raises(HomelabError, match="postgres-data was changed after the plan was made"):
        getattr(context, verb)("postgres-data")
    assert [call for call in context.pve.calls() if not call.startswith("GET")] == before


def cli(context: Site, *words: str) -> Result:
    return CliRunner().invoke(app, ["--quiet", "--inventory", str(context.folder / "inventory.yaml"), "plan", *words])


def test_exit_codes_and_json(context: Site, inside: dict[str, HostReport], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.__class__, "load", lambda _: context.inventory)
    assert (cli(context).exit_code, cli(context, "--detailed-exitcode").exit_code) == (0, 2)
    shown = cli(context).stdout
    assert "create postgres-data (167)" in shown
    assert "[live]" in shown
    data = json.loads(cli(context, "--json").stdout)
    assert data["up"][0] | {"what": ""} == {"container": "postgres-data", "what": "", "effect": "live", "diff": ""}
    context.up()
    done = cli(context, "--detailed-exitcode")
    assert (done.exit_code, done.stdout) == (0, "Nothing to do.\n")
    # Not all of it could be seen: neither "nothing" nor "changes".
    inside["postgres-data"] = HostReport("postgres-data", (), 0.1, HomelabError("No SSH", "timed out"))
    assert (cli(context).exit_code, cli(context, "--detailed-exitcode").exit_code) == (0, 1)
    assert "postgres-data: not looked into: No SSH: timed out" in cli(context).stdout


def test_an_input_error_is_not_taken_for_changes(
    context: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings.__class__, "load", lambda _: context.inventory)
    wrong = ("--limit", "nope")
    assert isinstance(cli(context, *wrong).exception, InputError)
    done = cli(context, "--detailed-exitcode", *wrong)
    assert (done.exit_code, "No container is called nope" in done.output) == (1, True)
