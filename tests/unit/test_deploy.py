"""`homelab deploy` as a whole: reports, exit codes, events, and errors."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from homelab.certificates import Names
from homelab.cli import app
from homelab.cli.global_options import settings
from homelab.commands.deploy import deploy
from homelab.errors import HomelabError, InputError
from homelab.host import LoginRefused
from homelab.inventory import load
from homelab.known_hosts import KnownHosts, Pin
from homelab.model import Container, Secret, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.progress import JsonProgress, Progress, TerminalProgress
from homelab.runtime import convergence
from homelab.runtime.convergence import HostReport, steps_of
from homelab.secrets import FileSecretStore
from homelab.steps import Command, File, WaitFor
from tests.support import FixedSecretStore, LocalHost, make_session, owner_of_new_files


@dataclass
class Local(LocalHost):
    """A container that is this machine."""

    def close(self) -> None:
        """See Connection.close."""


Deploy = Callable[..., Sequence[HostReport]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """Return a function that deploys the given steps, with this machine as the container."""
    shutil.copy(bundled_path("inventory.yaml"), tmp_path / "inventory.yaml")
    inventory = load([tmp_path / "inventory.yaml"])

    def connect(container: Container, *_: object) -> Local:
        return Local(container.name)

    def run(
        steps: Callable[[ServiceContext], Sequence[Step]],
        progress: Progress | None = None,
        dry_run: bool = False,
        limit: Sequence[str] = ("postgres-data",),
    ) -> Sequence[HostReport]:
        monkeypatch.setattr(convergence, "steps_of", steps)
        session = make_session(inventory, KnownHosts(tmp_path / "pins"), progress, connect)
        return deploy(session, limit=limit, dry_run=dry_run)

    return run


CHECK = ["--dry-run", "--detailed-exitcode"]


def two(folder: Path) -> Callable[[ServiceContext], Sequence[Step]]:
    """Return the steps of a file, a service that reads it, and a wait for the service."""
    file = File(str(folder / "f"), b"secret", *owner_of_new_files(), secret=True)
    steps = [
        file,
        Command("service", f"test -e {folder}/s", f"touch {folder}/s; echo well", triggered_by=[file]),
        WaitFor("the service is up", f"test -e {folder}/s", "postgres-data", early=True),
    ]
    return lambda context: steps


def test_other_names_of_the_ca_are_reported(run: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileSecretStore(tmp_path / "secrets")
    monkeypatch.setattr(FixedSecretStore, "known_authority", lambda _: store.known_authority())

    def notes(*hosts: str) -> str:
        """Deploy steps that use the CA for these names, and return the notes."""

        def steps(context: ServiceContext) -> Sequence[Step]:
            store.authority("home", Names(hosts, ()))
            return ()

        output = io.StringIO()
        run(steps, JsonProgress(output))
        return output.getvalue()

    assert "CA" not in notes("postgres-data") + notes("postgres-data")
    found = notes("home.example", "postgres-data")
    assert "its new certificate is for home.example, postgres-data; install it again" in found


def test_dry_run_leaves_the_certificate_of_the_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileSecretStore(tmp_path / "secrets")
    saved = store.authority("home", Names(("postgres-data",), ()))
    found = []

    def steps(context: ServiceContext) -> Sequence[Step]:
        found.append(context.secret_store.authority("home", Names(("home.example",), ())))
        return ()

    monkeypatch.setattr(convergence, "steps_of", steps)
    inventory = load([bundled_path("inventory.yaml")])
    output = io.StringIO()
    known_hosts, progress = KnownHosts(tmp_path / "pins"), JsonProgress(output)
    session = make_session(inventory, known_hosts, progress, lambda container, *_: Local(container.name))
    deploy(replace(session, secrets=store), dry_run=True)
    assert store.known_authority() == saved
    assert len(found) == len(inventory.containers)
    assert len({each.certificate for each in found} - {saved.certificate}) == 1
    assert "its new certificate is for home.example" in output.getvalue()
    deploy(replace(session, secrets=store))
    assert store.known_authority() == found[-1] != saved


def test_preview_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / ".homelab" / "openweather-api-key"
    key.parent.mkdir()
    key.write_text("key")
    key.chmod(0o600)
    shutil.copy(bundled_path("inventory.yaml"), tmp_path / "inventory.yaml")
    wanted, rendered = load([tmp_path / "inventory.yaml"]), list[int]()

    def steps(context: ServiceContext) -> Sequence[Step]:
        store = context.secret_store
        assert store.secret("postgres-dbt").reveal() == store.secret("postgres-dbt").reveal()
        assert store.key_pair("airflow")[1] == store.key_pair("airflow")[1]
        assert store.has_key("airflow")
        assert set(context.host_keys) == {each.name for each in wanted.containers}
        rendered.append(len(steps_of(context)))
        return ()

    def connect(container: Container, _: Secret, known_hosts: KnownHosts, __: float) -> Local:
        known_hosts.pin(container.name, Pin("SHA256:x", "ssh-ed25519 AAAA"))
        return Local(container.name)

    monkeypatch.setattr(convergence, "steps_of", steps)
    session = make_session(wanted, KnownHosts.of(wanted.state_dir), None, connect)
    session = replace(session, secrets=FileSecretStore(wanted.state_dir))
    before = sorted(tmp_path.rglob("*"))
    reports = deploy(session, dry_run=True)
    assert [str(report.failure) for report in reports if report.failure] == []
    assert len(rendered) == len(wanted.containers)
    assert sorted(tmp_path.rglob("*")) == before
    deploy(session)
    made = {each.name for each in set(tmp_path.rglob("*")) - set(before) if each.is_file()}
    assert made >= {"secrets.json", "ca.pem", "airflow_ed25519", "operator_ed25519", "known_hosts.json"}


def test_preview_knows_that_it_forgot_the_only_host_key(tmp_path: Path) -> None:
    hosts = KnownHosts.of(tmp_path)
    hosts.pin("postgres-data", Pin("SHA256:x", "ssh-ed25519 AAAA"))
    preview = hosts.preview()
    preview.forget("postgres-data")
    assert (preview.pins().keys(), hosts.pins().keys()) == (set(), {"postgres-data"})


def test_preview_without_a_key_names_no_key_that_it_forgets(tmp_path: Path) -> None:
    def refuse(*_: object) -> Local:
        raise LoginRefused("Cannot connect", "")

    shutil.copy(bundled_path("inventory.yaml"), tmp_path / "inventory.yaml")
    wanted = load([tmp_path / "inventory.yaml"])
    session = make_session(wanted, KnownHosts(tmp_path / "pins"), None, refuse)
    session = replace(session, secrets=FileSecretStore(wanted.state_dir))
    (report,) = deploy(session, limit=["postgres-data"], dry_run=True)
    assert report.failure
    assert f"{wanted.state_dir}/operator_ed25519 does not exist" in report.failure.details
    assert "ssh-ed25519" not in report.failure.resolution
    (report,) = deploy(session, limit=["postgres-data"])
    assert report.failure
    assert session.secrets.key_pair("operator")[1] in report.failure.resolution


def test_preview_knows_what_is_stored(tmp_path: Path) -> None:
    store = FileSecretStore(tmp_path)
    password, (_, key) = store.secret("postgres-dbt").reveal(), store.key_pair("airflow")
    preview = store.preview()
    assert preview.secret("new").reveal() == preview.secret("new").reveal()
    assert (preview.secret("postgres-dbt").reveal(), preview.key_pair("airflow")[1]) == (password, key)
    assert (preview.names(), store.names()) == (["new", "postgres-dbt"], ["postgres-dbt"])


def test_report_has_changed_and_unchanged_steps(run: Deploy, tmp_path: Path) -> None:
    (would,) = run(two(tmp_path), dry_run=True)
    (did,) = run(two(tmp_path))
    (again,) = run(two(tmp_path))
    assert (
        [c.step.title for c in would.changes]
        == [c.step.title for c in did.changes]
        == [f"file {tmp_path}/f", "service"]
    )
    assert (did.unchanged, again.changes, again.unchanged) == (1, [], 3)
    assert all(change.seconds > 0 for change in did.changes)


def test_bad_input_of_one_container_changes_nothing_in_any(run: Deploy, tmp_path: Path) -> None:
    def steps(context: ServiceContext) -> Sequence[Step]:
        if context.container.name == "airflow-orchestration":
            raise InputError("Cannot use a secret that does not exist: sales", "why", "do")
        return two(tmp_path)(context)

    with pytest.raises(InputError, match="does not exist: sales"):
        run(steps, limit=("postgres-data", "airflow-orchestration"))
    assert not (tmp_path / "f").exists()


def test_events_contain_every_step_and_no_secret(run: Deploy, tmp_path: Path) -> None:
    said = io.StringIO()
    run(two(tmp_path), JsonProgress(said))
    events = [json.loads(line) for line in said.getvalue().splitlines()]
    assert all(event["host"] == "postgres-data" and event["time"].endswith("+00:00") for event in events)
    kinds = [(event["event"], event.get("step")) for event in events if event["event"] != "command"]
    name = f"file {tmp_path}/f"
    assert kinds == [
        ("started", name),
        ("ended", name),
        ("changed", name),
        ("started", "service"),
        ("ended", "service"),
        ("changed", "service"),
        ("started", "the service is up"),
        ("ended", "the service is up"),
        ("waited", "the service is up"),
    ]
    (command,) = [e for e in events if e["event"] == "command" and "echo well" in e["command"]]
    assert (command["status"], command["output"]) == (0, "well")
    assert b"secret" not in said.getvalue().encode()
    said.truncate(0)
    run(two(tmp_path), JsonProgress(said))
    assert said.getvalue().count('"unchanged"') == 3


def test_verbose_shows_commands_and_their_output(run: Deploy, tmp_path: Path) -> None:
    for verbose in (True, False):
        said = io.StringIO()
        run(two(tmp_path), TerminalProgress(Console(file=said, width=200), verbose=verbose))
        assert ("echo well\nwell\n[status 0]" in said.getvalue()) == verbose
        (tmp_path / "s").unlink()


def test_failure_names_its_cause_and_the_incomplete_steps(run: Deploy, tmp_path: Path) -> None:
    file = File(str(tmp_path / "f"), b"1", *owner_of_new_files())
    full = Command("the middle", "false", "echo 'tar: x: No space left on device' >&2; exit 2")
    later = [Command(f"later {number}", "false", "true") for number in range(8)]
    (report,) = run(lambda context: [file, full, *later])
    assert report.failure is not None
    assert [c.step for c in report.changes] == [file]
    assert report.failure.details.splitlines() == [
        "`echo 'tar: x: No space left on device' >&2; exit 2` ended with status 2",
        "  tar: x: No space left on device",
        "The disk of postgres-data is full.",
        "One change was made before it; `the middle` may be half done; not started: later 0, later 1, later 2, "
        "later 3, later 4, later 5 and 2 more.",
    ]
    assert "df -h" in report.failure.resolution


def test_failed_container_stops_only_those_that_wait_for_it(run: Deploy, tmp_path: Path) -> None:
    def steps(context: ServiceContext) -> Sequence[Step]:
        return {
            "postgres-data": [Command("bad", "false", "exit 1")],
            "analytics-platform": [
                WaitFor("postgres-data is there", "false", "postgres-data", context.failed, 60),
                Command("after it", "false", "exit 1"),
            ],
            "airflow-orchestration": [Command("good", f"test -e {tmp_path}/g", f"touch {tmp_path}/g")],
        }[context.container.name]

    one, two, three = run(steps, limit=())
    assert one.failure is not None
    assert two.failure is not None
    assert "the deploy of postgres-data has failed" in two.failure.brief
    assert three.failure is None
    assert (tmp_path / "g").exists()


def command_line(
    reports: Sequence[HostReport], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *options: str
) -> Result:
    """Run `homelab deploy …` with these reports as the outcome of the deploy."""

    def given(*_: object, **more: object) -> Sequence[HostReport]:
        assert more["dry_run"] == ("--dry-run" in options)
        return reports

    shutil.copy(bundled_path("inventory.yaml"), tmp_path / "inventory.yaml")
    monkeypatch.setattr("homelab.commands.deploy.deploy", given)
    monkeypatch.setattr(settings, "verbose", False)
    return CliRunner().invoke(app, ["-i", str(tmp_path / "inventory.yaml"), "deploy", *options])


@pytest.mark.parametrize(
    ("options", "changed", "status"),
    [([], True, 0), (["--dry-run"], True, 0), (CHECK, True, 2), (CHECK, False, 0), (["--detailed-exitcode"], True, 2)],
)
def test_exit_code_2_means_changes(
    run: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], changed: bool, status: int
) -> None:
    reports = run(two(tmp_path), dry_run=True) if changed else [HostReport("postgres-data", (), 0.1, steps=3)]
    done = command_line(reports, monkeypatch, tmp_path, *options)
    assert done.exit_code == status
    assert ("its content" in done.stdout or "does not exist" in done.stdout) == (changed and "--dry-run" in options)
    assert "secret" not in done.stdout


def test_rollback_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = HostReport("postgres-data", (), 0.1, HomelabError("it failed"), 3, rolled_back=True)
    done = command_line([report], monkeypatch, tmp_path, "--rollback-on-failure")
    assert (done.exit_code, "failed after 0 changes, rolled back" in done.stdout) == (1, True)
    assert json.loads(command_line([report], monkeypatch, tmp_path, "--json").stdout)[0]["rolled_back"] is True


def test_failure_is_exit_code_1_and_the_result_is_json(
    run: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = run(lambda context: [*two(tmp_path)(context), Command("bad", "false", "exit 3")])
    done = command_line(reports, monkeypatch, tmp_path, *CHECK, "--json")
    assert done.exit_code == 1
    (report,) = json.loads(done.stdout)
    assert report["failure"]["brief"] == "Cannot run `bad` on postgres-data: the command failed"
    assert [change["step"] for change in report["changes"]] == [f"file {tmp_path}/f", "service"]
    assert "b'secret'" not in done.stdout
