"""The platform of the pipelines in a container: accounts, scripts, the pipelines, and the gate for Airflow's key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from homelab.model import ServiceContext, Step
from homelab.paths import bundled_path
from homelab.pipelines.container_steps import Limits, account_steps, gate_entries, pipeline_steps
from homelab.pipelines.layout import CLICKHOUSE_VENV, FOLDER, SHARED_SCRIPTS, SHARED_VENV
from homelab.pipelines.layout import PLATFORM as ROOT
from homelab.render import render
from homelab.services.lab_certificates import CA_FILE
from homelab.steps import Directory, File, Packages, Tree, User, UvInstall, Venv

_WRAPPER = "/usr/local/sbin/homelab-pipeline"


def shared_venv() -> Venv:
    """Return the step for the venv of all pipelines."""
    return Venv(SHARED_VENV, bundled_path("pipelines/shared/requirements/analytics.txt").read_bytes())


def clickhouse_venv() -> Venv:
    """Return the step for the venv of dbt with the adapter of ClickHouse."""
    return Venv(CLICKHOUSE_VENV, bundled_path("pipelines/shared/requirements/clickhouse.txt").read_bytes())


def platform_steps(context: ServiceContext, venv: Venv, limits: Limits, others: Sequence[Step] = ()) -> Sequence[Step]:
    """Return the steps for the stages of all pipelines that a container runs; `others` come before the pipelines."""
    pipelines, stages = context.inventory.pipelines, context.inventory.stages_on(context.container)
    return (
        Packages(["python3", "python3-venv", "ca-certificates", "postgresql-client", "dbus", "sudo"]),
        User("analytics", "/home/analytics", "/bin/sh"),
        *account_steps(context.inventory, stages),
        Directory("/home/analytics"),
        Directory(ROOT),
        Directory(f"{ROOT}/bin"),
        Directory(FOLDER),
        UvInstall(bundled_path("pipelines/shared/requirements/uv.txt").read_bytes()),
        venv,
        Tree.of(SHARED_SCRIPTS, bundled_path("pipelines/shared/scripts")),
        *others,
        *_gate(context),
        *chain.from_iterable(pipeline_steps(context, each, CA_FILE, limits) for each in pipelines),
        # Last, so that Airflow can log in only when the pipelines can run.
        Directory("/home/analytics/.ssh"),
        *_authorized_keys(context),
    )


def _gate(context: ServiceContext) -> Iterator[Step]:
    """Yield the program that runs the commands of all pipelines, and the gate before it."""
    stages = context.inventory.stages_on(context.container)
    entries = list(chain.from_iterable(gate_entries(each, stages) for each in context.inventory.pipelines))
    names = [entry.name for entry in entries]
    yield File(f"{ROOT}/bin/gate", render("analytics/gate.j2", wrapper=_WRAPPER, commands=names), mode=0o755)
    yield File(_WRAPPER, render("analytics/homelab-pipeline.j2", entries=entries), mode=0o755)
    yield File(
        "/etc/sudoers.d/homelab-pipeline",
        render("analytics/sudoers.j2", wrapper=_WRAPPER, commands=names),
        mode=0o440,
        validate='/usr/sbin/visudo -c -q -f "$new"',
    )


def _authorized_keys(context: ServiceContext) -> Iterator[Step]:
    """Yield the file that admits Airflow's key from the containers that start the pipelines, if there are any."""
    starters = {
        str(container.address): None for container, service in context.inventory.services() if service.starts_pipelines
    }
    if starters:
        _, public = context.secret_store.key_pair("airflow")
        line = f'restrict,from="{",".join(starters)}",command="{ROOT}/bin/gate" {public}\n'
        yield File("/home/analytics/.ssh/authorized_keys", line.encode())
