"""The platform of Airflow's processes in a container: account, venv, DAGs, and the login to the pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from homelab.model import Pipeline, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.pipelines.container_steps import part_of
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services import airflow_dags
from homelab.services.airflow_dags import DagBundles
from homelab.services.airflow_environment import HOME, SECRETS, SETTINGS
from homelab.services.airflow_gate import FOLDER, KEY, known_hosts_file
from homelab.services.airflow_metadata import CLI
from homelab.steps import Directory, File, Packages, User, UvInstall, Venv

VENV = "/opt/airflow/venv"
SANDBOX = Sandbox("airflow", (HOME,), (SETTINGS, SECRETS), ("AIRFLOW__FAB__UPDATE_FAB_PERMS",))


def dag_bundles(pipelines: Sequence[Pipeline], dags: Path | None, *, has_metadata: bool = True) -> DagBundles:
    """Return the bundles of the pipelines, and that of the user's DAGs."""
    own = [airflow_dags.USER] if dags else []
    names = [*own, *(pipeline.name for pipeline in pipelines)]
    return DagBundles(names, SANDBOX, f"{VENV}/bin/python", has_metadata)


def platform_steps(
    context: ServiceContext, venv: Venv, bundles: DagBundles, files: Sequence[Step], *, subfolders: bool = False
) -> Sequence[Step]:
    """Return the steps before Airflow's first process; `files` are those of its settings and secrets."""
    uv = bundled_path("pipelines/shared/requirements/uv.txt")
    private_key = context.secret_store.key_pair("airflow")[0].reveal().encode()
    return (
        Packages(["python3", "python3-venv", "ca-certificates", "postgresql-client", "dbus"]),
        User("airflow", "/home/airflow"),
        Directory("/home/airflow"),
        Directory(HOME, "airflow", "airflow", 0o750),
        Directory(FOLDER),
        Directory("/opt/airflow"),
        Directory("/etc/homelab"),
        UvInstall(uv.read_bytes()),
        venv,
        *bundles.setup(subfolders=subfolders),
        File(KEY, private_key, group="airflow", mode=0o640, secret=True),
        *files,
        SANDBOX.file(),
        known_hosts_file(context),
        File(CLI, render("airflow/homelab-airflow.j2", sandbox=SANDBOX, venv=VENV), mode=0o700),
    )


def bundle_trees(
    bundles: DagBundles, pipelines: Sequence[Pipeline], dags: Path | None, triggers: Sequence[Step]
) -> Iterator[Step]:
    """Yield the bundles of the pipelines and that of the user; an error in one of them stops nothing else."""
    ids = {pipeline.name: pipeline.dag_id for pipeline in pipelines}
    for pipeline in pipelines:
        yield bundles.tree(
            pipeline.name,
            airflow_dags.files_of_pipeline(pipeline),
            taken=[dag_id for name, dag_id in ids.items() if name != pipeline.name],
            part=part_of(pipeline),
            triggered_by=triggers,
        )
    if dags:
        yield bundles.tree(
            airflow_dags.USER,
            airflow_dags.files_of(dags),
            taken=list(ids.values()),
            part=f"the DAGs in {dags.name}/",
            triggered_by=triggers,
        )
