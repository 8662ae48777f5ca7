"""Verbs for continuous integration, each of which also works by hand."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from homelab.cli.global_options import DetailedExitcode, Json, add_verb, settings
from homelab.cli.results import echo, print_result
from homelab.errors import BAD_INPUT, FAILED


class Forge(StrEnum):
    """The forges with a workflow."""

    github = "github"
    gitea = "gitea"
    gitlab = "gitlab"


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    ci = typer.Typer(no_args_is_help=True, help="Check pull requests and deploy merged ones, in your own repository.")
    for verb in (init, check, comment, grant):
        add_verb(ci, verb)
    app.add_typer(ci, name="ci")
    add_verb(app, diff)


def diff(
    revision: Annotated[str, typer.Argument(metavar="REV", help="A commit, branch or tag of your repository.")],
    pipeline: Annotated[
        str | None, typer.Argument(metavar="PIPELINE", help="The pipeline; default: all of your own.")
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch rows first; the weather loads 24 hours.")] = False,
    published: Annotated[
        Path | None, typer.Option(help="Build on a copy of this file, which `homelab pull` has made.")
    ] = None,
    to_markdown: Annotated[Path | None, typer.Option("--markdown", help="Also write the result to a file.")] = None,
    detailed_exitcode: DetailedExitcode = False,
    as_json: Json = False,
) -> None:
    """Compare the marts of your models at a git revision with those of the changed models, built from the same rows.

    Only modified models and those that depend on them are built twice, without containers. The rows are those of
    `homelab dev run`, or of --fetch.

    Example:  homelab diff main

    Example:  homelab diff HEAD~1 prices --json
    """
    from homelab.cli.diff_output import markdown, text
    from homelab.commands.diff import Comparison, chosen_pipelines, compare

    session = settings.session()
    outcome = compare(session, chosen_pipelines(session, pipeline), Comparison(revision, published, fetch))
    if to_markdown:
        from homelab.commands.ci_comment import write_comment

        write_comment(to_markdown, markdown(outcome))
    print_result(outcome, as_json, lambda: echo(text(outcome)))
    if detailed_exitcode and any(outcome):
        settings.changes_found = True
        raise typer.Exit(BAD_INPUT)


def check(as_json: Json = False) -> None:
    """Check the inventory and your own pipelines: sqlfluff on the models, the import of DAGs, and the tests.

    The first run installs sqlfluff and, for DAGs of your own, Airflow: pinned by hash, into the inventory's state
    folder. The tests need pytest next to homelab.

    Example:  homelab ci check
    """
    from homelab.commands.ci_check import check as run

    outcome = run(settings.session())

    def text() -> None:
        echo(f"{settings.inventory.name}: valid")
        for each in outcome:
            echo(each)

    print_result(outcome, as_json, text)
    if any(not each.passed for each in outcome):
        raise typer.Exit(FAILED)


def init(
    forge: Annotated[Forge, typer.Argument(help="The forge of your repository.")],
    requirement: Annotated[
        str | None, typer.Option(help="homelab for pip on the runners; default: this version from PyPI.")
    ] = None,
    branch: Annotated[str, typer.Option(help="The branch that is deployed.")] = "main",
    published: Annotated[
        bool, typer.Option("--published", help="Compare on the published files; needs your own runner.")
    ] = False,
    folder: Annotated[
        Path, typer.Option(help="Clone of your repository on your own runner, with the state folder.")
    ] = Path("/srv/homelab"),
) -> None:
    """Write a workflow into your repository: check each pull request, deploy each merge from your own runner.

    Example:  homelab ci init github
    """
    from homelab.commands.ci_init import Workflow, write_workflow

    session = settings.session()
    path = write_workflow(session.inventory, Workflow(forge.value, branch, folder, published, requirement))
    echo(f"written: {path}")


def comment(
    file: Annotated[Path, typer.Argument(help="A file that `homelab diff REV --markdown FILE` has written.")],
    title: Annotated[str, typer.Option(help="Name of the comment: the earlier one of this name is replaced.")] = "diff",
) -> None:
    """Post a file as a comment on the pull request of a running workflow, or replace the earlier comment.

    Reads the variables of GitHub Actions and Gitea Actions with GITHUB_TOKEN, or of GitLab CI with GITLAB_TOKEN.

    Example:  homelab ci comment diff.md
    """
    from homelab.commands.ci_comment import post_comment

    echo(f"comment: {post_comment(file, title)}")


def grant() -> None:
    """Copy the secrets of a deploy to the container of the service `runner`.

    Repeat it after a deploy from this machine that has made new secrets. The token of Proxmox and your own SSH key stay
    here: the runner cannot create, change, or remove containers.

    Example:  homelab ci grant
    """
    from homelab.commands.ci_grant import grant as run

    name, files = run(settings.session())
    echo(f"{name} has {len(files)} files: {', '.join(files)}")
