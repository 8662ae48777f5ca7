"""The global options before and after the verb, --version, --detailed-exitcode, and examples in every help text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from homelab import __version__
from homelab.cli import app
from homelab.cli.global_options import Settings, settings
from homelab.errors import InputError
from homelab.paths import bundled_path
from homelab.secrets import FileSecretStore


@pytest.fixture(autouse=True)
def fresh_settings() -> Iterator[None]:
    before = dict(vars(settings))
    vars(settings).update(vars(Settings()))
    yield
    vars(settings).update(before)


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(bundled_path("inventory.yaml").read_text())
    return path


def run_main(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.argv = {['homelab', *words]!r}\nfrom homelab.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={"PATH": "/bin", **environment},
    )


def test_version() -> None:
    assert run_main("--version").stdout == f"homelab {__version__}\n"


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("options", [["--json", "-i"], ["--json", "--quiet", "--verbose", "--inventory"]])
def test_options_work_on_both_sides_of_the_verb(inventory: Path, before: bool, options: list[str]) -> None:
    words = [*options, str(inventory)]
    done = CliRunner().invoke(app, [*words, "secret", "list"] if before else ["secret", "list", *words])
    assert (done.exit_code, done.stdout) == (0, "[]\n")
    assert settings.inventory == inventory
    assert (settings.quiet, settings.verbose) == ("--quiet" in options, "--verbose" in options)


def test_overlays_of_both_sides_add_up_after_the_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = tmp_path / "lab.yaml"
    lab.write_text("")
    monkeypatch.setattr("homelab.lab.Lab.overlay", lab)
    words = ["--overlay", "a.yaml", "--lab", "status", "--overlay", "b.yaml"]
    assert isinstance(CliRunner().invoke(app, words).exception, InputError)
    assert settings.paths == [Path("inventory.yaml"), lab, Path("a.yaml"), Path("b.yaml")]


def test_option_lab_needs_a_running_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homelab.lab.Lab.overlay", tmp_path / "missing.yaml")
    for words in (["--lab", "status"], ["status", "--lab"]):
        error = CliRunner().invoke(app, words).exception
        assert isinstance(error, InputError)
        assert (error.brief, error.resolution) == ("Cannot use the lab: it is not running", "homelab lab up")


@pytest.mark.parametrize("words", [["-i", "given.yaml", "status"], ["status", "-i", "given.yaml"], ["status"]])
def test_environment_names_the_inventory_unless_an_option_does(words: list[str]) -> None:
    name = "given.yaml" if "-i" in words else "of-environment.yaml"
    assert f"Cannot read {name}" in run_main(*words, HOMELAB_INVENTORY="of-environment.yaml").stderr


def test_json_is_refused_where_there_is_none(inventory: Path) -> None:
    done = run_main("--json", "docs", "-i", str(inventory))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: Cannot print JSON: this command has no JSON output")


@pytest.mark.parametrize("verb", ["plan", "deploy"])
@pytest.mark.parametrize("mistake", [["-i", "missing.yaml"], ["--no-such-option"], ["--limit"]])
def test_with_detailed_exitcode_a_mistake_is_1(verb: str, mistake: list[str]) -> None:
    assert run_main(verb, *mistake).returncode == 2
    assert run_main(verb, "--detailed-exitcode", *mistake).returncode == 1


@pytest.mark.parametrize(
    ("typed", "confirmed"),
    [
        (["secret", "set", "airflow-admin"], "secret set airflow-admin --yes"),
        (["secret", "set", "--", "airflow-admin"], "secret set --yes -- airflow-admin"),
    ],
)
def test_without_a_terminal_the_error_repeats_the_command_with_yes(
    inventory: Path, typed: list[str], confirmed: str
) -> None:
    named = inventory.rename(inventory.with_name("my inventory.yaml"))
    FileSecretStore(inventory.parent / ".homelab" / "home").secret("airflow-admin")
    done = run_main("-i", str(named), *typed)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "Error: Cannot ask for confirmation: standard input is not a terminal",
        "The question was: Secret airflow-admin exists. Replace it?",
        f"Confirm with --yes: homelab -i '{named}' {confirmed}",
    ]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["pipeline", "run", ""], "PIPELINE"),
        (["pipeline", "rebuild", ""], "PIPELINE"),
        (["pipeline", "move", "", "--to", "lake"], "PIPELINE"),
        (["query", "--pipeline", "", "select 1"], "--pipeline"),
        (["query", "-p", "", "select 1"], "--pipeline"),
        (["query", ""], "SQL"),
        (["restore", "postgres-data", ""], "VOLUME"),
        (["restore", "postgres-data", "--storage", ""], "--storage"),
        (["backup", "--storage", ""], "--storage"),
        (["up", "--limit", ""], "--limit"),
        (
            ["pipeline", "exclude", "--city", "", "--from", "2026-01-01", "--to", "2026-01-02", "--reason", "x"],
            "--city",
        ),
        (["pipeline", "backfill", "--city", "", "--from", "2026-01-01"], "--city"),
    ],
)
def test_empty_name_is_not_a_missing_one(inventory: Path, words: list[str], name: str) -> None:
    error = CliRunner().invoke(app, ["-i", str(inventory), *words]).exception
    assert isinstance(error, InputError)
    assert (error.brief, error.exit_code) == (f"Cannot use {name}: it is empty", 2)


@pytest.mark.parametrize("verb", [["backfill"], ["exclude", "--all-cities", "--reason", "x"]])
@pytest.mark.parametrize("last", ["2026-01-01", "2026-01-02"])
def test_period_that_ends_before_its_begin_is_refused(inventory: Path, verb: list[str], last: str) -> None:
    words = ["-i", str(inventory), "pipeline", *verb, "--from", "2026-01-02", "--to", last]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, InputError)
    assert error.brief == "Cannot use this period: --to is not after --from"


def commands(group: typer.main.TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:  # type: ignore[name-defined]
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command.help or ""


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_of_its_command(name: str) -> None:
    examples = [line for line in COMMANDS[name].splitlines() if line.startswith("Example:  homelab ")]
    assert examples
    assert all(line.startswith(f"Example:  homelab {name}") for line in examples)


def test_help_of_dbt_installs_nothing(tmp_path: Path, inventory: Path) -> None:
    done = run_main("-i", str(inventory), "dev", "dbt", "--help")
    assert (done.returncode, "Usage: homelab dev dbt" in done.stdout) == (0, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["postgres-data", "ls", "-v", "/"], ["ls", "-v", "/"]),
        (["postgres-data", "--", "ls", "-i"], ["ls", "-i"]),
        (["-q", "postgres-data", "true"], ["true"]),
    ],
)
def test_options_after_the_container_belong_to_the_command(
    inventory: Path, words: list[str], command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr("homelab.runtime.ssh_client.ssh_argv", lambda _, name, words: seen.append(words) or ["true"])
    assert CliRunner().invoke(app, ["-i", str(inventory), "ssh", *words]).exit_code == 0
    assert seen == [command]
